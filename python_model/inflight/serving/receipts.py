"""Tells the C++ backend how far text has been made: backend/triton/receipts.h, its other side.

The backend holds a stream's new ids back while its last piece waits here, so that a process that
cannot keep up gets longer pieces instead of a queue. Without the page nothing is told, and every id
comes by itself.
"""

import mmap
from pathlib import Path

_MAX_OPEN = 16  # pages; an engine loaded anew has a new one


class Receipts:
    def __init__(self, folder: str | Path = "/dev/shm") -> None:
        self._folder = Path(folder)
        self._pages: dict[int, memoryview | None] = {}

    def tell(self, engine_request_id: int, num_ids: int) -> None:
        """Text has been made of so many generated ids of the request, since its start."""
        number, id = engine_request_id >> 32, engine_request_id & 0xFFFFFFFF
        if number not in self._pages:
            if len(self._pages) >= _MAX_OPEN:
                self._pages.pop(next(iter(self._pages)))
            self._pages[number] = self._open(number)
        page = self._pages[number]
        if page is not None:
            page[id % len(page)] = id << 32 | num_ids

    def _open(self, number: int) -> memoryview | None:
        try:
            with (self._folder / f"inflight-{number:x}").open("r+b") as file:
                return memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        except (OSError, ValueError):  # none there, or of no length
            return None
