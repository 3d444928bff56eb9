"""Shapes of the linear op for tests and benchmarks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearCase:
    rows: int
    outputs: int
    inputs: int
    x: str = "float32"
    weight: str = "float32"
    y: str = "float32"
    bias: str | None = None


ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 31, 65)
OUTPUTS = (1, 3, 4, 5, 17, 65)
INPUTS = (1, 3, 15, 16, 17, 31, 33, 64, 65, 257, 1024, 1056, 2049)

CASES = (
    # Every tile edge of rows and columns at an odd depth, every depth at odd rows and columns.
    *(LinearCase(m, n, 65) for m in ROWS for n in OUTPUTS),
    *(LinearCase(m, 9, k) for m in (1, 3, 7) for k in INPUTS),
    # All dtypes of x, weight and y together.
    *(
        LinearCase(m, n, k, x, weight, y, bias)
        for x in ("float32", "float16", "bfloat16")
        for weight in ("float32", "float16", "bfloat16")
        for y, bias in ((x, weight), ("float32", None))
        for m, n, k in ((1, 5, 33), (4, 17, 97), (7, 33, 1040), (67, 35, 129))
    ),
    # Enough rows for the library product, several slabs deep.
    *(
        LinearCase(m, n, k, x, weight, x)
        for x, weight in (
            ("float32", "float32"),
            ("bfloat16", "bfloat16"),
            ("float16", "float16"),
            ("float32", "bfloat16"),
        )
        for m, n, k in ((130, 300, 260), (300, 129, 513), (513, 65, 65))
    ),
    # Rows of whole 16 bytes in 16-bit types: every width of a tile of few rows, shared depths.
    *(
        LinearCase(m, n, k, x, x, y, bias)
        for x in ("float16", "bfloat16")
        for y, bias in ((x, x), ("float32", None))
        for m in (1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 129)
        for n, k in ((130, 72), (257, 1032), (1024, 4096))
    ),
)
