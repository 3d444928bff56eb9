"""The policies by literals, and against plain models of them."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight._core import InvalidArgumentError, scheduler
from inflight._core.planning import StepTimeModel, StepWork

POLICY = scheduler.CapacityPolicy
SIZE = 4  # tokens of a block


def limits(policy=POLICY.MAX_UTILIZATION, batch=8, tokens=64, chunked=True, preemptions=2, ms=0.0):
    return scheduler.Limits(batch, tokens, chunked, policy, preemptions, ms)


def view(
    id, prompt_len=4, max_total_len=40, num_computed=None, blocks=None, priority=0, preemptions=0
):
    computed = prompt_len if num_computed is None else num_computed
    held = math.ceil(computed / SIZE) if blocks is None else blocks
    return scheduler.SequenceView(
        id, prompt_len, max_total_len, computed, held, priority, num_preemptions=preemptions
    )


def waiting(id, prompt_len=4, max_total_len=40, **rest):
    return view(id, prompt_len, max_total_len, num_computed=0, blocks=0, **rest)


def cache(free, total=100, leaving=0):
    return scheduler.CacheView(SIZE, total, free, 0, leaving)


# --- who is admitted


def test_max_utilization_admits_prompts_and_a_block_beyond():
    # Of each one that runs a block, of each new one its two and one more.
    running = [view(1, 8), view(2, 8)]
    new = [waiting(3, 8), waiting(4, 8)]
    for free, num_admitted in ((4, 0), (5, 1), (7, 1), (8, 2)):
        step = scheduler.schedule(running, new, cache(free), limits())
        assert step.num_admitted == num_admitted, free
    # Where 40 tokens are the most, ten blocks each, the exact reservation admits none of them.
    exact = limits(POLICY.GUARANTEED_NO_EVICT)
    assert scheduler.schedule(running, new, cache(25), exact).num_admitted == 0


def test_no_more_is_claimed_than_can_be_used():
    # 8 tokens of prompt and one of output: the last is never run, two blocks are all.
    assert scheduler.schedule([], [waiting(1, 8, 9)], cache(2, 2), limits()).num_admitted == 1


def test_a_protected_one_is_admitted_with_its_worst_case():
    new = [waiting(1, 4, 41, preemptions=2)]  # 40 tokens in the cache at the most
    assert scheduler.schedule([], new, cache(9), limits()).num_admitted == 0
    assert scheduler.schedule([], new, cache(10), limits()).num_admitted == 1
    # Two such fit into the pool together, or the second waits, however much is free now.
    both = [waiting(1, 4, 41, preemptions=2), waiting(2, 4, 41, preemptions=2)]
    assert scheduler.schedule([], both, cache(20, 20), limits()).num_admitted == 2
    assert scheduler.schedule([], both, cache(20, 19), limits()).num_admitted == 1


def test_a_static_batch_begins_when_nobody_runs():
    static = limits(POLICY.STATIC_BATCH, tokens=8)
    new = [waiting(i, 8) for i in range(3)]
    assert scheduler.schedule([view(9)], new, cache(90), static).num_admitted == 0
    step = scheduler.schedule([], new, cache(90), static)
    # All at once, though the step has tokens for one.
    assert step.num_admitted == 3 and [part.id for part in step.sequences] == [0]
    assert scheduler.schedule([], new, cache(29), static).num_admitted == 2  # ten blocks each


# --- who is preempted


def test_nobody_is_preempted_without_need():
    running = [view(1, 8), view(2, 7)]  # the first needs a block for its next token
    assert scheduler.choose_preempted(running, cache(1), limits()) == []
    assert scheduler.choose_preempted(running, cache(0), limits()) == [1]
    for policy in (POLICY.GUARANTEED_NO_EVICT, POLICY.STATIC_BATCH):
        assert scheduler.choose_preempted(running, cache(0), limits(policy)) == []


def test_lowest_priority_then_newest():
    running = [view(5, 8, priority=1), view(3, 8, priority=2), view(4, 8), view(2, 8), view(1, 8)]
    # Five blocks are needed; each that goes needs none and leaves two.
    assert scheduler.choose_preempted(running, cache(4), limits()) == [2]
    assert scheduler.choose_preempted(running, cache(0), limits()) == [2, 3]


def test_blocks_that_come_free_by_themselves_count():
    running = [view(1, 8), view(2, 8)]
    assert scheduler.choose_preempted(running, cache(0, leaving=2), limits()) == []
    done = view(3, 8, max_total_len=9)  # its last token is in flight
    assert scheduler.choose_preempted([*running, done], cache(0), limits()) == []


def test_protected_ones_and_the_last_one_stay():
    running = [view(1, 8), view(2, 8, preemptions=2), view(3, 8, preemptions=2)]
    assert scheduler.choose_preempted(running, cache(0), limits()) == [0]
    assert scheduler.choose_preempted([view(1, 8)], cache(0), limits()) == []


def test_a_generating_one_sits_out_until_blocks_are_there():
    # The one block goes to the first; who was preempted holds the others until its step ends.
    step = scheduler.schedule([view(1, 8), view(2, 8), view(3, 6)], [], cache(1), limits())
    assert [part.id for part in step.sequences] == [1, 3]


def test_a_chunk_takes_no_more_blocks_than_there_are():
    reading = view(1, 30, num_computed=4)
    step = scheduler.schedule([view(2, 8), reading], [], cache(3), limits())
    assert [(part.id, part.num_tokens) for part in step.sequences] == [(2, 1), (1, 8)]


@dataclass
class Facts:
    id: int
    prompt_len: int
    max_total_len: int
    num_computed: int
    priority: int
    preemptions: int

    @property
    def num_blocks(self) -> int:
        return math.ceil(self.num_computed / SIZE)

    @property
    def is_complete(self) -> bool:
        return self.num_computed >= self.max_total_len - 1

    @property
    def demand(self) -> int:
        return (
            0 if self.is_complete else math.ceil((self.num_computed + 1) / SIZE) - self.num_blocks
        )


@st.composite
def crowds(draw):
    running = []
    for id in draw(st.permutations(range(draw(st.integers(1, 7))))):
        prompt_len = draw(st.integers(1, 20))
        total = prompt_len + draw(st.integers(1, 20))
        computed = draw(st.integers(0, total - 1))
        facts = Facts(
            id, prompt_len, total, computed, draw(st.integers(0, 2)), draw(st.integers(0, 2))
        )
        running.append(facts)
    return running, draw(st.integers(0, 4)), draw(st.integers(0, 4))


@settings(max_examples=400, deadline=None)
@given(crowds())
def test_as_few_as_need_be_from_the_back(crowd):
    facts, free, leaving = crowd
    running = [
        view(
            f.id,
            f.prompt_len,
            f.max_total_len,
            f.num_computed,
            f.num_blocks,
            f.priority,
            f.preemptions,
        )
        for f in facts
    ]
    chosen = scheduler.choose_preempted(running, cache(free, 500, leaving), limits())

    def suffices(gone):
        stays = [f for i, f in enumerate(facts) if i not in gone]
        blocks = free + leaving + sum(f.num_blocks for f in facts if f.is_complete)
        return sum(f.demand for f in stays) <= blocks + sum(facts[i].num_blocks for i in gone)

    may_go = [i for i, f in enumerate(facts) if not f.is_complete and f.preemptions < 2]
    in_order = sorted(may_go, key=lambda i: (facts[i].priority, -facts[i].id))
    assert chosen == in_order[: len(chosen)]
    if chosen:
        assert not suffices(chosen[:-1])
    left = sum(not f.is_complete for f in facts) - len(chosen)
    assert suffices(chosen) or left == 1 or len(chosen) == len(may_go)
    assert left >= 1 or not any(not f.is_complete for f in facts)


# --- cache hits first


def candidate(hits, priority=0, passes=0, preemptions=0):
    return scheduler.SequenceView(
        1, 50, 60, hits, 0, priority, num_preemptions=preemptions, num_passes=passes
    )


@pytest.mark.parametrize(
    ("candidates", "first"),
    [
        ([candidate(0)], 0),
        ([candidate(0), candidate(8), candidate(12)], 2),
        ([candidate(8), candidate(8)], 0),
        ([candidate(0), candidate(4, priority=-1)], 0),
        ([candidate(0), candidate(4), candidate(9, priority=-1)], 1),
        ([candidate(0, passes=scheduler.MAX_PASSES), candidate(40)], 0),
        ([candidate(0), candidate(4, passes=scheduler.MAX_PASSES), candidate(40)], 1),
        ([candidate(0, preemptions=1), candidate(40)], 0),
    ],
)
def test_the_one_with_most_hits_goes_first(candidates, first):
    assert scheduler.first_by_hits(candidates) == first


# --- time


def work(generating=(), chunks=()):
    result = StepWork()
    for position in generating:
        result.add_generating(position)
    for first_position, count in chunks:
        result.add_chunk(first_position, count)
    return result


def test_what_a_step_does():
    done = work([9, 4], [(8, 3)])
    assert (done.num_tokens, done.num_prompt_tokens) == (5, 3)
    assert done.generation_keys == 10 + 5
    assert done.prompt_pairs == 9 + 10 + 11  # each token sees itself and those before


def device_ms(step, scale=1.0):
    return scale * (
        4 + 0.02 * step.num_tokens + 3e-5 * step.generation_keys + 1e-6 * step.prompt_pairs
    )


def steps_of_a_day(count):
    for i in range(count):
        generating = [200 + 37 * i % 900 + 11 * j for j in range(8 + i % 24)]
        chunks = [((i % 7) * 512, 64 + 41 * i % 700)] if i % 3 == 0 else []
        yield work(generating, chunks)


def test_the_fit_finds_what_steps_cost():
    model = StepTimeModel()
    for step in steps_of_a_day(300):
        model.observe(step, device_ms(step))
    for step in (work([700] * 20), work([300] * 32, [(4096, 512)]), work([], [(0, 900)])):
        assert model.fit().predict(step) == pytest.approx(device_ms(step), rel=0.05)


def test_the_fit_follows_a_slower_clock():
    model = StepTimeModel()
    for step in steps_of_a_day(300):
        model.observe(step, device_ms(step))
    for step in steps_of_a_day(600):
        model.observe(step, device_ms(step, scale=1.7))
    probe = work([300] * 32, [(1024, 512)])
    assert model.fit().predict(probe) == pytest.approx(device_ms(probe, scale=1.7), rel=0.1)


def test_hours_of_generation_do_not_forget_what_a_prompt_costs():
    model = StepTimeModel()
    for step in steps_of_a_day(300):
        model.observe(step, device_ms(step))
    for i in range(20_000):
        step = work([500 + i % 50] * 16)
        model.observe(step, device_ms(step))
    probe = work([500] * 16, [(1024, 400)])
    assert model.fit().predict(probe) == pytest.approx(device_ms(probe), rel=0.1)


def test_the_first_steps_of_a_size_may_be_slow():
    """As where a device loads kernels for it. Those that follow show what it costs."""
    model = StepTimeModel()
    for i in range(40):
        step = work([100 + i] * 32)
        model.observe(step, device_ms(step))
    before = model.fit().tokens_within(4.0, 0, 8192)
    chunk = work([140] * 32, [(0, 64)])
    model.observe(chunk, 40 * device_ms(chunk))
    assert model.fit().tokens_within(4.0, 0, 8192) == before == 64
    # What is slow each time is believed.
    for _ in range(6):
        model.observe(chunk, 40 * device_ms(chunk))
    assert model.fit().tokens_within(4.0, 0, 8192) < 16


def test_a_hiccup_changes_little():
    model = StepTimeModel()
    for step in steps_of_a_day(300):
        model.observe(step, device_ms(step))
    probe = work([400] * 16)
    model.observe(probe, 10_000.0)
    assert model.fit().predict(probe) < 2 * device_ms(probe)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 900), st.floats(0, 100)), max_size=40),
    st.floats(0.1, 50),
    st.integers(0, 30_000),
    st.integers(1, 4096),
)
def test_tokens_within_are_the_most_that_fit(observed, ms, first_position, most):
    model = StepTimeModel()
    for num_generating, count, took in observed:
        model.observe(work([300] * num_generating, [(64, count)] if count else []), took)
    fit = model.fit()
    parts = (fit.ms_per_step, fit.ms_per_token, fit.ms_per_generation_key, fit.ms_per_prompt_pair)
    assert all(part >= 0 and math.isfinite(part) for part in parts)

    def cost(count):
        return fit.predict(work([], [(first_position, count)])) - fit.ms_per_step

    count = fit.tokens_within(ms, first_position, most)
    assert 0 <= count <= most
    assert cost(count) <= ms * (1 + 1e-9) + 1e-9
    trusted = max(64, 2 * fit.most_prompt_tokens)
    assert count == min(most, trusted) or cost(count + 1) >= ms * (1 - 1e-9)


def test_what_was_never_tried_is_not_trusted():
    model = StepTimeModel()
    assert model.fit().tokens_within(100.0, 0, 8192) == 64
    model.observe(work([5], [(0, 64)]), 1.0)
    assert model.fit().tokens_within(1e6, 0, 8192) == 128


def test_limits_refuse_what_means_nothing():
    with pytest.raises(InvalidArgumentError, match="max_time_per_output_token_ms -1 < 0"):
        limits(ms=-1.0)
    with pytest.raises(InvalidArgumentError, match="12.5 needs enable_chunked_context"):
        limits(ms=12.5, chunked=False)
    with pytest.raises(InvalidArgumentError, match="max_preemptions -1 < 0"):
        limits(preemptions=-1)
