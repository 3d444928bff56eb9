"""Stop strings in streamed text: nothing of a stop string, nor what may become one, is ever told.

The match is the one that ends first (of those that end together, the longest), so the cut does not
depend on how the text was divided.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feed text, get the text that may be told. After `matched` is set nothing more comes out."""

    def __init__(self, stop: str | Sequence[str], include_stop: bool = False) -> None:
        """Arguments:
        stop: the strings; none of them empty.
        include_stop: tell the matched string too.
        """
        self._stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(string, str) and string for string in self._stop):
            raise ValueError(f"stop strings must be non-empty texts, got {list(self._stop)!r}")
        self._include_stop = include_stop
        self._longest = max((len(string) for string in self._stop), default=0)
        self._held = ""
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        if self.matched is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        match = self._first_match(text)
        if match is not None:
            end, self.matched = match
            self._held = ""
            return text[:end] if self._include_stop else text[: end - len(self.matched)]
        told = len(text) - self._num_held(text)
        self._held = text[told:]
        return text[:told]

    def finish(self) -> str:
        """What was held back for a match that did not come."""
        rest, self._held = self._held, ""
        return rest

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """(end, string) of the match that ends first."""
        best: tuple[int, str] | None = None
        for string in self._stop:
            start = text.find(string)
            if start < 0:
                continue
            end = start + len(string)
            if best is None or (end, -len(string)) < (best[0], -len(best[1])):
                best = (end, string)
        return best

    def _num_held(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            end = text[-length:]
            if any(string.startswith(end) for string in self._stop):
                return length
        return 0
