"""The scheduler and the cache manager drive sequences from submit to release, with one step or two
in flight, as the engine does. Nothing here computes tokens."""

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core import InvalidArgumentError, scheduler
from inflight._core.kv_cache import KvCacheManager, Reservation, check_invariants
from scheduler_model import Config, SequenceModel


@dataclass
class Live:
    model: SequenceModel
    num_output: int  # after so many tokens it ends by itself
    table: int | None = None
    num_made: int = 0
    num_in_flight: int = 0
    has_ended: bool = False
    positions: list[int] = field(default_factory=list)  # in the order in which they ran


class Engine:
    """The loop of the executor in small: receive, schedule, execute, commit, release."""

    def __init__(self, config: Config, max_in_flight: int):
        self.config = config
        self.max_in_flight = max_in_flight
        self.cache = KvCacheManager(config.tokens_per_block, config.num_blocks)
        self.waiting: list[Live] = []
        self.running: list[Live] = []
        self.leaving: list[Live] = []  # ended, and named by a step in flight
        self.in_flight: list[tuple[Reservation, list[tuple[Live, bool]]]] = []
        self.admitted: list[Live] = []
        self.finished: list[Live] = []
        self.next_id = 1

    def submit(self, prompt_len: int, max_output: int, num_output: int, priority: int) -> bool:
        model = SequenceModel(self.next_id, prompt_len, prompt_len + max_output, priority)
        cache = scheduler.CacheView(self.config.tokens_per_block, self.config.num_blocks, 0)
        try:
            scheduler.check_can_run(prompt_len, model.max_total_len, cache, self.config.limits())
        except InvalidArgumentError:
            assert not self.config.can_run(model), "refused though it can run"
            return False
        assert self.config.can_run(model), "accepted though it can never run"
        self.next_id += 1
        self.waiting.append(Live(model, num_output))
        self.waiting.sort(key=lambda live: -live.model.priority)
        return True

    def cancel(self, live: Live) -> None:
        live.has_ended = True
        self.retire()

    def launch(self) -> scheduler.Step:
        size = self.config.tokens_per_block
        # Blocks of a step in flight are held already, and its tokens count as computed.
        cache = scheduler.CacheView(size, self.config.num_blocks, self.cache.num_free_blocks)
        views = [[live.model.view(size) for live in part] for part in (self.running, self.waiting)]
        step = scheduler.schedule(*views, cache, self.config.limits())
        assert step == scheduler.schedule(*views, cache, self.config.limits())
        self.check(step)
        for live in self.waiting[: step.num_admitted]:
            live.table = self.cache.open()
            self.running.append(live)
            self.admitted.append(live)
        del self.waiting[: step.num_admitted]
        if step.is_empty():
            return step

        parts = [(self.running[part.index], part) for part in step.sequences]
        reservation = self.cache.reserve(
            [(live.table, part.first_position, part.num_tokens) for live, part in parts]
        )
        assert reservation is not None, "guaranteed-no-evict ran out of blocks"
        for live, part in parts:
            assert part.first_position == live.model.num_computed == len(live.positions)
            live.model.num_computed += part.num_tokens
            live.positions += range(part.first_position, part.first_position + part.num_tokens)
            live.num_in_flight += 1
        self.in_flight.append((reservation, [(live, part.makes_token()) for live, part in parts]))
        return step

    def check(self, step: scheduler.Step) -> None:
        everybody = [*self.running, *self.waiting]
        assert step.num_tokens <= self.config.max_num_tokens
        assert len(step.sequences) <= self.config.max_batch_size
        ids = [part.id for part in step.sequences]
        assert len(ids) == len(set(ids))
        assert ids == [everybody[part.index].model.id for part in step.sequences]
        # Every generating sequence, before any prompt.
        generating = [
            live.model.id
            for live in self.running
            if live.model.prompt_len <= live.model.num_computed < live.model.max_total_len - 1
        ]
        assert ids[: step.num_generating] == generating

    def land(self) -> None:
        reservation, parts = self.in_flight.pop(0)
        reservation.commit()
        for live, makes_token in parts:
            live.num_in_flight -= 1
            if makes_token and not live.has_ended:
                live.num_made += 1
                live.has_ended = live.num_made == live.num_output
                if live.has_ended:
                    self.finished.append(live)
        self.retire()

    def retire(self) -> None:
        self.waiting = [live for live in self.waiting if not live.has_ended]
        self.leaving += [live for live in self.running if live.has_ended]
        self.running = [live for live in self.running if not live.has_ended]
        for live in self.leaving:
            if live.num_in_flight == 0:
                self.cache.release(live.table)
        self.leaving = [live for live in self.leaving if live.num_in_flight > 0]

    def step(self) -> None:
        """One launch, and the oldest lands once max_in_flight are out or nothing was launched."""
        step = self.launch()
        assert not step.is_empty() or self.in_flight or not (self.running or self.waiting), "stuck"
        if self.in_flight and (step.is_empty() or len(self.in_flight) == self.max_in_flight):
            self.land()

    def drain(self) -> None:
        live = [*self.running, *self.waiting]
        # Each step runs a token of some sequence; one that has ended may run once more.
        bound = sum(each.model.max_total_len + self.max_in_flight for each in live) + 2
        for _ in range(self.max_in_flight * bound):
            if not (self.running or self.waiting or self.in_flight):
                return
            self.step()
        raise AssertionError("a sequence starves")


