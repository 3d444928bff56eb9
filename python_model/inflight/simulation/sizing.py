"""How many replicas a load needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """What must hold of the 99th percentiles, milliseconds; None: nothing."""

    ttft: float | None = None
    tpot: float | None = None

    def hold(self, summary: dict[str, Any]) -> bool:
        """Nothing refused, and within the bounds."""
        return not summary["refused"] and all(
            bound is None or summary.get(name, {"p99": 0.0})["p99"] <= bound
            for name, bound in (("ttft_ms", self.ttft), ("tpot_ms", self.tpot))
        )


@dataclass(frozen=True)
class Sizing:
    num_replicas: int | None  # the fewest that do; None: not even the most that were tried
    tried: dict[int, dict[str, Any]]  # number of replicas -> summary


def find_replicas(summary_of: Callable[[int], dict[str, Any]], bounds: Bounds, most: int) -> Sizing:
    """The fewest replicas, up to `most`, for which `summary_of` is within the bounds. Doubles until
    it is, then halves the distance: more replicas are taken never to make it worse."""
    tried: dict[int, dict[str, Any]] = {}

    def holds(count: int) -> bool:
        tried[count] = summary_of(count)
        return bounds.hold(tried[count])

    low, high = 0, 1  # low does not do
    while not holds(high):
        if high == most:
            return Sizing(None, tried)
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return Sizing(high, tried)
