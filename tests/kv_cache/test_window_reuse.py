"""Blocks of layers that see windows, used again by later sequences: against an oracle in plain Python
that looks at all of the tree, and pools whose contents are written token by token as a device would."""

from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from inflight._core import windows
from inflight._core.kv_cache import (
    KvCacheManager,
    PrefixScope,
    Retention,
    check_invariants,
)
from steps_machine import Live, Step, StepsMachine, tokens_by_node

HOLE = -1
SCOPES = [None, PrefixScope(cache_salt="a")]


@dataclass
class Kind:
    """A sequence: all begin alike, up to where they differ."""

    length: int
    prompt_share: float
    differs_at: int
    scope: int
    priority: int | None


KINDS = st.builds(
    Kind,
    length=st.integers(2, 24),
    prompt_share=st.sampled_from([0.3, 0.8, 1.0]),
    differs_at=st.sampled_from([2, 9, 13, 99, 99, 99]),
    scope=st.sampled_from([0, 0, 0, 0, 1]),
    priority=st.sampled_from([None, None, 0, 80]),
)


def is_seen(position: int, by: int, window: int, num_sinks: int) -> bool:
    return position <= by and (position > by - window or position < num_sinks)


class WindowReuseMachine(StepsMachine):
    @initialize(
        size=st.integers(1, 3),
        num_blocks=st.integers(10, 60),
        pools=st.lists(
            st.tuples(st.integers(1, 9), st.sampled_from([0, 0, 1, 3]), st.integers(4, 24)),
            min_size=1,
            max_size=2,
        ),
    )
    def make_manager(self, size: int, num_blocks: int, pools: list[tuple[int, int, int]]):
        self.size, self.pools = size, pools
        self.manager = windows.new_manager(size, num_blocks, pools, enable_reuse=True)
        # By pool, that of the layers that see everything last; by block; by place in it: all tokens
        # up to that one.
        self.memory = [[[None] * size for _ in range(blocks)] for _, _, blocks in pools]
        self.memory.append([[None] * size for _ in range(num_blocks)])

    def table(self, pool: int, table: int) -> list[int]:
        if pool == len(self.pools):
            return self.manager.block_table(table)
        return windows.block_table(self.manager, pool, table)

    def sees(self, pool: int, position: int, by: int) -> bool:
        return pool == len(self.pools) or is_seen(position, by, *self.pools[pool][:2])

    def cached(self) -> dict[int, tuple[int, tuple[int, ...]]]:
        """By node of the tree: its parent, and all tokens up to its end."""
        nodes = self.manager.snapshot().nodes
        tokens = tokens_by_node(nodes)
        return {node.node: (node.parent, tokens[node.node]) for node in nodes}

    def longest(self, scope: int, prompt: list[int]) -> int:
        """Of all nodes that begin the prompt the longest whose next token sees nothing that is gone."""
        cached, best = self.cached(), 0
        blocks = {node.node: node.device_block for node in self.manager.snapshot().nodes}
        there = [set(windows.nodes(self.manager, pool)) for pool in range(len(self.pools))]
        for node, (_, tokens) in cached.items():
            history = self.memory[-1][blocks[node]][self.size - 1]
            if len(tokens) >= len(prompt) or history != (scope, tuple(prompt[: len(tokens)])):
                continue
            path, each = [], node
            while each >= 0:
                path.insert(0, each)
                each = cached[each][0]
            gone = {
                (pool, place)
                for pool in range(len(self.pools))
                for place, each in enumerate(path)
                if each not in there[pool]
            }
            if not any(
                self.sees(pool, position, len(tokens))
                for pool, place in gone
                for position in range(place * self.size, (place + 1) * self.size)
            ):
                best = max(best, len(tokens))
        return best

    def begin(self, kind: Kind, may_reuse: bool = True) -> int:
        tokens = [position % 3 + (position >= kind.differs_at) for position in range(kind.length)]
        prompt = tokens[: 1 + int(kind.prompt_share * (kind.length - 1))]
        match = self.manager.match(prompt, SCOPES[kind.scope])
        assert match.num_tokens == self.longest(kind.scope, prompt)
        assert match.num_tokens == match.num_blocks * self.size
        retention = None
        if kind.priority is not None:
            retention = Retention([(0, None, kind.priority, None)])
        table = self.manager.open(
            prompt, scope=SCOPES[kind.scope], may_reuse=may_reuse, retention=retention
        )
        found = self.manager.num_cached_tokens(table)
        assert found == (match.num_tokens if may_reuse else 0)
        self.live[table] = Live(tokens, kind.scope, found)
        self.grow([table], [len(prompt) - found])
        return table

    @precondition(lambda self: len(self.live) < 4)
    @rule(kind=KINDS, may_reuse=st.sampled_from([True, True, True, False]))
    def open(self, kind: Kind, may_reuse: bool):
        self.begin(kind, may_reuse)

    @precondition(lambda self: not self.steps)
    @rule(kinds=st.lists(KINDS, min_size=1, max_size=5), chunk=st.integers(1, 9))
    def serve_whole(self, kinds: list[Kind], chunk: int):
        """One after another from opening to release, as far as there are blocks for them."""
        for kind in kinds:
            table = self.begin(kind)
            live = self.live[table]
            while self.steps:
                self.steps.pop().handle.commit([live.tokens])
                left = len(live.tokens) - live.num_reserved
                if left > 0:
                    self.grow([table], [min(chunk, left)])
            self.manager.release(table, self.live.pop(table).tokens)

    def grow(self, tables: list[int], counts: list[int]):
        parts = [
            (table, self.live[table].num_reserved, count)
            for table, count in zip(tables, counts, strict=True)
        ]
        handle = self.manager.reserve(parts)
        assert list(self.manager.copies()) == []
        if handle is None:
            return
        for table, first, count in parts:
            live = self.live[table]
            live.num_reserved = first + count
            for pool, memory in enumerate(self.memory):
                ids = self.table(pool, table)
                for position in range(first, first + count):
                    history = (live.scope, tuple(live.tokens[: position + 1]))
                    memory[ids[position // self.size]][position % self.size] = history
        for table, first, count in parts:  # what the step's attention reads
            live = self.live[table]
            for pool, memory in enumerate(self.memory):
                ids = self.table(pool, table)
                for by in range(first, first + count):
                    for position in (p for p in range(by + 1) if self.sees(pool, p, by)):
                        history = (live.scope, tuple(live.tokens[: position + 1]))
                        assert memory[ids[position // self.size]][position % self.size] == history
        self.steps.append(Step(handle, parts))

    @precondition(lambda self: self.steps)
    @rule()
    def give_back_newest(self):
        step = self.steps.pop()
        step.handle.give_back()
        for table, first, _ in step.parts:
            self.live[table].num_reserved = first

    def check_all_is_free(self):
        for pool, (_, _, num_blocks) in enumerate(self.pools):
            assert windows.num_free_blocks(self.manager, pool) == num_blocks

    @invariant()
    def books_are_right(self):
        check_invariants(self.manager.snapshot())
        cached = self.cached()
        for pool, (_, _, num_blocks) in enumerate(self.pools):
            named = {
                block for table in self.live for block in self.table(pool, table) if block != HOLE
            }
            free = windows.num_free_blocks(self.manager, pool)
            kept = windows.num_cached_blocks(self.manager, pool)
            assert free + kept + len(named) == num_blocks
            for block, node in enumerate(windows.nodes(self.manager, pool)):
                if node != -1:  # holds what its node says, whole
                    assert self.memory[pool][block][self.size - 1][1] == cached[node][1]

    def teardown(self):
        self.release_all()
        for pool, (_, _, num_blocks) in enumerate(self.pools):
            free = windows.num_free_blocks(self.manager, pool)
            assert free + windows.num_cached_blocks(self.manager, pool) == num_blocks


WindowReuseMachine.TestCase.settings = settings(
    max_examples=50, stateful_step_count=25, deadline=None
)
TestWindowReuse = WindowReuseMachine.TestCase


def run(manager: KvCacheManager, tokens: list[int], **opening: object) -> int:
    """A sequence of these tokens, a chunk of 8 at a time, and its end. Returns how many were found."""
    table = manager.open(tokens, **opening)
    found = manager.num_cached_tokens(table)
    for first in range(found, len(tokens), 8):
        step = manager.reserve([(table, first, min(8, len(tokens) - first))])
        assert step is not None
        step.commit([tokens])
    manager.release(table, tokens)
    return found


def test_a_hit_needs_only_what_the_window_sees():
    manager = windows.new_manager(4, 100, [(8, 0, 100)], enable_reuse=True)
    tokens = list(range(40))
    assert run(manager, tokens) == 0
    table = manager.open([*tokens, 1, 2])
    assert manager.num_cached_tokens(table) == 40
    ids = windows.block_table(manager, 0, table)
    assert ids[:8] == [HOLE] * 8 and HOLE not in ids[8:]  # 33 to 39 are seen from 40


def test_where_the_window_was_evicted_an_earlier_end_is_found():
    # A window and a chunk take 4 blocks, of 12.
    manager = windows.new_manager(4, 100, [(8, 0, 12)], enable_reuse=True)
    system = list(range(20))
    assert run(manager, system) == 0
    assert run(manager, [*system, *range(100, 108)]) == 20
    # Others take blocks until one that the long one needs is gone, not yet those of `system`.
    assert run(manager, system) == 16
    assert run(manager, list(range(200, 224))) == 0
    found = [manager.match([*system, *range(100, length), 0]).num_tokens for length in (108, 104)]
    assert found == [28, 24] and manager.match([*system, 0]).num_tokens == 20
    run(manager, list(range(300, 340)))
    assert manager.match([*system, 0]).num_tokens == 0


def test_blocks_of_a_smaller_priority_go_first():
    manager = windows.new_manager(4, 100, [(8, 0, 8)], enable_reuse=True)
    kept, other = list(range(8)), list(range(50, 58))
    run(manager, kept, retention=Retention([(0, None, 90, None)]))
    run(manager, other)
    run(manager, list(range(100, 132)))
    assert manager.match([*kept, 0]).num_tokens == 8
    assert manager.match([*other, 0]).num_tokens == 0


def test_a_priority_ends_with_its_time():
    manager = windows.new_manager(4, 100, [(8, 0, 8)], enable_reuse=True)
    kept = list(range(8))
    manager.set_time_ms(0)
    run(manager, kept, retention=Retention([(0, None, 90, 1000)]))
    manager.set_time_ms(2000)
    run(manager, list(range(100, 132)))
    assert manager.match([*kept, 0]).num_tokens == 0


@pytest.mark.parametrize("num_sinks", [1, 5])
def test_sinks_are_needed_as_well(num_sinks: int):
    manager = windows.new_manager(4, 100, [(4, num_sinks, 100)], enable_reuse=True)
    tokens = list(range(32))
    run(manager, tokens)
    table = manager.open([*tokens, 0])
    ids = windows.block_table(manager, 0, table)
    assert [block != HOLE for block in ids] == [
        place * 4 < num_sinks or place == 7 for place in range(8)
    ]
