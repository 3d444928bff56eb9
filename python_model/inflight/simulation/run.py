"""A trace through a fleet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inflight._core.scheduler import Limits
from inflight._core.simulation import Fleet, ReplicaConfig, Trace
from inflight.simulation.cost import CALIBRATION, Calibration, Machine, cost_model
from inflight.simulation.routing import ROUTERS, Router

_BINS = 240  # of the timeline, over the time in which requests arrive
_AT_ONCE = 4096  # requests between two looks at the progress

Progress = Callable[[int], None]  # requests sent so far


@dataclass(frozen=True)
class FleetConfig:
    """Replicas that are all alike, and who chooses among them."""

    machine: Machine
    num_replicas: int = 1
    router: str = "round-robin"
    max_batch_size: int = 256
    max_num_tokens: int = 8192
    tokens_per_block: int = 32
    num_blocks: int | None = None  # of a replica's KV pool; None: what the GPU has room for
    capacity_policy: str = "guaranteed_no_evict"  # or max_utilization, static_batch
    max_time_per_output_token_ms: float = 0.0  # bound on steps with generation; 0: none
    enable_reuse: bool = True
    host_bytes: float = 0.0  # of a replica's host tier
    max_steps_in_flight: int = 2
    calibration: Calibration = CALIBRATION
    check_invariants: bool = False

    def blocks(self) -> int:
        return self.num_blocks or self.machine.num_blocks(self.tokens_per_block)

    def replica(self) -> ReplicaConfig:
        # All GPUs of a replica hold their heads' part of a block, each copies its own.
        block_bytes = self.machine.kv_bytes_per_token * self.tokens_per_block
        return ReplicaConfig(
            tokens_per_block=self.tokens_per_block,
            num_blocks=self.blocks(),
            limits=Limits(self.max_batch_size, self.max_num_tokens),
            cost=cost_model(self.machine, self.calibration),
            capacity_policy=self.capacity_policy,
            max_time_per_output_token_ms=self.max_time_per_output_token_ms,
            enable_reuse=self.enable_reuse,
            num_host_blocks=int(self.host_bytes // (block_bytes * self.machine.num_gpus)),
            block_bytes=block_bytes,
            max_steps_in_flight=self.max_steps_in_flight,
            check_invariants=self.check_invariants,
        )


@dataclass(frozen=True)
class Result:
    """Columns, see records.h: of requests, and of bins of the timeline."""

    records: dict[str, np.ndarray]
    timeline: dict[str, np.ndarray]
    bin_seconds: float
    seconds: float  # until the last step's end
    prompt_len: np.ndarray
    num_replicas: int
    num_blocks: int  # of a replica


def simulate(
    trace: Trace,
    replica: ReplicaConfig,
    num_replicas: int,
    router: Router,
    cache_blocks: int,
    progress: Progress | None = None,
) -> Result:
    """Every request of the trace, until the last has ended."""
    arrival = trace.arrivals()
    bin_seconds = max(float(arrival[-1]) / _BINS, 1e-2) if len(arrival) else 1.0
    fleet = Fleet(trace, replica, num_replicas, bin_seconds)
    count = len(trace)
    if router.looks_at_load:
        for request in range(count):
            fleet.advance_to(arrival[request])
            fleet.submit(router.choose(request, fleet.loads()))
            if progress and request % 256 == 255:
                progress(request + 1)
    else:
        nothing = np.zeros((num_replicas, 4), np.int64)
        for first in range(0, count, _AT_ONCE):
            requests = range(first, min(first + _AT_ONCE, count))
            fleet.submit_all(np.array([router.choose(i, nothing) for i in requests], np.int32))
            if progress:
                progress(requests.stop)
    fleet.drain()
    if progress:
        progress(count)
    return Result(
        records=fleet.records(),
        timeline=fleet.timeline(),
        bin_seconds=bin_seconds,
        seconds=fleet.now,
        prompt_len=trace.prompt_lengths(),
        num_replicas=num_replicas,
        num_blocks=cache_blocks,
    )


def run(trace: Trace, config: FleetConfig, progress: Progress | None = None) -> Result:
    blocks = config.blocks()
    make_router = ROUTERS[config.router]
    router = make_router(trace, config.num_replicas, blocks * config.tokens_per_block)
    return simulate(trace, config.replica(), config.num_replicas, router, blocks, progress)
