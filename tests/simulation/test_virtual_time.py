"""A replica in virtual time, held against what queueing theory and a second, naive simulation say."""

from dataclasses import dataclass

import numpy as np
import pytest
from inflight._core import InvalidArgumentError
from inflight._core.scheduler import Limits
from inflight._core.simulation import CostModel, Fleet, ReplicaConfig, Trace
from inflight.simulation.arrivals import poisson
from inflight.simulation.trace_builder import TraceBuilder
from replicas import FINISHED, REFUSED, random_trace, replica_config, run_alone


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_at_a_time_waits_as_an_m_d_1_queue(load: float) -> None:
    """Requests of one step each, one after another: the mean wait is load * step / 2 (1 - load)
    (Pollaczek and Khinchine)."""
    step, count = 0.01, 100_000
    builder = TraceBuilder()
    for at in poisson(np.random.default_rng(5), count, load / step):
        builder.add(at, [(builder.new_stream(), 0, 1)], 1)
    config = ReplicaConfig(
        tokens_per_block=4,
        num_blocks=8,
        limits=Limits(max_batch_size=1, max_num_tokens=1),
        cost=CostModel(fixed=step),
        max_steps_in_flight=1,
    )
    records = run_alone(builder.build(100), config)
    waited = (records["admitted"] - records["arrival"]).mean()
    assert waited == pytest.approx(load * step / (2 * (1 - load)), rel=0.03)
    np.testing.assert_allclose(records["finished"] - records["admitted"], step)


@dataclass
class Request:
    arrival: float
    prompt: int
    output: int
    planned: int = 0  # tokens that steps planned so far make
    made: tuple[float, ...] = ()


def naive_run(
    requests: list[Request], fixed: float, per_row: float, host: float, steps_in_flight: int
) -> None:
    """With memory and budget for everybody at once, a step reads all new prompts and makes a token
    of everybody else. Fills `made`."""
    coming, live = list(requests), []
    pending: list[tuple[float, list[Request]]] = []  # steps in flight: end, who gets a token
    clock, device_free = 0.0, 0.0
    while coming or live or pending:
        if not live and not pending:
            clock = max(clock, coming[0].arrival)
        while coming and coming[0].arrival <= clock:
            live.append(coming.pop(0))
        step = [request for request in live if request.planned < request.output]
        if step:
            rows = sum(request.prompt if request.planned == 0 else 1 for request in step)
            clock += host
            device_free = max(clock, device_free) + fixed + per_row * rows
            for request in step:
                request.planned += 1
            pending.append((device_free, step))
        if pending and (not step or len(pending) == steps_in_flight):
            end, makers = pending.pop(0)
            clock = max(clock, end)
            for request in makers:
                request.made += (clock,)
        live = [request for request in live if len(request.made) < request.output]


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("rate", [2.0, 40.0])
def test_with_room_for_all_it_equals_a_naive_simulation(rate: float, steps_in_flight: int) -> None:
    trace = random_trace(seed=3, count=300, rate=rate, max_prompt=40, max_output=30)
    fixed, per_row, host = 0.01, 0.0005, 0.002
    config = replica_config(
        CostModel(fixed=fixed, per_row=per_row, host_fixed=host),
        max_batch_size=512,
        max_num_tokens=512 * 41,
        num_blocks=512 * 20,
        max_steps_in_flight=steps_in_flight,
        enable_reuse=False,
    )
    records = run_alone(trace, config)
    columns = zip(trace.arrivals(), trace.prompt_lengths(), trace.output_lengths(), strict=True)
    requests = [Request(*(value.item() for value in row)) for row in columns]
    naive_run(requests, fixed, per_row, host, steps_in_flight)
    assert (records["num_generated"] == [len(request.made) for request in requests]).all()
    np.testing.assert_allclose(records["first_token"], [r.made[0] for r in requests], rtol=1e-9)
    np.testing.assert_allclose(records["finished"], [r.made[-1] for r in requests], rtol=1e-9)
    gaps = [max(np.diff(request.made), default=0.0) for request in requests]
    np.testing.assert_allclose(records["longest_gap"], gaps, atol=1e-9)


