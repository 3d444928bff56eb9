"""rope_attention against rope and attention in float64, and what it leaves in the cache."""

from dataclasses import replace

import numpy as np
import pytest
from arrays import float64, guards_intact, normal, numpy_dtype, poisoned, rounded
from cases.attention import AttentionCase
from test_attention import paged_cache, reference
from test_rope import rotate
from tolerance import assert_close

LENGTHS = (1, 2, 16, 17, 40, 145, 300, 31)
MANY = LENGTHS * 9  # with two kv heads more than a GPU has multiprocessors
# Steps of generation: what CUDA does in one kernel, and what it composes of two.
GENERATION = tuple(
    AttentionCase(
        (1,) * len(lengths),
        lengths,
        num_heads=2 * group,
        head_size=size,
        tokens_per_block=block,
        dtype=dtype,
        cache=dtype,
    )
    for lengths, group, size, block, dtype in (
        *((LENGTHS, 4, size, 32, "bfloat16") for size in (64, 80, 96, 128, 256)),
        *((LENGTHS, group, 64, 16, "float16") for group in (1, 2, 7, 8, 12)),
        *((MANY, group, 128, 64, "bfloat16") for group in (1, 7, 8, 12, 16)),
        (MANY, 2, 128, 16, "float16"),
        *((MANY, group, 64, 16, "bfloat16") for group in (1, 4, 8)),
        *((LENGTHS * 8, 4, 64, 32, dtype) for dtype in ("bfloat16", "float16")),
        ((2000,), 4, 128, 32, "bfloat16"),
        ((3000, 1), 8, 64, 16, "bfloat16"),
        (tuple(range(1, 100, 3)) * 3, 4, 128, 32, "bfloat16"),
        (tuple(range(1, 200, 3)) * 3, 4, 64, 16, "bfloat16"),
        (LENGTHS, 2, 64, 16, "float32"),
    )
)
# Enough kv heads for rings of few sequences.
GENERATION += tuple(
    AttentionCase((1,) * 20, tuple(range(1, 161, 8)), 8 * group, 8, size, 32, dtype, dtype)
    for group, size, dtype in ((4, 64, "bfloat16"), (1, 128, "float16"), (8, 128, "bfloat16"))
)
MIXED = (
    AttentionCase((1, 17, 1, 40, 5), (70, 17, 1, 90, 133)),
    AttentionCase((1, 9, 1), (37, 50, 200), 8, 2, 128, 32, "bfloat16", "bfloat16"),
    AttentionCase((30,), (30,), 8, 2, 128, 32, "bfloat16", "bfloat16"),
    AttentionCase((1, 1), (20, 300), 8, 2, 64, 16, "float32", "bfloat16"),
)
WINDOWS = tuple(
    replace(case, window=window, num_sinks=num_sinks)
    for case in (*MIXED, AttentionCase((1,) * 8, LENGTHS, 8, 2, 64, 16, "bfloat16", "bfloat16"))
    for window, num_sinks in ((1, 0), (20, 0), (16, 3))
) + tuple(
    # The newest key is in the tile where the window begins, and beside one with sinks.
    replace(case, window=window, num_sinks=num_sinks)
    for case in GENERATION
    if case.head_size in (64, 128) and case.dtype != "float32"
    for window, num_sinks in ((1, 4), (17, 0), (144, 20))
)


def wide(tables: np.ndarray) -> np.ndarray:
    """As a step of longer sequences has them, which CUDA does in other kernels."""
    return np.pad(tables, ((0, 0), (0, 64)))


