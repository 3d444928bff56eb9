"""Brings the parts of the engine's responses to their requests."""

from __future__ import annotations

import queue
import threading

from inflight import _core
from inflight.llm.generation import GenerationResult

# The engine's wait sees no signals: so often a waiting caller looks for them.
_PATIENCE = 0.1  # seconds
# A thread that sleeps takes 0.1 ms to wake, which counts where an answer is a first token. Threads
# of a CPU engine have better to do.
_SPIN = 0.01  # seconds


class Responses:
    """One thread at a time reads. A caller that waits does it while it is the only one: its answer
    then wakes one thread less. A thread of our own does for everybody else, from `start` on.
    """

    def __init__(self, engine: _core.Engine) -> None:
        self.running: dict[int, GenerationResult] = {}  # by tag
        self._engine = engine
        self._spin = 0.0 if engine.info.device == "cpu" else _SPIN
        self._reading = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """For callers who do not stay to read."""
        with self._starting:
            if self._thread is None:
                # It ends when the engine is closed, and must not hold the LLM, which closes it.
                self._thread = threading.Thread(
                    target=self._read_all, name="inflight-responses", daemon=True
                )
                self._thread.start()

    def wait(self, done: queue.SimpleQueue[None]) -> None:
        """`done.get()`; reads until there is something if nobody else does."""
        spin = self._spin
        while done.empty() and self._thread is None:
            if not self._reading.acquire(blocking=False):
                self.start()  # who reads now may leave before we are served
                break
            try:
                is_open = self._read(_PATIENCE, spin)
            finally:
                self._reading.release()
            spin = 0.0
            if not is_open:
                break
        done.get()

    def join(self) -> None:
        if self._thread not in (None, threading.current_thread()):
            self._thread.join()

    def _read_all(self) -> None:
        with self._reading:
            while self._read(None, 0.0):
                pass

    def _read(self, timeout: float | None, spin: float) -> bool:
        """False once the engine is closed."""
        responses = self._engine.next_responses(timeout, spin)
        for response in responses or ():
            result = self.running[response.tag]
            if response.is_final:
                del self.running[response.tag]
            try:
                result.deliver(response)
            except Exception as error:  # of one request; the others go on
                result.fail(error)
        return responses is not None
