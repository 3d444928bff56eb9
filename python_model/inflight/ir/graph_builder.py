"""Writes a Graph node by node, asking the op table for the types. Used by models; passes edit."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inflight.ir.graph import (
    GROUP_INPUTS,
    POOL_BLOCKS,
    STEP_INPUTS,
    Graph,
    Node,
    TensorType,
    Weight,
    group_input,
    kv_cache_name,
)
from inflight.ir.ops import OPS


class GraphBuilder:
    """Names of values in, names of values out."""

    def __init__(self, num_groups: int = 1) -> None:
        """`num_groups`: of layers that have block tables of their own."""
        self._inputs = {name: TensorType("int32", shape) for name, shape in STEP_INPUTS.items()}
        for group in range(1, num_groups):
            for name in GROUP_INPUTS:
                self._inputs[group_input(name, group)] = self._inputs[name]
        self._weights: dict[str, Weight] = {}
        self._values: dict[str, TensorType] = {}
        self._nodes: list[Node] = []

    def weight(self, name: str, weight: Weight) -> str:
        """Declares a weight; a second declaration must be the same."""
        if self._weights.setdefault(name, weight) != weight:
            raise ValueError(f"weight {name} is declared twice, differently")
        return name

    def kv_cache(
        self, layer: int, dtype: str, num_kv_heads: int, tokens_per_block: int, head_size: int
    ) -> str:
        """Declares the cache view of a layer."""
        name = kv_cache_name(layer)
        shape = (POOL_BLOCKS, 2, num_kv_heads, tokens_per_block, head_size)
        self._inputs[name] = TensorType(dtype, shape)
        return name

    def add(
        self,
        op: str,
        inputs: Mapping[str, str],
        dtype: str | None = None,
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Appends a node with all its outputs; `dtype` asks for another one of the output."""
        types = OPS[op].infer(
            {parameter: self._type_of(name) for parameter, name in inputs.items()}, attributes
        )
        outputs = {}
        for name, type_ in types.items():
            value = f"v{len(self._values)}"
            self._values[value] = replace(type_, dtype=dtype) if dtype else type_
            outputs[name] = value
        self._nodes.append(Node(op, dict(inputs), outputs, attributes))
        return tuple(outputs.values())

    def finish(self, **outputs: str) -> Graph:
        return Graph(self._inputs, self._weights, self._values, tuple(self._nodes), outputs)

    def _type_of(self, name: str) -> TensorType:
        if name in self._values:
            return self._values[name]
        return self._inputs[name] if name in self._inputs else self._weights[name].type
