"""engine.json is refused as a whole, naming file and key, for anything that is not as written."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_dirs
import numpy as np
import pytest
from inflight import _core

plan = _core.plan
Path_ = tuple[str | int, ...]

# Objects whose keys are names, and one whose content is the compiler's own.
FREE = ("facts", "values", "weights", "inputs", "outputs", "attributes")


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    engine_dirs.write(tmp_path)
    return tmp_path


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "engine.json").read_text())


def walk(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every value below the root, with its path; not inside `facts`."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in items:
        yield (*path, key), child
        if isinstance(child, (dict, list)) and key != "facts":
            yield from walk(child, (*path, key))


def spelled(path: Path_) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def at(root: Any, path: Path_) -> Any:
    for part in path:
        root = root[part]
    return root


def refused(folder: Path, content: Any, *parts: str) -> str:
    engine_dirs.write_json(folder, content)
    with pytest.raises(ValueError) as caught:
        plan.EngineFile(folder)
    message = str(caught.value)
    for part in (str(folder / "engine.json"), *parts):
        assert part in message, message
    return message


def test_a_whole_file(engine: Path) -> None:
    parsed = plan.EngineFile(engine)
    assert parsed.architecture == "LlamaForCausalLM"
    assert (parsed.bos_token_id, parsed.eos_token_ids) == (1, [2, 3])
    assert parsed.dtype == "float32"
    assert parsed.ops == ["embedding", "gather_rows", "linear"]


def test_each_key_removed(engine: Path) -> None:
    content = content_of(engine)
    tried = 0
    for path, _ in walk(content):
        named = path[-2] if len(path) > 1 else ""
        if isinstance(path[-1], int) or path[-1] == "slice" or named in FREE[:1] + FREE[3:]:
            continue
        if named in ("values", "weights"):  # the plan then names what is gone
            expected = (f"{path[-1]}",)
        else:
            expected = (spelled(path[:-1]), f'key "{path[-1]}" is missing')
        mutated = copy.deepcopy(content)
        del at(mutated, path[:-1])[path[-1]]
        refused(engine, mutated, *expected)
        tried += 1
    assert tried > 60


def test_each_object_with_a_key_too_many(engine: Path) -> None:
    content = content_of(engine)
    objects: list[Path_] = [()]
    objects += [path for path, value in walk(content) if isinstance(value, dict)]
    tried = 0
    for path in objects:
        named = path[-1] if path else ""
        if named in FREE and not (named == "outputs" and "plan" not in path):
            continue
        mutated = copy.deepcopy(content)
        at(mutated, path)["surplus"] = 1
        refused(engine, mutated, spelled(path), 'unknown key "surplus"')
        tried += 1
    assert tried > 15


def test_each_value_of_another_type(engine: Path) -> None:
    content = content_of(engine)
    tried = 0
    for path, value in walk(content):
        if "attributes" in path and path[-1] != "attributes":
            continue
        for other in (None, True, -7, 1.5, "other", [[]], {}):
            is_null_allowed = path[-1] in ("bos_token_id", "pad_token_id", "quantization")
            if type(other) is type(value) or (other is None and is_null_allowed):
                continue
            if path[-1] == "pad_token_id" and other == -7:
                continue
            if other == {} and value == {}:
                continue
            mutated = copy.deepcopy(content)
            at(mutated, path[:-1])[path[-1]] = other
            refused(engine, mutated, spelled(path))
            tried += 1
    assert tried > 500


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format_version",), 2, "format_version: this build reads version 1, the engine has 2"),
        (("quantization",), "int8", 'quantization: expected null, got "int8"'),
        (("model", "vocab_size"), 0, "model.vocab_size: expected an integer from 1"),
        (("model", "vocab_size"), 2**31, "model.vocab_size: expected an integer from 1"),
        (("limits", "max_num_tokens"), -1, "limits.max_num_tokens: expected an integer from 1"),
        (("dtype",), "float31", 'dtype: expected a dtype, got "float31"'),
        (("parallel", "tensor"), 2, "ranks: expected 2 ranks"),
        (("checkpoint", "files", 0, "name"), "../x", "files[0].name: expected a file name"),
        (("checkpoint", "files", 0, "fingerprint"), "12", "fingerprint: expected 16 hex digits"),
        (("checkpoint", "files", 0, "fingerprint"), "-" + "1" * 15, "expected 16 hex digits"),
        (("ranks", 0, "rank"), 1, "ranks[0].rank: expected an integer from 0 to 0"),
        (("ranks", 0, "values", "v0", "shape", 0), "X", 'shape[0]: expected "T", "B" or a length'),
        (("ranks", 0, "values", "v0", "shape"), [1] * 6, "shape: expected an array of 1 to 5"),
        (("ranks", 0, "values", "v0", "shape"), [2**31 - 1] * 5, "does not fit the arena"),
        (("ranks", 0, "values", "v0", "offset"), 32, "v0.offset: 32 is not a multiple of 64"),
        (("ranks", 0, "values", "v2", "offset"), 2**40, "v2: does not fit the arena"),
        (("ranks", 0, "arena_bytes"), 64, "does not fit the arena of 64 bytes"),
        (("ranks", 0, "weights", "head", "recipe", "axis"), 2, "recipe.axis: expected an integer"),
        (("ranks", 0, "weights", "head", "recipe", "sources"), [], "at least one source"),
        (("ranks", 0, "plan", 0, "inputs", "ids"), "nothing", "plan[0].inputs.ids: nothing is nei"),
        (("ranks", 0, "plan", 0, "inputs", "ids"), "kv_cache.1", "kv_cache.1 is neither"),
        (("ranks", 0, "plan", 0, "inputs", "ids"), "kv_cache.x", "kv_cache.x is neither"),
        (("ranks", 0, "plan", 0, "inputs", "ids"), "v1", "v1 is read before a row wrote it"),
        (("ranks", 0, "plan", 0, "outputs", "y"), "table", "plan[0].outputs.y: table is not a val"),
        (("ranks", 0, "plan", 1, "outputs", "y"), "v0", "writes v0, which an earlier row wrote"),
        (("ranks", 0, "plan", 0, "attributes"), {"n": 2**40}, "attributes.n: expected an integer"),
        (("ranks", 0, "plan", 0, "attributes"), {"n": None}, "attributes.n: expected a boolean"),
        (("ranks", 0, "plan", 0, "attributes"), {"n": [1, "x"]}, "attributes.n[1]: expected a num"),
        (("ranks", 0, "outputs", "logits"), "v9", "outputs.logits: v9 is not a value"),
        (("ranks", 0, "outputs", "logits"), "v0", "v0 must be float32 of shape"),
        (("ranks", 0, "values", "v1", "offset"), 0, "plan[1]: writes v1 over v0"),
    ],
)
def test_wrong_values(engine: Path, path: Path_, value: Any, message: str) -> None:
    content = content_of(engine)
    at(content, path[:-1])[path[-1]] = value
    refused(engine, content, message)


@pytest.mark.parametrize("name", ["input_ids", "kv_cache.0", "head"])
def test_a_value_may_not_take_another_name(engine: Path, name: str) -> None:
    content = content_of(engine)
    content["ranks"][0]["values"][name] = content["ranks"][0]["values"]["v0"]
    refused(engine, content, f"values.{name}: the name is also that of")


def test_values_that_are_dead_may_share_memory(engine: Path) -> None:
    content = content_of(engine)
    content["ranks"][0]["values"]["v2"]["offset"] = 0  # v0 was last read by row 1
    engine_dirs.write_json(engine, content)
    plan.EngineFile(engine)


def test_not_json(engine: Path) -> None:
    path = engine / "engine.json"
    whole = path.read_text()
    path.write_text(whole[:-20])
    with pytest.raises(ValueError, match="not valid JSON at byte"):
        plan.EngineFile(engine)
    path.write_text(whole.replace('"dtype"', '"dtype": "float32", "dtype"', 1))
    with pytest.raises(ValueError, match='duplicate key "dtype"'):
        plan.EngineFile(engine)
    path.unlink()
    with pytest.raises(Exception, match="engine.json: cannot be read"):
        plan.EngineFile(engine)


def test_truncations_are_refused(engine: Path) -> None:
    """At every seventh byte and at the last; by its last blanks alone the file may be shorter."""
    path = engine / "engine.json"
    whole = path.read_bytes()
    end = len(whole.rstrip())
    for length in (*range(0, end, 7), end - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"engine\.json"):
            plan.EngineFile(engine)
    path.write_bytes(whole[:end])
    plan.EngineFile(engine)


def test_a_changed_checkpoint(engine: Path) -> None:
    loaded = plan.EngineFile(engine)
    path = engine / "checkpoint" / "model.safetensors"
    whole = path.read_bytes()
    plan.Weights(loaded)
    header_end = 8 + int.from_bytes(whole[:8], "little")
    changes = {
        "longer": whole + b"\0",
        "shorter": whole[:-1],
        "header": whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        "header length": bytes([whole[0] ^ 1]) + whole[1:],
        "first byte of data": whole[:header_end] + b"\x55" + whole[header_end + 1 :],
        "last byte": whole[:-1] + bytes([whole[-1] ^ 1]),
        "empty": b"",
        "no length": b"\xff" * len(whole),
    }
    for name, file in changes.items():
        path.write_bytes(file)
        with pytest.raises(ValueError) as caught:
            plan.Weights(loaded)
        assert str(path) in str(caught.value), name
        if name not in ("no length", "header length"):
            assert "checkpoint has changed since the engine was built" in str(caught.value), name
    path.unlink()
    with pytest.raises(Exception, match="model.safetensors: cannot be opened"):
        plan.Weights(loaded)


@pytest.mark.parametrize("data_bytes", [0, 1, 63, 64, 65, 127, 128, 5000])
def test_fingerprint(tmp_path: Path, data_bytes: int) -> None:
    generator = np.random.default_rng(data_bytes)
    file = engine_dirs.safetensors_bytes(
        {"x": generator.integers(0, 256, data_bytes).astype(np.uint8)}
    )
    (tmp_path / "x").write_bytes(file)
    assert f"{plan.fingerprint(tmp_path / 'x'):016x}" == engine_dirs.fingerprint(file)
