"""Which blocks go when blocks are needed: smallest priority, then oldest, leaves first."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from inflight._core.kv_cache import KvCacheManager, Retention, check_invariants

SIZE = 2


@dataclass
class Node:
    priority: int
    stamp: int  # when it was last given back


class EvictionMachine(RuleBasedStateMachine):
    """Sequences served one at a time, so that only order decides."""

    @initialize(num_blocks=st.integers(3, 9))
    def make_manager(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.manager = KvCacheManager(
            SIZE, num_blocks, enable_reuse=True, enable_partial_reuse=False
        )
        self.tree: dict[tuple[int, ...], Node] = {}
        self.clock = 0

    def evict(self, used: set[tuple[int, ...]]):
        leaves = [
            path
            for path in self.tree
            if path not in used
            and not any(other[:-SIZE] == path for other in self.tree if len(other) > len(path))
        ]
        # A parent given back with its child has the later stamp: it goes after it.
        del self.tree[
            min(leaves, key=lambda path: (self.tree[path].priority, self.tree[path].stamp))
        ]

    @rule(
        length=st.integers(2, 9),
        prompt_share=st.floats(0, 1),
        branch=st.sampled_from([0, 2, 4, 99]),
        family=st.integers(0, 2),
        begin=st.integers(0, 4),
        end=st.one_of(st.none(), st.integers(5, 9)),
        priority=st.sampled_from([0, 10, 35, 36, 100]),
        decode_priority=st.sampled_from([0, 35, 90]),
        has_wish=st.booleans(),
    )
    def serve(
        self,
        length: int,
        prompt_share: float,
        branch: int,
        family: int,
        begin: int,
        end: int | None,
        priority: int,
        decode_priority: int,
        has_wish: bool,
    ):
        if -(-length // SIZE) > self.num_blocks:
            return
        tokens = [100 * family + position + 10 * (position >= branch) for position in range(length)]
        prompt_len = 1 + int(prompt_share * (length - 1))
        wish = Retention([(begin, end, priority, None)], decode_priority) if has_wish else None

        def priority_of(block: int) -> int:
            first = block * SIZE
            if not has_wish:
                return 35
            if first >= prompt_len:
                return decode_priority
            return priority if begin <= first < (end or prompt_len) else 35

        # The oracle: what is found, what must go, what is there in the end.
        paths = [tuple(tokens[: (i + 1) * SIZE]) for i in range(length // SIZE)]
        num_found = 0
        while num_found < (prompt_len - 1) // SIZE and paths[num_found] in self.tree:
            num_found += 1
        if has_wish:
            for i in range(num_found):
                self.tree[paths[i]].priority = priority_of(i)
        used = set(paths[:num_found])
        num_fresh = -(-length // SIZE) - num_found
        while len(self.tree) + num_fresh > self.num_blocks:
            self.evict(used)
        for i in range(num_found, len(paths)):
            self.tree.setdefault(paths[i], Node(priority_of(i), 0))
        for path in reversed(paths):
            self.clock += 1
            self.tree[path].stamp = self.clock

        table = self.manager.open(tokens[:prompt_len], retention=wish)
        found = self.manager.num_cached_tokens(table)
        assert found == num_found * SIZE
        self.manager.reserve([(table, found, length - found)]).commit([tokens])
        self.manager.release(table, tokens)

    @invariant()
    def equals_oracle(self):
        snapshot = self.manager.snapshot()
        check_invariants(snapshot)
        nodes = {node.node: node for node in snapshot.nodes}

        def path(node):
            before = () if node.parent < 0 else path(nodes[node.parent])
            return before + tuple(node.tokens)

        held = {path(node): node.priority for node in nodes.values()}
        assert held == {path: node.priority for path, node in self.tree.items()}


EvictionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestEviction = EvictionMachine.TestCase


def serve(manager: KvCacheManager, tokens: list[int], **wish) -> int:
    table = manager.open(tokens, **wish)
    found = manager.num_cached_tokens(table)
    manager.reserve([(table, found, len(tokens) - found)]).commit([tokens])
    manager.release(table, tokens)
    return found


def test_priority_ends_after_its_duration():
    manager = KvCacheManager(2, 4, enable_reuse=True)
    manager.set_time_ms(1000)
    serve(manager, [1, 2], retention=Retention([(0, None, 90, 50)]))
    serve(manager, [3, 4], retention=Retention([(0, None, 80, None)]))
    manager.set_time_ms(1049)
    assert sorted(node.priority for node in manager.snapshot().nodes) == [80, 90]
    manager.set_time_ms(1050)
    assert sorted(node.priority for node in manager.snapshot().nodes) == [35, 80]
    serve(manager, [5, 6, 7, 8, 9, 9])  # needs three of the four blocks
    assert manager.match([1, 2, 0]).num_tokens == 0
    assert manager.match([3, 4, 0]).num_tokens == 2


def test_duration_counts_from_the_last_use():
    manager = KvCacheManager(2, 4, enable_reuse=True)
    serve(manager, [1, 2, 3], retention=Retention([(0, None, 90, 50)]))
    manager.set_time_ms(40)
    table = manager.open([1, 2, 3])  # asks for nothing: the first's wish goes on
    manager.set_time_ms(100)
    assert [node.priority for node in manager.snapshot().nodes if node.is_used][0] == 90
    manager.release(table)
    manager.set_time_ms(149)
    assert max(node.priority for node in manager.snapshot().nodes) == 90
    manager.set_time_ms(150)
    assert max(node.priority for node in manager.snapshot().nodes) == 35


def test_what_was_generated_has_a_priority_and_a_duration_of_its_own():
    manager = KvCacheManager(2, 4, enable_reuse=True)
    wish = Retention([(0, None, 90, 200)], decode_priority=80, decode_duration_ms=50)
    table = manager.open([1, 2], retention=wish)
    manager.reserve([(table, 0, 4)]).commit([[1, 2, 3, 4]])
    manager.release(table)
    for now, priorities in ((49, [80, 90]), (50, [35, 90]), (199, [35, 90]), (200, [35, 35])):
        manager.set_time_ms(now)
        assert sorted(node.priority for node in manager.snapshot().nodes) == priorities


def test_blocks_behind_which_others_are_kept_wait_for_them():
    manager = KvCacheManager(2, 3, enable_reuse=True, enable_partial_reuse=False)
    # The first block is worth nothing, the one behind it much.
    serve(manager, [1, 2, 3, 4], retention=Retention([(0, 2, 0, None), (2, None, 100, None)]))
    serve(manager, [5, 6])
    serve(manager, [7, 8])  # takes the block of 5, 6: 1, 2 cannot go before 3, 4
    assert manager.match([5, 6, 0]).num_tokens == 0
    assert manager.match([1, 2, 3, 4, 0]).num_tokens == 4
    serve(manager, [9, 9, 9, 9])  # all three are needed but one
    assert manager.match([1, 2, 3, 4, 0]).num_tokens == 2
    check_invariants(manager.snapshot())
