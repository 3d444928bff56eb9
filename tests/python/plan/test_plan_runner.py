"""The bound plan against the interpreter and transformers, in packed steps over a paged cache."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from inflight import _core
from inflight.builder import build_engine
from inflight.ir.interpreter import Interpreter

plan = _core.plan

CASES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one_kv_head": {"num_attention_heads": 8, "num_key_value_heads": 1},
    "odd": {
        "hidden_size": 35,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "intermediate_size": 53,
        "vocab_size": 97,
    },
    "wide_heads": {"num_key_value_heads": 4, "head_dim": 80, "num_hidden_layers": 3},
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 16.0,
            "original_max_position_embeddings": 32,
        }
    },
}
LIMITS = {"max_batch_size": 6, "max_num_tokens": 48, "max_seq_len": 64}
TOKENS_PER_BLOCK = 4


@dataclass
class Runner:
    """A runner over a cache of its own, laid out as the backend does: [block][layer]."""

    runner: Any
    pool: np.ndarray

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self.runner.run(inputs)


def make_runner(
    weights: Any, config: dict[str, Any], dtype: str, num_blocks: int, **limits: int
) -> Runner:
    kv_heads, head_size = config["num_kv_heads"], config["head_size"]
    shape = (num_blocks, config["num_layers"], 2, kv_heads, TOKENS_PER_BLOCK, head_size)
    pool = np.zeros(shape, ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    layers = [pool[:, i] for i in range(pool.shape[1])]
    return Runner(plan.PlanRunner(weights, layers, num_threads=2, **limits), pool)


@dataclass(frozen=True)
class Loaded:
    checkpoint: Path
    weights: Any
    facts: dict[str, Any]
    compiled: Any

    def runner(self, dtype: str, num_blocks: int, **limits: int) -> Runner:
        return make_runner(self.weights, self.facts, dtype, num_blocks, **limits)


@pytest.fixture(scope="session")
def load(
    make_checkpoint: Callable[..., Path],
    compile_model: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Loaded]:
    import json

    def make(dtype: str = "float32", stored: str | None = None, **overrides: Any) -> Loaded:
        checkpoint = make_checkpoint(seed=3, dtype=stored or dtype, **overrides)
        settings = {"dtype": dtype, "tokens_per_block": TOKENS_PER_BLOCK, **LIMITS}
        engine = build_engine(checkpoint, tmp_path_factory.mktemp("engine") / "e", **settings)
        facts = json.loads((engine / "engine.json").read_text())["model"]
        weights = plan.Weights(plan.EngineFile(engine), num_threads=2)
        return Loaded(checkpoint, weights, facts, compile_model(checkpoint, **settings))

    return make


def truth_of(checkpoint: Path, sequences: Any, dtype: str) -> list[np.ndarray]:
    """transformers' logits of whole sequences, computed in `dtype`."""
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(checkpoint).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        return [model(torch.tensor([tokens])).logits[0].double().numpy() for tokens in sequences]


def last_logits(runner: Any, workload: Any) -> Iterator[tuple[np.ndarray, int, int]]:
    """Of every row of every step: the logits, the sequence and the position."""
    for step in workload.steps:
        logits = runner.run(step.inputs)
        for row, (sequence, position) in enumerate(step.last):
            yield logits[row], sequence, position


