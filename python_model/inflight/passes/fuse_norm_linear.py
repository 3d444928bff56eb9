"""linear(rms_norm(x)) -> fused_linear, where nothing else reads the norm."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite


def fuse_norm_linear(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "linear":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, index: int, linear: Node) -> None:
    found = rewrite.producer(linear.inputs["x"], "rms_norm")
    if found is None or not rewrite.is_read_only_by(linear.inputs["x"], index):
        return
    norm_index, norm = found
    inputs = {**linear.inputs, "x": norm.inputs["x"], "norm_weight": norm.inputs["weight"]}
    attributes = {"epsilon": norm.attributes["epsilon"]}
    rewrite.replace(norm_index)
    rewrite.replace(index, Node("fused_linear", inputs, linear.outputs, attributes))
