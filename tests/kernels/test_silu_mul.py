"""silu_mul against float64 with transformers' rounding of the activation before the product."""

import numpy as np
import pytest
from arrays import FLOATS, float64, guarded, guards_intact, normal, poisoned, rounded
from tolerance import assert_close


def reference(gate_up: np.ndarray, dtype: str) -> np.ndarray:
    gate, up = np.split(float64(gate_up), 2, axis=1)
    with np.errstate(over="ignore"):
        return rounded(gate / (1 + np.exp(-gate)), dtype) * up


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", [1, 3, 17, 300])
@pytest.mark.parametrize("width", [1, 3, 16, 17, 65, 512])
def test_silu_mul(runner, rows, width, dtype):
    gate_up = normal(np.random.default_rng(0), (rows, 2 * width), dtype, 2.0)
    y = poisoned((rows, width), dtype)
    runner.run("silu_mul", {"gate_up": gate_up}, {"y": y})
    assert guards_intact(y)
    assert_close(y, reference(gate_up, dtype))


def test_extreme_gates(runner):
    gates = np.array([-3e38, -1000, -104, -89, -88, -87, -1e-30, 0, 1e-30, 87, 89, 1000, 3e38])
    gate_up = guarded(np.stack([gates, np.ones_like(gates)]).reshape(1, -1), "float32")
    y = poisoned((1, len(gates)), "float32")
    runner.run("silu_mul", {"gate_up": gate_up}, {"y": y})
    assert_close(y, reference(gate_up, "float32"))


def test_exponential_is_exact_to_a_few_units(runner):
    gate = np.linspace(-80, 80, 100_001).astype(np.float32)
    gate_up = np.concatenate([gate, np.ones_like(gate)])[None]
    y = poisoned((1, gate.size), "float32")
    runner.run("silu_mul", {"gate_up": gate_up}, {"y": y})
    want = float64(gate) / (1 + np.exp(-float64(gate)))
    np.testing.assert_allclose(y[0], want, rtol=5e-7, atol=1e-37)
