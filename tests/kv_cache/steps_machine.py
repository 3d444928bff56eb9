"""What the machines of reuse have in common: sequences whose steps are reserved, committed and lost."""

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from inflight._core.kv_cache import KvCacheManager, Reservation


@dataclass
class Live:
    tokens: list[int]  # all that it will ever have
    scope: int
    num_reserved: int = 0


@dataclass
class Step:
    handle: Reservation
    parts: list[tuple[int, int, int]]  # table, first position, tokens


def tokens_by_node(nodes: list[Any]) -> dict[int, tuple[int, ...]]:
    """Of a snapshot's tree: all tokens up to each node's end."""
    by_number = {node.node: node for node in nodes}

    def tokens_of(node: Any) -> tuple[int, ...]:
        before = () if node.parent < 0 else tokens_of(by_number[node.parent])
        return before + tuple(node.tokens)

    return {number: tokens_of(node) for number, node in by_number.items()}


class StepsMachine(RuleBasedStateMachine):
    """A subclass makes the manager, opens sequences, and says what a step that grows them does."""

    manager: KvCacheManager

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, Live] = {}  # by table
        self.steps: list[Step] = []

    def grow(self, tables: list[int], counts: list[int]) -> None:
        raise NotImplementedError

    @precondition(lambda self: self.live and len(self.steps) < 2)
    @rule(data=st.data())
    def reserve(self, data: st.DataObject):
        able = [t for t, live in self.live.items() if live.num_reserved < len(live.tokens)]
        tables = data.draw(st.lists(st.sampled_from(sorted(able)), unique=True)) if able else []
        counts = [
            data.draw(st.integers(1, len(self.live[t].tokens) - self.live[t].num_reserved))
            for t in tables
        ]
        self.grow(tables, counts)

    @precondition(lambda self: self.steps)
    @rule(with_tokens=st.sampled_from([True, True, True, False]))
    def commit_oldest(self, with_tokens: bool):
        step = self.steps.pop(0)
        known = [self.live[table].tokens for table, _, _ in step.parts]
        step.handle.commit(known if with_tokens and known else [])

    @precondition(lambda self: self.live)
    @rule(data=st.data(), with_tokens=st.booleans())
    def release(self, data: st.DataObject, with_tokens: bool):
        busy = {part[0] for step in self.steps for part in step.parts}
        idle = sorted(set(self.live) - busy)
        if idle:
            table = data.draw(st.sampled_from(idle))
            live = self.live.pop(table)
            self.manager.release(table, live.tokens if with_tokens else [])

    @precondition(lambda self: self.steps)
    @rule()
    def step_fails(self):
        while self.steps:
            self.steps.pop().handle.give_back()
        for table in list(self.live):
            self.manager.release(table)
        self.live.clear()
        self.manager.forget_cached()
        self.check_all_is_free()

    def check_all_is_free(self) -> None:
        raise NotImplementedError

    def release_all(self) -> None:
        while self.steps:
            self.commit_oldest(True)
        for table, live in self.live.items():
            self.manager.release(table, live.tokens)
