"""gather_rows(linear(x)) -> linear(gather_rows(x)), up to where other rows are needed too.

Only the last row of each sequence becomes logits: of the last layer, the others' attention output,
MLP and residual are never read. Prompts leave them out so.
"""

from dataclasses import replace

from inflight.ir.graph import Graph, Node, TensorType
from inflight.passes.rewrite import Rewrite

_OF_ROWS = ("x", "residual")  # inputs of a linear that have a row for each of its output's


def gather_early(graph: Graph) -> Graph:
    while (moved := _merge(_move_one(graph))) != graph:
        graph = moved
    return graph


def _move_one(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op != "gather_rows":
            continue
        x = node.inputs["x"]
        found = rewrite.producer(x, "fused_linear") or rewrite.producer(x, "linear")
        if found is not None and rewrite.is_read_only_by(x, index):
            linear_index, linear = found
            gathers = {name: _gather(rewrite, linear, node, name) for name in _OF_ROWS}
            gathers = {name: gather for name, gather in gathers.items() if gather is not None}
            inputs = {name: gather.outputs["y"] for name, gather in gathers.items()}
            fewer = replace(linear, inputs={**linear.inputs, **inputs}, outputs=node.outputs)
            rewrite.replace(linear_index, *gathers.values(), fewer)
            rewrite.replace(index)
            break
    return rewrite.finish()


def _gather(rewrite: Rewrite, linear: Node, gather: Node, name: str) -> Node | None:
    if name not in linear.inputs:
        return None
    value = linear.inputs[name]
    of = rewrite.graph.type_of(value)
    rows = rewrite.graph.type_of(gather.outputs["y"]).shape[0]
    y = rewrite.new_value(TensorType(of.dtype, (rows, of.shape[1])))
    return Node("gather_rows", {**gather.inputs, "x": value}, {"y": y})


def _merge(graph: Graph) -> Graph:
    """One gather of each value."""
    first: dict[tuple[str, str], str] = {}
    other_name: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        inputs = {name: other_name.get(value, value) for name, value in node.inputs.items()}
        node = replace(node, inputs=inputs)
        if node.op == "gather_rows":
            y = node.outputs["y"]
            key = (inputs["x"], inputs["rows"])
            if first.setdefault(key, y) != y and y not in graph.outputs.values():
                other_name[y] = first[key]
                continue
        nodes.append(node)
    return graph.with_nodes(tuple(nodes))
