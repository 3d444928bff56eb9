"""Graph to what engine.json says of one rank: values with offsets, weight recipes, plan rows."""

from typing import Any

from inflight.ir.graph import Graph, Source, Weight
from inflight.ir.ops import OPS
from inflight.passes.plan_memory import MemoryPlan


class LoweringError(ValueError):
    """The graph has a node that no kernel computes."""


def lower(graph: Graph, memory: MemoryPlan, rank: int = 0) -> dict[str, Any]:
    """The rank's part of engine.json; values are numbered in the order in which they are made."""
    for index, node in enumerate(graph.nodes):
        if not OPS[node.op].has_kernel:
            raise LoweringError(f"node {index}: no kernel computes {node.op}, no pass fused it")
    made = [name for node in graph.nodes for name in node.outputs.values()]
    names = {name: f"v{number}" for number, name in enumerate(made)}
    values = {
        names[name]: {
            "dtype": graph.values[name].dtype,
            "shape": list(graph.values[name].shape),
            "offset": memory.offsets[name],
        }
        for name in made
    }
    plan = [
        {
            "op": node.op,
            "inputs": {p: names.get(name, name) for p, name in node.inputs.items()},
            "outputs": {p: names[name] for p, name in node.outputs.items()},
            "attributes": dict(node.attributes),
        }
        for node in graph.nodes
    ]
    return {
        "rank": rank,
        "arena_bytes": memory.arena_bytes,
        "values": values,
        "weights": {name: lower_weight(weight) for name, weight in graph.weights.items()},
        "plan": plan,
        "outputs": {name: names[value] for name, value in graph.outputs.items()},
    }


def lower_weight(weight: Weight) -> dict[str, Any]:
    return {
        "dtype": weight.type.dtype,
        "shape": list(weight.type.shape),
        "recipe": {
            "axis": weight.recipe.axis,
            "sources": [_lower_source(source) for source in weight.recipe.sources],
        },
    }


def _lower_source(source: Source) -> dict[str, Any]:
    if source.slice is None:
        return {"tensor": source.tensor}
    return {"tensor": source.tensor, "slice": [list(ends) for ends in source.slice]}
