"""Executes weight recipes in Python: for `--pack`, and for the interpreter in tests."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from inflight.checkpoint.reader import CheckpointReader
from inflight.ir.graph import Recipe, Source, Weight
from inflight.ir.reference import numpy_dtype

_CHUNK_BYTES = 64 << 20
_STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def assemble(reader: CheckpointReader, weight: Weight) -> np.ndarray:
    """The whole weight in memory."""
    parts = [_part(reader, source) for source in weight.recipe.sources]
    dtype = numpy_dtype(weight.type.dtype)
    return np.concatenate([p.astype(dtype) for p in parts], axis=weight.recipe.axis)


def packed_weight(name: str, weight: Weight) -> Weight:
    """The weight as one whole tensor of a packed file."""
    return replace(weight, recipe=Recipe((Source(name),), (weight.type.shape,)))


def write_packed(reader: CheckpointReader, weights: Mapping[str, Weight], path: Path) -> None:
    """Writes the assembled weights as a safetensors file, at most a chunk or, where parts stand
    side by side, one weight in memory at a time."""
    header, offset = {}, 0
    for name, weight in weights.items():
        shape = weight.type.shape
        end = offset + int(np.prod(shape)) * numpy_dtype(weight.type.dtype).itemsize
        header[name] = {
            "dtype": _STORED[weight.type.dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # the data starts aligned for vector loads
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights.values():
            _write_weight(file, reader, weight)


def _write_weight(file: BinaryIO, reader: CheckpointReader, weight: Weight) -> None:
    dtype = numpy_dtype(weight.type.dtype)
    if weight.recipe.axis != 0:
        file.write(assemble(reader, weight).tobytes())
        return
    for source in weight.recipe.sources:
        for rows in _chunks(_part(reader, source), dtype.itemsize):
            file.write(rows.astype(dtype).tobytes())


def _chunks(part: np.ndarray, item_bytes: int) -> Iterator[np.ndarray]:
    row_bytes = max(int(np.prod(part.shape[1:])) * item_bytes, 1)
    step = max(_CHUNK_BYTES // row_bytes, 1)
    for begin in range(0, part.shape[0], step):
        yield part[begin : begin + step]


def _part(reader: CheckpointReader, source: Source) -> np.ndarray:
    array = reader.array(source.tensor)
    if source.slice is None:
        return array
    return array[tuple(slice(begin, end) for begin, end in source.slice)]
