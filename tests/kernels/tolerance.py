"""How far an op may be from its float64 reference: one table, by the dtype of the output.

|got - want| <= tolerance * (1 + |want|). References are computed from the very inputs the op sees,
so only the op's own arithmetic counts. Inputs are scaled so that results are of order one.
"""

import numpy as np

# float32: sums of up to 16k products of order one, accumulated in float32 in some tens of lanes.
# float16, bfloat16: half a unit in the last place is 2^-11 and 2^-9 of the value; ops round up to
# twice where transformers does (norm before weight, silu before the product), hence some 4 halves.
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 8e-3}


def of_tensor_cores(depth: int) -> float:
    """For float32 sums of `depth` products of 16 bits: 16 are added at once and what is below the
    sum's last place, 2^-23 of it, is cut off, each time to the same side."""
    return max(TOLERANCE["float32"], depth / 16 * 2**-23)


def assert_close(
    got: np.ndarray,
    want: np.ndarray,
    dtype: str | None = None,
    rounded: np.ndarray | float = 0,
    tolerance: float | None = None,
) -> None:
    """Compares with the reference; `dtype` overrides the output's where inputs were coarser, and
    `rounded` are values that the op rounds on its way, where they may be larger than the result.
    `tolerance` stands in the table's place."""
    if tolerance is None:
        tolerance = TOLERANCE[dtype or got.dtype.name]
    assert got.shape == want.shape
    got64 = got.astype(np.float64)
    assert np.isfinite(got64).all(), "an element was not written, or is not finite"
    error = np.abs(got64 - want) / (1 + np.maximum(np.abs(want), np.abs(rounded)))
    worst = np.unravel_index(np.argmax(error), error.shape) if error.size else ()
    assert error.size == 0 or error[worst] <= tolerance, (
        f"{got.dtype.name} off by {error[worst]:.3g} > {tolerance} at {worst}: "
        f"got {got64[worst]}, want {want[worst]}"
    )
