"""Drops nodes, optional outputs and weights that nothing reads."""

from dataclasses import replace

from inflight.ir.graph import Graph, Node
from inflight.ir.ops import OPS


def dead_code(graph: Graph) -> Graph:
    needed = set(graph.outputs.values())
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        schema = OPS[node.op]
        writes = any(spec.written for spec in schema.inputs)
        if not writes and needed.isdisjoint(node.outputs.values()):
            continue
        optional = {spec.name for spec in schema.outputs if spec.optional}
        outputs = {
            parameter: name
            for parameter, name in node.outputs.items()
            if name in needed or parameter not in optional
        }
        kept.append(replace(node, outputs=outputs))
        needed.update(node.inputs.values())
    weights = {name: weight for name, weight in graph.weights.items() if name in needed}
    return graph.with_nodes(tuple(reversed(kept)), weights=weights)