class EngineMachine(RuleBasedStateMachine):
    @initialize(
        tokens_per_block=st.integers(1, 6),
        num_blocks=st.integers(1, 24),
        max_batch_size=st.integers(1, 6),
        max_num_tokens=st.integers(1, 24),
        chunked=st.booleans(),
        max_in_flight=st.integers(1, 2),
    )
    def start(self, max_in_flight: int, **config: int):
        self.engine = Engine(Config(**config), max_in_flight)

    @rule(
        prompt_len=st.integers(1, 40),
        max_output=st.integers(1, 20),
        share=st.floats(0, 1),
        priority=st.integers(-1, 1),
    )
    def submit(self, prompt_len: int, max_output: int, share: float, priority: int):
        self.engine.submit(prompt_len, max_output, 1 + int(share * (max_output - 1)), priority)

    @rule(count=st.integers(1, 6))
    def step(self, count: int):
        for _ in range(count):
            self.engine.step()
            check_invariants(self.engine.cache.snapshot())

    @precondition(lambda self: self.engine.waiting or self.engine.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject):
        live = [*self.engine.waiting, *self.engine.running]
        self.engine.cancel(data.draw(st.sampled_from(live)))

    @invariant()
    def books_are_right(self):
        engine = self.engine
        check_invariants(engine.cache.snapshot())
        assert engine.cache.num_tables == len(engine.running) + len(engine.leaving)
        going_on = [
            live
            for live in engine.running
            if live.model.num_computed < live.model.max_total_len - 1
        ]
        assert len(going_on) <= engine.config.limits().max_running()

    def teardown(self):
        engine = self.engine
        engine.drain()
        assert engine.cache.num_used_blocks == 0 and engine.cache.num_tables == 0
        for live in engine.finished:
            assert live.num_made == live.num_output
        for live in engine.admitted:
            # Chunked or not, each position once and in order.
            assert live.positions == list(range(len(live.positions)))
            assert len(live.positions) < live.model.max_total_len
        for priority in (-1, 0, 1):
            ids = [live.model.id for live in engine.admitted if live.model.priority == priority]
            assert ids == sorted(ids), "admitted out of order of arrival"


EngineMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
TestEngine = EngineMachine.TestCase


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_every_submitted_sequence_finishes(chunked: bool, max_in_flight: int):
    engine = Engine(
        Config(8, 40, max_batch_size=7, max_num_tokens=50, chunked=chunked), max_in_flight
    )
    submitted = sum(
        engine.submit(1 + 37 * i % 113, 1 + 11 * i % 60, 1 + 7 * i % (1 + 11 * i % 60), i % 3)
        for i in range(200)
    )
    assert submitted > 80
    engine.drain()
    assert len(engine.finished) == submitted
    assert engine.cache.num_used_blocks == 0


def test_prompt_as_long_as_a_step_gets_its_turn_among_generators():
    engine = Engine(Config(4, 200, max_batch_size=4, max_num_tokens=16, chunked=False), 1)
    for _ in range(3):
        engine.submit(2, 30, 30, priority=0)
    engine.step()
    engine.submit(16, 4, 4, priority=0)
    for _ in range(50):
        engine.submit(1, 4, 4, priority=0)
    engine.drain()
    # Without chunked context it needs a step of its own; nobody overtakes it meanwhile.
    assert [live.model.id for live in engine.admitted] == list(range(1, 55))
