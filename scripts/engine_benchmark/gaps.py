"""When the tokens of a stream came, and what lay between them."""

from __future__ import annotations

import statistics
import threading
import time
from itertools import pairwise

from inflight import LLM, SamplingParams


class Gaps:
    """Read by a thread of its own."""

    def __init__(self, llm: LLM, prompt: list[int], num_out: int) -> None:
        params = SamplingParams(max_tokens=num_out, ignore_eos=True)
        self.stamps: list[float] = []
        self._stream = llm.generate_async(prompt, params, streaming=True)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for _ in self._stream:
            self.stamps.append(time.perf_counter())

    def wait_for(self, count: int) -> None:
        while len(self.stamps) < count and self._thread.is_alive():
            time.sleep(1e-3)

    def cancel(self) -> None:
        self._stream.abort()

    def join(self) -> list[float]:
        self._thread.join()
        return self.stamps


def longest_gap_ms(stamps: list[float], begin: float, end: float) -> float:
    """Of those that begin before `end` and end after `begin`."""
    return 1e3 * max((b - a for a, b in pairwise(stamps) if a < end and b > begin), default=0.0)


def usual_gap_ms(stamps: list[float]) -> float:
    return 1e3 * statistics.median(b - a for a, b in pairwise(stamps))