def run_timeline(trace: Trace, config: ReplicaConfig, num_replicas: int) -> Fleet:
    fleet = Fleet(trace, config, num_replicas, 0.7)
    fleet.submit_all(np.arange(len(trace), dtype=np.int32) % num_replicas)
    fleet.drain()
    return fleet


@pytest.mark.parametrize("asks_more", [False, True])
@pytest.mark.parametrize("num_replicas", [1, 3])
def test_nothing_is_lost_where_memory_is_short(num_replicas: int, asks_more: bool) -> None:
    trace = random_trace(7, 400, 30.0, max_prompt=60, max_output=20, asks_more=asks_more)
    config = replica_config(num_blocks=40, max_num_tokens=32)
    fleet = run_timeline(trace, config, num_replicas)
    records, timeline = fleet.records(), fleet.timeline()
    assert (records["state"] == FINISHED).all()
    assert (records["num_generated"] == trace.output_lengths()).all()
    assert (records["arrival"] <= records["admitted"]).all()
    assert (records["admitted"] < records["first_token"]).all()
    assert (records["first_token"] <= records["finished"]).all()
    assert timeline["generated_tokens"].sum() == trace.output_lengths().sum()
    read = timeline["prompt_tokens"].sum() + records["num_cached"].sum()
    assert read == trace.prompt_lengths().sum()
    # Little's law, exactly: requests in the system summed over time are latencies summed.
    in_system = timeline["waiting"].sum() + timeline["running"].sum()
    assert in_system == pytest.approx((records["finished"] - records["arrival"]).sum(), rel=1e-9)
    assert timeline["busy"].sum() <= num_replicas * fleet.now * (1 + 1e-9)
    assert timeline["used_blocks"].sum() <= 40 * timeline["busy"].sum()


def test_memory_held_for_more_than_is_used_costs_waiting() -> None:
    waits = []
    for asks_more in (False, True):
        trace = random_trace(7, 400, 30.0, max_prompt=20, max_output=40, asks_more=asks_more)
        records = run_alone(trace, replica_config(num_blocks=40))
        waits.append((records["admitted"] - records["arrival"]).mean())
    assert waits[0] < waits[1]


def test_larger_priority_waits_less() -> None:
    draw = np.random.default_rng(2)
    urgent = draw.integers(0, 2, 400) == 1
    builder = TraceBuilder()
    for at, priority in zip(poisson(draw, 400, 12.0), urgent, strict=True):
        builder.add(at, [(builder.new_stream(), 0, 20)], 10, priority=int(priority))
    trace = builder.build(100)
    fleet = run_timeline(trace, replica_config(max_batch_size=2), 1)
    records = fleet.records()
    waited = records["admitted"] - records["arrival"]
    assert waited[urgent].mean() < waited[~urgent].mean()


def test_what_can_never_run_is_refused_and_harms_nobody() -> None:
    builder = TraceBuilder()
    builder.add(0.0, [(1, 0, 10)], 5)
    builder.add(0.1, [(2, 0, 64 * 4)], 5)  # 65 blocks of 64
    builder.add(0.2, [(3, 0, 10)], 5)
    records = run_alone(builder.build(100), replica_config())
    assert records["state"].tolist() == [FINISHED, REFUSED, FINISHED]
    assert records["num_generated"].tolist() == [5, 0, 5]


def test_the_same_twice() -> None:
    trace = random_trace(11, 300, 20.0, 50, 20)
    first, second = (run_timeline(trace, replica_config(num_blocks=40), 2) for _ in range(2))
    for name, column in first.records().items():
        assert (column == second.records()[name]).all(), name
    for name, column in first.timeline().items():
        assert (column == second.timeline()[name]).all(), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_blocks": 0}, "num_blocks 0 < 1"),
        ({"max_steps_in_flight": 3}, "max_steps_in_flight 3"),
    ],
    ids=str,
)
def test_bad_replicas_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        replica_config(**change)
