"""Loads from JSON lines: recorded ones, ours or of Mooncake's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inflight._core.simulation import Trace
from inflight.simulation.trace_builder import Segment, TraceBuilder

_MOONCAKE_PIECE = 512  # tokens that one of hash_ids stands for


class _Reader:
    def __init__(self) -> None:
        self.builder = TraceBuilder()
        self._streams: dict[tuple[str, Any], int] = {}

    def _stream(self, kind: str, key: Any) -> int:
        name = (kind, key)
        if name not in self._streams:
            self._streams[name] = self.builder.new_stream()
        return self._streams[name]

    def prompt(self, line: dict[str, Any]) -> list[Segment]:
        if (ids := line.pop("prompt_ids", None)) is not None:
            if not isinstance(ids, list) or not ids:
                raise ValueError("prompt_ids is no list of ids")
            return [self.builder.literal(ids)]
        length = _natural(line, "input_length")
        if (hashes := line.pop("hash_ids", None)) is not None:
            if len(hashes) * _MOONCAKE_PIECE < length:
                raise ValueError(f"{len(hashes)} hash_ids for input_length {length}")
            pieces = [self._stream("hash", hashed) for hashed in hashes]
            starts = range(0, length, _MOONCAKE_PIECE)
            return [
                (stream, 0, min(_MOONCAKE_PIECE, length - start))
                for stream, start in zip(pieces, starts, strict=False)
            ]
        group = line.pop("prefix_group", None)
        if group is None:
            return [(self.builder.new_stream(), 0, length)]
        shared = _natural(line, "prefix_length")
        if shared > length:
            raise ValueError(f"prefix_length {shared} > input_length {length}")
        own = (self.builder.new_stream(), 0, length - shared)
        return [(self._stream("group", group), 0, shared), own]

    def add(self, line: dict[str, Any]) -> None:
        if "timestamp" in line:  # Mooncake's, milliseconds
            arrival = float(line.pop("timestamp")) / 1e3
        elif "arrival" in line:
            arrival = float(line.pop("arrival"))
        else:
            raise ValueError("neither arrival (seconds) nor timestamp (milliseconds)")
        prompt = self.prompt(line)
        output = _natural(line, "output_length")
        most = _natural(line, "max_output_length", default=output)
        priority = line.pop("priority", 0)
        if line:
            raise ValueError(f"unknown: {', '.join(sorted(line))}")
        self.builder.add(arrival, prompt, output, max_output=most, priority=priority)


def _natural(line: dict[str, Any], name: str, default: int | None = None) -> int:
    value = line.pop(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is {value!r}, not a whole number >= 1")
    return value


def read_trace(path: Path, vocab_size: int, max_requests: int | None = None) -> Trace:
    """A request a line:

    - `arrival` (seconds) or `timestamp` (milliseconds);
    - the prompt: `prompt_ids`, or `input_length`, with `prefix_group` and `prefix_length` where
      requests of a group begin alike, or with `hash_ids`, one for every 512 tokens, as traces of
      Mooncake (Qin et al., FAST 2025) have them;
    - `output_length`; `max_output_length`, what was asked for, where that is more; `priority`.

    Raises ValueError naming the line."""
    reader = _Reader()
    with path.open() as file:
        for number, text in enumerate(file, 1):
            if max_requests is not None and len(reader.builder) >= max_requests:
                break
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError("no object")
                reader.add(line)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    if not len(reader.builder):
        raise ValueError(f"{path} has no requests")
    return reader.builder.build(vocab_size)
