"""Several replicas: who gets what, and how many are needed."""

from typing import Any

import numpy as np
import pytest
from inflight._core.simulation import Fleet
from inflight.simulation.routing import ROUTERS, LeastLoaded, PrefixAware
from inflight.simulation.run import Result, simulate
from inflight.simulation.sizing import Bounds, find_replicas
from inflight.simulation.summary import summarise
from inflight.simulation.trace_builder import TraceBuilder
from inflight.simulation.traces import TRACES, Load
from replicas import FINISHED, random_trace, replica_config


def run(trace: Any, router: str, num_replicas: int, num_blocks: int = 64, **config: Any) -> Result:
    made = ROUTERS[router](trace, num_replicas, num_blocks * 4)
    replica = replica_config(num_blocks=num_blocks, **config)
    return simulate(trace, replica, num_replicas, made, num_blocks)


@pytest.mark.parametrize("router", ROUTERS)
def test_no_number_of_replicas_loses_a_request(router: str) -> None:
    trace = random_trace(1, 300, 40.0, max_prompt=50, max_output=20)
    waits = []
    for num_replicas in (1, 2, 5):
        result = run(trace, router, num_replicas)
        assert (result.records["state"] == FINISHED).all()
        assert (result.records["num_generated"] == trace.output_lengths()).all()
        assert set(result.records["replica"]) == set(range(num_replicas))
        waits.append(summarise(result)["queue_ms"]["mean"])
    assert waits[0] > waits[1] > waits[2]


def test_round_robin_is_in_turns_and_least_loaded_fills_gaps() -> None:
    trace = random_trace(1, 200, 30.0, 50, 20)
    in_turns = run(trace, "round-robin", 3)
    assert (in_turns.records["replica"] == np.arange(200) % 3).all()
    # Every third request is a long one: in turns one replica gets them all.
    builder = TraceBuilder()
    for i in range(150):
        builder.add(i * 0.05, [(builder.new_stream(), 0, 10)], 60 if i % 3 == 0 else 2)
    uneven = builder.build(100)
    latencies = [
        summarise(run(uneven, router, 3, max_batch_size=4))["latency_ms"]["p99"]
        for router in ("round-robin", "least-loaded")
    ]
    assert latencies[1] < 0.7 * latencies[0]


def test_loads_count_what_is_there() -> None:
    builder = TraceBuilder()
    for at in (0.0, 0.0, 5.0):
        builder.add(at, [(builder.new_stream(), 0, 10)], 3)
    fleet = Fleet(builder.build(100), replica_config(max_batch_size=1), 2, 1.0)
    fleet.submit(1)
    fleet.submit(1)
    assert fleet.loads().tolist() == [[0, 0, 0, 0], [2, 0, 20, 20]]
    fleet.advance_to(1e-6)  # the first is planned, and the second waits for its place
    assert fleet.loads().tolist() == [[0, 0, 0, 0], [1, 1, 10, 20]]
    fleet.advance_to(5.0)
    assert fleet.loads().tolist() == [[0, 0, 0, 0]] * 2


def test_the_least_loaded_has_fewest_requests_then_least_to_read() -> None:
    router = LeastLoaded(random_trace(1, 1, 1.0, 5, 5), 3, 100)
    assert router.choose(0, np.array([[2, 1, 0, 0], [0, 2, 90, 0], [1, 1, 50, 0]])) == 2


def test_a_prefix_goes_where_it_went_unless_that_one_is_busy() -> None:
    builder = TraceBuilder()
    shared, piece = builder.new_stream(), PrefixAware.PIECE
    for _ in range(6):
        builder.add(0.0, [(shared, 0, 4 * piece), (builder.new_stream(), 0, 50)], 1)
    trace = builder.build(32000)
    router = PrefixAware(trace, 3, 100 * piece)
    idle = np.zeros((3, 4), np.int64)
    assert router.choose(0, idle) == 0
    assert router.choose(1, np.array([[0, 1, 500, 100], [0, 0, 0, 0], [0, 0, 0, 0]])) == 0
    # More to do there than the prefix saves.
    assert router.choose(2, np.array([[0, 1, 500, 130], [0, 0, 0, 0], [0, 1, 0, 0]])) == 1
    assert router.choose(3, np.array([[0, 1, 600, 0], [0, 0, 0, 0], [0, 0, 0, 0]])) == 1
    # One with room for a piece only has forgotten the prefix's end.
    small = PrefixAware(trace, 2, piece)
    assert small.choose(0, np.zeros((2, 4), np.int64)) == 0
    assert small.choose(1, np.array([[0, 1, piece + 1, 0], [0, 0, 0, 0]])) == 1


def test_sizing_finds_the_fewest_that_do() -> None:
    trace = random_trace(3, 400, 60.0, max_prompt=50, max_output=20)

    def summary_of(count: int) -> dict[str, Any]:
        return summarise(run(trace, "least-loaded", count))

    p99 = {count: summary_of(count)["ttft_ms"]["p99"] for count in range(1, 9)}
    for bound in (p99[3] + 1e-9, (p99[4] + p99[5]) / 2):
        expected = min(count for count, value in p99.items() if value <= bound)
        found = find_replicas(summary_of, Bounds(ttft=bound), most=8)
        assert found.num_replicas == expected
        assert found.tried[expected]["ttft_ms"]["p99"] == p99[expected]
    assert find_replicas(summary_of, Bounds(ttft=1e-3), most=3).num_replicas is None
    strict = Bounds(ttft=1e9, tpot=summary_of(2)["tpot_ms"]["p99"])
    assert find_replicas(summary_of, strict, most=8).num_replicas == 2


def test_figures_are_those_of_the_records() -> None:
    trace = TRACES["chat"](Load(num_requests=150, rate=20.0, max_total=200, vocab_size=100))
    result = run(trace, "least-loaded", 2, num_blocks=200)
    summary = summarise(result)
    records = result.records
    ttft = np.sort(records["first_token"] - records["arrival"]) * 1e3
    assert summary["ttft_ms"]["max"] == pytest.approx(ttft[-1])
    assert ttft[-3] <= summary["ttft_ms"]["p99"] <= ttft[-1]
    assert summary["generated_tokens"] == trace.output_lengths().sum()
    assert summary["output_tokens_per_s"] == pytest.approx(
        trace.output_lengths().sum() / records["finished"].max(), rel=1e-6
    )
    several = records["num_generated"] > 1
    tpot = (records["finished"] - records["first_token"])[several]
    tpot /= records["num_generated"][several] - 1
    assert summary["tpot_ms"]["mean"] == pytest.approx(1e3 * tpot.mean())
    assert 0 < summary["cache_used"] < 1 and 0 < summary["device_busy"] <= 1
