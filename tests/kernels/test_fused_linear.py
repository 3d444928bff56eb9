"""fused_linear against float64 with the roundings of the ops it stands for in between."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
from arrays import FLOATS, float64, guarded, guards_intact, normal, poisoned, rounded
from inflight import _core
from tolerance import assert_close

EPSILON = 1e-5
ROWS = (1, 2, 7, 8, 9, 33, 64, 65, 300)
# (outputs, inputs): odd ones, and rows of whole 16 bytes in 16-bit types.
SHAPES = ((2, 1), (34, 33), (130, 72), (10, 192), (1032, 520), (200, 448))


@dataclass(frozen=True)
class Parts:
    """What a fused_linear has beside its linear."""

    norm: bool
    gated: bool
    residual: bool
    bias: bool

    def __str__(self) -> str:
        return "+".join(name for name, given in vars(self).items() if given) or "plain"


ALL_PARTS = tuple(Parts(*given) for given in product((False, True), repeat=4))


def make_inputs(
    parts: Parts,
    rows: int,
    outputs: int,
    inputs: int,
    dtype: str,
    y_dtype: str | None = None,
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows * 1000 + outputs + inputs)
    arrays = {
        "x": normal(rng, (rows, inputs), dtype, 3.0 if parts.norm else 1.0),
        "weight": normal(rng, (outputs, inputs), dtype, inputs**-0.5),
    }
    if parts.bias:
        arrays["bias"] = normal(rng, (outputs,), dtype)
    if parts.norm:
        arrays["norm_weight"] = guarded(1 + 0.3 * rng.standard_normal(inputs), dtype)
    if parts.residual:
        width = outputs // 2 if parts.gated else outputs
        arrays["residual"] = normal(rng, (rows, width), y_dtype or dtype)
    return arrays


def run(runner, parts: Parts, arrays: dict[str, np.ndarray], y_dtype: str) -> np.ndarray:
    outputs = arrays["weight"].shape[0]
    y = poisoned((arrays["x"].shape[0], outputs // 2 if parts.gated else outputs), y_dtype)
    attributes = {"epsilon": EPSILON} if parts.norm else {}
    if parts.gated:
        attributes["gated"] = True
    runner.run("fused_linear", arrays, {"y": y}, attributes)
    assert guards_intact(y)
    return y


def reference(
    parts: Parts, arrays: dict[str, np.ndarray], y_dtype: str, in_passing: bool
) -> tuple[np.ndarray, np.ndarray | float]:
    """y in float64 and what was rounded on the way. A norm in passing rounds x * weight and scales
    the sums; a norm of its own rounds x * scale, then that times weight."""
    dtype = arrays["x"].dtype.name
    x, scale = float64(arrays["x"]), 1.0
    if parts.norm:
        weight = float64(arrays["norm_weight"])
        scale = 1 / np.sqrt((x * x).mean(axis=1, keepdims=True) + EPSILON)
        if in_passing:
            x = rounded(x * weight, dtype)
        else:
            x, scale = rounded(rounded(x * scale, dtype) * weight, dtype), 1.0
    s = x @ float64(arrays["weight"]).T * scale
    if parts.bias:
        s = s + float64(arrays["bias"])
    if parts.gated:
        gate, up = np.split(rounded(s, y_dtype), 2, axis=1)
        s = rounded(gate / (1 + np.exp(-gate)), y_dtype) * up
    if not parts.residual:
        return s, 0
    s = rounded(s, y_dtype)
    return float64(arrays["residual"]) + s, s


def check(
    runner,
    parts: Parts,
    arrays: dict[str, np.ndarray],
    y_dtype: str,
    in_passing: bool = False,
) -> np.ndarray:
    """Runs the op and holds it against float64; answers y."""
    y = run(runner, parts, arrays, y_dtype)
    want, on_the_way = reference(parts, arrays, y_dtype, in_passing)
    assert_close(y, want, arrays["x"].dtype.name, rounded=on_the_way)
    return y


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("parts", ALL_PARTS, ids=str)
def test_fused_linear(runner, parts, shape, dtype):
    for rows in ROWS:
        arrays = make_inputs(parts, rows, *shape, dtype)
        check(runner, parts, arrays, dtype)


# The linears of a small Llama's layer, its weights and rows aligned: what special kernels serve.
LAYER = {
    "qkv": (Parts(norm=True, gated=False, residual=False, bias=False), (768, 512)),
    "output": (Parts(norm=False, gated=False, residual=True, bias=False), (512, 512)),
    "gate_up": (Parts(norm=True, gated=True, residual=False, bias=False), (2816, 512)),
    "down": (Parts(norm=False, gated=False, residual=True, bias=False), (512, 1408)),
}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", LAYER)
def test_linears_of_a_layer(runner, name, dtype):
    parts, shape = LAYER[name]
    for rows in (*range(1, 18), 31, 32, 33, 48, 63, 64, 65, 128, 129, 257):
        arrays = make_inputs(parts, rows, *shape, dtype)
        check(runner, parts, arrays, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(768, 512), (2816, 512), (200, 448), (4104, 1408)], ids=str)
@pytest.mark.parametrize("parts", ALL_PARTS, ids=str)
def test_few_rows_where_grids_may_wait(device, parts, shape, dtype):
    """What goes several to a launch, one by one; a row does not depend on the others."""
    if device != "cuda" or device not in _core.op_devices():
        pytest.skip("on a GPU only")
    waiting = _core.OpRunner(device, num_threads=2, grids_may_wait=True)
    together = make_inputs(parts, 4, *shape, dtype)
    want = check(waiting, parts, together, dtype, in_passing=dtype == "bfloat16")
    for row in range(4):
        alone = dict(together)
        for name in {"x", "residual"} & set(together):
            alone[name] = guarded(float64(together[name][row : row + 1]), dtype)
        got = run(waiting, parts, alone, dtype)
        np.testing.assert_array_equal(float64(got), float64(want[row : row + 1]))


# Deep enough for stripes, some of whose last ones are not whole.
LARGE = {
    "qkv": (4104, 4160),
    "output": (4128, 4096),
    "gate_up": (4240, 4160),
    "down": (4096, 11264),
}


@pytest.mark.parametrize("name", LARGE)
def test_linears_of_a_large_layer(runner, name):
    parts, _ = LAYER[name]
    arrays = make_inputs(parts, 8, *LARGE[name], "bfloat16")
    want = check(runner, parts, arrays, "bfloat16")
    for rows in (1, 2, 5):
        some = dict(arrays)
        for given in {"x", "residual"} & set(arrays):
            some[given] = guarded(float64(arrays[given][:rows]), "bfloat16")
        alone = run(runner, parts, some, "bfloat16")
        np.testing.assert_array_equal(float64(alone), float64(want[:rows]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_logits_are_float32_of_few_rows(runner, dtype):
    parts = Parts(norm=True, gated=False, residual=False, bias=False)
    for rows in (1, 8, 64, 65):
        arrays = make_inputs(parts, rows, 3001, 256, dtype)
        check(runner, parts, arrays, "float32")


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("parts", ALL_PARTS, ids=str)
def test_a_row_does_not_depend_on_the_others(runner, parts, dtype):
    together = make_inputs(parts, 64, 264, 520, dtype)
    want = run(runner, parts, together, dtype)
    for rows in (1, 3, 8, 11, 33):
        for start in (0, 64 - rows):
            some = dict(together)
            for name in ("x", "residual"):
                if name in some:
                    some[name] = guarded(float64(together[name][start : start + rows]), dtype)
            alone = run(runner, parts, some, dtype)
            np.testing.assert_array_equal(float64(alone), float64(want[start : start + rows]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_deep_weights(runner, dtype):
    """As deep as those that a GPU's product of up to 32 rows serves, shared unevenly by two."""
    parts = Parts(norm=False, gated=False, residual=True, bias=True)
    together = make_inputs(parts, 32, 2136, 4104, dtype)
    want = check(runner, parts, together, dtype)
    some = dict(together)
    for name in ("x", "residual"):
        some[name] = guarded(float64(together[name][:9]), dtype)
    np.testing.assert_array_equal(float64(run(runner, parts, some, dtype)), float64(want[:9]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1025, 2048, 2307])