def run_step(
    runner,
    case: AttentionCase,
    rope_size: int,
    padded: tuple[int, ...] = (),
    is_wide: bool = False,
    are_last: bool = False,
):
    """One step whose rows' keys are not in the cache yet. Sequences `padded` have no key. Only the
    last rows are asked for if `are_last`. Returns what came and what should: outputs, and the
    whole cache."""
    rng = np.random.default_rng(5)
    heads, kv_heads, size = case.num_heads, case.num_kv_heads, case.head_size
    num_rows = sum(case.queries)
    qkv = normal(rng, (num_rows, (heads + 2 * kv_heads) * size), case.dtype)
    angles = rng.uniform(0, 6.3, (num_rows, rope_size // 2))
    cos_sin = np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    rows = float64(qkv).reshape(num_rows, -1, size)
    turned = rotate(rows[:, : heads + kv_heads], float64(cos_sin))
    q = rounded(turned[:, :heads], case.dtype).reshape(num_rows, -1)
    new_keys = rounded(turned[:, heads:], case.cache)
    new_values = rounded(rows[:, heads + kv_heads :], case.cache)

    shape = (kv_heads, size)
    keys = [normal(rng, (n, *shape), case.cache) for n in case.lengths]
    values = [normal(rng, (n, *shape), case.cache) for n in case.lengths]
    row = 0
    for count, k, v in zip(case.queries, keys, values, strict=True):
        k[len(k) - count :] = new_keys[row : row + count]
        v[len(v) - count :] = new_values[row : row + count]
        row += count
    after, tables = paged_cache(np.random.default_rng(9), case, keys, values)

    before = np.array(after)
    slots = np.full(num_rows, -1, np.int32)
    lengths = np.array(case.lengths, np.int32)
    row = 0
    for sequence, count in enumerate(case.queries):
        for position in range(lengths[sequence] - count, lengths[sequence]):
            block, offset = divmod(position, case.tokens_per_block)
            before[tables[sequence, block], :, :, offset] = np.nan
            if sequence not in padded:
                slots[row] = tables[sequence, block] * case.tokens_per_block + offset
            row += 1
    lengths[list(padded)] = 0
    pool = np.full((before.shape[0], 3, *before.shape[1:]), np.nan, numpy_dtype(case.cache))
    pool[:, 1] = before
    ends = np.cumsum([0, *case.queries]).astype(np.int32)
    y = poisoned((len(case.queries) if are_last else num_rows, heads * size), case.dtype)
    inputs = {
        "qkv": qkv,
        "cos_sin": cos_sin,
        "slots": slots,
        "kv_cache": pool[:, 1],
        "block_tables": wide(tables) if is_wide else tables,
        "query_starts": ends,
        "kv_lengths": lengths,
    }
    if are_last:
        inputs["last_rows"] = ends[1:] - 1
    attributes = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_size": size,
        "scale": size**-0.5,
    }
    if case.window > 0:
        attributes |= {"window": case.window, "num_sinks": case.num_sinks}
    runner.run("rope_attention", inputs, {"y": y}, attributes)
    assert guards_intact(y)
    assert np.isnan(float64(pool[:, [0, 2]])).all(), "another layer was written"
    want = reference(case, q, keys, values, size**-0.5)
    if are_last:
        want = want[inputs["last_rows"]]
    return y, want, pool[:, 1], after, before


@pytest.mark.parametrize("is_wide", [False, True], ids=["", "wide"])
@pytest.mark.parametrize("case", GENERATION + MIXED + WINDOWS, ids=str)
def test_rope_attention(device, runner, case: AttentionCase, is_wide: bool):
    if is_wide and (device != "cuda" or case not in GENERATION):
        pytest.skip("the same kernel for all tables")
    y, want, cache, after, before = run_step(runner, case, case.head_size, is_wide=is_wide)
    assert_close(y, want)
    written = np.isnan(float64(before)) & ~np.isnan(float64(after))
    assert written.any()
    assert_close(cache[written], float64(after[written]))
    np.testing.assert_array_equal(float64(cache[~written]), float64(after[~written]))


@pytest.mark.parametrize("case", (*MIXED, *WINDOWS[:15], *GENERATION[:3]), ids=str)
def test_last_rows_alone(runner, case: AttentionCase):
    y, want, cache, after, before = run_step(runner, case, case.head_size, are_last=True)
    assert_close(y, want)
    written = np.isnan(float64(before)) & ~np.isnan(float64(after))
    assert_close(cache[written], float64(after[written]))
    np.testing.assert_array_equal(float64(cache[~written]), float64(after[~written]))


def test_a_part_of_the_dimensions_rotated(runner):
    case = AttentionCase((1, 1), (40, 200), 8, 2, 128, 32, "bfloat16", "bfloat16")
    y, want, *_ = run_step(runner, case, 64)
    assert_close(y, want)


@pytest.mark.parametrize("is_wide", [False, True], ids=["", "wide"])
@pytest.mark.parametrize(("size", "lengths"), [(64, LENGTHS), (128, LENGTHS), (128, MANY)])
def test_padded_rows_write_nothing(device, runner, size, lengths, is_wide):
    if device != "cuda":
        pytest.skip("steps are padded on CUDA only")
    rows = (1,) * len(lengths)
    case = AttentionCase(rows, lengths, 8, 2, size, 32, "bfloat16", "bfloat16")
    padded = (1, 3, len(lengths) - 1)
    y, want, cache, _, before = run_step(runner, case, size, padded=padded, is_wide=is_wide)
    assert not y[list(padded)].astype(np.float32).any()
    others = [row for row in range(len(lengths)) if row not in padded]
    assert_close(y[others], want[others])
    written = np.isnan(float64(before)) & ~np.isnan(float64(cache))
    assert written.sum() == len(others) * 2 * 2 * size  # 2 heads of keys and of values


@pytest.mark.parametrize("window", [{}, {"window": 33, "num_sinks": 4}], ids=["all", "window"])
@pytest.mark.parametrize(("size", "lengths"), [(64, LENGTHS), (64, MANY), (128, MANY)])
def test_the_same_as_the_two_ops(device, runner, size, lengths, window):
    """Of a step of generation, bit for bit where one kernel serves both: of 65 to 128 sequences with
    heads of 64 a kernel with rings takes qkv, whose warps share keys differently."""
    if device != "cuda":
        pytest.skip("composed of the two on the CPU")
    count = len(lengths)
    case = AttentionCase((1,) * count, lengths, 8, 2, size, 32, "bfloat16", "bfloat16")
    rng = np.random.default_rng(2)
    qkv = normal(rng, (count, 12 * size), "bfloat16")
    cos_sin = normal(rng, (count, size), "float32", 0.7)
    keys = [normal(rng, (n, 2, size), "bfloat16") for n in lengths]
    cache, tables = paged_cache(rng, case, keys, keys)
    tables = wide(tables)
    ends = np.array(lengths) - 1
    slots = tables[np.arange(count), ends // 32] * 32 + ends % 32
    steps = {
        "cos_sin": cos_sin,
        "slots": slots.astype(np.int32),
        "block_tables": tables,
        "query_starts": np.arange(count + 1, dtype=np.int32),
        "kv_lengths": np.array(lengths, np.int32),
    }
    sizes = {"num_heads": 8, "num_kv_heads": 2, "head_size": size}
    caches = [np.array(cache), np.array(cache)]
    q, apart, together = (poisoned((count, 8 * size), "bfloat16") for _ in range(3))
    inputs = {"qkv": qkv, "cos_sin": cos_sin, "slots": steps["slots"], "kv_cache": caches[0]}
    runner.run("rope_kv_append", inputs, {"q": q}, sizes)
    names = ("block_tables", "query_starts", "kv_lengths")
    inputs = {"q": q, "kv_cache": caches[0], **{name: steps[name] for name in names}}
    sizes |= {"scale": 0.1, **window}
    runner.run("attention", inputs, {"y": apart}, sizes)
    inputs = {"qkv": qkv, "kv_cache": caches[1], **steps}
    runner.run("rope_attention", inputs, {"y": together}, sizes)
    if size == 64 and count > 64:
        assert_close(together, float64(apart))
    else:
        np.testing.assert_array_equal(float64(together), float64(apart))
    np.testing.assert_array_equal(float64(caches[1]), float64(caches[0]))


@pytest.mark.parametrize("size", [64, 128])
def test_any_number_of_sequences(device, runner, size):
    """What a thread block keeps of each sequence grows with them, beyond any fixed room. A sequence
    of one token sees itself alone: out comes its value, whole."""
    counts = range(15, 1300, 15) if device == "cuda" else (1, 300)
    rng = np.random.default_rng(3)
    for count in counts:
        qkv = normal(rng, (count, 12 * size), "bfloat16")
        cache = normal(rng, (count, 2, 2, 16, size), "bfloat16")
        first = np.arange(count, dtype=np.int32)
        inputs = {
            "qkv": qkv,
            "cos_sin": normal(rng, (count, size), "float32", 0.7),
            "slots": first * 16,
            "kv_cache": cache,
            "block_tables": first[:, None],
            "query_starts": np.arange(count + 1, dtype=np.int32),
            "kv_lengths": np.ones(count, np.int32),
        }
        sizes = {"num_heads": 8, "num_kv_heads": 2, "head_size": size, "scale": 0.1}
        y = poisoned((count, 8 * size), "bfloat16")
        runner.run("rope_attention", inputs, {"y": y}, sizes)
        values = qkv.reshape(count, 12, size)[:, 10:]
        np.testing.assert_array_equal(
            float64(y).reshape(count, 2, 4, size), float64(values)[:, :, None].repeat(4, axis=2)
        )
