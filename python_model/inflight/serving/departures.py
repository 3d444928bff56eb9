"""Notices clients that leave: asks each now and then, on a thread of its own."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_PERIOD = 0.005  # seconds between two questions about a client
_QUESTION = 0.002  # at least so long for each client: a question is a round trip between processes


@dataclass
class _Client:
    has_left: Callable[[], bool]
    on_left: Callable[[], None]
    due: float = 0.0  # monotonic seconds, of the next question
    pause: float = _PERIOD  # seconds; doubled each time that it is found to have left


class Departures:
    """Any thread may watch. The asking thread starts here, with the niceness of whoever makes it."""

    def __init__(self) -> None:
        self._watched: dict[int, _Client] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @contextmanager
    def watching(self, has_left: Callable[[], bool], on_left: Callable[[], None]) -> Iterator[None]:
        """Calls `on_left` on another thread when the client has left, and again, ever more rarely,
        until the block ends: what it is to end may not have begun."""
        number = next(self._numbers)
        with self._changed:
            self._watched[number] = _Client(has_left, on_left)
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._watched.pop(number, None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched or self._closed)
                if self._closed:
                    return
                watched = dict(self._watched)
            for number, client in watched.items():
                if time.monotonic() < client.due or number not in self._watched:
                    continue
                if client.has_left() and number in self._watched:
                    client.on_left()
                    client.due = time.monotonic() + client.pause
                    client.pause *= 2
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed, timeout=max(_PERIOD, _QUESTION * len(watched))
                )