@pytest.mark.parametrize("case", CASES)
def test_float32_is_transformers(
    case: str, load: Callable[..., Loaded], make_workload: Callable[..., Any]
) -> None:
    loaded = load(**CASES[case])
    workload = make_workload(6, loaded.facts["vocab_size"], TOKENS_PER_BLOCK)
    runner = loaded.runner("float32", workload.num_blocks)
    truth = truth_of(loaded.checkpoint, workload.sequences, "float32")
    for logits, sequence, position in last_logits(runner, workload):
        theirs = truth[sequence][position]
        np.testing.assert_allclose(logits, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
        assert logits.argmax() == theirs.argmax()


@pytest.mark.parametrize("case", CASES)
def test_float32_is_the_interpreter(
    case: str, load: Callable[..., Loaded], make_workload: Callable[..., Any]
) -> None:
    loaded = load(**CASES[case])
    workload = make_workload(7, loaded.facts["vocab_size"], TOKENS_PER_BLOCK)
    runner = loaded.runner("float32", workload.num_blocks)
    interpreter = Interpreter(
        loaded.compiled.graph, loaded.compiled.weights, workload.num_blocks, np.float64
    )
    for step in workload.steps:
        ours = runner.run(step.inputs)
        theirs = interpreter.run(step.inputs)["logits"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
        for i in range(loaded.facts["num_layers"]):
            cache = interpreter.kv_cache[f"kv_cache.{i}"]
            np.testing.assert_allclose(
                runner.pool[:, i], cache, rtol=0, atol=2e-5 * np.abs(cache).max()
            )


@pytest.mark.parametrize("case", ["grouped", "tied", "biases", "odd"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bits_err_no_more_than_transformers_does(
    dtype: str, case: str, load: Callable[..., Loaded], make_workload: Callable[..., Any]
) -> None:
    """Mean distance from float64 over the same weights; a wrong op is many times off."""
    loaded = load(dtype, **CASES[case])
    workload = make_workload(8, loaded.facts["vocab_size"], TOKENS_PER_BLOCK)
    runner = loaded.runner(dtype, workload.num_blocks)
    exact = truth_of(loaded.checkpoint, workload.sequences, "float64")
    rounded = truth_of(loaded.checkpoint, workload.sequences, dtype)
    ours, theirs = [], []
    for logits, sequence, position in last_logits(runner, workload):
        truth = exact[sequence][position]
        ours.append(np.abs(logits - truth).mean())
        theirs.append(np.abs(rounded[sequence][position] - truth).mean())
    assert np.mean(ours) <= 1.2 * np.mean(theirs)


@pytest.mark.parametrize("stored", ["bfloat16", "float16"])
def test_cast_at_load(
    stored: str, load: Callable[..., Loaded], make_workload: Callable[..., Any]
) -> None:
    """A float32 engine of a 16-bit checkpoint is transformers' float32 model of it."""
    loaded = load("float32", stored)
    workload = make_workload(9, loaded.facts["vocab_size"], TOKENS_PER_BLOCK)
    runner = loaded.runner("float32", workload.num_blocks)
    truth = truth_of(loaded.checkpoint, workload.sequences, "float32")
    for logits, sequence, position in last_logits(runner, workload):
        theirs = truth[sequence][position]
        np.testing.assert_allclose(logits, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
    assert loaded.weights.bytes_mapped == 0


def test_every_weight_is_the_interpreters(load: Callable[..., Loaded]) -> None:
    for dtype, stored in (("float32", "float32"), ("float16", "bfloat16")):
        loaded = load(dtype, stored, attention_bias=True)
        assert set(loaded.weights.names) == set(loaded.compiled.weights)
        for name, expected in loaded.compiled.weights.items():
            made = loaded.weights[name]
            assert made.dtype == expected.dtype
            np.testing.assert_array_equal(made, expected)


def test_smaller_limits_change_memory_only(
    load: Callable[..., Loaded], make_workload: Callable[..., Any]
) -> None:
    loaded = load()
    workload = make_workload(10, tokens_per_block=TOKENS_PER_BLOCK)
    full = loaded.runner("float32", workload.num_blocks)
    limits = {"max_batch_size": 4, "max_num_tokens": 24, "max_seq_len": 21}
    small = loaded.runner("float32", workload.num_blocks, **limits)
    for step in workload.steps:
        np.testing.assert_array_equal(full.run(step.inputs), small.run(step.inputs))
    assert small.runner.max_blocks_per_sequence == 6
    assert full.runner.max_blocks_per_sequence == 16
    assert small.runner.arena_bytes < full.runner.arena_bytes


def test_a_packed_engine_is_the_same(
    load: Callable[..., Loaded], make_workload: Callable[..., Any], tmp_path: Path
) -> None:
    loaded = load("bfloat16", attention_bias=True)
    workload = make_workload(11, tokens_per_block=TOKENS_PER_BLOCK)
    build_engine(
        loaded.checkpoint, tmp_path / "e", tokens_per_block=TOKENS_PER_BLOCK, pack=True, **LIMITS
    )
    packed = plan.Weights(plan.EngineFile(tmp_path / "e"))
    assert packed.bytes_allocated == 0
    runners = [
        make_runner(weights, loaded.facts, "bfloat16", workload.num_blocks)
        for weights in (loaded.weights, packed)
    ]
    for step in workload.steps:
        np.testing.assert_array_equal(*(runner.run(step.inputs) for runner in runners))
