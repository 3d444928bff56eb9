"""Where products cost by whole tiles of rows, a few of many that generate sit a step out, in turns."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight._core import InvalidArgumentError, scheduler
from test_planning import Live, Machine, expected

CACHE = scheduler.CacheView(16, 4096, 4096)


def generating(id: int, priority: int = 0) -> scheduler.SequenceView:
    return scheduler.SequenceView(
        id,
        prompt_len=3,
        max_total_len=30,
        num_computed=8,
        num_blocks=1,
        priority=priority,
    )


def limits(tile_rows: int, bound_ms: float = 0.0) -> scheduler.Limits:
    return scheduler.Limits(4096, 4096, max_time_per_output_token_ms=bound_ms, tile_rows=tile_rows)


def ids_of(running, tile_rows, turn=0, waiting=(), bound_ms=0.0) -> list[int]:
    bounds = limits(tile_rows, bound_ms)
    step = scheduler.schedule(running, list(waiting), CACHE, bounds, turn)
    return [part.id for part in step.sequences]


@pytest.mark.parametrize(
    ("count", "num_run"),
    [
        (127, 127), (128, 128), (136, 128), (144, 128), (145, 145), (288, 256), (289, 289),
        (576, 512), (577, 577), (783, 768), (832, 768), (833, 833), (896, 896), (960, 896),
    ],
)  # fmt: skip
def test_a_few_beyond_a_tile_sit_out(count: int, num_run: int):
    assert len(ids_of([generating(i) for i in range(count)], 128)) == num_run
    assert len(ids_of([generating(i) for i in range(count)], 0)) == count


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 200), tile_rows=st.integers(1, 64))
def test_they_take_turns(count: int, tile_rows: int):
    running = [generating(i) for i in range(count)]
    num_run = len(ids_of(running, tile_rows))
    assert num_run == count or (num_run % tile_rows == 0 and 9 * (count - num_run) <= count)
    times = [0] * count
    for turn in range(100, 100 + count):
        ids = ids_of(running, tile_rows, turn)
        assert ids == sorted(set(ids)) and len(ids) == num_run
        for id in ids:
            times[id] += 1
    # So many turns are as many for each.
    assert set(times) == {num_run}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=150, max_size=300), st.integers(0, 1000))
def test_it_is_the_lowest_priority_that_sits_out(priorities: list[int], turn: int):
    running = [generating(i, priority) for i, priority in enumerate(priorities)]
    ran = set(ids_of(running, 16, turn))
    out = [i for i in range(len(running)) if i not in ran]
    lowest = min(priorities)
    assert {priorities[i] for i in out} <= {lowest}
    assert 9 * len(out) <= priorities.count(lowest)


def test_nobody_sits_out_beside_prompts_or_under_a_bound():
    running = [generating(i) for i in range(136)]
    reading = scheduler.SequenceView(200, prompt_len=40, max_total_len=50)
    assert len(ids_of(running, 128)) == 128
    assert len(ids_of(running, 128, bound_ms=50)) == 136
    assert len(ids_of(running, 128, waiting=[reading])) == 137
    assert len(ids_of([*running, reading], 128)) == 137


def test_tiles_have_rows():
    with pytest.raises(InvalidArgumentError, match="tile_rows -1 < 0"):
        limits(-1)


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_everybody_gets_all_tokens(max_in_flight: int):
    bounds = scheduler.Limits(64, 128, tile_rows=8)
    machine = Machine(bounds, 4, 1000, max_in_flight)
    for i in range(34):
        machine.submit(Live([i] * (1 + i % 7), 30, 20 + i % 9), needs_newest=i % 10 == 0)
    sizes = []
    while machine.live:
        launched = machine.launch()
        if launched:
            sizes.append(len(machine.in_flight[-1]))
        if machine.in_flight and (not launched or len(machine.in_flight) == max_in_flight):
            machine.land()
    assert sizes.count(32) > 10
    assert len(machine.done) == 34
    assert all(live.tokens == expected(live) for live in machine.done.values())
