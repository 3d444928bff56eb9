"""A graph as text, one node a line, for people and for diff."""

from collections.abc import Iterator
from typing import Any

from inflight.ir.graph import Graph, Node


def format_attribute(value: Any) -> str:
    """A number as it is; a long list as its length and ends."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (list, tuple)) and len(value) > 4:
        ends = f"{format_attribute(value[0])}, ..., {format_attribute(value[-1])}"
        return f"[{ends}: {len(value)}]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(format_attribute(v) for v in value)}]"
    return str(value)


def format_attributes(node: Node) -> str:
    return ", ".join(f"{name}={format_attribute(v)}" for name, v in node.attributes.items())


def format_inputs(node: Node) -> str:
    return ", ".join(f"{parameter}={name}" for parameter, name in node.inputs.items())


def print_graph(graph: Graph) -> str:
    """The whole graph: `v3: float32[T, 64] = rms_norm(x=v2, weight=w) {epsilon=1e-05}`."""
    return "\n".join(_lines(graph))


def _lines(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        made = ", ".join(f"{name}: {graph.values[name]}" for name in node.outputs.values())
        attributes = format_attributes(node)
        call = f"{node.op}({format_inputs(node)})" + (f" {{{attributes}}}" if attributes else "")
        yield f"{made} = {call}" if made else call
    yield "return " + ", ".join(f"{name}={value}" for name, value in graph.outputs.items())
