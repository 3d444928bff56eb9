"""Dummy weights on the CPU: no file is opened, a name decides the values."""

import json
from pathlib import Path
from typing import Any

import engine_dirs
import numpy as np
import pytest
from engine_dirs import weight
from inflight import _core

plan = _core.plan


def write_without_files(folder: Path, weights: Any) -> Path:
    content = engine_dirs.document({}, weights)
    linear = content["ranks"][0]["plan"][-1]
    linear["inputs"]["bias"] = "bias"
    folder.mkdir(exist_ok=True)
    (folder / "engine.json").write_text(json.dumps(content))
    return folder


def weights_of(dtype: str) -> dict[str, Any]:
    return {
        "matrix": weight(dtype, [301, 640], "a", "b"),
        "other": weight(dtype, [301, 640], "b", "a"),
        "tied": weight(dtype, [301, 640], "a", "b"),
        "norm": weight(dtype, [64], "norm"),
        "bias": weight(dtype, [engine_dirs.VOCAB], "bias"),
    }


def load(folder: Path, num_threads: int = 1) -> Any:
    return plan.Weights(plan.EngineFile(folder), num_threads=num_threads, load_format="dummy")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_spread_as_those_of_a_model(tmp_path: Path, dtype: str) -> None:
    loaded = load(write_without_files(tmp_path, weights_of(dtype)))
    matrix = loaded["matrix"].astype(np.float64)
    assert matrix.std() == pytest.approx(640**-0.5, rel=0.01)
    assert abs(matrix.mean()) < 640**-0.5 * 0.01
    assert np.abs(matrix).max() < 3.5 * 640**-0.5
    neighbours = np.corrcoef(matrix[:, :-1].ravel(), matrix[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 0.01
    assert (loaded["norm"] == 1).all()
    assert 0 < np.abs(loaded["bias"].astype(np.float64)).max() < 0.1


def test_names_decide(tmp_path: Path) -> None:
    first = load(write_without_files(tmp_path / "a", weights_of("bfloat16")))
    again = load(write_without_files(tmp_path / "b", weights_of("bfloat16")), num_threads=3)
    for name in first.names:
        assert first[name].tobytes() == again[name].tobytes()
    assert first["matrix"].tobytes() != first["other"].tobytes()
    assert first.address("matrix") == first.address("tied")
    assert all(first.address(name) % 64 == 0 for name in first.names)


def test_an_engine_with_files_takes_dummies_too(tmp_path: Path) -> None:
    engine_dirs.write(tmp_path)
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    assert load(tmp_path)["table"].std() == pytest.approx(engine_dirs.HIDDEN**-0.5, rel=0.3)
    with pytest.raises(LookupError, match=r"model\.safetensors"):
        plan.Weights(plan.EngineFile(tmp_path))


def test_errors(tmp_path: Path) -> None:
    folder = write_without_files(tmp_path, weights_of("float32"))
    with pytest.raises(ValueError, match='from a config.json alone.*load_format "dummy"'):
        plan.Weights(plan.EngineFile(folder))
    with pytest.raises(ValueError, match='load_format is \'random\', must be "auto" or "dummy"'):
        plan.Weights(plan.EngineFile(folder), load_format="random")
    integers = {**weights_of("float32"), "i": weight("int32", [6], "i")}
    with pytest.raises(NotImplementedError, match="weight i: dummy weights cannot be int32"):
        load(write_without_files(tmp_path, integers))
