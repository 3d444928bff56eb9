"""Weights as recipes make them, against torch: casts bit for bit, slices, concatenation."""

from pathlib import Path
from typing import Any

import engine_dirs
import ml_dtypes
import numpy as np
import pytest
import torch
from engine_dirs import weight
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inflight import _core

plan = _core.plan
FLOATING = ("float32", "float16", "bfloat16")
BASE_BYTES = 2 * engine_dirs.VOCAB * engine_dirs.HIDDEN * 4


def load(
    folder: Path, tensors: engine_dirs.Tensors, weights: Any, padding: int = 0, num_threads: int = 2
) -> Any:
    engine_dirs.write(folder, tensors, weights, padding)
    return plan.Weights(plan.EngineFile(folder), num_threads=num_threads)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def same(made: np.ndarray, expected: torch.Tensor) -> None:
    """Equal bits, but for the payload of NaN."""
    dtype = str(expected.dtype).removeprefix("torch.")
    assert (made.dtype.name, list(made.shape)) == (dtype, list(expected.shape))
    as_float = to_torch(made).to(torch.float32).numpy()
    wanted = expected.to(torch.float32).numpy()
    np.testing.assert_array_equal(np.isnan(as_float), np.isnan(wanted))
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(
        as_float[numbers].view(np.uint32), wanted[numbers].view(np.uint32)
    )


def patterns(dtype: str) -> np.ndarray:
    """Every value of a 16-bit type; of float32 the neighbourhoods of all their rounding edges."""
    if dtype != "float32":
        return np.arange(2**16, dtype=np.uint16).view(engine_dirs.numpy_dtype(dtype))
    halves = np.arange(2**16, dtype=np.uint32) << 16
    tails = [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF, 0x0FFF, 0x1000, 0x1001, 0x2FFF, 0x3000, 0x3001]
    generator = np.random.default_rng(0)
    random = generator.integers(0, 2**32, 200_000, dtype=np.uint32)
    return np.concatenate([*(halves + tail for tail in tails), random]).view(np.float32)


@pytest.mark.parametrize("to", FLOATING)
@pytest.mark.parametrize("stored", FLOATING)
def test_casts_are_torchs(tmp_path: Path, stored: str, to: str) -> None:
    values = patterns(stored)
    loaded = load(tmp_path, {"x": values}, {"w": weight(to, [values.size], "x")})
    same(loaded["w"], to_torch(values).to(getattr(torch, to)))


