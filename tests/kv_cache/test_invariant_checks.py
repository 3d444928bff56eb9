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
    "table 0 has room for 4 tokens in 2 blocks": lambda s: set_table(s, 0, room=4),
    "table 0 has 7 committed of 6 reserved tokens": lambda s: set_table(s, 0, num_committed=7),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_broken_rule_is_named(sentence: str):
    snapshot = good_snapshot()
    BROKEN[sentence](snapshot)
    assert sentence in kv_cache.violations(snapshot)
    with pytest.raises(InternalError, match="invariants broken"):
        kv_cache.check_invariants(snapshot)


def tree_snapshot() -> kv_cache.CacheSnapshot:
    """Blocks of 4 tokens. Nobody uses blocks 0 and 1, nodes 0 and 1, one behind the other; table 1
    holds block 2, node 2, and block 3, of which a token is to be written; 4 and 5 are free."""
    manager = kv_cache.KvCacheManager(tokens_per_block=4, num_blocks=6, enable_reuse=True)
    first, second = manager.open(), manager.open()
    tokens = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 9, 9, 9]]
    manager.reserve([(first, 0, 8), (second, 0, 4)]).commit(tokens)
    manager.release(first)
    reservation = manager.reserve([(second, 4, 1)])
    snapshot = manager.snapshot()
    reservation.give_back()
    return snapshot


def set_node(snapshot: kv_cache.CacheSnapshot, index: int, **fields: object) -> None:
    nodes = snapshot.nodes
    for name, value in fields.items():
        setattr(nodes[index], name, value)
    snapshot.nodes = nodes


def set_host(snapshot: kv_cache.CacheSnapshot, free: list[int], of_node_1: int = -1) -> None:
    snapshot.num_host_blocks = 2
    snapshot.free_host_ids = free
    set_node(snapshot, 1, host_block=of_node_1)


BROKEN_TREES: dict[str, Callable[[kv_cache.CacheSnapshot], None]] = {
    "node 1 follows node 77, which is not there": lambda s: set_node(s, 1, parent=77),
    "node 1 is used, its block 1 has count 0": lambda s: set_node(s, 1, is_used=True),
    "node 1 is used, its parent 0 is not": lambda s: set_node(s, 1, is_used=True),
    "node 2 is not used, its block 2 has count 1": lambda s: set_node(s, 2, is_used=False),
    "block 0 is of nodes 0 and 1": lambda s: set_node(s, 1, device_block=0),
    "block 1 is neither free nor used nor cached": lambda s: set_node(s, 1, device_block=0),
    "free block 5 is in the tree": lambda s: set_node(s, 1, device_block=5),
    "block 6 of a node is not of the pool of 6": lambda s: set_node(s, 1, device_block=6),
    "node 0 has a child, and 2 tokens": lambda s: set_node(s, 0, tokens=[1, 2]),
    "node 1 has no block": lambda s: set_node(s, 1, device_block=-1),
    "node 1 is on the device, its parent 0 is not": lambda s: set_node(s, 0, device_block=-1),
    "node 2 has the tokens of another child of -1": lambda s: set_node(s, 2, tokens=[1, 2, 3, 4]),
    "1 host blocks are free or hold something, of 2": lambda s: set_host(s, [1]),
    "host block 1 of the free list is not of the 2, or is taken, or is free twice": (
        lambda s: set_host(s, [0, 1], of_node_1=1)
    ),
    "host block 2 of the free list is not of the 2, or is taken, or is free twice": (
        lambda s: set_host(s, [0, 1, 2])
    ),
    "node 1 has host block 2 of 2, or another has it, too": lambda s: set_host(s, [0, 1], 2),
    "block 2 of table 1 is not in the tree at depth 0": lambda s: set_node(s, 2, parent=0),
    "block 2 is still written by table 1 and is in the tree": lambda s: set_table(
        s, 0, num_committed=3
    ),
}


def test_good_tree_is_good():
    snapshot = tree_snapshot()
    assert [node.parent for node in snapshot.nodes] == [-1, 0, -1]
    assert [node.device_block for node in snapshot.nodes] == [0, 1, 2]
    assert kv_cache.violations(snapshot) == []
    set_host(snapshot, [0], of_node_1=1)
    assert kv_cache.violations(snapshot) == []


@pytest.mark.parametrize("sentence", BROKEN_TREES)
def test_broken_tree_is_named(sentence: str):
    snapshot = tree_snapshot()
    BROKEN_TREES[sentence](snapshot)
    assert sentence in kv_cache.violations(snapshot)
