"""One arena for all values of a step: offsets from lifetimes.

A value lives from the node that makes it to the last that reads it; two that live at once share no
byte. Values are placed largest first, each at the lowest offset free during its life.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inflight.ir.graph import SEQUENCES, TOKENS, Graph, TensorType
from inflight.ir.reference import numpy_dtype

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """Bytes, rounded up to the alignment, and the first and last node index of use."""

    bytes: int
    first: int
    last: int

    def overlaps(self, other: "Lifetime") -> bool:
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    arena_bytes: int
    offsets: Mapping[str, int]


def lifetimes(graph: Graph, num_tokens: int, num_sequences: int) -> dict[str, Lifetime]:
    """The life of every value, with T and B at their largest."""
    first = graph.producers()
    last = dict(first)
    for name, readers in graph.consumers().items():
        if name in first:
            last[name] = readers[-1]
    for name in graph.outputs.values():
        last[name] = len(graph.nodes)
    sizes = {TOKENS: num_tokens, SEQUENCES: num_sequences}
    return {
        name: Lifetime(_bytes(graph.values[name], sizes), first[name], last[name]) for name in first
    }


def place(lives: Mapping[str, Lifetime]) -> MemoryPlan:
    """Offsets for `lives`; deterministic."""
    order = sorted(lives, key=lambda name: (-lives[name].bytes, lives[name].first, name))
    offsets: dict[str, int] = {}
    for name in order:
        life = lives[name]
        taken = sorted(
            (offsets[other], offsets[other] + lives[other].bytes)
            for other in offsets
            if life.overlaps(lives[other])
        )
        offset = 0
        for begin, end in taken:
            if offset + life.bytes <= begin:
                break
            offset = max(offset, end)
        offsets[name] = offset
    arena_bytes = max((offsets[name] + lives[name].bytes for name in offsets), default=0)
    return MemoryPlan(arena_bytes, {name: offsets[name] for name in lives})


def plan_memory(graph: Graph, num_tokens: int, num_sequences: int) -> MemoryPlan:
    """Offsets for the largest step: `num_tokens` of `num_sequences` sequences."""
    return place(lifetimes(graph, num_tokens, num_sequences))


def _bytes(type_: TensorType, sizes: Mapping[str, int]) -> int:
    dims = [sizes[dim] if isinstance(dim, str) else dim for dim in type_.shape]
    count = int(np.prod(dims, dtype=object)) * numpy_dtype(type_.dtype).itemsize
    return -(-count // ALIGNMENT) * ALIGNMENT
