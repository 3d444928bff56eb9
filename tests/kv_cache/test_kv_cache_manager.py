"""Tables, reservations and their transactions against a model in plain Python."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core import InternalError, InvalidArgumentError
from inflight._core.kv_cache import KvCacheManager, Reservation, check_invariants


@dataclass
class TableModel:
    num_committed: int = 0
    num_reserved: int = 0
    blocks: list[int] = field(default_factory=list)


@dataclass
class OpenReservation:
    handle: Reservation
    parts: list[tuple[int, int, int]]  # table, first position, tokens


class ManagerMachine(RuleBasedStateMachine):
    @initialize(tokens_per_block=st.integers(1, 5), num_blocks=st.integers(1, 15))
    def make_manager(self, tokens_per_block: int, num_blocks: int):
        self.tokens_per_block = tokens_per_block
        self.num_blocks = num_blocks
        self.manager = KvCacheManager(tokens_per_block, num_blocks)
        self.tables: dict[int, TableModel] = {}
        self.reservations: list[OpenReservation] = []  # oldest first

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tokens_per_block)

    def num_free(self) -> int:
        return self.num_blocks - sum(
            self.blocks_for(table.num_reserved) for table in self.tables.values()
        )

    def busy(self) -> set[int]:
        return {part[0] for reservation in self.reservations for part in reservation.parts}

    @precondition(lambda self: len(self.tables) < 6)
    @rule()
    def open(self):
        table = self.manager.open()
        assert table not in self.tables
        assert self.manager.block_table(table) == []
        self.tables[table] = TableModel()

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
        if needed > self.num_free():
            assert handle is None
            return
        assert handle is not None and handle.num_blocks == needed
        for table, first, count in parts:
            self.tables[table].num_reserved = first + count
        self.reservations.append(OpenReservation(handle, parts))

    @precondition(lambda self: self.reservations)
    @rule()
    def commit_oldest(self):
        reservation = self.reservations.pop(0)
        reservation.handle.commit()
        assert not reservation.handle.is_open
        for table, first, count in reservation.parts:
            assert self.tables[table].num_committed == first
            self.tables[table].num_committed = first + count

    @precondition(lambda self: self.reservations)
    @rule(by_destructor=st.booleans())
    def give_back_newest(self, by_destructor: bool):
        reservation = self.reservations.pop()
        if not by_destructor:
            reservation.handle.give_back()
        for table, first, _ in reservation.parts:
            self.tables[table].num_reserved = first
            kept = self.blocks_for(first)
            self.tables[table].blocks = self.tables[table].blocks[:kept]

    @precondition(lambda self: len(self.reservations) > 1)
    @rule()
    def unwind_oldest_first(self):
        while self.reservations:
            self.reservations.pop(0)  # destructors, in the wrong order
        for model in self.tables.values():
            model.num_reserved = model.num_committed
            model.blocks = model.blocks[: self.blocks_for(model.num_committed)]

    @precondition(lambda self: set(self.tables) - self.busy())
    @rule(data=st.data())
    def release(self, data: st.DataObject):
        table = data.draw(st.sampled_from(sorted(set(self.tables) - self.busy())))
        self.manager.release(table)
        del self.tables[table]
        with pytest.raises(InternalError, match=f"block table {table} is not open"):
            self.manager.block_table(table)

    @precondition(lambda self: self.busy())
    @rule(data=st.data())
    def release_in_flight_is_refused(self, data: st.DataObject):
        table = data.draw(st.sampled_from(sorted(self.busy())))
        with pytest.raises(InternalError, match=f"release of table {table} with"):
            self.manager.release(table)

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), shift=st.sampled_from([-1, 1]))
    def faulty_part_changes_nothing(self, data: st.DataObject, shift: int):
        good = [(table, model.num_reserved, 1) for table, model in self.tables.items()]
        table, first, _ = data.draw(st.sampled_from(good))
        if self.num_free() < len(good):
            return
        with pytest.raises(InternalError, match=f"it ends at {first}"):
            self.manager.reserve(
                [part for part in good if part[0] != table] + [(table, first + shift, 1)]
            )
        with pytest.raises(InternalError, match="named twice"):
            self.manager.reserve([*good, (table, first + 1, 1)])

    @invariant()
    def equals_model(self):
        manager = self.manager
        check_invariants(manager.snapshot())
        assert manager.num_tables == len(self.tables)
        assert manager.num_free_blocks == self.num_free()
        assert manager.num_used_blocks == self.num_blocks - self.num_free()
        for table, model in self.tables.items():
            ids = manager.block_table(table)
            assert len(ids) == self.blocks_for(model.num_reserved)
            assert ids[: len(model.blocks)] == model.blocks, "a block moved under its sequence"
            model.blocks = ids
            assert manager.num_cached_tokens(table) == model.num_committed


ManagerMachine.TestCase.settings = settings(max_examples=80, deadline=None)
TestManager = ManagerMachine.TestCase


def test_commit_out_of_order_is_refused_whole():
    """The other table's tokens, which were in order, are not committed either."""
    manager = KvCacheManager(4, 8)
    other, table = manager.open(), manager.open()
    older = manager.reserve([(table, 0, 4)])
    newer = manager.reserve([(other, 0, 3), (table, 4, 1)])
    with pytest.raises(InternalError, match="has 0 committed tokens, the reservation begins at 4"):
        newer.commit()
    assert manager.num_cached_tokens(other) == 0
    with pytest.raises(InternalError, match=f"release of table {other} with"):
        manager.release(other)
    with pytest.raises(InternalError, match="reserved to token 5, the reservation ends at 4"):
        older.give_back()
    older.commit()
    newer.commit()
    assert [manager.num_cached_tokens(one) for one in (other, table)] == [3, 5]
    for one in (other, table):
        manager.release(one)


def test_closed_reservation_stays_closed():
    manager = KvCacheManager(4, 8)
    reservation = manager.reserve([(manager.open(), 0, 4)])
    reservation.commit()
    for again in (reservation.commit, reservation.give_back):
        with pytest.raises(InternalError, match="closed reservation"):
            again()


def test_nothing_is_matched_without_reuse():
    assert KvCacheManager(4, 8).match([1, 2, 3, 4, 5]).num_tokens == 0


def test_pool_must_fit_32_bit_slots():
    with pytest.raises(InvalidArgumentError, match="slots are 32 bit"):
        KvCacheManager(1024, 2**21)
    with pytest.raises(InvalidArgumentError, match="pool of 0 blocks"):
        KvCacheManager(32, 0)
