"""What the runner refuses at load and in a step: limits, caches, rows, step inputs."""

import copy
from pathlib import Path
from typing import Any

import engine_dirs
import numpy as np
import pytest
from inflight import _core

plan = _core.plan


@pytest.fixture
def weights(tmp_path: Path) -> Any:
    engine_dirs.write(tmp_path)
    return plan.Weights(plan.EngineFile(tmp_path))


def caches(num_blocks: int = 2, **changes: Any) -> list[np.ndarray]:
    shape = [num_blocks, 2, 1, 8, 4]
    for axis, extent in changes.get("shape", {}).items():
        shape[axis] = extent
    return [np.zeros(shape, changes.get("dtype", np.float32))]


def step(tokens: list[int], lengths: list[int]) -> dict[str, np.ndarray]:
    starts = np.cumsum([0, *lengths])
    arrays = {
        "input_ids": tokens,
        "positions": np.concatenate([np.arange(n) for n in lengths]),
        "rope_lengths": np.repeat(lengths, lengths),
        "slots": np.full(len(tokens), -1),
        "query_starts": starts,
        "kv_lengths": lengths,
        "block_tables": np.zeros((len(lengths), 4)),
        "last_rows": starts[1:] - 1,
    }
    return {name: np.ascontiguousarray(array, np.int32) for name, array in arrays.items()}


def test_logits_of_the_last_rows(weights: Any) -> None:
    base = engine_dirs.base_tensors()
    runner = plan.PlanRunner(weights, caches())
    for tokens, lengths in ([3], [1]), ([1, 2, 3, 4, 5], [2, 3]), ([7, 7, 7, 0], [1, 1, 1, 1]):
        last = [tokens[end - 1] for end in np.cumsum(lengths)]
        expected = base["table"][last] @ base["head"].T
        np.testing.assert_allclose(runner.run(step(tokens, lengths)), expected, atol=1e-5)


def test_two_runners_of_one_plan(weights: Any) -> None:
    first, second = (plan.PlanRunner(weights, caches()) for _ in range(2))
    a, b = step([1, 2], [2]), step([5], [1])
    expected = first.run(a)
    second.run(b)
    np.testing.assert_array_equal(first.run(a), expected)


@pytest.mark.parametrize(
    ("limits", "match"),
    [
        ({"max_batch_size": 5}, "max_batch_size must be from 1 to 4, .* got 5"),
        ({"max_num_tokens": 17}, "max_num_tokens must be from 1 to 16, .* got 17"),
        ({"max_seq_len": 33}, "max_seq_len must be from 1 to 32, .* got 33"),
        ({"max_seq_len": 0}, "max_seq_len must be from 1 to 32, .* got 0"),
    ],
)
def test_limits_beyond_the_engines(weights: Any, limits: dict[str, int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plan.PlanRunner(weights, caches(), **limits)


@pytest.mark.parametrize(
    ("kv_layers", "match"),
    [
        ([], "got the cache of 0 layers, the engine has 1"),
        (caches(dtype=np.float16), r"layer 0 must be float32 \[num_blocks, 2, 1, 8, 4\]"),
        (caches(shape={1: 1}), "the cache of layer 0 must be"),
        (caches(shape={2: 2}), "the cache of layer 0 must be"),
        (caches(shape={3: 16}), "the cache of layer 0 must be"),
        (caches(shape={4: 8}), "the cache of layer 0 must be"),
        ([np.zeros((2, 1, 8, 4), np.float32)], "the cache of layer 0 must be"),
    ],
)
def test_caches_of_another_shape(weights: Any, kv_layers: list[np.ndarray], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plan.PlanRunner(weights, kv_layers)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"op": "rope"}, r"ranks\[0\]\.plan\[0\] \(rope\): no such op"),
        ({"op": "embeddings"}, r"plan\[0\] \(embeddings\): no such op"),
        ({"inputs": {"ids": "input_ids"}}, r"\(embedding\): input table is missing"),
        (
            {"inputs": {"ids": "input_ids", "table": "table", "x": "table"}},
            "unknown input x",
        ),
        ({"attributes": {"scale": 2.0}}, "unknown attribute scale"),
        ({"inputs": {"ids": "slots", "table": "short"}}, r"plan\[0\] \(embedding\): "),
    ],
)
def test_rows_that_cannot_run(tmp_path: Path, row: dict[str, Any], match: str) -> None:
    weight = engine_dirs.weight("float32", [11, 4], ("table", [[0, 11], [0, 4]]))
    content = copy.deepcopy(engine_dirs.write(tmp_path, {}, {"short": weight}))
    content["ranks"][0]["plan"][0] |= row
    engine_dirs.write_json(tmp_path, content)
    loaded = plan.Weights(plan.EngineFile(tmp_path))
    with pytest.raises(ValueError, match=match):
        plan.PlanRunner(loaded, caches())


def test_attributes_of_another_type(tmp_path: Path) -> None:
    content = engine_dirs.write(
        tmp_path, {"n": np.ones(8, np.float32)}, {"n": engine_dirs.weight("float32", [8], "n")}
    )
    rank = content["ranks"][0]
    rank["values"]["v3"] = {"dtype": "float32", "shape": ["B", 8], "offset": 1024}
    rank["arena_bytes"] = 2048
    norm = {"op": "rms_norm", "inputs": {"x": "v1", "weight": "n"}, "outputs": {"y": "v3"}}
    for attributes, match in (
        ({}, "attribute epsilon is missing"),
        ({"epsilon": "small"}, "attribute epsilon must be of type float"),
        ({"epsilon": [1.0]}, "attribute epsilon must be of type float"),
        ({"epsilon": True}, "attribute epsilon must be of type float"),
    ):
        rows = [*rank["plan"][:2], {**norm, "attributes": attributes}, rank["plan"][2]]
        changed = {**content, "ranks": [{**rank, "plan": rows}]}
        engine_dirs.write_json(tmp_path, changed)
        loaded = plan.Weights(plan.EngineFile(tmp_path))
        with pytest.raises(ValueError, match=rf"plan\[2\] \(rms_norm\): {match}"):
            plan.PlanRunner(loaded, caches())


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        ("input_ids", np.zeros(17, np.int32), "num_tokens must be from 1 to 16, got 17"),
        ("input_ids", np.zeros(0, np.int32), "num_tokens must be from 1 to 16, got 0"),
        ("kv_lengths", np.zeros(5, np.int32), "num_sequences must be from 1 to 4, got 5"),
        ("positions", np.zeros(4, np.int32), "positions must be int32 of 5 rows"),
        ("positions", np.zeros(5, np.int64), "positions must be int32 of 5 rows"),
        ("positions", np.zeros((5, 1), np.int32), "positions must be int32 of 5 rows"),
        ("slots", np.zeros(10, np.int32)[::2], "slots must be int32 of 5 rows, dense"),
        ("query_starts", np.zeros(2, np.int32), "query_starts must be int32 of 3 rows"),
        ("last_rows", np.zeros(3, np.int32), "last_rows must be int32 of 2 rows"),
        ("block_tables", np.zeros(2, np.int32), "block_tables must be int32 of 2 rows"),
        ("block_tables", np.zeros((2, 5), np.int32), "block_tables must have 1 to 4 columns"),
    ],
)
def test_step_inputs_of_another_shape(
    weights: Any, name: str, array: np.ndarray, match: str
) -> None:
    runner = plan.PlanRunner(weights, caches())
    with pytest.raises(ValueError, match=match):
        runner.run({**step([1, 2, 3, 4, 5], [2, 3]), name: array})
