"""The requests of one call of `generate`: which have ended."""

from __future__ import annotations

import queue
from typing import Any

from inflight.llm.responses import Responses


class Completions:
    """Counts those that have ended, one wait each, and shows the count in a terminal's bar."""

    def __init__(self, responses: Responses, num_prompts: int, shows_bar: bool) -> None:
        self.num_done = 0
        self._responses = responses
        self._done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._bar = _progress_bar(num_prompts) if shows_bar else None

    def one_has_ended(self) -> None:
        """Of any thread."""
        self._done.put(None)

    def wait_for_one(self) -> None:
        self._responses.wait(self._done)
        self.num_done += 1
        if self._bar is not None:
            self._bar.update()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _progress_bar(num_prompts: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=num_prompts, desc="Generating", unit="prompt")
