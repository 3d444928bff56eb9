"""Blocks that leave the device for host memory and come back, against memory written token by token."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core.kv_cache import (
    KvCacheManager,
    Reservation,
    Retention,
    Tier,
    check_invariants,
)

VOCAB_SIZE = 4


@dataclass
class Live:
    tokens: list[int]
    num_reserved: int
    num_committed: int = 0


@dataclass
class Step:
    handle: Reservation
    parts: list[tuple[int, int, int]]  # table, first position, tokens
    blocks: set[int]  # that it reads and writes


class HostTierMachine(RuleBasedStateMachine):
    @initialize(
        size=st.integers(1, 3),
        num_blocks=st.integers(3, 10),
        num_host_blocks=st.integers(1, 12),
        partial=st.booleans(),
    )
    def make_manager(self, size: int, num_blocks: int, num_host_blocks: int, partial: bool):
        self.size = size
        self.manager = KvCacheManager(
            size,
            num_blocks,
            enable_reuse=True,
            enable_partial_reuse=partial,
            vocab_size=VOCAB_SIZE,
            num_host_blocks=num_host_blocks,
            block_bytes=1000 * size,
        )
        # By place and offset in it: all tokens up to the one whose keys and values lie there.
        self.memory = {
            Tier.DEVICE: [[None] * size for _ in range(num_blocks)],
            Tier.HOST: [[None] * size for _ in range(num_host_blocks)],
        }
        self.live: dict[int, Live] = {}
        self.steps: list[Step] = []

    @rule(data=st.data(), count=st.integers(1, 3), retention=st.sampled_from([None, 5, 35, 90]))
    @precondition(lambda self: len(self.steps) < 2)
    def admit(self, data: st.DataObject, count: int, retention: int | None):
        """Several at once: they may wait for the same blocks of the host."""
        prompts = data.draw(
            st.lists(
                st.lists(st.integers(0, 1), min_size=1, max_size=12), min_size=count, max_size=count
            )
        )
        answers = [data.draw(st.lists(st.integers(0, 1))) for _ in prompts]
        opened = []
        wanted = None if retention is None else Retention([(0, None, retention, None)])
        for prompt, answer in zip(prompts, answers, strict=True):
            match = self.manager.match(prompt)
            table = self.manager.open(prompt, retention=wanted)
            found = self.manager.num_cached_tokens(table)
            assert found == match.num_tokens < len(prompt)
            self.live[table] = Live(prompt + answer, found, found)
            opened.append((table, found, len(prompt) - found))
        if not self.grow(opened):
            for table, _, _ in opened:
                del self.live[table]
                self.manager.release(table)

    @rule(data=st.data())
    @precondition(lambda self: len(self.steps) < 2)
    def generate(self, data: st.DataObject):
        able = sorted(t for t, each in self.live.items() if each.num_reserved < len(each.tokens))
        if able:
            tables = data.draw(st.lists(st.sampled_from(able), unique=True, min_size=1))
            self.grow([(table, self.live[table].num_reserved, 1) for table in tables])

    def grow(self, parts: list[tuple[int, int, int]]) -> bool:
        handle = self.manager.reserve(parts)
        if handle is None:
            return False
        self.make_copies()
        for table, first, count in parts:
            live = self.live[table]
            ids = self.table(table)
            for position in range(first, first + count):
                self.memory[Tier.DEVICE][ids[position // self.size]][position % self.size] = tuple(
                    live.tokens[: position + 1]
                )
            live.num_reserved = first + count
        for table, first, count in parts:  # what attention reads, after all have written
            self.check_blocks(
                Tier.DEVICE, self.table(table), self.live[table].tokens[: first + count]
            )
        blocks = {block for table, _, _ in parts for block in self.table(table)}
        self.steps.append(Step(handle, parts, blocks))
        return True

    def make_copies(self) -> list:
        """Those asked for, which it answers."""
        busy = {block for step in self.steps for block in step.blocks}
        copies = self.manager.copies()
        for copy in copies:
            # These run beside the steps in flight, which must not name their device blocks.
            if copy.from_tier != copy.to_tier:
                on_device = copy.from_block if copy.from_tier == Tier.DEVICE else copy.to_block
                assert on_device not in busy
            source = self.memory[copy.from_tier][copy.from_block]
            target = source[: copy.num_tokens] + [None] * (self.size - copy.num_tokens)
            self.memory[copy.to_tier][copy.to_block] = target
        self.manager.clear_copies()
        return copies

    @rule(prompt=st.lists(st.integers(0, 1), min_size=1, max_size=12), most=st.integers(1, 5))
    def bring_ahead(self, prompt: list[int], most: int):
        before, used = self.manager.match(prompt), self.manager.num_used_blocks
        free = self.manager.num_free_blocks
        self.manager.bring_ahead(prompt, most)
        copies = self.make_copies()
        assert len(copies) <= most + 1  # the last block's own, and that of one that makes way
        after = self.manager.match(prompt)
        assert self.manager.num_used_blocks == used
        # What was found is found still, in order nearer by as many blocks as came.
        assert after.num_blocks == before.num_blocks
        num_came = sum(copy.from_tier == Tier.HOST for copy in copies)
        assert after.num_host_blocks == before.num_host_blocks - num_came
        if before.num_host_blocks > 0 and free > 0:
            assert num_came > 0

    def table(self, table: int) -> list[int]:
        return self.manager.block_table(table)

    def check_blocks(self, tier: Tier, blocks: list[int], tokens: list[int]) -> None:
        for position in range(len(tokens)):
            found = self.memory[tier][blocks[position // self.size]][position % self.size]
            assert found == tuple(tokens[: position + 1])

    @rule()
    @precondition(lambda self: self.steps)
    def commit_oldest(self):
        step = self.steps.pop(0)
        step.handle.commit([self.live[table].tokens for table, _, _ in step.parts])
        for table, first, count in step.parts:
            self.live[table].num_committed = first + count

    @rule(data=st.data())
    def release(self, data: st.DataObject):
        busy = {part[0] for step in self.steps for part in step.parts}
        idle = sorted(set(self.live) - busy)
        if idle:
            table = data.draw(st.sampled_from(idle))
            self.manager.release(table, self.live.pop(table).tokens)

    @rule(copy_seconds=st.sampled_from([0.5, 2.0]))
    def measure(self, copy_seconds: float):
        """A block takes half the time of computing it, or twice."""
        self.manager.set_costs(
            bytes_per_second=1000 * self.size / copy_seconds, tokens_per_second=1
        )

    @invariant()
    def books_are_right(self):
        manager = self.manager
        snapshot = manager.snapshot()
        check_invariants(snapshot)
        used, cached = manager.num_used_blocks, manager.num_cached_blocks
        assert manager.num_free_blocks + used + cached == manager.num_blocks
        on_host = [node for node in snapshot.nodes if node.host_block >= 0]
        assert len(on_host) == manager.num_cached_host_blocks
        assert len(on_host) + len(snapshot.free_host_ids) == manager.num_host_blocks
        nodes = {node.node: node for node in snapshot.nodes}

        def tokens_of(node):
            before = () if node.parent < 0 else tokens_of(nodes[node.parent])
            return before + tuple(node.tokens)

        for node in nodes.values():
            tokens = tokens_of(node)
            for tier, block in ((Tier.DEVICE, node.device_block), (Tier.HOST, node.host_block)):
                for offset in range(len(node.tokens) if block >= 0 else 0):
                    count = len(tokens) - len(node.tokens) + offset + 1
                    assert self.memory[tier][block][offset] == tokens[:count]

    def teardown(self):
        while self.steps:
            self.commit_oldest()
        for table, live in self.live.items():
            self.manager.release(table, live.tokens)
        assert self.manager.num_used_blocks == 0


HostTierMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHostTier = HostTierMachine.TestCase


class Cache:
    """Sequences that come one after another, each run at once."""

    def __init__(self, num_blocks: int, num_host_blocks: int, **options) -> None:
        self.manager = KvCacheManager(
            2, num_blocks, enable_reuse=True, num_host_blocks=num_host_blocks, **options
        )

    def run(self, tokens: list[int], priority: int | None = None) -> tuple[int, list]:
        """The tokens found, and the copies asked for."""
        retention = None if priority is None else Retention([(0, None, priority, None)])
        table = self.manager.open(tokens, retention=retention)
        found = self.manager.num_cached_tokens(table)
        step = self.manager.reserve([(table, found, len(tokens) - found)])
        copies = [(str(c.from_tier), c.from_block, c.to_block) for c in self.manager.copies()]
        self.manager.clear_copies()
        step.commit([tokens])
        self.manager.release(table)
        return found, copies


def prompt(first: int) -> list[int]:
    return [first, first, first, first, first]  # two full blocks of two, and a token


def test_a_prompt_comes_back_from_the_host() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=4)
    assert cache.run(prompt(1)) == (0, [])
    found, copies = cache.run(prompt(2))
    assert found == 0 and [tier for tier, _, _ in copies] == ["Tier.DEVICE"] * 2
    assert cache.manager.num_cached_host_blocks == 2
    found, copies = cache.run(prompt(1))
    assert found == 4  # the others go, and these come back
    assert sorted(tier for tier, _, _ in copies) == ["Tier.DEVICE"] * 2 + ["Tier.HOST"] * 2
    statistics = cache.manager.prefix_statistics
    assert statistics.onboarded_blocks == 2 and statistics.host_hit_tokens == 4
    assert statistics.offloaded_blocks == statistics.evicted_blocks == 4


def test_what_matters_less_leaves_the_host_first() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=2)
    cache.run(prompt(1), priority=80)
    cache.run(prompt(2))  # 1 goes to the host
    cache.run(prompt(3))  # 2 finds it full of what matters more, and is gone
    assert cache.manager.match(prompt(1)).num_host_blocks == 2
    assert cache.manager.match(prompt(2)).num_tokens == 0
    cache.run(prompt(4), priority=90)
    cache.run(prompt(5))  # 4 matters more than 1
    assert cache.manager.match(prompt(1)).num_tokens == 0
    assert cache.manager.match(prompt(4)).num_host_blocks == 2


def test_blocks_of_low_priority_are_not_kept() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=4)
    cache.run(prompt(1), priority=29)
    cache.run(prompt(2))
    assert cache.manager.num_cached_host_blocks == 0


def test_a_copy_that_takes_longer_than_computing_is_not_made() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=4, block_bytes=100)
    cache.run(prompt(1))
    cache.run(prompt(2))
    # two blocks of 100 bytes against four tokens
    cache.manager.set_costs(bytes_per_second=99, tokens_per_second=2)
    assert cache.manager.match(prompt(1)).num_tokens == 0
    cache.manager.set_costs(bytes_per_second=101, tokens_per_second=2)
    assert cache.manager.match(prompt(1)).num_tokens == 4
    cache.manager.set_costs(bytes_per_second=99, tokens_per_second=2)
    found, copies = cache.run(prompt(1))  # computed again: they need not come any more
    assert found == 0 and all(tier == "Tier.DEVICE" for tier, _, _ in copies)
    assert cache.manager.match(prompt(1)).num_host_blocks == 0


def test_who_wants_the_blocks_themselves_gets_them_whatever_the_copy_takes() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=4, block_bytes=100)
    cache.run(prompt(1))
    cache.run(prompt(2))
    cache.manager.set_costs(bytes_per_second=1, tokens_per_second=1000)
    for always, expected in ((False, 0), (True, 4)):
        table = cache.manager.open(prompt(1), always_onboard=always)
        assert cache.manager.num_cached_tokens(table) == expected
        cache.manager.release(table, [])


def test_blocks_come_a_few_at_a_time_ahead_of_their_prompt() -> None:
    cache = Cache(num_blocks=6, num_host_blocks=6)
    tokens = [1] * 9  # four full blocks of two, and a token
    cache.run(tokens)
    cache.run([2] * 9)  # leaves one block of the first prompt on the device
    matches = [cache.manager.match(tokens)]
    copies = []
    while matches[-1].num_host_blocks > 0:
        cache.manager.bring_ahead(tokens, 2)
        copies.append(len(cache.manager.copies()))
        cache.manager.clear_copies()
        matches.append(cache.manager.match(tokens))
    assert {match.num_tokens for match in matches} == {8}
    in_host = [match.num_host_blocks for match in matches]
    assert in_host == sorted(in_host, reverse=True) and in_host[0] == 3 and in_host[-1] == 0
    assert max(copies) <= 3 and len(copies) >= 2
    assert cache.manager.num_used_blocks == 0
    hits = cache.manager.prefix_statistics.hit_tokens
    found, copies_of_step = cache.run(tokens)
    assert found == 8 and all(tier == "Tier.DEVICE" for tier, _, _ in copies_of_step)
    statistics = cache.manager.prefix_statistics
    assert statistics.hit_tokens == hits + 8 and statistics.host_hit_tokens == 6


def test_as_many_copies_as_a_step_hides() -> None:
    manager = Cache(num_blocks=8, num_host_blocks=4, block_bytes=100).manager
    assert manager.copies_beside_step(0) == 2**31 - 1  # nothing known
    # 10 blocks a second; a step of 2 s, four fifths of which count
    manager.set_costs(bytes_per_second=1000, tokens_per_second=0, generation_seconds=2)
    assert manager.copies_beside_step(50) == 16
    manager.set_costs(bytes_per_second=1000, tokens_per_second=50, generation_seconds=2)
    assert manager.copies_beside_step(50) == 24
    manager.set_costs(bytes_per_second=1, tokens_per_second=50, generation_seconds=2)
    assert manager.copies_beside_step(0) == 1
    manager.open()
    assert manager.num_copies_to_bring(8) == 8  # all of them are free
    assert manager.num_copies_to_bring(11) == 14


def test_onboarding_can_be_switched_off() -> None:
    cache = Cache(num_blocks=3, num_host_blocks=4, onboard_blocks=False)
    cache.run(prompt(1))
    cache.run(prompt(2))
    assert cache.manager.num_cached_host_blocks == 2
    assert cache.manager.match(prompt(1)).num_tokens == 0


def test_a_block_that_a_step_in_flight_names_takes_nothing_from_the_host() -> None:
    # Copies from the host run beside the step in flight, which reads the blocks it was launched with.
    cache = Cache(num_blocks=8, num_host_blocks=16)
    manager = cache.manager
    cache.run(prompt(1))
    cache.run([2] * 16)  # all blocks: the first prompt is in the host now
    manager.clear_copies()
    same = [3, 3, 0, 0]
    tables = [manager.open(same), manager.open(same)]
    older = manager.reserve([(table, 0, 2) for table in tables])
    newer = manager.reserve([(table, 2, 2) for table in tables])
    manager.clear_copies()
    named = {block for table in tables for block in manager.block_table(table)}
    older.commit([same[:2], same[:2]])  # the second table has the first one's block from now on
    blocks = [list(manager.block_table(table)) for table in tables]
    assert blocks[0][0] == blocks[1][0] and len(named) == 4
    assert manager.match(prompt(1)).num_host_blocks == 2
    manager.bring_ahead(prompt(1), 8)
    came = {copy.to_block for copy in manager.copies() if copy.to_tier == Tier.DEVICE}
    assert len(came) == 2 and not came & named
    free = manager.num_free_blocks
    newer.commit([same, same])
    # Those of the second table that were there already, of both steps.
    assert manager.num_free_blocks == free + 2
    check_invariants(manager.snapshot())
