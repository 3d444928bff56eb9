"""gather_rows(linear(x)) -> linear(gather_rows(x)), up to where other rows are needed too.

Only the last row of each sequence becomes logits: of the last layer, the others' queries, MLP and
residual are never read. Prompts leave them out so. An attention of last rows alone has one row a
sequence, as in a step that generates: it goes without query_starts then.
"""

from dataclasses import replace

from inflight.ir.graph import Graph, Node, TensorType
from inflight.passes.rewrite import Rewrite

# Inputs that have a row for each of the output's.
_OF_ROWS = {"linear": ("x",), "fused_linear": ("x", "residual"), "attention": ("q",)}


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
        found = next(filter(None, (rewrite.producer(x, op) for op in _OF_ROWS)), None)
        if found is not None and rewrite.is_read_only_by(x, index) and _is_of_rows(found[1], node):
            maker_index, maker = found
            names = [name for name in _OF_ROWS[maker.op] if name in maker.inputs]
            gathers = {name: _gather(rewrite, maker.inputs[name], node) for name in names}
            inputs = {**maker.inputs, **{n: g.outputs["y"] for n, g in gathers.items()}}
            inputs.pop("query_starts", None)
            fewer = replace(maker, inputs=inputs, outputs=node.outputs)
            rewrite.replace(maker_index, *gathers.values(), fewer)
            rewrite.replace(index)
            break
    return rewrite.finish()


def _is_of_rows(maker: Node, gather: Node) -> bool:
    """An attention's row sees what its place in the sequence lets it: only the last sees all."""
    return maker.op != "attention" or (
        maker.inputs.get("query_starts") == "query_starts" and gather.inputs["rows"] == "last_rows"
    )


def _gather(rewrite: Rewrite, value: str, gather: Node) -> Node:
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
