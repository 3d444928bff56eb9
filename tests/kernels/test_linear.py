"""linear against float64, and the rows' independence of each other."""

from functools import lru_cache

import numpy as np
import pytest
from arrays import float64, guarded, guards_intact, normal, poisoned
from cases.linear import CASES, LinearCase
from inflight import _core
from tolerance import assert_close, of_tensor_cores


def run_linear(runner, x, weight, bias, y_dtype):
    y = poisoned((x.shape[0], weight.shape[0]), y_dtype)
    inputs = {"x": x, "weight": weight} | ({} if bias is None else {"bias": bias})
    runner.run("linear", inputs, {"y": y})
    assert guards_intact(y)
    return y


@lru_cache(maxsize=4)
def same_weight(outputs: int, inputs: int, dtype: str) -> np.ndarray:
    """For any number of rows; not to be written to."""
    rng = np.random.default_rng(outputs * 10_000 + inputs)
    return normal(rng, (outputs, inputs), dtype, inputs**-0.5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_linear(device, runner, case: LinearCase):
    rng = np.random.default_rng(case.rows * 1000 + case.outputs * 10 + case.inputs)
    x = normal(rng, (case.rows, case.inputs), case.x)
    weight = same_weight(case.outputs, case.inputs, case.weight)
    bias = None if case.bias is None else normal(rng, (case.outputs,), case.bias)
    y = run_linear(runner, x, weight, bias, case.y)
    want = float64(x) @ float64(weight).T
    sums = device == "cuda" and case.y == "float32" and case.x == case.weight != "float32"
    assert_close(
        y,
        want if bias is None else want + float64(bias),
        tolerance=of_tensor_cores(case.inputs) if sums else None,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("outputs", "inputs"), [(67, 515), (300, 2048), (2064, 192)])
def test_a_row_does_not_depend_on_the_others(runner, dtype, outputs, inputs):
    rng = np.random.default_rng(1)
    x = normal(rng, (64, inputs), dtype)
    weight = normal(rng, (outputs, inputs), dtype, inputs**-0.5)
    together = run_linear(runner, x, weight, None, "float32")
    for rows in (1, 2, 3, 4, 5, 6, 11, 33):
        for start in (0, 64 - rows):
            some = guarded(x[start : start + rows], dtype)
            alone = run_linear(runner, some, weight, None, "float32")
            np.testing.assert_array_equal(alone, together[start : start + rows])


# Weights of which a race has several in its scratch, and such as are too large for that.
@pytest.mark.parametrize(("outputs", "inputs"), [(768, 512), (3000, 4096)])
def test_algorithms_are_raced(device, monkeypatch, tmp_path, outputs, inputs):
    """Once, and one of them is taken from then on: the same bits again, also by another runner."""
    if device != "cuda" or device not in _core.op_devices():
        pytest.skip("on a GPU only")
    monkeypatch.setenv("INFLIGHT_TACTICS", str(tmp_path))
    rng = np.random.default_rng(2)
    x, weight = normal(rng, (96, inputs), "bfloat16"), same_weight(outputs, inputs, "bfloat16")
    first, kept = None, None
    for _ in range(2):
        runner = _core.OpRunner(device, num_threads=2)
        for _ in range(3):
            y = run_linear(runner, x, weight, None, "bfloat16")
            (outcome,) = (path.read_bytes() for path in tmp_path.iterdir())
            if first is None:
                first, kept = y, outcome
                assert_close(first, float64(x) @ float64(weight).T)
            np.testing.assert_array_equal(y.view(np.int16), first.view(np.int16))
            assert outcome == kept


def test_no_rows(runner):
    y = run_linear(
        runner,
        poisoned((0, 8), "float32"),
        normal(np.random.default_rng(0), (4, 8), "float32"),
        None,
        "float32",
    )
    assert y.shape == (0, 4)


def test_wrong_shape_is_named(runner):
    x, weight, y = (np.zeros(shape, np.float32) for shape in ((2, 8), (4, 9), (2, 4)))
    with pytest.raises(Exception, match=r"linear: weight must be \[any, 8\], got \[4, 9\]"):
        runner.run("linear", {"x": x, "weight": weight}, {"y": y})
