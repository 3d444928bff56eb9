"""Pools of layers that see a window: what is kept and what is given back against a model in plain
Python, the most that sequences hold, and how memory is divided."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core import InvalidArgumentError, windows
from inflight._core.kv_cache import Reservation, check_invariants

HOLE = -1


def places_of_holes(
    num_committed: int, tokens_per_block: int, window: int, num_sinks: int
) -> set[int]:
    """Blocks none of whose tokens is seen from position `num_committed` on."""
    seen = {p for p in range(num_committed) if p > num_committed - window or p < num_sinks}
    full = range(num_committed // tokens_per_block)
    return {
        block
        for block in full
        if not seen & set(range(block * tokens_per_block, (block + 1) * tokens_per_block))
    }


@dataclass
class TableModel:
    num_committed: int = 0
    num_reserved: int = 0
    tables: list[list[int]] = field(default_factory=list)  # as last seen, of each pool


@dataclass
class OpenReservation:
    handle: Reservation
    parts: list[tuple[int, int, int]]  # table, first position, tokens


class WindowMachine(RuleBasedStateMachine):
    @initialize(
        tokens_per_block=st.integers(1, 5),
        pools=st.lists(
            st.tuples(st.integers(1, 20), st.integers(0, 9), st.integers(1, 25)),
            min_size=1,
            max_size=3,
        ),
    )
    def make_manager(self, tokens_per_block: int, pools: list[tuple[int, int, int]]):
        self.tokens_per_block, self.pools = tokens_per_block, pools
        self.manager = windows.new_manager(tokens_per_block, 10_000, pools)
        self.tables: dict[int, TableModel] = {}
        self.reservations: list[OpenReservation] = []  # oldest first

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tokens_per_block)

    def held(self, model: TableModel, pool: int) -> int:
        window, num_sinks, _ = self.pools[pool]
        holes = places_of_holes(model.num_committed, self.tokens_per_block, window, num_sinks)
        return self.blocks_for(model.num_reserved) - len(holes)

    def num_free(self, pool: int) -> int:
        held = sum(self.held(model, pool) for model in self.tables.values())
        return self.pools[pool][2] - held

    def busy(self) -> set[int]:
        return {part[0] for reservation in self.reservations for part in reservation.parts}

    @precondition(lambda self: len(self.tables) < 4)
    @rule()
    def open(self):
        self.tables[self.manager.open()] = TableModel(tables=[[] for _ in self.pools])

    @precondition(lambda self: self.tables and len(self.reservations) < 3)
    @rule(data=st.data())
    def reserve(self, data: st.DataObject):
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.tables)), unique=True))
        parts = [
            (table, self.tables[table].num_reserved, data.draw(st.integers(1, 12)))
            for table in chosen
        ]
        needed = sum(
            self.blocks_for(first + count) - self.blocks_for(first) for _, first, count in parts
        )
        handle = self.manager.reserve(parts)
        fits = all(needed <= self.num_free(pool) for pool in range(len(self.pools)))
        assert (handle is not None) == fits
        if handle is None:
            return
        for table, first, count in parts:
            self.tables[table].num_reserved = first + count
        self.reservations.append(OpenReservation(handle, parts))

    @precondition(lambda self: self.reservations)
    @rule()
    def commit_oldest(self):
        reservation = self.reservations.pop(0)
        reservation.handle.commit()
        for table, first, count in reservation.parts:
            self.tables[table].num_committed = first + count

    @precondition(lambda self: self.reservations)
    @rule()
    def give_back_newest(self):
        reservation = self.reservations.pop()
        reservation.handle.give_back()
        for table, first, _ in reservation.parts:
            self.tables[table].num_reserved = first

    @precondition(lambda self: set(self.tables) - self.busy())
    @rule(data=st.data())
    def release(self, data: st.DataObject):
        table = data.draw(st.sampled_from(sorted(set(self.tables) - self.busy())))
        self.manager.release(table)
        del self.tables[table]

    @invariant()
    def equals_model(self):
        check_invariants(self.manager.snapshot())
        for pool, (window, num_sinks, _) in enumerate(self.pools):
            assert windows.num_free_blocks(self.manager, pool) == self.num_free(pool)
            taken = []
            for table, model in self.tables.items():
                now = windows.block_table(self.manager, pool, table)
                holes = places_of_holes(
                    model.num_committed, self.tokens_per_block, window, num_sinks
                )
                assert len(now) == self.blocks_for(model.num_reserved)
                assert {place for place, block in enumerate(now) if block == HOLE} == holes
                before = model.tables[pool]
                for place in range(min(len(now), self.blocks_for(model.num_committed))):
                    if place < len(before) and place not in holes:
                        assert now[place] == before[place], "a block moved while it was in use"
                model.tables[pool] = now[: self.blocks_for(model.num_committed)]
                taken += [block for block in now if block != HOLE]
            assert len(set(taken)) == len(taken), "a block has two owners"


TestWindows = WindowMachine.TestCase
TestWindows.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize("num_sinks", [0, 5])
def test_a_sequence_ten_windows_long_holds_a_window(num_sinks: int):
    window, block = 32, 8
    manager = windows.new_manager(block, 1000, [(window, num_sinks, 100)])
    table = manager.open()
    most = 0
    for position in range(10 * window):
        manager.reserve([(table, position, 1)]).commit()
        most = max(most, 100 - windows.num_free_blocks(manager, 0))
    sinks = -(-num_sinks // block)
    assert most == window // block + 1 + sinks
    ids = windows.block_table(manager, 0, table)
    assert len(ids) == 10 * window // block and ids.count(HOLE) == len(ids) - 4 - sinks
    assert manager.num_used_blocks == len(ids)  # of the layers that see everything
    manager.release(table)
    assert windows.num_free_blocks(manager, 0) == 100


def test_too_few_blocks_of_one_pool_take_none_of_any():
    manager = windows.new_manager(4, 100, [(8, 0, 50), (8, 0, 2)])
    table = manager.open()
    assert manager.reserve([(table, 0, 9)]) is None
    assert [windows.num_free_blocks(manager, i) for i in (0, 1)] == [50, 2]
    assert manager.num_free_blocks == 100
    assert manager.reserve([(table, 0, 8)]) is not None


def test_a_window_without_tokens_is_refused():
    with pytest.raises(InvalidArgumentError, match="a window of 0 tokens and 0 sinks"):
        windows.new_manager(4, 10, [(0, 0, 10)])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_sequences_never_hold_more_than_their_demand(data: st.DataObject):
    """Any steps within the limits, so many in flight: chunks of prompts, then a token at a time."""
    draw = data.draw
    block, window, sinks = (
        draw(st.integers(1, 6)),
        draw(st.integers(1, 30)),
        draw(st.integers(0, 9)),
    )
    max_num_tokens, in_flight = draw(st.integers(4, 40)), draw(st.integers(1, 2))
    prompts = draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    lengths = [prompt + draw(st.integers(1, 30)) for prompt in prompts]
    most = windows.demand(block, window, sinks, max_num_tokens, in_flight, lengths)
    manager = windows.new_manager(block, 10_000, [(window, sinks, most)])
    tables = [manager.open() for _ in prompts]
    done, reservations = [0] * len(prompts), []
    while any(d < n - 1 for d, n in zip(done, lengths, strict=True)):
        budget, parts = max_num_tokens, []
        for i, prompt in enumerate(prompts):
            room = min(
                budget, (prompt if done[i] < prompt else min(done[i] + 1, lengths[i] - 1)) - done[i]
            )
            count = (
                room
                if room <= 1
                else draw(st.sampled_from([room, room, draw(st.integers(1, room))]))
            )
            if count > 0:
                parts.append((tables[i], done[i], count))
                done[i] += count
                budget -= count
        reservation = manager.reserve(parts)
        assert reservation is not None, "more was needed than the demand says"
        reservations.append(reservation)
        if len(reservations) == in_flight:
            reservations.pop(0).commit()
    for reservation in reservations:
        reservation.commit()


@pytest.mark.parametrize(
    ("lengths", "blocks"),
    [
        ([2], 1),
        ([33], 4),  # 32 tokens
        ([1000], 4 + 1 + 1 + 8),  # a window wherever it lies, rounding, chunks of 64 tokens
        ([1000, 1000], 2 * 6 + 8),  # all chunks together are one step's
        ([1000, 30], 6 + 4 + 8),
        ([60], 6 + 2),  # never more than it has
    ],
)
def test_demand(lengths: list[int], blocks: int):
    assert windows.demand(8, 32, 0, 64, 1, lengths) == blocks


LIMITS = {"tokens_per_block": 8, "max_batch_size": 4, "max_num_tokens": 64, "max_seq_len": 801}


def test_one_group_gets_what_the_budget_has_room_for():
    assert windows.divide_budget([(None, 0, 100)], **LIMITS, budget=12345) == [123]
    assert windows.divide_budget([(None, 0, 100)], **LIMITS, budget=10**9) == [4 * 100]
    assert windows.divide_budget([(32, 0, 100)], **LIMITS, budget=10**9) == [4 * 6 + 8]


@pytest.mark.parametrize("budget", [200, 999, 5_000, 9_999, 20_000, 43_000, 50_000, 10**9])
@pytest.mark.parametrize(
    "groups", [[(None, 0, 100), (32, 0, 100)], [(64, 4, 30), (None, 0, 170), (8, 0, 7)]]
)
def test_groups_share_a_budget(budget: int, groups: list):
    if budget < sum(size for _, _, size in groups):
        budget = sum(size for _, _, size in groups)
    blocks = windows.divide_budget(groups, **LIMITS, budget=budget)
    sizes = [size for _, _, size in groups]
    spent = sum(b * size for b, size in zip(blocks, sizes, strict=True))
    most = windows.divide_budget(groups, **LIMITS, budget=10**12)
    assert spent <= budget and all(1 <= b <= m for b, m in zip(blocks, most, strict=True))
    left = budget - spent
    assert blocks == most or all(
        b == m or size > left for b, m, size in zip(blocks, most, sizes, strict=True)
    ), "memory is left that some pool could use"


def test_groups_run_out_together_at_twice_the_window():
    full, window = windows.divide_budget([(None, 0, 100), (64, 0, 100)], **LIMITS, budget=12_000)
    per_sequence = 16  # 127 tokens
    at_once = full / per_sequence
    held = windows.demand(8, 64, 0, 64, 1, [128] * int(at_once))
    assert held <= window <= windows.demand(8, 64, 0, 64, 1, [128] * (int(at_once) + 2))


def test_a_budget_below_a_block_each_is_refused():
    with pytest.raises(
        InvalidArgumentError, match="150 bytes has no room for a block of each of 2"
    ):
        windows.divide_budget([(None, 0, 100), (8, 0, 100)], **LIMITS, budget=150)
