"""Steps for the attention op, for tests and benchmarks."""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True)
class AttentionCase:
    queries: tuple[int, ...]  # rows of each sequence in the step
    lengths: tuple[int, ...]  # tokens of each sequence in the cache, the step's included
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 64
    tokens_per_block: int = 16
    dtype: str = "float32"
    cache: str = "float32"
    window: int = 0  # 0: all
    num_sinks: int = 0

    def __str__(self) -> str:
        """A test's id: as it is written, without a window where there is none."""
        left_out = {"window", "num_sinks"} if self.window == 0 else set()
        shown = [f.name for f in fields(self) if f.name not in left_out]
        return f"AttentionCase({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def seen(self, sequence: int) -> np.ndarray:
        """[queries, length]: whether the query sees the key."""
        length = self.lengths[sequence]
        query = np.arange(length - self.queries[sequence], length)[:, None]
        key = np.arange(length)
        if self.window == 0:
            return key <= query
        return (key <= query) & ((key > query - self.window) | (key < self.num_sinks))


WINDOWS = (
    # Around the edges of windows, blocks, tiles and segments of keys, one row each.
    *(
        AttentionCase((1,), (length,), window=window, num_sinks=sinks)
        for length in (1, 16, 17, 64, 65, 200, 1300)
        for window, sinks in ((1, 0), (1, 1), (16, 0), (17, 4), (64, 3), (100, 70), (5000, 4))
    ),
    # Prompts whole, and chunks over a prefix that windows reach into or have left behind.
    *(
        AttentionCase((queries,), (length,), window=window, num_sinks=sinks)
        for queries, length in ((40, 40), (130, 130), (33, 100), (64, 300), (3, 1300), (70, 1100))
        for window, sinks in ((1, 0), (1, 2), (7, 0), (50, 4), (100, 600))
    ),
    # Sequences that are shorter and longer than the window in one step, and one without rows.
    *(
        AttentionCase((1, 17, 0, 1, 40, 5), (70, 17, 9, 1, 90, 1333), 8, kv, 64, block, **window)
        for kv in (1, 2, 8)
        for block in (1, 5, 32, 100)
        for window in ({"window": 13}, {"window": 33, "num_sinks": 4})
    ),
    *(
        AttentionCase(
            (1, 21, 1), (40, 70, 900), 4, 2, size, 32, dtype, cache, window=50, num_sinks=5
        )
        for dtype, cache in (
            ("bfloat16", "bfloat16"),
            ("float16", "float16"),
            ("float32", "bfloat16"),
        )
        for size in (64, 80, 128, 33)
    ),
    # What the CUDA kernel of generated tokens takes: lengths around windows and tiles of 16 keys,
    # sinks that end within a tile and reach the window; sequences divided among warps and blocks.
    *(
        AttentionCase(
            (1,) * len(lengths), lengths, 2 * group, 2, size, block, dtype, dtype, window, sinks
        )
        for lengths, group, size, block, dtype in (
            ((1, 15, 16, 17, 18, 33, 34, 90, 300, 1001), 4, 128, 32, "bfloat16"),
            ((2, 40, 700), 7, 64, 16, "float16"),
            ((199, 200, 201, 1000, 37), 12, 96, 64, "bfloat16"),
            ((300, 1, 211), 1, 80, 48, "bfloat16"),
            ((300, 17, 2000), 4, 256, 128, "float16"),
        )
        for window, sinks in ((1, 0), (16, 4), (17, 0), (200, 40), (201, 0), (1000, 4))
    ),
    *(
        AttentionCase((1,) * len(lengths), lengths, heads, 2, size, 32, dtype, dtype, window, sinks)
        for size, dtype in ((64, "bfloat16"), (128, "float16"))
        for heads, lengths in (
            (8, (9000,)),
            (24, (5000, 300)),
            (8, tuple(range(1, 400, 6))),
            (4, (4000, 2500, *range(1, 900, 9))),
        )
        for window, sinks in ((33, 4), (701, 0), (2100, 16))
    ),
    # Prompts on tensor cores: windows shorter and longer than tiles of keys and of queries, of which
    # a token sees some keys of a tile, all, or none; sinks before and behind their ends.
    *(
        AttentionCase(
            (2, 67, 1, 130),
            (2, 100, 77, 401),
            num_heads=2 * group,
            head_size=size,
            tokens_per_block=block,
            dtype=dtype,
            cache=dtype,
            window=window,
            num_sinks=sinks,
        )
        for size, group, block, dtype in (
            (64, 4, 32, "bfloat16"),
            (128, 1, 64, "bfloat16"),
            (128, 7, 16, "float16"),
            (128, 4, 20, "bfloat16"),  # no whole number of blocks to a tile
            (80, 4, 128, "bfloat16"),
            (96, 2, 8, "float16"),
            (256, 4, 32, "bfloat16"),
            (256, 2, 20, "float16"),
        )
        for window, sinks in ((1, 0), (31, 4), (64, 0), (128, 4), (129, 130), (500, 4))
    ),
    # Few rows over long prefixes, of which windows leave several blocks something to share.
    *(
        AttentionCase(
            queries,
            lengths,
            num_heads=8,
            head_size=size,
            tokens_per_block=64,
            dtype="bfloat16",
            cache="bfloat16",
            window=window,
            num_sinks=sinks,
        )
        for size in (64, 128, 256)
        for queries, lengths in (((16,), (3001,)), ((1, 2, 50), (900, 2500, 1777)))
        for window, sinks in ((100, 4), (1400, 0), (2000, 300))
    ),
    # More tiles of several prompts than a GPU has multiprocessors.
    *(
        AttentionCase(
            (400, 1, 77, 300),
            (400, 90, 77, 1333),
            num_heads=32,
            num_kv_heads=8,
            head_size=size,
            tokens_per_block=32,
            dtype="bfloat16",
            cache="bfloat16",
            window=150,
            num_sinks=4,
        )
        for size in (64, 128)
    ),
)

