"""Arrays for op tests: memory on both sides is poisoned (NaN for floats), outputs start poisoned."""

import ml_dtypes
import numpy as np

FLOATS = ("float32", "float16", "bfloat16")
GUARD_BYTES = 256


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def poisoned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A dense array of 0xff bytes, with guards of the same before and after it."""
    kind = numpy_dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    memory = np.full(size + 2 * GUARD_BYTES, 0xFF, np.uint8)
    return memory[GUARD_BYTES : GUARD_BYTES + size].view(kind).reshape(shape)


def guards_intact(array: np.ndarray) -> bool:
    memory = array
    while isinstance(memory.base, np.ndarray):
        memory = memory.base
    size = array.nbytes
    return bool(
        (memory[:GUARD_BYTES] == 0xFF).all() and (memory[GUARD_BYTES + size :] == 0xFF).all()
    )


def guarded(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` in `dtype`, between guards."""
    array = poisoned(values.shape, dtype)
    array[...] = values.astype(array.dtype)
    return array


def normal(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, scale: float = 1.0
) -> np.ndarray:
    return guarded(rng.standard_normal(shape) * scale, dtype)


def float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float64 values as they are after rounding to `dtype`."""
    return values.astype(np.float32).astype(numpy_dtype(dtype)).astype(np.float64)
