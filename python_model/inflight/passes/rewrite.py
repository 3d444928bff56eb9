"""Edits a graph's node list by position; what passes share."""

from inflight.ir.graph import Graph, Node, TensorType, Weight


class Rewrite:
    """Collects replacements of nodes, new values and new weights; `finish` makes the new graph."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.producers = graph.producers()
        self.consumers = graph.consumers()
        self._replaced: dict[int, tuple[Node, ...]] = {}
        self._values = dict(graph.values)
        self._weights = dict(graph.weights)

    def producer(self, value: str, op: str) -> tuple[int, Node] | None:
        """The node that makes `value`, if it is an `op` that no rewrite has touched."""
        index = self.producers.get(value)
        if index is None or index in self._replaced or self.graph.nodes[index].op != op:
            return None
        return index, self.graph.nodes[index]

    def readers(self, value: str) -> list[int]:
        return self.consumers.get(value, [])

    def is_read_only_by(self, value: str, index: int) -> bool:
        """True if node `index` is the only use of `value`."""
        return self.readers(value) == [index] and value not in self.graph.outputs.values()

    def new_value(self, type_: TensorType) -> str:
        index = len(self._values)
        while f"v{index}" in self._values:
            index += 1
        self._values[f"v{index}"] = type_
        return f"v{index}"

    def new_weight(self, name: str, weight: Weight) -> str:
        self._weights[name] = weight
        return name

    def replace(self, index: int, *nodes: Node) -> None:
        """Puts `nodes` where node `index` was; none removes it."""
        self._replaced[index] = nodes

    def finish(self) -> Graph:
        nodes: list[Node] = []
        for index, node in enumerate(self.graph.nodes):
            nodes.extend(self._replaced.get(index, (node,)))
        return self.graph.with_nodes(tuple(nodes), values=self._values, weights=self._weights)


def concatenate_weights(rewrite: Rewrite, names: list[str], fused: str) -> str:
    """A weight of the rows of all, one below the other: `layers.0.mlp.gate.weight` and `.up.`
    make `layers.0.mlp.<fused>.weight`."""
    weights = [rewrite.graph.weights[name] for name in names]
    first = weights[0].type
    rows = sum(weight.type.shape[0] for weight in weights)
    block, _, part = names[0].rsplit(".", 2)
    return rewrite.new_weight(
        f"{block}.{fused}.{part}",
        Weight(
            TensorType(first.dtype, (rows, *first.shape[1:])),
            weights[0].recipe.concatenated(*(weight.recipe for weight in weights[1:])),
        ),
    )


def fuse_linears(rewrite: Rewrite, linears: list[Node], fused: str) -> Node | None:
    """One linear that computes the columns of all, which read the same x; None where some have a
    bias and some have not."""
    with_bias = ["bias" in node.inputs for node in linears]
    if any(with_bias) != all(with_bias):
        return None
    types = [rewrite.graph.values[node.outputs["y"]] for node in linears]
    inputs = {
        "x": linears[0].inputs["x"],
        "weight": concatenate_weights(rewrite, [n.inputs["weight"] for n in linears], fused),
    }
    if all(with_bias):
        inputs["bias"] = concatenate_weights(rewrite, [n.inputs["bias"] for n in linears], fused)
    columns = sum(type_.shape[1] for type_ in types)
    y = rewrite.new_value(TensorType(types[0].dtype, (types[0].shape[0], columns)))
    return Node("linear", inputs, {"y": y})


def any_linear_behind(rewrite: Rewrite, value: str, index: int) -> tuple[int, Node] | None:
    """The linear or fused_linear that makes `value` for node `index` alone."""
    found = rewrite.producer(value, "linear") or rewrite.producer(value, "fused_linear")
    return found if found and rewrite.is_read_only_by(value, index) else None
