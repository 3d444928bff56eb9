"""Blocks used again by later sequences, against an oracle in plain Python: lists of tokens, a clock,
and a pool of blocks whose contents are written token by token as a device would."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from inflight._core.kv_cache import (
    KvCacheManager,
    PrefixLookup,
    PrefixScope,
    Tier,
    check_invariants,
)
from steps_machine import Live, Step, StepsMachine, tokens_by_node

SCOPES = [None, PrefixScope(cache_salt="a"), PrefixScope(adapter_id=7), PrefixScope(extra_ids=[3])]
VOCAB_SIZE = 5


class ReuseMachine(StepsMachine):
    @initialize(
        size=st.integers(1, 4),
        num_blocks=st.integers(1, 14),
        partial=st.booleans(),
    )
    def make_manager(self, size: int, num_blocks: int, partial: bool):
        self.size = size
        self.partial = partial
        self.manager = KvCacheManager(
            size, num_blocks, enable_reuse=True, enable_partial_reuse=partial, vocab_size=VOCAB_SIZE
        )
        # What the device holds: by block, by place in it, the whole history up to that token.
        self.memory = [[None] * size for _ in range(num_blocks)]
        self.now = 0
        self.lookups: dict[tuple, PrefixLookup] = {}  # by scope and prompt, as old as they are

    def history(self, live: Live, count: int):
        return (live.scope, tuple(live.tokens[:count]))

    def table_slots(self, table: int, first: int, last: int):
        ids = self.manager.block_table(table)
        return [(ids[p // self.size], p % self.size) for p in range(first, last)]

    def cached_histories(self):
        """Every (scope, tokens) that the tree knows, by its node, with its device block."""
        nodes = self.manager.snapshot().nodes
        tokens = tokens_by_node(nodes)
        return [(node, tokens[node.node]) for node in nodes]

    @precondition(lambda self: len(self.live) < 5 and self.table_room())
    @rule(
        length=st.integers(2, 16),
        prompt_share=st.floats(0, 1),
        differs_at=st.sampled_from([1, 3, 5, 6, 9, 99, 99, 99]),
        scope=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3]),
        may_reuse=st.sampled_from([True, True, True, False]),
        looked_up=st.sampled_from(["never", "before", "now"]),
    )
    def open_and_reserve(
        self,
        length: int,
        prompt_share: float,
        differs_at: int,
        scope: int,
        may_reuse: bool,
        looked_up: str,
    ):
        tokens = [position % 3 + (position >= differs_at) for position in range(length)]
        prompt = tokens[: 1 + int(prompt_share * (length - 1))]
        match = self.manager.match(prompt, SCOPES[scope])
        lookup = None
        if looked_up == "before":  # whatever has happened since
            lookup = self.lookups.get((scope, *prompt))
        elif looked_up == "now":
            lookup = self.lookups[(scope, *prompt)] = PrefixLookup()
            self.manager.match(prompt, SCOPES[scope], lookup)
        before = self.manager.num_free_blocks, self.manager.num_cached_blocks
        table = self.manager.open(prompt, scope=SCOPES[scope], may_reuse=may_reuse, lookup=lookup)
        found = self.manager.num_cached_tokens(table)
        assert found == (match.num_tokens if may_reuse else 0) < len(prompt)
        live = Live(tokens, scope, found)
        self.live[table] = live
        if may_reuse:
            self.check_match(live, prompt, match)
            taken = match.num_blocks - match.num_used_blocks
            is_pinned = sum(before) - self.available() - taken
            assert is_pinned in ((0, 1) if match.num_copied_tokens else (0,))
        self.grow([table], [len(prompt) - found])

    @precondition(lambda self: not self.steps and self.table_room())
    @rule(
        length=st.integers(2, 16),
        prompt_share=st.floats(0, 1),
        differs_at=st.sampled_from([1, 3, 5, 6, 9, 99, 99, 99]),
        scope=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3]),
        looked_up=st.sampled_from(["never", "before", "now"]),
        with_tokens=st.sampled_from([True, True, True, False]),
    )
    def serve_whole(self, with_tokens: bool, **opening: object):
        """A sequence from its opening to its release, if there are blocks for it."""
        before = set(self.live)
        self.open_and_reserve(**opening, may_reuse=True)
        (table,) = set(self.live) - before
        live = self.live[table]
        while self.steps:
            self.commit_oldest(True)
            if live.num_reserved < len(live.tokens):
                self.grow([table], [min(3, len(live.tokens) - live.num_reserved)])
        del self.live[table]
        self.manager.release(table, live.tokens if with_tokens else [])

    def table_room(self):
        return self.available() > 0

    def available(self):
        return self.manager.num_free_blocks + self.manager.num_cached_blocks

    def check_match(self, live: Live, prompt: list[int], match):
        """The longest that the device's memory could give, by looking at all of the tree."""
        limit = len(prompt) - 1
        best = 0
        for node, tokens in self.cached_histories():
            block = self.memory[node.device_block]
            scope = block[len(node.tokens) - 1][0]  # what was written there says whose it is
            if scope != live.scope:
                continue
            common = 0
            while common < min(limit, len(tokens)) and tokens[common] == prompt[common]:
                common += 1
            best = max(best, common if self.partial else common - common % self.size)
        assert match.num_tokens == best
        assert match.num_blocks == best // self.size
        assert match.num_copied_tokens == best % self.size

    def grow(self, tables: list[int], counts: list[int]):
        parts = [
            (table, self.live[table].num_reserved, count)
            for table, count in zip(tables, counts, strict=True)
        ]
        needed = sum(
            -(-(first + count) // self.size) - self.blocks_held(table)
            for table, first, count in parts
        )
        sources = self.pinned(tables)
        handle = self.manager.reserve(parts)
        if handle is None:
            assert needed > self.available() + sources
            check_invariants(self.manager.snapshot())
            return
        # The executor's part: copies in order, then the step's own writes when it runs.
        for copy in self.manager.copies():
            assert copy.from_tier == copy.to_tier == Tier.DEVICE and copy.num_tokens < self.size
            self.memory[copy.to_block][: copy.num_tokens] = self.memory[copy.from_block][
                : copy.num_tokens
            ]
        self.manager.clear_copies()
        step = Step(handle, parts)
        for table, first, count in parts:
            live = self.live[table]
            for position in range(first, first + count):
                ids = self.manager.block_table(table)
                self.memory[ids[position // self.size]][position % self.size] = self.history(
                    live, position + 1
                )
            live.num_reserved = first + count
            # What attention of the step reads is what was written for these very tokens.
            for position, (block, offset) in enumerate(self.table_slots(table, 0, first + count)):
                assert self.memory[block][offset] == self.history(live, position + 1)
        self.steps.append(step)

    def blocks_held(self, table: int) -> int:
        return len(self.manager.block_table(table))

    def pinned(self, tables: list[int]) -> int:
        """Blocks that are used by nobody but these tables, to be copied from."""
        snapshot = self.manager.snapshot()
        copied = [each.copied_block for each in snapshot.tables if each.table in tables]
        counts = snapshot.pool.ref_counts
        return sum(counts[block] == copied.count(block) for block in set(copied) - {-1})

    def check_all_is_free(self):
        assert self.manager.num_free_blocks == self.manager.num_blocks

    @invariant()
    def books_are_right(self):
        manager = self.manager
        check_invariants(manager.snapshot())
        assert (
            manager.num_free_blocks + manager.num_cached_blocks + manager.num_used_blocks
            == manager.num_blocks
        )
        for node, tokens in self.cached_histories():
            for offset in range(len(node.tokens)):
                count = len(tokens) - len(node.tokens) + offset + 1
                assert self.memory[node.device_block][offset][1] == tokens[:count]

    def teardown(self):
        self.release_all()
        assert self.manager.num_used_blocks == 0


ReuseMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestReuse = ReuseMachine.TestCase


def test_the_last_of_two_who_copy_from_the_only_block_left_has_it() -> None:
    manager = KvCacheManager(2, 4, enable_reuse=True, vocab_size=VOCAB_SIZE)
    first = manager.open([1, 2])
    manager.reserve([(first, 0, 2)]).commit([[1, 2]])
    manager.release(first)
    tables = [manager.open([1, 3, 3]), manager.open([1, 4, 4])]
    step = manager.reserve([(table, 1, 2) for table in tables])
    assert step is not None  # two blocks each, of four
    check_invariants(manager.snapshot())
    [copy] = manager.copies()
    ids = [manager.block_table(table) for table in tables]
    assert (copy.from_block, copy.to_block) == (ids[1][0], ids[0][0])
    assert sorted(ids[0] + ids[1]) == [0, 1, 2, 3]
    step.commit([[1, 3, 3], [1, 4, 4]])
    for table in tables:
        manager.release(table)


def test_a_cache_may_go_while_a_table_holds_a_block_to_copy_from() -> None:
    manager = KvCacheManager(2, 4, enable_reuse=True, vocab_size=VOCAB_SIZE)
    first = manager.open([1, 2])
    manager.reserve([(first, 0, 2)]).commit([[1, 2]])
    manager.release(first)
    manager.open([1, 3, 3])
    assert manager.num_used_blocks == 1
    del manager  # its pool sees to it that all blocks have come home


@pytest.mark.parametrize("size", [31, 32, 70])
@pytest.mark.parametrize("bits", [1, 7, 16, 17, 31])
def test_the_tree_has_the_tokens_of_a_block(bits: int, size: int) -> None:
    random = Random(bits)
    vocab_size = min(2**bits, 2**31 - 1)
    manager = KvCacheManager(size, 4, enable_reuse=True, vocab_size=vocab_size)
    tokens = [random.randrange(vocab_size) for _ in range(2 * size)]
    tokens[0], tokens[size - 1] = vocab_size - 1, 0
    table = manager.open(tokens)
    manager.reserve([(table, 0, 2 * size)]).commit([tokens])
    assert [node.tokens for node in manager.snapshot().nodes] == [tokens[:size], tokens[size:]]
    manager.release(table)
    if bits < 31:  # an id that is none of the vocabulary's is not shared, nor what is behind it
        tokens[size + 1] = 2**bits
        table = manager.open(tokens)
        assert manager.num_cached_tokens(table) == size + 1  # a block, and one that begins alike
        manager.release(table)


def test_blocks_are_found_as_soon_as_their_tokens_are_written() -> None:
    """While the prompt is read and while it generates, not only when the sequence ends."""
    manager = KvCacheManager(
        2, 8, enable_reuse=True, enable_partial_reuse=False, vocab_size=VOCAB_SIZE
    )
    tokens = [1, 2, 3, 4, 0, 1, 2, 3, 4]
    table = manager.open(tokens[:5])
    known = 0
    for count in (2, 3, 1, 1, 1, 1):  # two chunks of the prompt, then what was generated
        step = manager.reserve([(table, known, count)])
        assert manager.match([*tokens, 0]).num_tokens == known - known % 2
        known += count
        step.commit([tokens[:known]])
        assert manager.match([*tokens, 0]).num_tokens == known - known % 2
    assert manager.num_used_blocks == 5
    manager.release(table)


def test_scopes_that_differ_in_anything_share_nothing() -> None:
    scopes = [
        PrefixScope(adapter_id, salt, extra_ids)
        for adapter_id in (0, 7, 8)
        for salt in ("", "a", "b", "ab")
        for extra_ids in ([], [3], [4], [3, 4], [4, 3])
    ]
    manager = KvCacheManager(2, 4 * len(scopes), enable_reuse=True, vocab_size=VOCAB_SIZE)
    tokens = [1, 2, 3, 4, 0]
    for scope in scopes:
        assert manager.match(tokens, scope).num_tokens == 0
        table = manager.open(tokens, scope=scope)
        manager.reserve([(table, 0, len(tokens))]).commit([tokens])
        manager.release(table, tokens)
        assert manager.match(tokens, scope).num_tokens == 4
    assert len(manager.snapshot().nodes) == 3 * len(scopes)