CASES = (
    # Generation: one query each, lengths around the edges of blocks and tiles.
    *(AttentionCase((1,), (n,)) for n in (1, 2, 15, 16, 17, 33, 63, 64, 65, 129, 1000)),
    AttentionCase((1, 1, 1), (5, 64, 200)),
    AttentionCase((1,), (5000,), num_heads=2, num_kv_heads=1),
    # Prompts, whole and in chunks over a prefix.
    *(AttentionCase((n,), (n,)) for n in (2, 3, 15, 16, 17, 31, 33, 65, 130)),
    *(AttentionCase((q,), (n,)) for q, n in ((7, 20), (16, 17), (33, 100), (64, 200), (3, 300))),
    # Mixed steps, and a sequence without rows.
    AttentionCase((1, 17, 1, 40, 5), (70, 17, 1, 90, 133)),
    AttentionCase((1, 0, 3), (9, 12, 3)),
    # Heads and sizes.
    *(
        AttentionCase((1, 9), (37, 50), num_heads=heads, num_kv_heads=kv_heads, head_size=size)
        for heads, kv_heads in ((1, 1), (3, 1), (8, 1), (8, 8), (12, 3), (7, 1))
        for size in (1, 3, 16, 20, 65, 80, 128)
    ),
    *(AttentionCase((1, 20), (40, 70), tokens_per_block=n) for n in (1, 3, 8, 32, 64, 100)),
    # Dtypes.
    *(
        AttentionCase((1, 21, 1), (40, 70, 300), dtype=dtype, cache=cache, head_size=size)
        for dtype in ("float32", "float16", "bfloat16")
        for cache in ("float32", "float16", "bfloat16")
        for size in (64, 33)
    ),
    # Chunks on tensor cores: head sizes, groups, odd lengths over odd prefixes, mixed steps.
    *(
        AttentionCase(
            (2, 67, 130),
            (2, 100, 401),
            num_heads=2 * group,
            head_size=size,
            tokens_per_block=32,
            dtype=dtype,
            cache=dtype,
        )
        for size, group, dtype in (
            *((64, group, "bfloat16") for group in range(1, 9)),
            *((128, group, "bfloat16") for group in (1, 3, 4, 7, 8)),
            *((size, 4, "bfloat16") for size in (80, 96, 256)),
            *((size, 2, "float16") for size in (64, 80, 96, 128, 256)),
        )
    ),
    *(
        AttentionCase(
            (1, 1, 67, 1, 3, 200, 2),
            (300, 1, 67, 77, 129, 333, 1000),
            num_heads=8,
            head_size=size,
            tokens_per_block=block,
            dtype="bfloat16",
            cache="bfloat16",
        )
        for size in (64, 128)
        for block in (8, 16, 20, 32, 64, 128, 256)
    ),
    # Many sequences, most of them generating.
    AttentionCase(
        (1,) * 200 + (5, 1, 33),
        tuple(range(1, 201)) + (77, 3, 257),
        num_kv_heads=1,
        head_size=128,
        dtype="bfloat16",
        cache="bfloat16",
    ),
    # What the CUDA kernel of generated tokens takes: its head sizes, groups, blocks, and lengths
    # that it divides among thread blocks; prompts beside them.
    *(
        AttentionCase((1, 1, 1, 1), (37, 2, 300, 1), heads, 2, size, 32, dtype=dtype, cache=dtype)
        for heads, size, dtype in (
            (2, 64, "bfloat16"),
            (6, 128, "bfloat16"),
            (8, 128, "float16"),
            (14, 80, "bfloat16"),
            (16, 96, "float16"),
            (32, 128, "bfloat16"),
            (34, 64, "bfloat16"),
            (8, 256, "float16"),
            (24, 256, "bfloat16"),
        )
    ),
    *(
        AttentionCase((1,) * 3, (n, 70, n), 8, 2, 128, n, dtype="bfloat16", cache="bfloat16")
        for n in (16, 48, 64, 128)
    ),
    *(
        AttentionCase((1,), (n,), 4, 1, 128, 32, dtype="bfloat16", cache="bfloat16")
        for n in (15, 16, 17, 127, 128, 129, 511, 513, 2000, 9000)
    ),
    AttentionCase(
        (1, 1, 9, 1, 33),
        (900, 1, 50, 77, 64),
        8,
        2,
        128,
        32,
        dtype="bfloat16",
        cache="bfloat16",
    ),
    # More generating sequences than thread blocks have warps: parts of one lie in several of either.
    *(
        AttentionCase((1,) * len(lengths), lengths, 16, 8, size, 32, dtype=dtype, cache=dtype)
        for size, dtype in (
            (64, "bfloat16"),
            (80, "float16"),
            (96, "bfloat16"),
            (128, "float16"),
            (256, "bfloat16"),
        )
        for lengths in (tuple(range(100, 340, 8)), (5000, *range(1, 60, 3)))
    ),
    # The same with two passes over a kv head's keys, and beside a prompt.
    AttentionCase((1,) * 40, tuple(range(1, 321, 8)), 24, 2, 256, 16, "bfloat16", "bfloat16"),
    AttentionCase(
        (1,) * 30 + (9,) + (1,) * 40,
        tuple(range(1, 569, 8)),
        num_heads=8,
        num_kv_heads=2,
        head_size=128,
        tokens_per_block=32,
        dtype="bfloat16",
        cache="bfloat16",
    ),
    # More tiles of several prompts than a GPU has multiprocessors.
    *(
        AttentionCase(
            (400, 1, 77, 300, 500),
            (400, 90, 77, 333, 500),
            num_heads=32,
            num_kv_heads=8,
            head_size=size,
            tokens_per_block=32,
            dtype="bfloat16",
            cache="bfloat16",
        )
        for size in (64, 128)
    ),
    # Few rows over long prefixes, whose keys several thread blocks share.
    *(
        AttentionCase(
            queries,
            lengths,
            num_heads=8,
            head_size=size,
            tokens_per_block=64,
            dtype="bfloat16",
            cache="bfloat16",
        )
        for size in (64, 128, 256)
        for queries, lengths in (((16,), (3001,)), ((1, 2, 50), (900, 2500, 1777)))
    ),
)