def test_panels_of_many_rows(runner, rows, dtype):
    """More rows than the workspace holds at once; the last panel is a shorter one."""
    for parts in (
        Parts(norm=True, gated=True, residual=True, bias=True),
        Parts(norm=True, gated=False, residual=True, bias=False),
    ):
        arrays = make_inputs(parts, rows, 48, 40, dtype)
        check(runner, parts, arrays, dtype)


def test_the_largest_and_smallest_rows_are_normed(runner):
    """Rows of zeros and of large values: the mean square takes float32, epsilon keeps zeros."""
    parts = Parts(norm=True, gated=False, residual=False, bias=False)
    for dtype, large in (("float32", 1e15), ("bfloat16", 1e15), ("float16", 2e3)):
        arrays = make_inputs(parts, 3, 64, 512, dtype)
        arrays["x"][0] = 0
        arrays["x"][1] = large * np.sign(float64(arrays["x"][1]) + 0.5)
        y = check(runner, parts, arrays, dtype)
        assert (float64(y[0]) == 0).all()


def test_no_rows(runner):
    parts = ALL_PARTS[-1]
    y = run(runner, parts, make_inputs(parts, 0, 8, 4, "float32"), "float32")
    assert y.shape == (0, 4)


WRONG = {
    r"weight must be \[any, 8\], got \[4, 9\]": {"weight": (4, 9)},
    r"norm_weight must be \[8\], got \[7\]": {"norm_weight": (7,)},
    r"residual must be \[2, 4\], got \[2, 5\]": {"residual": (2, 5)},
    r"bias must be \[4\], got \[5\]": {"bias": (5,)},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_shapes_are_named(runner, message):
    shapes = {"x": (2, 8), "weight": (4, 8)} | WRONG[message]
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(Exception, match="fused_linear: " + message):
        runner.run(
            "fused_linear",
            arrays,
            {"y": np.zeros((2, 4), np.float32)},
            {"epsilon": 1e-5},
        )


def test_wrong_attributes_are_named(runner):
    x, norm = np.zeros((2, 8), np.float32), np.ones(8, np.float32)
    y = np.zeros((2, 3), np.float32)
    weight = np.zeros((3, 8), np.float32)
    with pytest.raises(Exception, match="a norm_weight needs an epsilon"):
        runner.run("fused_linear", {"x": x, "weight": weight, "norm_weight": norm}, {"y": y})
    with pytest.raises(Exception, match="even number of rows where gated, got 3"):
        runner.run("fused_linear", {"x": x, "weight": weight}, {"y": y}, {"gated": True})
