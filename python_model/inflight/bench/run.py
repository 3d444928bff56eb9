"""Sends a load: at its own times, or so many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from inflight.bench.load import BenchRequest
from inflight.bench.targets import Record, Target


async def run_load(
    target: Target,
    requests: Sequence[BenchRequest],
    concurrency: int | None,
    told: Callable[[Record], None] = lambda record: None,
) -> list[Record]:
    """Records in the order of the requests. `concurrency`: most requests under way; None: any number.
    `told` hears of each that ends."""
    gate = asyncio.Semaphore(concurrency) if concurrency else None
    started = time.perf_counter()

    async def one(index: int, request: BenchRequest) -> Record:
        await asyncio.sleep(max(0.0, started + request.at - time.perf_counter()))
        if gate is None:
            record = await target.send(request, index)
        else:
            async with gate:
                record = await target.send(request, index)
        told(record)
        return record

    return await asyncio.gather(*(one(i, request) for i, request in enumerate(requests)))
