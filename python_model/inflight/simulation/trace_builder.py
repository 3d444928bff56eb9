"""Requests one by one into the columns of a C++ Trace."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

from inflight._core.simulation import LITERAL, Trace

# (stream, begin, length): tokens [begin, begin + length) of an endless stream. Pieces that agree in
# stream and positions hold the same tokens; this is how requests share prefixes.
Segment = tuple[int, int, int]


class TraceBuilder:
    """Requests in any order; `build` sorts them by arrival, stably."""

    def __init__(self) -> None:
        self._arrival = array("d")
        self._ints = {
            name: array("i") for name in ("priority", "num_output", "max_output", "output_begin")
        }
        self._output_stream = array("Q")
        self._segment_stream = array("Q")
        self._segment_begin = array("i")
        self._segment_length = array("i")
        self._first_segment = array("q", [0])
        self._literal_ids = array("i")
        self._num_streams = 0

    def __len__(self) -> int:
        return len(self._arrival)

    def new_stream(self) -> int:
        """A stream that no segment has named yet."""
        self._num_streams += 1
        return self._num_streams

    def literal(self, ids: Iterable[int]) -> Segment:
        """A segment of these very ids. Raises OverflowError for what is no 32-bit integer."""
        first = len(self._literal_ids)
        self._literal_ids.extend(ids)
        return LITERAL + first, 0, len(self._literal_ids) - first

    def add(
        self,
        arrival: float,
        prompt: Iterable[Segment],
        num_output: int,
        *,
        max_output: int | None = None,
        output: tuple[int, int] | None = None,
        priority: int = 0,
    ) -> None:
        """A request that ends after `num_output` tokens and asks for at most `max_output` (none: as
        many). `output`: stream and first position of what it generates; none: a stream of its
        own."""
        stream, begin = output or (self.new_stream(), 0)
        self._arrival.append(arrival)
        self._ints["priority"].append(priority)
        self._ints["num_output"].append(num_output)
        self._ints["max_output"].append(num_output if max_output is None else max_output)
        self._ints["output_begin"].append(begin)
        self._output_stream.append(stream)
        for segment_stream, segment_begin, length in prompt:
            if length:
                self._segment_stream.append(segment_stream)
                self._segment_begin.append(segment_begin)
                self._segment_length.append(length)
        self._first_segment.append(len(self._segment_stream))

    def build(self, vocab_size: int) -> Trace:
        """Raises InvalidArgumentError naming the request and the value."""
        arrival = np.frombuffer(self._arrival) if len(self) else np.zeros(0)
        order = np.argsort(arrival, kind="stable")
        first = np.array(self._first_segment, np.int64)
        counts = np.diff(first)[order]
        new_first = np.concatenate([[0], np.cumsum(counts)])
        # For each place in the new order of segments, its place in the old one.
        places = np.repeat(first[:-1][order] - new_first[:-1], counts) + np.arange(new_first[-1])

        def sorted_column(values: array) -> np.ndarray:
            return np.array(values, values.typecode)[order]

        def segments(values: array) -> np.ndarray:
            return np.array(values, values.typecode)[places]

        return Trace(
            arrival=arrival[order],
            **{name: sorted_column(values) for name, values in self._ints.items()},
            output_stream=sorted_column(self._output_stream),
            first_segment=new_first,
            segment_stream=segments(self._segment_stream),
            segment_begin=segments(self._segment_begin),
            segment_length=segments(self._segment_length),
            literal_ids=np.array(self._literal_ids, np.int32),
            vocab_size=vocab_size,
        )