def test_equal_dtypes_are_read_in_place(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    weights = {
        "whole": weight("float16", [2, 3, 4], "x"),
        "again": weight("float16", [2, 3, 4], "x"),
        "rows": weight("float16", [1, 3, 4], ("x", [[1, 2], [0, 3], [0, 4]])),
        "part of a row": weight("float16", [1, 1, 2], ("x", [[1, 2], [2, 3], [1, 3]])),
    }
    loaded = load(tmp_path, {"x": array}, weights)
    np.testing.assert_array_equal(loaded["whole"], array)
    np.testing.assert_array_equal(loaded["rows"], array[1:2])
    np.testing.assert_array_equal(loaded["part of a row"], array[1:2, 2:3, 1:3])
    assert loaded.address("whole") == loaded.address("again")
    assert loaded.address("rows") == loaded.address("whole") + 12 * 2
    assert loaded.bytes_allocated == 0
    # "again" is no other memory than "whole"; slices are counted as they are read
    assert loaded.bytes_mapped == BASE_BYTES + 48 + 24 + 4


def test_neighbours_in_the_file_are_read_in_place_as_one(tmp_path: Path) -> None:
    gate = np.arange(12, dtype=np.float32).reshape(3, 4)
    up = gate + 100
    weights = {
        "gate_up": weight("float32", [6, 4], "gate", "up"),
        "up_gate": weight("float32", [6, 4], "up", "gate"),
        "columns": weight("float32", [3, 8], "gate", "up", axis=1),
    }
    loaded = load(tmp_path, {"gate": gate, "up": up}, weights)
    np.testing.assert_array_equal(loaded["gate_up"], np.concatenate([gate, up]))
    np.testing.assert_array_equal(loaded["up_gate"], np.concatenate([up, gate]))
    np.testing.assert_array_equal(loaded["columns"], np.concatenate([gate, up], axis=1))
    assert loaded.bytes_mapped == BASE_BYTES + 96
    assert loaded.bytes_allocated == 2 * 96


@pytest.mark.parametrize("padding", range(8))
@pytest.mark.parametrize("dtype", FLOATING)
def test_only_aligned_bytes_are_read_in_place(tmp_path: Path, dtype: str, padding: int) -> None:
    array = np.arange(7).astype(engine_dirs.numpy_dtype(dtype))
    loaded = load(tmp_path, {"x": array}, {"w": weight(dtype, [7], "x")}, padding)
    same(loaded["w"], to_torch(array))
    is_aligned = padding % array.itemsize == 0
    mapped_base = BASE_BYTES if padding % 4 == 0 else 0
    assert loaded.bytes_mapped == mapped_base + (array.nbytes if is_aligned else 0)
    assert loaded.bytes_mapped + loaded.bytes_allocated == BASE_BYTES + array.nbytes
    assert loaded.address("w") % array.itemsize == 0


def test_equal_recipes_share_memory(tmp_path: Path) -> None:
    weights = {
        "one": weight("bfloat16", [4, 4], "x"),
        "two": weight("bfloat16", [4, 4], "x"),
        "half": weight("bfloat16", [2, 4], ("x", [[0, 2], [0, 4]])),
    }
    loaded = load(tmp_path, {"x": np.ones((4, 4), np.float32)}, weights)
    assert loaded.address("one") == loaded.address("two") != loaded.address("half")
    assert loaded.bytes_allocated == 32 + 16


def test_other_dtypes_are_copied_but_not_cast(tmp_path: Path) -> None:
    tensors = {"x": np.arange(6, dtype=np.int32), "y": np.arange(6, dtype=np.uint8)}
    weights = {
        "x": weight("int32", [6], ("x", [[3, 6]]), ("x", [[0, 3]])),
        "y": weight("uint8", [6], "y"),
    }
    loaded = load(tmp_path / "a", tensors, weights)
    np.testing.assert_array_equal(loaded["x"], [3, 4, 5, 0, 1, 2])
    np.testing.assert_array_equal(loaded["y"], range(6))
    with pytest.raises(Exception, match="weight w: x: cannot be cast from I32 to float32"):
        load(tmp_path / "b", tensors, {"w": weight("float32", [6], "x")})


def test_empty_parts(tmp_path: Path) -> None:
    tensors = {"none": np.zeros((0, 3), np.float32), "some": np.ones((2, 3), np.float32)}
    weights = {
        "none": weight("float32", [0, 3], "none"),
        "cast": weight("float16", [0, 3], "none"),
        "both": weight("float32", [2, 3], "none", "some", ("some", [[1, 1], [0, 3]])),
        "cast both": weight("bfloat16", [2, 3], "none", "some", ("some", [[2, 2], [0, 3]])),
    }
    loaded = load(tmp_path, tensors, weights)
    assert loaded["none"].shape == loaded["cast"].shape == (0, 3)
    np.testing.assert_array_equal(loaded["both"], tensors["some"])
    np.testing.assert_array_equal(loaded["cast both"].astype(np.float32), tensors["some"])


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        (weight("float32", [4, 3], "y"), "weight w: checkpoint tensor y: no file holds it"),
        (weight("float32", [3, 4], "x"), r"x: gives 3 on axis 1, the weight is \[3, 4\]"),
        (weight("float32", [5, 3], "x"), r"the sources give 4 on axis 0, the weight is \[5, 3\]"),
        (weight("float32", [9, 3], "x", "x"), "the sources give 8 on axis 0"),
        (weight("float32", [12], "x"), r"x: has 2 axes, the weight is \[12\]"),
        (weight("float32", [4], ("x", [[0, 4]])), r"slice has 1 axes, the tensor is \[4, 3\]"),
        (weight("float32", [5, 3], ("x", [[0, 5], [0, 3]])), r"slice \[0, 5\) of axis 0 exceeds"),
    ],
)
def test_recipes_that_do_not_fit(tmp_path: Path, entry: Any, match: str) -> None:
    with pytest.raises(Exception, match=match):
        load(tmp_path, {"x": np.zeros((4, 3), np.float32)}, {"w": entry})


