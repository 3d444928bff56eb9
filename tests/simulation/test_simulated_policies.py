"""Who gets memory and how long steps may be, seen from outside."""

import numpy as np
import pytest
from inflight._core import InvalidArgumentError
from inflight._core.simulation import CostModel, Fleet
from inflight.simulation.trace_builder import TraceBuilder
from replicas import FINISHED, random_trace, replica_config, run_alone


@pytest.mark.parametrize("enable_reuse", [False, True])
def test_max_utilization_preempts_and_everybody_ends(enable_reuse: bool) -> None:
    """Requests that ask for far more than they need: reserving it makes them wait."""
    trace = random_trace(7, 300, 30.0, max_prompt=30, max_output=60, asks_more=True)
    ends = {}
    for policy in ("guaranteed_no_evict", "max_utilization"):
        config = replica_config(num_blocks=60, capacity_policy=policy, enable_reuse=enable_reuse)
        fleet = Fleet(trace, config, 1, 1.0)
        fleet.submit_all(np.zeros(len(trace), np.int32))
        fleet.drain()
        records, timeline = fleet.records(), fleet.timeline()
        assert (records["state"] == FINISHED).all()
        assert (records["num_generated"] == trace.output_lengths()).all()
        preemptions = records["num_preemptions"].sum()
        assert timeline["preemptions"].sum() == preemptions
        assert (preemptions > 0) == (policy == "max_utilization")
        # What was preempted is read again, but for what is still found.
        once = trace.prompt_lengths().sum() - records["num_cached"].sum()
        assert timeline["prompt_tokens"].sum() >= once
        ends[policy] = fleet.now
    assert ends["max_utilization"] < ends["guaranteed_no_evict"]


def test_a_static_batch_ends_before_the_next_begins() -> None:
    trace = random_trace(5, 60, 1000.0, max_prompt=10, max_output=20)
    config = replica_config(
        capacity_policy="static_batch", num_blocks=1000, max_steps_in_flight=1, max_batch_size=6
    )
    records = run_alone(trace, config)
    assert (records["state"] == FINISHED).all()
    for begin in np.unique(records["admitted"]):
        running = (records["admitted"] < begin) & (records["finished"] > begin)
        assert not running.any()


def test_a_bound_on_steps_holds_while_a_long_prompt_is_read() -> None:
    builder = TraceBuilder()
    for _ in range(8):
        builder.add(0.0, [(builder.new_stream(), 0, 16)], 400)
    for i in range(4):  # the first tell how long prompts take
        builder.add(1.0 + 2 * i, [(builder.new_stream(), 0, 4000)], 2)
    trace = builder.build(1000)
    cost = CostModel(fixed=0.01, per_row=20e-6, per_generation_key=1e-8)
    longest = {}
    for bound in (0.0, 20.0):
        config = replica_config(
            cost,
            max_num_tokens=4096,
            max_batch_size=16,
            num_blocks=4000,
            max_time_per_output_token_ms=bound,
            enable_reuse=False,
        )
        records = run_alone(trace, config)
        assert (records["state"] == FINISHED).all()
        longest[bound] = 1e3 * records["longest_gap"][:8].max()
    assert longest[0.0] > 80
    assert longest[20.0] <= 1.5 * 20


def test_other_policies_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="capacity_policy 'best' is none of guaranteed"):
        replica_config(capacity_policy="best")
