"""Spreads a costly question over time."""

import time
from collections import OrderedDict
from collections.abc import Callable

_MAX_REMEMBERED = 4096  # keys; the oldest beyond that is asked about anew


class Rarely:
    """For each key: due at once, then again when `seconds` have passed since it was due."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._next: OrderedDict[int, float] = OrderedDict()

    def due(self, key: int) -> bool:
        now = self._now()
        if now < self._next.get(key, now):
            return False
        self._next[key] = now + self._seconds
        if len(self._next) > _MAX_REMEMBERED:
            self._next.popitem(last=False)
        return True

    def forget(self, key: int) -> None:
        self._next.pop(key, None)
