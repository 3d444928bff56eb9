"""Loads and replicas in small."""

from typing import Any

import numpy as np
from inflight._core.scheduler import Limits
from inflight._core.simulation import CostModel, Fleet, ReplicaConfig, RequestState, Trace
from inflight.simulation.trace_builder import TraceBuilder

FINISHED, REFUSED = int(RequestState.FINISHED), int(RequestState.REFUSED)


def replica_config(
    cost: CostModel | None = None,
    max_batch_size: int = 8,
    max_num_tokens: int = 64,
    num_blocks: int = 64,
    tokens_per_block: int = 4,
    max_steps_in_flight: int = 2,
    enable_reuse: bool = True,
    **more: Any,
) -> ReplicaConfig:
    """Checks the cache's invariants after every step, where that is cheap."""
    return ReplicaConfig(
        tokens_per_block=tokens_per_block,
        num_blocks=num_blocks,
        limits=Limits(max_batch_size, max_num_tokens),
        cost=cost or CostModel(fixed=0.01, per_row=0.001, host_fixed=0.001),
        max_steps_in_flight=max_steps_in_flight,
        enable_reuse=enable_reuse,
        **more,
        check_invariants=num_blocks <= 100,
    )


def run_alone(trace: Trace, config: ReplicaConfig) -> dict[str, np.ndarray]:
    """All of the trace on one replica: the records."""
    fleet = Fleet(trace, config, 1, 1.0)
    fleet.submit_all(np.zeros(len(trace), np.int32))
    fleet.drain()
    return fleet.records()


def random_trace(
    seed: int,
    count: int,
    rate: float,
    max_prompt: int,
    max_output: int,
    asks_more: bool = False,
) -> Trace:
    """Requests without common prefixes, of uniform lengths. `asks_more`: all ask for max_output."""
    draw = np.random.default_rng(seed)
    builder = TraceBuilder()
    for at in np.cumsum(draw.exponential(1 / rate, count)):
        prompt, output = draw.integers(1, (max_prompt + 1, max_output + 1)).tolist()
        asked = max_output if asks_more else output
        builder.add(at, [(builder.new_stream(), 0, prompt)], output, max_output=asked)
    return builder.build(1000)
