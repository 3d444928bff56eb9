"""Reading checkpoint folders: one file or many, lazily, and refusing what is broken."""

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from inflight.checkpoint.reader import CheckpointReader
from inflight.checkpoint.safetensors_file import CheckpointError, SafetensorsFile, fnv1a


def _write(path: Path, header: object, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def _entry(dtype: str, shape: list[int], begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_tensors_are_those_of_the_library(
    dtype: str, shard: str, make_checkpoint: Callable[..., Path]
) -> None:
    from safetensors.torch import load_file

    folder = make_checkpoint(dtype=dtype, shard=shard)
    reader = CheckpointReader.open(folder)
    assert len(reader.files) == 1 if shard == "5GB" else len(reader.files) > 2
    expected = {}
    for path in folder.glob("*.safetensors"):
        expected.update(load_file(path))
    assert set(reader.tensors) == set(expected)
    for name, tensor in expected.items():
        array = reader.array(name)
        assert array.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        assert not array.flags.writeable
        np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


def test_generation_config_may_be_absent(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_checkpoint()
    assert CheckpointReader.open(folder).generation_config["eos_token_id"] == 2
    (folder / "generation_config.json").unlink()
    assert CheckpointReader.open(folder).generation_config == {}


@pytest.mark.parametrize(
    "header, data, message",
    [
        (b"", b"", "not JSON"),
        (b"[1]", b"", "not an object"),
        (b"{\xff}", b"", "not JSON"),
        ({"a": {"dtype": "F32"}}, b"", "a: the header's entry is malformed"),
        ({"a": 3}, b"", "malformed"),
        ({"a": _entry("F32", [2], 0, 8)}, b"1234", "not within the file"),
        ({"a": _entry("F32", [2], 4, 0)}, b"12345678", "not within the file"),
        ({"a": _entry("F32", [2], -12, -4)}, b"12345678", "not within the file"),
        ({"a": _entry("F32", [3], 0, 8)}, b"12345678", "does not take 8 bytes"),
        ({"a": _entry("F32", [2**40, 2**40], 0, 8)}, b"12345678", "does not take"),
    ],
)
def test_broken_headers_are_refused(
    header: object, data: bytes, message: str, tmp_path: Path
) -> None:
    path = _write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError, match=message) as caught:
        SafetensorsFile.open(path)
    assert "model.safetensors" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 8, (9).to_bytes(8, "little")])
def test_files_too_short_for_their_header_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="the header says"):
        SafetensorsFile.open(path)


def test_other_dtypes_are_seen_and_not_read(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "ids": _entry("I64", [1], 0, 8),
        "new": _entry("F4_E2M1", [8], 8, 12),
        "none": _entry("F32", [0, 4], 12, 12),
        "one": _entry("F32", [], 12, 16),
    }
    file = SafetensorsFile.open(_write(tmp_path / "f", header, b"\0" * 16))
    assert list(file.tensors) == ["ids", "new", "none", "one"]
    assert file.tensors["ids"].dtype is None and file.tensors["new"].dtype is None
    assert file.array("none").shape == (0, 4)
    assert file.array("one").shape == ()
    with pytest.raises(CheckpointError, match="ids has dtype I64"):
        file.array("ids")


def test_fnv1a_is_the_published_function() -> None:
    # from the reference test vectors of the FNV authors
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8


def _expected_fingerprint(content: bytes) -> str:
    """As the engine format states it, written out anew."""
    header_end = 8 + int.from_bytes(content[:8], "little")
    data = content[header_end:]
    hashed = content[:header_end]
    if len(data) < 64:
        hashed += data
    else:
        for i in range(64):
            offset = i * (len(data) - 64) // 63
            hashed += data[offset : offset + 64]
    value = 14695981039346656037
    for byte in hashed:
        value = (value ^ byte) * 1099511628211 % 2**64
    return format(value, "016x")


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 100, 4096, 100_001])
def test_fingerprint_follows_the_format(size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    path = _write(tmp_path / "f", {"a": _entry("U8", [size], 0, size)}, data)
    fingerprint = SafetensorsFile.open(path).fingerprint()
    assert fingerprint == _expected_fingerprint(path.read_bytes())
    assert len(fingerprint) == 16
    if size:
        _write(path, {"a": _entry("U8", [size], 0, size)}, data[:-1] + bytes([data[-1] ^ 1]))
        assert SafetensorsFile.open(path).fingerprint() != fingerprint


def _folder(tmp_path: Path, index: object | None, *files: str) -> Path:
    (tmp_path / "config.json").write_text("{}")
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in files:
        _write(tmp_path / name, {"a": _entry("U8", [1], 0, 1)}, b"1")
    return tmp_path


@pytest.mark.parametrize(
    "index, files, message",
    [
        (None, (), "neither model.safetensors nor"),
        ({}, (), "weight_map is missing or empty"),
        ({"weight_map": {}}, (), "weight_map is missing or empty"),
        ({"weight_map": {"a": "x.safetensors"}}, (), "missing: x.safetensors"),
        ({"weight_map": {"a": "../x.safetensors"}}, (), "not the name of a file in the folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, (), "not the name of a file in the folder"),
        ({"weight_map": {"a": "x", "b": "y"}}, ("x", "y"), "a is in x and in y"),
    ],
)
def test_broken_indices_are_refused(
    index: object, files: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointReader.open(_folder(tmp_path, index, *files))


def test_folders_and_configurations_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a folder"):
        CheckpointReader.open(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="config.json is missing"):
        CheckpointReader.open(tmp_path)
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match="config.json is not"):
            CheckpointReader.open(tmp_path)


def test_same_content_compares_samples(tmp_path: Path) -> None:
    data = bytes(range(200)) * 3
    header = {
        "a": _entry("U8", [200], 0, 200),
        "b": _entry("U8", [200], 200, 400),
        "c": _entry("U8", [200], 400, 600),
        "d": _entry("I8", [200], 400, 600),
    }
    folder = _folder(tmp_path, None)
    _write(folder / "model.safetensors", header, data[:599] + b"\0")
    reader = CheckpointReader.open(folder)
    assert reader.same_content("a", "b")
    assert not reader.same_content("a", "c")
    assert not reader.same_content("a", "d")
