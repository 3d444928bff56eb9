"""embedding and gather_rows: copies, exactly equal."""

import numpy as np
import pytest
from arrays import FLOATS, guards_intact, normal, poisoned


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 3, 65, 500])
@pytest.mark.parametrize("width", [1, 17, 256])
def test_embedding(runner, tokens, width, dtype):
    rng = np.random.default_rng(0)
    table = normal(rng, (40, width), dtype)
    ids = rng.integers(0, 40, tokens).astype(np.int32)
    y = poisoned((tokens, width), dtype)
    runner.run("embedding", {"ids": ids, "table": table}, {"y": y})
    assert guards_intact(y)
    np.testing.assert_array_equal(y.view(np.uint8), table[ids].view(np.uint8))


def test_ids_outside_the_vocabulary_give_zeros(runner):
    table = np.ones((4, 8), np.float32)
    y = poisoned((3, 8), "float32")
    runner.run("embedding", {"ids": np.array([-1, 3, 4], np.int32), "table": table}, {"y": y})
    np.testing.assert_array_equal(y[:, 0], [0, 1, 0])


@pytest.mark.parametrize("dtype", FLOATS)
def test_gather_rows(runner, dtype):
    rng = np.random.default_rng(1)
    x = normal(rng, (30, 65), dtype)
    rows = np.array([29, 0, 7, 7], np.int32)
    y = poisoned((4, 65), dtype)
    runner.run("gather_rows", {"x": x, "rows": rows}, {"y": y})
    assert guards_intact(y)
    np.testing.assert_array_equal(y.view(np.uint8), x[rows].view(np.uint8))


@pytest.mark.parametrize("row", [-1, 30])
def test_a_row_that_is_not_there(device, runner, row):
    if device != "cpu":
        pytest.skip("rows are checked on the host only")
    x = np.ones((30, 4), np.float32)
    with pytest.raises(Exception, match=f"rows\\[0\\] = {row} is not a row of x, which has 30"):
        runner.run("gather_rows", {"x": x, "rows": np.array([row], np.int32)}, {"y": x[:1].copy()})
