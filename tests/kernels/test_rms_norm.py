"""rms_norm and add_rms_norm against float64 with transformers' rounding points."""

import numpy as np
import pytest
from arrays import FLOATS, float64, guarded, guards_intact, normal, poisoned, rounded
from tolerance import assert_close

SHAPES = [(t, h) for t in (1, 3, 17, 65) for h in (1, 3, 16, 17, 65, 768)] + [
    (300, 512),
    *((2, h) for h in (6144, 12288)),  # that fill what a thread block has without asking
]
EPSILON = 1e-5


def norm(x: np.ndarray, weight: np.ndarray, dtype: str) -> np.ndarray:
    scaled = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)
    return rounded(scaled, dtype) * float64(weight)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(runner, shape, dtype):
    rng = np.random.default_rng(0)
    x, weight = normal(rng, shape, dtype), normal(rng, shape[1:], dtype)
    y = poisoned(shape, dtype)
    runner.run("rms_norm", {"x": x, "weight": weight}, {"y": y}, {"epsilon": EPSILON})
    assert guards_intact(y)
    assert_close(y, norm(float64(x), weight, dtype))


@pytest.mark.parametrize("with_sum", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_rms_norm(runner, shape, dtype, with_sum):
    rng = np.random.default_rng(1)
    x, residual, weight = (normal(rng, s, dtype) for s in (shape, shape, shape[1:]))
    y, total = poisoned(shape, dtype), poisoned(shape, dtype)
    inputs = {"x": x, "residual": residual, "weight": weight}
    outputs = {"y": y} | ({"sum": total} if with_sum else {})
    runner.run("add_rms_norm", inputs, outputs, {"epsilon": EPSILON})
    want = rounded(float64(x) + float64(residual), dtype)
    assert guards_intact(y) and guards_intact(total)
    assert_close(y, norm(want, weight, dtype))
    if with_sum:
        np.testing.assert_array_equal(float64(total), want)


def test_sum_may_replace_the_residual(runner):
    rng = np.random.default_rng(2)
    x, residual, weight = (normal(rng, s, "float32") for s in ((5, 33), (5, 33), (33,)))
    stream, y = guarded(residual, "float32"), poisoned((5, 33), "float32")
    inputs = {"x": x, "residual": stream, "weight": weight}
    runner.run("add_rms_norm", inputs, {"y": y, "sum": stream}, {"epsilon": EPSILON})
    np.testing.assert_array_equal(stream, x + residual)
    assert_close(y, norm(float64(x + residual), weight, "float32"))


def test_zero_row(runner):
    y = poisoned((1, 8), "float32")
    inputs = {"x": np.zeros((1, 8), np.float32), "weight": np.ones(8, np.float32)}
    runner.run("rms_norm", inputs, {"y": y}, {"epsilon": EPSILON})
    assert (y == 0).all()


def test_negative_epsilon_is_refused(runner):
    x = np.ones((1, 8), np.float32)
    with pytest.raises(Exception, match="epsilon must not be negative, got -1"):
        runner.run("rms_norm", {"x": x, "weight": x[0]}, {"y": x.copy()}, {"epsilon": -1.0})
