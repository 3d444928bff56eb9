"""Each rule of the cache is broken on purpose in a good snapshot, and must be named."""

from collections.abc import Callable

import pytest
from inflight._core import InternalError, kv_cache


def good_snapshot() -> kv_cache.CacheSnapshot:
    """Blocks of 4 tokens; table 0 holds 6 tokens in blocks 0, 1, table 1 2 of 5 in 2, 3; 4 and 5
    are free."""
    manager = kv_cache.KvCacheManager(tokens_per_block=4, num_blocks=6)
    first, second = manager.open(), manager.open()
    manager.reserve([(first, 0, 6), (second, 0, 2)]).commit()
    reservation = manager.reserve([(second, 2, 3)])
    snapshot = manager.snapshot()
    reservation.give_back()
    return snapshot


def set_pool(snapshot: kv_cache.CacheSnapshot, **fields: list[int]) -> None:
    pool = snapshot.pool
    for name, value in fields.items():
        setattr(pool, name, value)
    snapshot.pool = pool


def set_table(snapshot: kv_cache.CacheSnapshot, index: int, **fields: object) -> None:
    tables = snapshot.tables
    for name, value in fields.items():
        setattr(tables[index], name, value)
    snapshot.tables = tables


def share(snapshot: kv_cache.CacheSnapshot, block_ids: list[int], ref_counts: list[int]) -> None:
    """Table 1 names `block_ids`, the blocks that nobody names any more are free."""
    set_table(snapshot, 1, block_ids=block_ids)
    free = [block for block, count in enumerate(ref_counts) if count == 0]
    set_pool(snapshot, ref_counts=ref_counts, free_ids=free)


def test_good_snapshot_is_good():
    snapshot = good_snapshot()
    assert [table.block_ids for table in snapshot.tables] == [[0, 1], [2, 3]]
    assert [(t.num_committed, t.num_reserved) for t in snapshot.tables] == [(6, 6), (2, 5)]
    assert kv_cache.violations(snapshot) == []
    kv_cache.check_invariants(snapshot)


def test_full_committed_block_may_be_shared():
    snapshot = good_snapshot()
    set_table(snapshot, 1, num_committed=4)
    share(snapshot, [0, 3], [2, 1, 0, 1, 0, 0])
    assert kv_cache.violations(snapshot) == []


BROKEN: dict[str, Callable[[kv_cache.CacheSnapshot], None]] = {
    "block 4 is neither free nor used nor cached": lambda s: set_pool(s, free_ids=[5]),
    "block 5 is free twice": lambda s: set_pool(s, free_ids=[4, 5, 5]),
    "free block 3 has count 1": lambda s: set_pool(s, free_ids=[3, 4, 5]),
    "block 6 of the free list is not of the pool of 6": lambda s: set_pool(s, free_ids=[4, 5, 6]),
    "pool of 6 blocks has 5 counts": lambda s: set_pool(s, ref_counts=[1] * 5),
    "block 0 has count 2, 1 table entries name it": lambda s: set_pool(
        s, ref_counts=[2, 1, 1, 1, 0, 0]
    ),
    "block 4 has count 1, 0 table entries name it": lambda s: set_pool(
        s, ref_counts=[1, 1, 1, 1, 1, 0], free_ids=[5]
    ),
    "block 0 is still written by table 1 and has 2 owners": lambda s: share(
        s, [0, 3], [2, 1, 0, 1, 0, 0]
    ),
    "block 1 is still written by table 0 and has 2 owners": lambda s: (
        set_table(s, 1, num_committed=5),
        share(s, [2, 1], [1, 2, 1, 0, 0, 0]),
    ),
    "table 1 names a block twice": lambda s: share(s, [2, 2], [1, 1, 2, 0, 0, 0]),
    "table 1 names block -1 of a pool of 6": lambda s: set_table(s, 1, block_ids=[2, -1]),
    "table 1 has 1 blocks, its 5 tokens need 2": lambda s: share(s, [2], [1, 1, 1, 0, 0, 0]),
    "table 0 has 7 committed of 6 reserved tokens": lambda s: set_table(s, 0, num_committed=7),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_broken_rule_is_named(sentence: str):
    snapshot = good_snapshot()
    BROKEN[sentence](snapshot)
    assert sentence in kv_cache.violations(snapshot)
    with pytest.raises(InternalError, match="invariants broken"):
        kv_cache.check_invariants(snapshot)
