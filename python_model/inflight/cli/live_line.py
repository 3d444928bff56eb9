"""One line at the foot of a terminal that says what a server is doing."""

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, TextIO

from inflight.serving.metrics_page import Sample, fetch, total

_INTERVAL = 1.0  # seconds between looks at the metrics
_ERASE = "\r\x1b[K"


@dataclass(frozen=True)
class Activity:
    """Of all models of a server. Tokens are counted since it started."""

    running: int
    waiting: int
    used_blocks: int
    max_blocks: int
    generated_tokens: float
    prompt_tokens: float

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Activity":
        page = list(samples)
        requests, blocks = "nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"
        return cls(
            running=int(total(page, requests, "scheduled")),
            waiting=int(total(page, requests, "waiting")),
            used_blocks=int(total(page, blocks, "used")),
            max_blocks=int(total(page, blocks, "max")),
            generated_tokens=total(page, "nv_llm_token_count", "generated"),
            prompt_tokens=total(page, "nv_llm_token_count", "prompt"),
        )

    def text(self, earlier: "Activity", seconds: float) -> str:
        """With the rates since `earlier`, `seconds` ago."""
        generated = max(0.0, self.generated_tokens - earlier.generated_tokens) / seconds
        prompt = max(0.0, self.prompt_tokens - earlier.prompt_tokens) / seconds
        cache = 100 * self.used_blocks / self.max_blocks if self.max_blocks else 0
        return (
            f"running {self.running} · waiting {self.waiting} · {generated:,.0f} tokens/s"
            f" (+ {prompt:,.0f} of prompts) · cache {cache:.0f} %"
        )


class LiveLine:
    """Redraws the line every second, until closed; what the server logs comes above it. Terminals
    only: see `for_terminal`."""

    def __init__(self, metrics_port: int, out: TextIO) -> None:
        self._url = f"http://localhost:{metrics_port}/metrics"
        self._out = out
        self._lock = threading.Lock()  # guards the terminal and the line
        self._line = ""
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._follow, daemon=True)]
        self._threads[0].start()

    def forward(self, log: IO[bytes]) -> None:
        """Writes what comes from `log` above the line, until its end."""
        thread = threading.Thread(target=self._forward, args=(log,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """After the server's end."""
        self._closed.set()
        for thread in self._threads:
            thread.join(timeout=2 * _INTERVAL)
        self._draw("")

    def _forward(self, log: IO[bytes]) -> None:
        for line in iter(log.readline, b""):
            # A terminal that is gone must not keep the server from writing.
            with self._lock, contextlib.suppress(OSError):
                self._out.write(_ERASE + line.decode(errors="replace") + self._line)
                self._out.flush()

    def _follow(self) -> None:
        earlier: tuple[float, Activity] | None = None
        while not self._closed.wait(_INTERVAL):
            now = time.monotonic()
            try:
                activity = Activity.of(fetch(self._url, seconds=_INTERVAL))
            except (OSError, ValueError):  # not up yet, or going down
                self._draw("")
                earlier = None
                continue
            if earlier is not None and activity.max_blocks > 0:
                self._draw(activity.text(earlier[1], now - earlier[0]))
            earlier = now, activity

    def _draw(self, line: str) -> None:
        line = line[: shutil.get_terminal_size().columns - 1]  # one that wraps cannot be erased
        with self._lock, contextlib.suppress(OSError):
            if line == self._line == "":
                return
            self._line = line
            self._out.write(_ERASE + line)
            self._out.flush()


def for_terminal(metrics_port: int) -> LiveLine | None:
    """None where standard error is no terminal: a log stays as the server writes it."""
    return LiveLine(metrics_port, sys.stderr) if sys.stderr.isatty() else None
