"""Runs a Graph on the reference meanings, step by step, over cache views that it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inflight.ir.graph import POOL_BLOCKS, Graph, group_input
from inflight.ir.reference import evaluate, numpy_dtype


@dataclass(frozen=True)
class Chunk:
    """The tokens of one sequence in a step: the first stands at `position`.

    `blocks` are the sequence's cache blocks in order, `more_blocks` those of further groups of layers.
    `prompt_length` counts the tokens of the prompt; those after it are generated ones.
    """

    tokens: tuple[int, ...]
    position: int
    blocks: tuple[int, ...]
    prompt_length: int
    more_blocks: tuple[tuple[int, ...], ...] = ()


def pack(chunks: list[Chunk], tokens_per_block: int) -> dict[str, np.ndarray]:
    """The step inputs of a packed batch, as the batch builder of the backend makes them."""
    positions = [np.arange(c.position, c.position + len(c.tokens)) for c in chunks]
    rope_lengths = [
        np.where(p < c.prompt_length, c.prompt_length, p + 1)
        for c, p in zip(chunks, positions, strict=True)
    ]
    starts = np.cumsum([0] + [len(c.tokens) for c in chunks])
    step = {
        "input_ids": np.concatenate([c.tokens for c in chunks]),
        "positions": np.concatenate(positions),
        "rope_lengths": np.concatenate(rope_lengths),
        "query_starts": starts,
        "kv_lengths": np.array([c.position + len(c.tokens) for c in chunks]),
        "last_rows": starts[1:] - 1,
    }
    tables = zip(*((c.blocks, *c.more_blocks) for c in chunks), strict=True)
    for group, blocks in enumerate(tables):
        step[group_input("slots", group)] = np.concatenate(
            [
                np.asarray(b)[p // tokens_per_block] * tokens_per_block + p % tokens_per_block
                for b, p in zip(blocks, positions, strict=True)
            ]
        )
        padded = np.zeros((len(chunks), max(map(len, blocks))), np.int32)
        for row, table in zip(padded, blocks, strict=True):
            row[: len(table)] = table
        step[group_input("block_tables", group)] = padded
    return {name: np.ascontiguousarray(array, np.int32) for name, array in step.items()}


class Interpreter:
    """A graph, its weights as arrays, and the cache of `num_blocks` blocks.

    With `compute` float64 every value, weight and cache entry is float64: nothing is rounded.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, np.ndarray],
        num_blocks: int,
        compute: type = np.float32,
    ):
        self._graph = graph
        self._compute = compute
        self._weights = {
            name: array.astype(compute) if self._exact else array for name, array in weights.items()
        }
        self.kv_cache = {
            name: np.zeros(
                [num_blocks if dim == POOL_BLOCKS else dim for dim in type_.shape],
                compute if self._exact else numpy_dtype(type_.dtype),
            )
            for name, type_ in graph.inputs.items()
            if POOL_BLOCKS in type_.shape
        }

    @property
    def _exact(self) -> bool:
        return self._compute is np.float64

    def run(self, step: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs for one step; the cache keeps what the step wrote."""
        values: dict[str, np.ndarray] = {**self._weights, **self.kv_cache, **step}
        for node in self._graph.nodes:
            inputs = {parameter: values[name] for parameter, name in node.inputs.items()}
            dtypes = {
                parameter: "float64" if self._exact else self._graph.values[name].dtype
                for parameter, name in node.outputs.items()
            }
            made = evaluate(node.op, inputs, node.attributes, dtypes, self._compute)
            for parameter, name in node.outputs.items():
                values[name] = made[parameter]
        return {name: values[value] for name, value in self._graph.outputs.items()}
