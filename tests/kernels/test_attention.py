"""attention against float64 over a paged, strided cache; chunked prompts against whole ones."""

from dataclasses import replace

import numpy as np
import pytest
from arrays import float64, guards_intact, normal, poisoned
from cases.attention import CASES, LONG, RISING, WINDOWS, AttentionCase
from inflight import _core
from tolerance import assert_close

# Without a window, and with some that begin within tiles and segments of keys.
EITHER_WAY = ({}, {"window": 77}, {"window": 700, "num_sinks": 3}, {"window": 3, "num_sinks": 530})


def paged_cache(rng, case: AttentionCase, keys: list[np.ndarray], values: list[np.ndarray]):
    """The sequences' keys and values [length, kv heads, head size] in shuffled blocks of layer 1 of
    3; every slot that no token has is NaN, and tables name a block of such slots in the place of
    those that no row sees. Returns the layer's view and the block tables."""
    blocks = [-(-length // case.tokens_per_block) for length in case.lengths]
    order = rng.permutation(sum(blocks) + 3).astype(np.int32)
    hole = order[-1]
    shape = (
        sum(blocks) + 3,
        3,
        2,
        case.num_kv_heads,
        case.tokens_per_block,
        case.head_size,
    )
    layer = poisoned(shape, case.cache)[:, 1]
    tables = np.full((len(blocks), max(max(blocks), 1) + 1), -1, np.int32)
    used = 0
    for sequence, count in enumerate(blocks):
        tables[sequence, :count] = order[used : used + count]
        used += count
        for part, rows in enumerate((keys[sequence], values[sequence])):
            slots = poisoned((count * case.tokens_per_block, *shape[3::2]), case.cache)
            slots[: len(rows)] = rows
            blocked = slots.reshape(count, case.tokens_per_block, *shape[3::2]).swapaxes(1, 2)
            layer[tables[sequence, :count], part] = blocked
        if case.window > 0:
            seen = np.flatnonzero(case.seen(sequence).any(axis=0)) // case.tokens_per_block
            tables[sequence, np.setdiff1d(np.arange(count), seen)] = hole
    return layer, tables


def reference(case: AttentionCase, q, keys, values, scale):
    y, row = np.zeros(q.shape), 0
    group = case.num_heads // case.num_kv_heads
    for sequence, count in enumerate(case.queries):
        hidden = ~case.seen(sequence)
        rows, k, v = slice(row, row + count), float64(keys[sequence]), float64(values[sequence])
        for head in range(case.num_heads):
            columns = slice(head * case.head_size, (head + 1) * case.head_size)
            scores = float64(q[rows, columns]) @ k[:, head // group].T * scale
            scores[hidden] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            y[rows, columns] = weights @ v[:, head // group]
        row += count
    return y


def make(case: AttentionCase, seed: int = 0):
    rng = np.random.default_rng(seed)
    q = normal(rng, (sum(case.queries), case.num_heads * case.head_size), case.dtype)
    shape = (case.num_kv_heads, case.head_size)
    keys = [normal(rng, (n, *shape), case.cache) for n in case.lengths]
    values = [normal(rng, (n, *shape), case.cache) for n in case.lengths]
    cache, tables = paged_cache(rng, case, keys, values)
    return q, keys, values, cache, tables


def run_attention(runner, case: AttentionCase, q, cache, tables, gives_starts=True):
    y = poisoned(q.shape, case.dtype)
    inputs = {
        "q": q,
        "kv_cache": cache,
        "block_tables": tables,
        "kv_lengths": np.array(case.lengths, np.int32),
    }
    if gives_starts:
        inputs["query_starts"] = np.cumsum([0, *case.queries]).astype(np.int32)
    attributes = {
        "num_heads": case.num_heads,
        "num_kv_heads": case.num_kv_heads,
        "head_size": case.head_size,
        "scale": case.head_size**-0.5,
    }
    if case.window > 0:
        attributes |= {"window": case.window, "num_sinks": case.num_sinks}
    runner.run("attention", inputs, {"y": y}, attributes)
    assert guards_intact(y)
    return y


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention(runner, case: AttentionCase):
    q, keys, values, cache, tables = make(case)
    y = run_attention(runner, case, q, cache, tables)
    assert_close(y, reference(case, q, keys, values, case.head_size**-0.5))


@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_attention_of_a_window(runner, case: AttentionCase):
    q, keys, values, cache, tables = make(case)
    y = run_attention(runner, case, q, cache, tables)
    assert_close(y, reference(case, q, keys, values, case.head_size**-0.5))


def test_a_window_of_the_whole_sequence_changes_no_bit(device, runner):
    case = AttentionCase((1, 30, 5), (700, 30, 90))
    q, _, _, cache, tables = make(case)
    want = run_attention(runner, case, q, cache, tables)
    got = run_attention(runner, replace(case, window=700), q, cache, tables)
    if device == "cpu":
        np.testing.assert_array_equal(got, want)
    else:
        assert_close(got, float64(want))


@pytest.mark.parametrize(("window", "num_sinks"), [(-1, 0), (5, -1), (0, 1)])
def test_impossible_windows_are_refused(runner, window, num_sinks):
    case = AttentionCase((2,), (2,))
    q, _, _, cache, tables = make(case)
    inputs = {
        "q": q,
        "kv_cache": cache,
        "block_tables": tables,
        "query_starts": np.array([0, 2], np.int32),
        "kv_lengths": np.array([2], np.int32),
    }
    attributes = {"num_heads": 4, "num_kv_heads": 2, "head_size": 64, "scale": 1.0}
    attributes |= {"window": window, "num_sinks": num_sinks}
    with pytest.raises(Exception, match=f"window must be .* got {window} and {num_sinks}"):
        runner.run("attention", inputs, {"y": poisoned(q.shape, "float32")}, attributes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_query_starts_each_sequence_has_one_row(runner, dtype):
    lengths = (70, 1, 300, 5000, 16)
    case = AttentionCase((1,) * 5, lengths, 4, 2, 64, 32, dtype=dtype, cache=dtype)
    q, keys, values, cache, tables = make(case)
    y = run_attention(runner, case, q, cache, tables, gives_starts=False)
    assert_close(y, reference(case, q, keys, values, case.head_size**-0.5))
    with pytest.raises(Exception, match="without query_starts each sequence has one row, got 4"):
        run_attention(runner, case, q[:4].copy(), cache, tables, gives_starts=False)


@pytest.mark.parametrize("window", [{}, {"window": 150, "num_sinks": 4}], ids=["all", "window"])
def test_prompts_of_many_tiles_have_the_same_bits_again(runner, window):
    """On a GPU tiles go to whichever thread block is done first."""
    lengths = (700, 400, 513, 96)
    case = AttentionCase(lengths, lengths, 32, 8, 64, 32, "bfloat16", "bfloat16", **window)
    q, _, _, cache, tables = make(case)
    first = run_attention(runner, case, q, cache, tables)
    for _ in range(3):
        again = run_attention(runner, case, q, cache, tables)
        np.testing.assert_array_equal(again.view(np.int16), first.view(np.int16))


def test_large_scores(runner):
    """Scores of thousands: the running maximum must carry the softmax."""
    case = AttentionCase((1, 5), (300, 80))
    q, keys, values, cache, tables = make(case)
    q *= 1000
    y = run_attention(runner, case, q, cache, tables)
    assert_close(y, reference(case, q, keys, values, case.head_size**-0.5), "float16")


@pytest.mark.parametrize(("case", "begin", "rise"), RISING, ids=str)
@pytest.mark.parametrize("is_below_zero", [False, True], ids=["any", "below_zero"])
def test_scores_that_rise(runner, case: AttentionCase, begin, rise, is_below_zero):
    """A GPU weighs by earlier keys' largest score until a later one is above it by a slack, which
    it looks for in a way of its own where scores are below zero."""
    q, keys, values, _, _ = make(case)
    for sequence in keys:
        if is_below_zero:
            sequence[:] = -np.abs(sequence)
            sequence[:begin] *= np.asarray(rise / 4, sequence.dtype)
        else:
            sequence[begin:] *= np.asarray(rise, sequence.dtype)
            sequence[begin + 140 :] *= np.asarray(2, sequence.dtype)
    if is_below_zero:
        q = np.abs(q)
    cache, tables = paged_cache(np.random.default_rng(1), case, keys, values)
    y = run_attention(runner, case, q, cache, tables)
    assert_close(y, reference(case, q, keys, values, case.head_size**-0.5))


@pytest.mark.parametrize("may_wait", [True, False], ids=["waiting", "counting"])
@pytest.mark.parametrize("case", LONG, ids=str)
def test_few_long_sequences(device, case: AttentionCase, may_wait: bool):
    """Whichever thread blocks come first: the same bits again, behind steps of other lengths too."""
    if device != "cuda" or device not in _core.op_devices():
        pytest.skip("on a GPU only")
    runner = _core.OpRunner(device, num_threads=2, grids_may_wait=may_wait)
    q, keys, values, cache, tables = make(case)
    first = run_attention(runner, case, q, cache, tables)
    assert_close(first, reference(case, q, keys, values, case.head_size**-0.5))
    shorter = replace(case, lengths=tuple(max(length - 700, 1) for length in case.lengths))
    for _ in range(3):
        run_attention(runner, shorter, q, cache, tables)
        again = run_attention(runner, case, q, cache, tables)
        np.testing.assert_array_equal(again.view(np.int16), first.view(np.int16))


@pytest.mark.parametrize(
    ("head_size", "num_heads", "num_kv_heads", "dtype"),
    [
        (64, 32, 8, "bfloat16"),
        (64, 5, 1, "float16"),
        (80, 14, 2, "float16"),
        (80, 16, 8, "float16"),
        (96, 12, 4, "bfloat16"),
        (128, 7, 1, "bfloat16"),
        (256, 8, 2, "float16"),
    ],
)
def test_one_sequence_alone(device, head_size, num_heads, num_kv_heads, dtype):
    """Its table has room for more: of lengths around those that are divided, and into how many
    parts; the same bits again; and without a key, as padded rows are."""
    if device != "cuda" or device not in _core.op_devices():
        pytest.skip("on a GPU only")
    runner = _core.OpRunner(device, num_threads=2, grids_may_wait=True)
    whole = AttentionCase((1,), (17500,), num_heads, num_kv_heads, head_size, 32, dtype, dtype)
    q, keys, values, cache, tables = make(whole)
    for length in (1, 15, 16, 17, 640, 641, 1800, 1809, 4097, 8992, 16383, 17500):
        case = replace(whole, lengths=(length,))
        first = run_attention(runner, case, q, cache, tables)
        seen = [keys[0][:length]], [values[0][:length]]
        assert_close(first, reference(case, q, *seen, head_size**-0.5))
        again = run_attention(runner, case, q, cache, tables)
        np.testing.assert_array_equal(again.view(np.int16), first.view(np.int16))
    y = run_attention(runner, replace(whole, lengths=(0,)), q, cache, tables)
    assert not y.astype(np.float32).any()


@pytest.mark.parametrize("chunk", [1, 3, 16, 50])
@pytest.mark.parametrize("window", EITHER_WAY)
def test_chunked_prompt_equals_whole(device, runner, chunk, window):
    whole_case = AttentionCase((600,), (600,), **window)
    q, _, _, cache, tables = make(whole_case)
    whole = run_attention(runner, whole_case, q, cache, tables)
    for start in range(0, 600, chunk):
        end = min(start + chunk, 600)
        case = AttentionCase((end - start,), (end,), **window)
        part = run_attention(runner, case, np.ascontiguousarray(q[start:end]), cache, tables)
        if device == "cpu":
            np.testing.assert_array_equal(part, whole[start:end])
        else:
            assert_close(part, float64(whole[start:end]))


@pytest.mark.parametrize("length", [40, 700, 3000])
@pytest.mark.parametrize("window", EITHER_WAY)
def test_a_sequence_does_not_depend_on_the_others(runner, length, window):
    """Alone, a long one is divided among the threads; in company it is not."""
    others = (33, 128, 3, 90, 250, 7)
    case = AttentionCase((1,) * 7, (length, *others), **window)
    q, _, _, cache, tables = make(case)
    together = run_attention(runner, case, q, cache, tables)
    alone_case = AttentionCase((1,), (length,), **window)
    alone = run_attention(runner, alone_case, q[:1].copy(), cache, tables[:1].copy())
    np.testing.assert_array_equal(alone, together[:1])


@pytest.mark.parametrize("window", [{}, {"window": 50, "num_sinks": 4}], ids=["all", "window"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_padded_rows_are_zeros(device, runner, dtype, window):
    """A captured step of generation is padded with sequences of one row and no key."""
    if device != "cuda":
        pytest.skip("steps are padded on CUDA only")
    kind = {"head_size": 128, "dtype": dtype, "cache": dtype, **window}
    case = AttentionCase((1, 1, 1, 1), (70, 0, 300, 0), **kind)
    q, keys, values, cache, tables = make(case)
    y = run_attention(runner, case, q, cache, tables)
    assert not y[[1, 3]].astype(np.float32).any()
    rows = [0, 2]
    full = AttentionCase((1, 1), (70, 300), **kind)
    some = ([keys[i] for i in rows], [values[i] for i in rows])
    assert_close(y[rows], reference(full, q[rows], *some, 128**-0.5))


def test_large_scores_of_a_16_bit_dtype(runner):
    """Maxima that rise with every key, past what a float16 weight could hold."""
    case = AttentionCase((1,), (1500,), head_size=128, dtype="bfloat16", cache="bfloat16")
    q, keys, values, _, _ = make(case)
    rise = np.linspace(-3, 3, 1500)[:, None, None]
    keys = [(keys[0] * 0.1 + rise).astype(keys[0].dtype)]
    q[:] = 4
    cache, tables = paged_cache(np.random.default_rng(1), case, keys, values)
    y = run_attention(runner, case, q, cache, tables)
    assert_close(y, reference(case, q, keys, values, 128**-0.5))


@pytest.mark.parametrize("window", EITHER_WAY)
def test_the_number_of_threads_does_not_matter(device, runner, window):
    if device != "cpu":
        pytest.skip("threads are the CPU's")
    case = AttentionCase((1, 9), (2000, 40), num_heads=6, num_kv_heads=1, **window)
    q, _, _, cache, tables = make(case)
    want = run_attention(runner, case, q, cache, tables)
    for num_threads in (1, 3, 8):
        got = run_attention(_core.OpRunner("cpu", num_threads), case, q, cache, tables)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("starts", "lengths"), [((0, 2), (1,)), ((0, 1), (5,)), ((0, 2), (99,))])
def test_impossible_lengths_are_refused(device, runner, starts, lengths):
    if device != "cpu":
        pytest.skip("lengths are checked on the host only")
    inputs = {
        "q": np.zeros((2, 4), np.float32),
        "kv_cache": np.zeros((3, 2, 1, 16, 4), np.float32),
        "block_tables": np.zeros((1, 3), np.int32),
        "query_starts": np.array(starts, np.int32),
        "kv_lengths": np.array(lengths, np.int32),
    }
    attributes = {"num_heads": 1, "num_kv_heads": 1, "head_size": 4, "scale": 1.0}
    with pytest.raises(Exception, match="attention: (query_starts must|sequence 0 has 2 rows)"):
        runner.run("attention", inputs, {"y": np.zeros((2, 4), np.float32)}, attributes)
