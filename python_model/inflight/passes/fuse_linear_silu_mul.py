"""silu_mul(linear) -> a gated fused_linear, where nothing else reads the linear."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite, any_linear_behind


def fuse_linear_silu_mul(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "silu_mul":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, index: int, silu_mul: Node) -> None:
    found = any_linear_behind(rewrite, silu_mul.inputs["gate_up"], index)
    if found is None or "residual" in found[1].inputs or found[1].attributes.get("gated", False):
        return
    linear_index, linear = found
    attributes = {**linear.attributes, "gated": True}
    rewrite.replace(linear_index)
    rewrite.replace(index, Node("fused_linear", linear.inputs, silu_mul.outputs, attributes))
