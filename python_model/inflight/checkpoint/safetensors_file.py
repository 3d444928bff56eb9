"""One safetensors file: its header, its fingerprint, its tensors as read-only mapped arrays."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from inflight.ir.reference import numpy_dtype

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ITEM_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16}
_ITEM_BITS |= {"BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_ITEM_BITS |= {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}

_FNV_BASIS = 14695981039346656037
_FNV_PRIME = 1099511628211
_SAMPLES = 64
_SAMPLE_BYTES = 64


class CheckpointError(ValueError):
    """A file of the checkpoint cannot be read; the message names it."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor; `begin` and `end` are bytes from the start of the file."""

    name: str
    file: str
    stored_dtype: str  # as the file spells it: BF16
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def dtype(self) -> str | None:
        """The dtype as graphs spell it, or None for one that no weight can have."""
        return _DTYPES.get(self.stored_dtype)


@dataclass(frozen=True)
class SafetensorsFile:
    """Reads the header at once and tensors when asked."""

    path: Path
    header_end: int
    size: int
    tensors: dict[str, TensorInfo]

    @staticmethod
    def open(path: Path) -> "SafetensorsFile":
        """Raises CheckpointError if the header is not one."""
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(
                    f"{path.name}: the header says {length} bytes, the file has {size}"
                )
            raw = file.read(length)
        try:
            header = json.loads(raw)
        except ValueError as error:
            raise CheckpointError(f"{path.name}: the header is not JSON: {error}") from error
        if not isinstance(header, dict):
            raise CheckpointError(f"{path.name}: the header is not an object")
        header.pop("__metadata__", None)
        header_end = 8 + length
        tensors = {
            name: _tensor_info(path.name, name, entry, header_end, size)
            for name, entry in header.items()
        }
        return SafetensorsFile(path, header_end, size, tensors)

    @cached_property
    def _bytes(self) -> np.ndarray:
        return np.memmap(self.path, np.uint8, "r")

    def array(self, name: str) -> np.ndarray:
        """The tensor as a view of the mapped file."""
        info = self.tensors[name]
        if info.dtype is None:
            raise CheckpointError(f"{self.path.name}: {name} has dtype {info.stored_dtype}")
        if info.begin == info.end:
            return np.zeros(info.shape, numpy_dtype(info.dtype))
        return self._bytes[info.begin : info.end].view(numpy_dtype(info.dtype)).reshape(info.shape)

    def samples(self, begin: int, end: int) -> bytes:
        """64 chunks of 64 bytes spread over a range of the file, or the whole of a short one."""
        length = end - begin
        with self.path.open("rb") as file:
            if length < _SAMPLE_BYTES:
                file.seek(begin)
                return file.read(length)
            parts = []
            for i in range(_SAMPLES):
                file.seek(begin + i * (length - _SAMPLE_BYTES) // (_SAMPLES - 1))
                parts.append(file.read(_SAMPLE_BYTES))
            return b"".join(parts)

    def fingerprint(self) -> str:
        """FNV-1a of the header and of samples of the data: 16 hexadecimal digits."""
        with self.path.open("rb") as file:
            header = file.read(self.header_end)
        return f"{fnv1a(header + self.samples(self.header_end, self.size)):016x}"


def fnv1a(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = _FNV_BASIS
    for byte in data:
        value = ((value ^ byte) * _FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return value


def _tensor_info(file: str, name: str, entry: Any, header_end: int, size: int) -> TensorInfo:
    try:
        stored_dtype = str(entry["dtype"])
        shape = tuple(int(dim) for dim in entry["shape"])
        begin, end = (header_end + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: {name}: the header's entry is malformed") from error
    if not header_end <= begin <= end <= size:
        raise CheckpointError(
            f"{file}: {name}: bytes {begin} to {end} are not within the file of {size} bytes"
        )
    bits = _ITEM_BITS.get(stored_dtype)
    if bits is not None and int(np.prod(shape, dtype=object)) * bits != (end - begin) * 8:
        raise CheckpointError(
            f"{file}: {name}: {stored_dtype} of shape {list(shape)} does not take "
            f"{end - begin} bytes"
        )
    return TensorInfo(name, file, stored_dtype, shape, begin, end)
