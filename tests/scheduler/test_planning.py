"""The engine's planner, driven as the engine drives it, with one step or two in flight, and a device
that is a list of slots: what is preempted, when and how often, every sequence finds its own tokens
in the cache, and every one that comes finishes."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from inflight._core import InvalidArgumentError, planning, scheduler

POLICIES = list(scheduler.CapacityPolicy.__members__.values())


@dataclass
class Live:
    prompt: list[int]
    max_output: int
    num_output: int  # after so many tokens it ends by itself
    priority: int = 0
    has_ended: bool = False
    tokens: list[int] = field(default_factory=list)


def token_after(history: list[int]) -> int:
    return hash(tuple(history)) % 1000


@dataclass
class Machine:
    limits: scheduler.Limits
    tokens_per_block: int
    num_blocks: int
    max_in_flight: int = 1

    def __post_init__(self):
        self.planning = planning.Planning(self.limits, self.tokens_per_block, self.num_blocks)
        self.memory: dict[int, int] = {}  # id by slot
        self.live: dict[int, Live] = {}
        self.in_flight: list[dict[int, int]] = []  # steps: row by sequence
        self.made: list[dict[int, int]] = []  # of the steps in flight: token by sequence
        self.order: list[int] = []  # in which they began
        self.preemptions: dict[int, int] = {}
        self.done: dict[int, Live] = {}

    def submit(self, live: Live, tenant: str = "", needs_newest: bool = False) -> int | None:
        view = scheduler.CacheView(self.tokens_per_block, self.num_blocks, 0)
        total = len(live.prompt) + live.max_output
        try:
            scheduler.check_can_run(len(live.prompt), total, view, self.limits)
        except InvalidArgumentError:
            return None
        id = self.planning.arrive(live.prompt, live.max_output, live.priority, tenant, needs_newest)
        self.live[id] = live
        return id

    def launch(self) -> bool:
        step = self.planning.plan()
        if step is None:
            return False
        assert step.num_tokens <= self.limits.max_num_tokens
        assert len(step.sequences) <= self.limits.max_batch_size
        previous = self.made[-1] if self.made else {}
        rows = self.in_flight[-1] if self.in_flight else {}
        in_flight_tokens = self.planning.in_flight_tokens()
        made = {}
        for part, token_row in zip(step.sequences, in_flight_tokens, strict=True):
            live = self.live[part.id]
            if part.id not in self.order:
                self.order.append(part.id)
            known = live.prompt + live.tokens
            if token_row >= 0:  # its newest token is of the step before
                assert rows[part.id] == token_row
                known = [*known, previous[part.id]]
            table = self.planning.block_table(part.id)
            end = part.first_position + part.num_tokens
            slots = [
                table[p // self.tokens_per_block] * self.tokens_per_block
                + p % self.tokens_per_block
                for p in range(end)
            ]
            for position in range(part.first_position, end):
                self.memory[slots[position]] = known[position]
            found = [self.memory.get(slot) for slot in slots]
            assert found == known[:end], "a sequence does not find its own tokens"
            if part.makes_token():
                assert end == len(known)
                made[part.id] = token_after(known)
        # One row a sequence here: nobody asks for logits of prompts.
        self.in_flight.append({part.id: row for row, part in enumerate(step.sequences)})
        self.made.append(made)
        return True

    def land(self) -> None:
        self.in_flight.pop(0)
        made = self.made.pop(0)
        assert self.planning.commit() == list(made)
        for id, token in made.items():
            live = self.live[id]
            if live.has_ended:
                continue
            self.planning.append(id, token)
            live.tokens.append(token)
            if len(live.tokens) == live.num_output:
                self.end(id)
        self.release()

    def end(self, id: int) -> None:
        self.live[id].has_ended = True
        self.preemptions[id] = self.planning.num_preemptions(id)
        self.planning.end(id)

    def release(self) -> None:
        for id in self.planning.release():
            self.done[id] = self.live.pop(id)

    def step(self) -> None:
        launched = self.launch()
        if self.in_flight and (not launched or len(self.in_flight) == self.max_in_flight):
            self.land()

    def drain(self, most: int = 20_000) -> None:
        for _ in range(most):
            if self.planning.is_idle and not self.in_flight:
                return
            self.step()
        raise AssertionError("a sequence starves")


def expected(live: Live) -> list[int]:
    history = list(live.prompt)
    for _ in range(live.num_output):
        history.append(token_after(history))
    return history[len(live.prompt) :]


class PlanningMachine(RuleBasedStateMachine):
    @initialize(
        policy=st.sampled_from(POLICIES),
        tokens_per_block=st.integers(1, 5),
        num_blocks=st.integers(1, 20),
        max_batch_size=st.integers(1, 6),
        max_num_tokens=st.integers(1, 24),
        chunked=st.booleans(),
        max_preemptions=st.integers(0, 3),
        max_in_flight=st.integers(1, 2),
    )
    def start(self, policy, tokens_per_block, num_blocks, max_in_flight, **limits):
        self.machine = Machine(
            scheduler.Limits(
                limits["max_batch_size"],
                limits["max_num_tokens"],
                limits["chunked"],
                policy,
                limits["max_preemptions"],
            ),
            tokens_per_block,
            num_blocks,
            max_in_flight,
        )
        self.num_submitted = 0

    @rule(
        prompt_len=st.integers(1, 30),
        max_output=st.integers(1, 20),
        share=st.floats(0, 1),
        priority=st.integers(-1, 1),
        tenant=st.sampled_from(["", "a", "b"]),
        needs_newest=st.booleans(),
    )
    def submit(self, prompt_len, max_output, share, priority, tenant, needs_newest):
        prompt = [(self.num_submitted * 31 + i) % 997 for i in range(prompt_len)]
        live = Live(prompt, max_output, 1 + int(share * (max_output - 1)), priority)
        self.num_submitted += self.machine.submit(live, tenant, needs_newest) is not None

    @rule(count=st.integers(1, 8))
    def step(self, count):
        for _ in range(count):
            self.machine.step()
            self.machine.planning.check()

    @precondition(lambda self: any(not live.has_ended for live in self.machine.live.values()))
    @rule(data=st.data())
    def cancel(self, data):
        machine = self.machine
        machine.end(
            data.draw(st.sampled_from([i for i, v in machine.live.items() if not v.has_ended]))
        )
        machine.release()

    @invariant()
    def books_are_right(self):
        planning = self.machine.planning
        planning.check()
        assert planning.num_tables <= len(planning.running) + planning.num_leaving
        assert planning.num_paused <= planning.num_waiting
        assert len(planning.running) + planning.num_waiting == sum(
            not live.has_ended for live in self.machine.live.values()
        )

    def teardown(self):
        machine = self.machine
        cancelled = {
            id
            for id, live in [*machine.live.items(), *machine.done.items()]
            if live.has_ended and len(live.tokens) < live.num_output
        }
        machine.drain()
        assert len(machine.done) == self.num_submitted
        for id, live in machine.done.items():
            answer = expected(live)
            assert live.tokens == (answer[: len(live.tokens)] if id in cancelled else answer)
        assert machine.planning.num_used_blocks == 0
        assert max(machine.preemptions.values(), default=0) <= machine.limits.max_preemptions
        if machine.limits.capacity_policy != scheduler.CapacityPolicy.MAX_UTILIZATION:
            assert not any(machine.preemptions.values())


PlanningMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None
)
TestPlanning = PlanningMachine.TestCase


def crowded(max_in_flight: int, max_preemptions: int = 4, num_blocks: int = 24) -> Machine:
    limits = scheduler.Limits(
        8, 64, True, scheduler.CapacityPolicy.MAX_UTILIZATION, max_preemptions
    )
    return Machine(limits, 4, num_blocks, max_in_flight)


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_every_one_finishes_in_a_pool_far_too_small(max_in_flight: int):
    machine = crowded(max_in_flight)
    ids = [
        machine.submit(Live([i] * (1 + 5 * i % 23), 40, 10 + 7 * i % 30, i % 2)) for i in range(80)
    ]
    assert None not in ids
    machine.drain()
    assert all(live.tokens == expected(live) for live in machine.done.values())
    assert len(machine.done) == 80
    assert 20 < sum(machine.preemptions.values())
    assert max(machine.preemptions.values()) <= 4


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_nobody_starves_in_an_endless_stream(max_in_flight: int):
    """More come than can be served, all of one priority: who came first goes first."""
    machine = crowded(max_in_flight)
    for i in range(400):
        machine.submit(Live([i % 997] * (1 + 7 * i % 19), 40, 5 + 11 * i % 35))
        machine.step()
        unfinished = [id for id, live in machine.live.items() if not live.has_ended]
        oldest = min(unfinished)
        # Those that began after the oldest that has not ended are few: a batch and those that were
        # preempted for it.
        assert sum(id > oldest for id in machine.order) <= oldest + 24
    assert len(machine.done) > 20
    finished_before = [id for id in machine.done if id < max(machine.done) - 30]
    assert len(finished_before) == max(machine.done) - 31


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_what_was_generated_may_be_longer_than_a_step(max_in_flight: int):
    """Without chunked context a prompt runs whole; with its output it may fit into no step."""
    limits = scheduler.Limits(6, 12, False, scheduler.CapacityPolicy.MAX_UTILIZATION)
    machine = Machine(limits, 4, 16, max_in_flight)
    for i in range(30):
        assert machine.submit(Live([i] * (1 + 5 * i % 12), 40, 40)) is not None
    machine.drain()
    assert len(machine.done) == 30 and sum(machine.preemptions.values()) > 10
    assert all(live.tokens == expected(live) for live in machine.done.values())


def test_with_none_to_give_way_it_is_the_exact_reservation():
    """Nobody may be preempted: nobody is, and all finish."""
    machine = crowded(2, max_preemptions=0)
    for i in range(60):
        machine.submit(Live([i] * (1 + 5 * i % 23), 40, 10 + 7 * i % 30))
    machine.drain()
    assert len(machine.done) == 60 and not any(machine.preemptions.values())


def test_the_preempted_one_begins_again_before_others():
    machine = crowded(1, num_blocks=11)
    first = machine.submit(Live([1] * 8, 32, 32))
    second = machine.submit(Live([2] * 8, 32, 32))
    third = machine.submit(Live([3] * 8, 32, 32))
    while machine.planning.num_preemptions(second) == 0:
        machine.step()
    machine.drain()
    ended = list(machine.preemptions)
    assert ended == [first, second, third]


def in_turns(requests: list[tuple[str, int, int, int]]) -> list[int]:
    """Ids in the order in which they run, one at a time, by a plain model of fair share."""
    served = dict.fromkeys({tenant for tenant, *_ in requests}, 0)
    left = dict(enumerate(requests, start=1))
    order = []
    while left:
        id = min(
            left,
            key=lambda i: (
                -left[i][3],
                served[left[i][0]],
                min(j for j in left if left[j][0] == left[i][0] and left[j][3] == left[i][3]),
                i,
            ),
        )
        tenant, prompt_len, num_output, _ = left.pop(id)
        served[tenant] += prompt_len + 2 * (num_output - 1)
        order.append(id)
    return order


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.integers(1, 6), st.integers(0, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_the_tenant_served_least_goes_next(requests):
    machine = Machine(scheduler.Limits(1, 64), 4, 100)
    for tenant, prompt_len, num_output, priority in requests:
        machine.submit(Live([1] * prompt_len, num_output, num_output, priority), tenant)
    machine.drain()
    assert machine.order == in_turns(requests)


def test_a_quiet_tenant_is_not_behind_a_loud_one():
    machine = Machine(scheduler.Limits(4, 64), 4, 1000)
    for i in range(200):
        machine.submit(Live([i] * 8, 20, 20), "loud")
    for _ in range(100):
        machine.step()
    quiet = [machine.submit(Live([i] * 8, 20, 20), "quiet") for i in range(3)]
    for _ in range(60):
        machine.step()
    assert all(id in machine.done for id in quiet)
    assert machine.planning.num_waiting > 100


def test_who_was_away_has_no_credit():
    """Tenant b asks for nothing while a is served; then both get the same."""
    machine = Machine(scheduler.Limits(2, 64), 4, 1000)
    for i in range(300):
        machine.submit(Live([i] * 8, 10, 10), "a")
    for _ in range(300):
        machine.step()
    since = len(machine.order)
    ids_b = [machine.submit(Live([i] * 8, 10, 10), "b") for i in range(100)]
    for _ in range(200):
        machine.step()
    begun = machine.order[since:]
    assert len(begun) > 20
    assert abs(2 * sum(id in ids_b for id in begun) - len(begun)) <= 4


def test_who_asked_for_nothing_while_one_ran_has_no_credit():
    """Tenant b has one long answer running and nothing waiting while a is served more; then both get
    the same."""
    machine = Machine(scheduler.Limits(4, 64), 4, 1000)
    machine.submit(Live([1] * 8, 1000, 1000), "b")
    for i in range(500):
        machine.submit(Live([i] * 8, 10, 10), "a")
    for _ in range(300):
        machine.step()
    since = len(machine.order)
    ids_b = [machine.submit(Live([i] * 8, 10, 10), "b") for i in range(100)]
    for _ in range(200):
        machine.step()
    begun = machine.order[since:]
    assert len(begun) > 40
    # Fewer than half, since what the long answer is given is b's share, too.
    assert 0.2 * len(begun) <= sum(id in ids_b for id in begun) <= 0.5 * len(begun) + 4


def test_tenants_are_forgotten():
    ledger = planning.ServiceLedger()
    for i in range(20_000):
        tenant = ledger.enter(f"tenant {i}")
        other = ledger.enter("always there")
        ledger.begins_to_wait(tenant)
        ledger.starts(tenant)
        ledger.charge(tenant, 100 + i)
        ledger.leave(tenant)
        assert ledger.num_remembered <= ledger.MAX_IDLE + 1
        if i > 0:
            ledger.leave(other)
    ledger.leave(other)
    assert ledger.num_remembered == 0


def test_who_began_with_what_a_failed_step_forgets_begins_anew():
    limits = scheduler.Limits(
        max_batch_size=4,
        max_num_tokens=5,
        capacity_policy=scheduler.CapacityPolicy.STATIC_BATCH,
    )
    books = planning.Planning(limits, 2, 8, enable_reuse=True, num_host_blocks=8)

    def run_to_end(prompt: list[int]):
        id = books.arrive(prompt, 1)
        while True:
            books.plan()
            if id in books.commit():
                break
        books.append(id, 99)
        books.end(id)
        assert books.release() == [id]

    run_to_end([1, 2, 3, 4, 5, 6, 7])
    run_to_end(list(range(100, 116)))  # takes the whole pool: the first one's are in host memory
    first = books.arrive([21, 22, 23, 24, 25], 1, priority=1)
    second = books.arrive([1, 2, 3, 4, 5, 6, 8], 1)
    step = books.plan()  # of the batch one gets all tokens, the other is to get its blocks later
    assert [part.id for part in step.sequences] == [first]
    assert books.running == [first, second]
    assert books.fail() == [first]
    books.end(first)
    assert books.release() == [first]
    books.check()
    assert books.running == [] and books.num_waiting == 1
    part = books.plan().sequences[0]
    assert (part.id, part.first_position, part.num_tokens) == (second, 0, 4)
    books.check()
    books.commit()
    books.plan()
    assert books.commit() == [second]
    books.append(second, 99)
    books.end(second)
    assert books.release() == [second]
    assert books.num_used_blocks == 0


def run_one(books: planning.Planning) -> int:
    """A step of one prompt, whose answer is one token; its id."""
    (part,) = books.plan().sequences
    assert books.commit() == [part.id]
    books.append(part.id, 99)
    books.end(part.id)
    assert books.release() == [part.id]
    return part.id


def test_who_finds_nothing_is_passed_over_so_often_and_no_more():
    limits = scheduler.Limits(max_batch_size=1, max_num_tokens=64)
    books = planning.Planning(limits, 4, 200, enable_reuse=True)
    shared = list(range(100, 120))

    books.arrive(shared, 1)
    run_one(books)
    cold = [books.arrive([i] * 20, 1) for i in (1, 2)]
    hits = []
    begun = []
    for i in range(3 * scheduler.MAX_PASSES):
        hits.append(books.arrive([*shared, i], 1))  # they never end
        begun.append(run_one(books))
    most = scheduler.MAX_PASSES
    # Both were passed over by the same ones.
    assert begun[: most + 2] == [*hits[:most], *cold]
    assert begun[most + 2 :] == hits[most : len(begun) - 2]


def test_tokens_found_in_the_cache_count_for_nobody():
    """Both tenants' prompts begin with 40 tokens that are there; of one's 1 is run, of the other's 11."""
    limits = scheduler.Limits(max_batch_size=1, max_num_tokens=64)
    books = planning.Planning(limits, 4, 2000, enable_reuse=True)
    shared = list(range(100, 140))

    books.arrive([*shared, 0], 1)
    run_one(books)
    of_short = set()
    for i in range(60):
        of_short.add(books.arrive([*shared, 1 + i], 1, tenant="short"))
        books.arrive([*shared, *[500 + i] * 11], 1, tenant="long")
    begun = [run_one(books) for _ in range(48)]
    assert 43 <= sum(id in of_short for id in begun) <= 45