def test_a_tensor_in_two_files_is_ambiguous(tmp_path: Path) -> None:
    base = engine_dirs.base_tensors()
    first = {**base, "x": np.ones(3, np.float32)}
    files = {
        "1.safetensors": engine_dirs.safetensors_bytes(first),
        "2.safetensors": engine_dirs.safetensors_bytes({"x": first["x"], "y": first["x"]}),
    }
    engine_dirs.write_files(tmp_path, files, {"y": weight("float32", [3], "y")})
    np.testing.assert_array_equal(plan.Weights(plan.EngineFile(tmp_path))["y"], first["x"])
    engine_dirs.write_files(tmp_path, files, {"w": weight("float32", [3], "x")})
    with pytest.raises(ValueError, match=r"tensor x: both .*1\.safetensors and .*2\.safetensors"):
        plan.Weights(plan.EngineFile(tmp_path))


def test_a_large_assembly_on_many_threads(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    parts = [generator.standard_normal((n, 700), np.float32) for n in (300, 1, 517)]
    tensors = {f"part{i}": part for i, part in enumerate(parts)}
    whole = torch.from_numpy(np.concatenate(parts))
    weights = {
        "rows": weight("bfloat16", [818, 700], *tensors),
        "flipped": weight(
            "float16",
            [818, 700],
            ("part2", [[0, 517], [0, 700]]),
            *(("part0", [[i, i + 1], [0, 700]]) for i in range(300)),
            "part1",
        ),
        "columns": weight("float32", [517, 500], ("part2", [[0, 517], [200, 700]]), axis=1),
    }
    for num_threads in (1, 4):
        loaded = load(tmp_path, tensors, weights, num_threads=num_threads)
        same(loaded["rows"], whole.to(torch.bfloat16))
        order = [2, 0, 1]
        flipped = torch.from_numpy(np.concatenate([parts[i] for i in order]))
        same(loaded["flipped"], flipped.to(torch.float16))
        same(loaded["columns"], torch.from_numpy(parts[2][:, 200:]))


@st.composite
def recipes(draw: st.DrawFn) -> tuple[str, int, list[tuple[np.ndarray, list[list[int]] | None]]]:
    """A dtype, an axis, and sources with slices whose other axes agree."""
    rank = draw(st.integers(1, 4))
    axis = draw(st.integers(0, rank - 1))
    common = draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    sources = []
    for i in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from(FLOATING))
        shape, slices = [], []
        for j in range(rank):
            extent = draw(st.integers(0, 6)) if j == axis else common[j]
            before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
            shape.append(before + extent + after)
            slices.append([before, before + extent])
        values = np.random.default_rng(i).standard_normal(shape)
        is_whole = slices == [[0, extent] for extent in shape]
        omits = is_whole and draw(st.booleans())
        sources.append((values.astype(engine_dirs.numpy_dtype(dtype)), None if omits else slices))
    return draw(st.sampled_from(FLOATING)), axis, sources


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(recipe=recipes())
def test_any_recipe(tmp_path: Path, recipe: Any) -> None:
    dtype, axis, sources = recipe
    parts = []
    for array, slices in sources:
        box = tuple(slice(*s) for s in slices) if slices else ()
        parts.append(to_torch(array)[box].to(getattr(torch, dtype)))
    expected = torch.cat(parts, axis)
    names = [f"t{i}" for i in range(len(sources))]
    rows = [(n, s) if s else n for n, (_, s) in zip(names, sources, strict=True)]
    loaded = load(
        tmp_path,
        dict(zip(names, (array for array, _ in sources), strict=True)),
        {"w": weight(dtype, list(expected.shape), *rows, axis=axis)},
    )
    same(loaded["w"], expected)
