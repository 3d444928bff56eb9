"""Block lists that share blocks of one pool, against lists of ids and a counter in Python."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core import InternalError
from inflight._core.kv_cache import BlockList, BlockPool


class BlockListMachine(RuleBasedStateMachine):
    @initialize(num_blocks=st.integers(1, 12))
    def make_pool(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.pool = BlockPool(num_blocks)
        self.lists: list[BlockList] = []
        self.expected: list[list[int]] = []

    @rule()
    def make_list(self):
        self.lists.append(BlockList(self.pool))
        self.expected.append([])

    @precondition(lambda self: self.lists)
    @rule(data=st.data(), count=st.integers(0, 5))
    def append_fresh(self, data: st.DataObject, count: int):
        which = data.draw(st.integers(0, len(self.lists) - 1))
        used = set().union(*self.expected)
        if count > self.num_blocks - len(used):
            with pytest.raises(InternalError, match=f"asked for {count} blocks"):
                self.lists[which].append_fresh(count)
            return
        self.lists[which].append_fresh(count)
        fresh = self.lists[which].ids[len(self.expected[which]) :]
        assert len(fresh) == len(set(fresh)) == count and used.isdisjoint(fresh)
        self.expected[which] += fresh

    @precondition(lambda self: any(self.expected))
    @rule(data=st.data())
    def append_shared(self, data: st.DataObject):
        source = data.draw(st.sampled_from([i for i, ids in enumerate(self.expected) if ids]))
        target = data.draw(st.integers(0, len(self.lists) - 1))
        index = data.draw(st.integers(0, len(self.expected[source]) - 1))
        self.lists[target].append_shared(self.lists[source], index)
        self.expected[target].append(self.expected[source][index])

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject):
        which = data.draw(st.integers(0, len(self.lists) - 1))
        size = data.draw(st.integers(0, len(self.expected[which]) + 1))
        self.lists[which].truncate(size)
        del self.expected[which][size:]

    @precondition(lambda self: self.lists)
    @rule(data=st.data())
    def drop_list(self, data: st.DataObject):
        which = data.draw(st.integers(0, len(self.lists) - 1))
        del self.lists[which], self.expected[which]

    @invariant()
    def counts_are_explained(self):
        counts = Counter(block for ids in self.expected for block in ids)
        assert [self.pool.ref_count(b) for b in range(self.num_blocks)] == [
            counts[b] for b in range(self.num_blocks)
        ]
        free = set(range(self.num_blocks)) - set(counts)
        snapshot = self.pool.snapshot()
        assert sorted(snapshot.free_ids) == sorted(free)
        assert self.pool.num_free == len(free)
        assert self.pool.num_used == self.num_blocks - len(free)
        assert [block_list.ids for block_list in self.lists] == self.expected


BlockListMachine.TestCase.settings = settings(max_examples=60, deadline=None)
TestBlockLists = BlockListMachine.TestCase


def test_last_block_given_back_is_taken_first():
    pool = BlockPool(4)
    blocks = BlockList(pool)
    blocks.append_fresh(3)
    assert blocks.ids == [0, 1, 2]
    blocks.truncate(1)
    blocks.append_fresh(2)
    assert blocks.ids == [0, 1, 2]


def test_sharing_across_pools_is_refused():
    mine, theirs = BlockPool(1), BlockPool(1)
    source, target = BlockList(mine), BlockList(theirs)
    source.append_fresh(1)
    with pytest.raises(InternalError, match="another pool"):
        target.append_shared(source, 0)
    with pytest.raises(InternalError, match="block 1 of a list of 1"):
        BlockList(mine).append_shared(source, 1)
