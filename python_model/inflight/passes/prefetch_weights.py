"""Tells each fused_linear which weight the plan's next linear reads, so that a kernel may fetch some
of it while it ends itself. After the last comes the first: steps follow each other."""

from dataclasses import replace

from inflight.ir.graph import Graph

_LINEARS = ("linear", "fused_linear")


def prefetch_weights(graph: Graph) -> Graph:
    nodes = list(graph.nodes)
    linears = [index for index, node in enumerate(nodes) if node.op in _LINEARS]
    for index, following in zip(linears, linears[1:] + linears[:1], strict=True):
        if nodes[index].op == "fused_linear":
            inputs = {**nodes[index].inputs, "prefetch": nodes[following].inputs["weight"]}
            nodes[index] = replace(nodes[index], inputs=inputs)
    return graph.with_nodes(tuple(nodes))
