"""add(residual, linear) -> fused_linear with a residual, where nothing else reads the linear."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite, any_linear_behind


def fuse_linear_add(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "add":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, index: int, add: Node) -> None:
    for value, residual in ((add.inputs["b"], add.inputs["a"]), (add.inputs["a"], add.inputs["b"])):
        found = any_linear_behind(rewrite, value, index)
        if found is None or "residual" in found[1].inputs:
            continue
        linear_index, linear = found
        inputs = {**linear.inputs, "residual": residual}
        rewrite.replace(linear_index)
        rewrite.replace(index, Node("fused_linear", inputs, add.outputs, linear.attributes))
        return