# Few sequences, of which up to eight items (sequences by kv heads) are long: on a GPU where grids may
# wait, thread blocks that do nothing else merge the parts of those; of one more the last to have a part
# does. Groups of 8 heads and more leave rings of some sizes no room.
LONG = tuple(
    AttentionCase(
        (1,) * len(lengths),
        lengths,
        kv_heads * group,
        kv_heads,
        size,
        block,
        dtype,
        dtype,
        window,
        4 if window > 0 else 0,
    )
    for size in (64, 80, 96, 128, 256)
    for lengths, kv_heads, group, block, dtype, window in (
        ((9000,), 8, 4, 32, "bfloat16", 0),
        ((3001,), 1, 7, 16, "float16", 0),
        ((5000, 300, 1, 641, 640), 2, 4, 64, "bfloat16", 0),
        ((657, 12, 656), 4, 1, 32, "float16", 0),
        ((2000, 700, 4000), 3, 2, 48, "bfloat16", 0),  # nine
        ((6000,), 2, 12, 32, "bfloat16", 0),
        ((9000, 50), 2, 8, 32, "float16", 2100),
        ((7000,), 8, 4, 32, "bfloat16", 640),
        # With more items than a GPU has multiprocessors, in equal shares.
        ((300,) * 9 + (9000,) + (300,) * 9, 8, 4, 32, "bfloat16", 0),
        ((*range(1, 500, 7), 5000, 300, 20, 641), 2, 4, 64, "float16", 0),
        ((*range(1, 400, 11), 7000, 39), 4, 1, 16, "bfloat16", 0),
        ((*range(1, 400, 9), 6000), 8, 2, 32, "bfloat16", 1500),
    )
)

# Case, the first key that is larger than those before it, how many times (and twice that from 140
# keys on). On a GPU the first are divided, the last two are not.
RISING = (
    *(
        (AttentionCase((200, 3), (520, 900), 8, 2, size, 32, dtype, dtype, **window), begin, rise)
        for size, dtype in ((64, "bfloat16"), (64, "float16"), (128, "bfloat16"), (256, "bfloat16"))
        for window, begin, rise in (({}, 300, 4), ({"window": 384, "num_sinks": 4}, 130, 60))
    ),
    (AttentionCase((700, 650), (700, 650), 32, 8, 64, 32, "bfloat16", "bfloat16"), 300, 40),
    (AttentionCase((700, 650), (700, 650), 32, 8, 128, 32, "bfloat16", "bfloat16"), 300, 60),
)
