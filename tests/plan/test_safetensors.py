"""No bytes crash the parser, and what it accepts the reference implementation accepts too."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight import _core
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

plan = _core.plan

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.weight": np.arange(5, dtype=np.float16),
    "empty": np.zeros((0, 7), np.float32),
    "scalar": np.array(3, np.int64),
    "bytes": np.arange(3, dtype=np.uint8),
}
VALID = save(TENSORS, metadata={"format": "pt"})


def with_header(header: Any, data: bytes = b"\0" * 64) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "U8") -> dict:
    shape = [end - begin] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refused(file: bytes, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plan.parse_safetensors(file)


def test_a_valid_file() -> None:
    parsed = plan.parse_safetensors(VALID)
    assert set(parsed) == set(TENSORS)
    for name, (_, shape, begin, end) in parsed.items():
        expected = TENSORS[name]
        assert tuple(shape) == expected.shape
        assert VALID[begin:end] == expected.tobytes()


def test_every_truncation_is_refused() -> None:
    for length in range(len(VALID)):
        refused(VALID[:length], "bytes")


def test_header_lengths() -> None:
    refused(b"", "0 bytes are too few")
    refused(struct.pack("<Q", 2**63) + b"{}", "limit 100000000")
    refused(struct.pack("<Q", 2**64 - 1) + b"{}", "limit 100000000")
    refused(struct.pack("<Q", 100_000_001) + b"{}", "limit 100000000")
    refused(struct.pack("<Q", 3) + b"{}", "header of 3 bytes in a file of 10")
    assert plan.parse_safetensors(struct.pack("<Q", 2) + b"{}") == {}
    assert plan.parse_safetensors(struct.pack("<Q", 4) + b"{}  ") == {}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"[]", "does not begin with"),
        (b" {}", "does not begin with"),
        (b"{", "not valid JSON"),
        (b'{"a": 1e999}', "not valid JSON"),
        (b'{"\xff": 1}', "not valid JSON"),
        (b"{} x", "not valid JSON"),
        (b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}", "nested deeper"),
        ({"a": 5}, "a: expected an object, got 5"),
        ({"a": entry(0, 64, dtype="U9")}, 'a.dtype: expected a dtype .*got "U9"'),
        ({"a": entry(0, 64, dtype=None)}, "a.dtype: expected a string, got null"),
        ({"a": {"dtype": "U8", "shape": [64]}}, 'key "data_offsets" is missing'),
        ({"a": {**entry(0, 64), "offset": 0}}, 'unknown key "offset"'),
        ({"a": entry(0, 64, [8, -8])}, r"a.shape\[1\]: expected an integer of at least 0"),
        ({"a": entry(0, 64, [64.0])}, r"a.shape\[0\]: expected an integer"),
        ({"a": entry(0, 64, [True])}, r"a.shape\[0\]: expected an integer"),
        ({"a": entry(0, 64, [2**64])}, r"a.shape\[0\]: expected an integer"),
        ({"a": entry(0, 64, [2**63 - 1, 2**63 - 1])}, "more bytes than can be addressed"),
        ({"a": entry(0, 64, [0, 2**62], "F32")}, "64 bytes, but shape and dtype take 0"),
        ({"a": entry(0, 64, [1] * 33 + [64])}, "more than 32 axes"),
        ({"a": entry(0, 64, [63])}, "64 bytes, but shape and dtype take 63"),
        ({"a": entry(0, 65)}, r"\[0, 65\) is not within the 64 bytes of data"),
        ({"a": entry(64, 0, [0])}, r"\[64, 0\) is not within"),
        ({"a": entry(0, 2**63 - 1)}, "is not within"),
        ({"a": {**entry(0, 64), "data_offsets": [0, 64, 64]}}, r"expected \[begin, end\]"),
        ({"a": entry(0, 32), "b": entry(16, 64)}, "data begins at byte 16, expected 32"),
        ({"a": entry(0, 32), "b": entry(40, 64)}, "data begins at byte 40, expected 32"),
        ({"a": entry(8, 64)}, "data begins at byte 8, expected 0"),
        ({"a": entry(0, 56)}, "8 bytes behind the last tensor"),
        ({}, "64 bytes behind the last tensor"),
        ({"__metadata__": {"a": 1}, "a": entry(0, 64)}, "__metadata__.a: expected a string"),
        ({"__metadata__": [], "a": entry(0, 64)}, "__metadata__: expected an object"),
        (
            b'{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]},'
            b'"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}',
            'duplicate key "a"',
        ),
        (
            b'{"a":{"dtype":"U8","dtype":"U8","shape":[64],"data_offsets":[0,64]}}',
            'duplicate key "dtype"',
        ),
    ],
)
def test_refusals(header: Any, match: str) -> None:
    refused(with_header(header), match)


def holds_for_any(file: bytes) -> None:
    """Refuses with an error, or answers what the reference answers, within the file."""
    try:
        parsed = plan.parse_safetensors(file)
    except ValueError:
        return
    try:
        reference = dict(deserialize(file))
    except SafetensorError as error:  # pragma: no cover
        raise AssertionError(f"accepted what the reference refuses: {error}") from error
    assert set(parsed) == set(reference)
    for name, (dtype, shape, begin, end) in parsed.items():
        assert (dtype, shape) == (reference[name]["dtype"], reference[name]["shape"])
        assert 8 <= begin <= end <= len(file)
        assert file[begin:end] == bytes(reference[name]["data"])


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(file: bytes) -> None:
    holds_for_any(file)


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_mutated_files(data: st.DataObject) -> None:
    """Against the reference; tests/cpp/malformed_files.cc reads 30,000 such files."""
    file = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(file) - 1))
        kind = data.draw(st.sampled_from(["flip", "byte", "insert", "delete", "digit"]))
        if kind == "flip":
            file[where] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "byte":
            file[where] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            file[where:where] = data.draw(st.binary(min_size=1, max_size=4))
        elif kind == "delete":
            del file[where : where + data.draw(st.integers(1, 8))]
        elif chr(file[where]).isdigit():
            file[where] = data.draw(st.sampled_from(b"0123456789"))
    if data.draw(st.booleans()) and len(file) >= 8:  # keep the length true, to reach the entries
        header_len = len(file) - 8 - (len(VALID) - 8 - struct.unpack("<Q", VALID[:8])[0])
        file[:8] = struct.pack("<Q", max(header_len, 0))
    holds_for_any(bytes(file))


def test_a_zero_byte_does_not_end_the_header() -> None:
    file = bytearray(VALID)
    file[8 + struct.unpack("<Q", VALID[:8])[0] - 1] = 0
    with pytest.raises(ValueError, match="not valid JSON"):
        plan.parse_safetensors(bytes(file))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "F64", "F8_E4M3", "BOOL", "X"]),
        "shape": st.lists(st.integers(0, 8), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 70), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.text(max_size=5), entries | json_values, max_size=4))
def test_any_header(header: dict[str, Any]) -> None:
    holds_for_any(with_header(header))


def test_files_that_are_none(tmp_path: Any) -> None:
    with pytest.raises(Exception, match="cannot be opened: No such file"):
        plan.read_safetensors(tmp_path / "missing")
    with pytest.raises(ValueError, match="not a regular file"):
        plan.read_safetensors(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="0 bytes are too few"):
        plan.read_safetensors(tmp_path / "empty")
