"""The graph that models build, passes rewrite and lowering writes out.

Plain data: a pass makes a new Graph. The order of the nodes is the order of execution, which
matters for the cache alone, the one value that nodes write in place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# A dimension is a number, T (tokens in a step) or B (sequences in it). Step inputs have three more
# that only attention sees: B+1, the blocks of a table row, the blocks of the pool.
Dim = int | str
TOKENS = "T"
SEQUENCES = "B"
SEQUENCES_PLUS_1 = "B+1"
TABLE_BLOCKS = "max_blocks"
POOL_BLOCKS = "num_blocks"
SYMBOLIC_DIMS = (TOKENS, SEQUENCES, SEQUENCES_PLUS_1, TABLE_BLOCKS, POOL_BLOCKS)

STEP_INPUTS: Mapping[str, tuple[Dim, ...]] = {
    "input_ids": (TOKENS,),
    "positions": (TOKENS,),
    "rope_lengths": (TOKENS,),
    "slots": (TOKENS,),
    "query_starts": (SEQUENCES_PLUS_1,),
    "kv_lengths": (SEQUENCES,),
    "block_tables": (SEQUENCES, TABLE_BLOCKS),
    "last_rows": (SEQUENCES,),
}


# Layers that see different windows are of different groups, and each group has these of its own.
GROUP_INPUTS = ("slots", "block_tables")


def group_input(name: str, group: int) -> str:
    """What step input `name` of GROUP_INPUTS is called for a group of layers."""
    return name if group == 0 else f"{name}.{group}"


@dataclass(frozen=True)
class TensorType:
    """Dtype and shape; dense row-major."""

    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(dim) for dim in self.shape)}]"


@dataclass(frozen=True)
class Source:
    """A checkpoint tensor, or half-open ranges of it, one per axis; None is the whole."""

    tensor: str
    slice: tuple[tuple[int, int], ...] | None = None


@dataclass(frozen=True)
class Recipe:
    """How a weight is made: sources, cast to the weight's dtype, concatenated along `axis`.

    `source_shapes` are the shapes that the checkpoint's tensors must have, before slicing.
    """

    sources: tuple[Source, ...]
    source_shapes: tuple[tuple[int, ...], ...]
    axis: int = 0

    def concatenated(self, *others: "Recipe") -> "Recipe":
        """This and others, one below the other along axis 0."""
        recipes = (self, *others)
        if any(recipe.axis != 0 for recipe in recipes):
            raise ValueError("only recipes along axis 0 can be concatenated")
        return Recipe(
            sources=tuple(s for recipe in recipes for s in recipe.sources),
            source_shapes=tuple(s for recipe in recipes for s in recipe.source_shapes),
        )


@dataclass(frozen=True)
class Weight:
    type: TensorType
    recipe: Recipe


@dataclass(frozen=True)
class Node:
    """One op: parameter names of its schema to value names, attributes by name."""

    op: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """`inputs` holds the step inputs and the cache views, `values` what nodes produce."""

    inputs: Mapping[str, TensorType]
    weights: Mapping[str, Weight]
    values: Mapping[str, TensorType]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]

    def type_of(self, name: str) -> TensorType:
        """The type of an input, weight or value."""
        for table in (self.values, self.inputs):
            if name in table:
                return table[name]
        if name in self.weights:
            return self.weights[name].type
        raise KeyError(f"no value named {name!r}")

    def producers(self) -> dict[str, int]:
        """Value name -> index of the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.outputs.values()}

    def consumers(self) -> dict[str, list[int]]:
        """Value, weight or input name -> indices of the nodes that read it, ascending."""
        readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs.values()):
                readers.setdefault(name, []).append(i)
        return readers

    def with_nodes(self, nodes: tuple[Node, ...], **changes: Any) -> "Graph":
        """The graph with other nodes; values that no node makes any more are dropped."""
        values = dict(changes.pop("values", self.values))
        made = {name for node in nodes for name in node.outputs.values()}
        values = {name: type_ for name, type_ in values.items() if name in made}
        return replace(self, nodes=nodes, values=values, **changes)


def kv_cache_name(layer: int) -> str:
    return f"kv_cache.{layer}"
