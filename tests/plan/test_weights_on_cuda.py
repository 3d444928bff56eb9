"""Weights on a CUDA device hold the bytes that the CPU's have: copied, cast, put together."""

from pathlib import Path
from typing import Any

import engine_dirs
import numpy as np
import pytest
from engine_dirs import weight
from inflight import _core

plan = _core.plan
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]
FLOATING = ("float32", "float16", "bfloat16")


def assert_same_bytes(folder: Path, **options: Any) -> Any:
    engine = plan.EngineFile(folder)
    cpu = plan.Weights(engine, num_threads=2, **options)
    cuda = plan.Weights(engine, num_threads=2, device="cuda", **options)
    for name in cpu.names:
        made, expected = cuda[name], cpu[name]
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape), name
        assert made.tobytes() == expected.tobytes(), name
    assert cuda.bytes_mapped == 0
    return cuda


@pytest.mark.parametrize("to", FLOATING)
@pytest.mark.parametrize("stored", FLOATING)
@pytest.mark.parametrize("padding", [0, 1])
def test_casts(tmp_path: Path, stored: str, to: str, padding: int) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((301, 77)) * np.exp(generator.uniform(-20, 8, (301, 1)))
    tensors = {"x": x.astype(engine_dirs.numpy_dtype(stored))}
    weights = {
        "whole": weight(to, [301, 77], "x"),
        "rows": weight(to, [3, 77], ("x", [[7, 10], [0, 77]])),
        "columns": weight(to, [301, 5], ("x", [[0, 301], [11, 16]])),
        "turned": weight(
            to,
            [301, 77],
            ("x", [[0, 301], [40, 77]]),
            ("x", [[0, 301], [0, 40]]),
            axis=1,
        ),
    }
    engine_dirs.write(tmp_path, tensors, weights, padding)
    loaded = assert_same_bytes(tmp_path)
    assert all(loaded.address(name) % 256 == 0 for name in loaded.names)


def test_equal_recipes_share_memory(tmp_path: Path) -> None:
    weights = {
        "one": weight("bfloat16", [4, 4], "x"),
        "two": weight("bfloat16", [4, 4], ("x", [[0, 4], [0, 4]])),
        "half": weight("bfloat16", [2, 4], ("x", [[0, 2], [0, 4]])),
    }
    engine_dirs.write(tmp_path, {"x": np.ones((4, 4), np.float32)}, weights)
    loaded = assert_same_bytes(tmp_path)
    assert loaded.address("one") == loaded.address("two") != loaded.address("half")


def test_other_dtypes_more_axes_and_nothing_at_all(tmp_path: Path) -> None:
    tensors = {
        "i": np.arange(6, dtype=np.int32),
        "u": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "f": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5),
        "none": np.zeros((0, 3), np.float32),
    }
    cut = [[0, 2], [1, 3], [0, 4], [2, 5]]
    weights = {
        "i": weight("int32", [6], ("i", [[3, 6]]), ("i", [[0, 3]])),
        "u": weight("uint8", [2, 6, 4], "u", "u", axis=1),
        "f": weight("float16", [2, 2, 4, 3], ("f", cut)),
        "ff": weight("bfloat16", [2, 2, 8, 3], ("f", cut), ("f", cut), axis=2),
        "none": weight("float16", [0, 3], "none"),
    }
    engine_dirs.write(tmp_path, tensors, weights)
    assert_same_bytes(tmp_path)


def test_weights_of_many_pieces(tmp_path: Path) -> None:
    """Pieces are 2 MiB: many of them to a tensor, shared out over threads."""
    generator = np.random.default_rng(0)
    tensors = {
        name: generator.standard_normal((rows, 3001), np.float32)
        for name, rows in (("a", 4000), ("b", 1500))
    }
    cut = ("a", [[0, 1500], [0, 3001]])
    weights = {
        "same": weight("float32", [5500, 3001], "a", "b"),
        "cast": weight("bfloat16", [5500, 3001], "b", "a"),
        "columns": weight("float32", [1500, 6002], "b", cut, axis=1),
        "part": weight("float16", [4000, 1500], ("a", [[0, 4000], [1, 1501]])),
    }
    engine_dirs.write(tmp_path, tensors, weights)
    assert_same_bytes(tmp_path)


@pytest.mark.parametrize("dtype", FLOATING)
def test_dummy_weights(tmp_path: Path, dtype: str) -> None:
    weights = {
        "matrix": weight(dtype, [123, 457], "a"),
        "norm": weight(dtype, [457], "b"),
        "odd": weight(dtype, [3, 1], "c"),
    }
    engine_dirs.write(tmp_path, {}, weights)
    assert_same_bytes(tmp_path, load_format="dummy")
