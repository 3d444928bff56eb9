"""Notices clients that leave: asks each now and then, on a thread of its own."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PERIOD = 0.005  # seconds between two questions about a client
_QUESTION = 0.002  # at least so long for each client: a question is a round trip between processes


class Departures:
    """Any thread may watch; the thread starts with the first one."""

    def __init__(self) -> None:
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watching(self, has_left: Callable[[], bool], on_left: Callable[[], None]) -> Iterator[None]:
        """Calls `on_left` on another thread when the client has left, and again until the block
        ends: what it is to end may not have begun."""
        number = next(self._numbers)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._watched[number] = (has_left, on_left)
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
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._watched or self._closed)
                if self._closed:
                    return
                watched = dict(self._watched)
            for number, (has_left, on_left) in watched.items():
                if number in self._watched and has_left() and number in self._watched:
                    on_left()
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed, timeout=max(_PERIOD, _QUESTION * len(watched))
                )
