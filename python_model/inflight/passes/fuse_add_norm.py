"""rms_norm(add(residual, x)) -> add_rms_norm, which also hands on the sum where others read it."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite


def fuse_add_norm(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "rms_norm":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, norm_index: int, norm: Node) -> None:
    found = rewrite.producer(norm.inputs["x"], "add")
    if found is None:
        return
    add_index, add = found
    outputs = dict(norm.outputs)
    if not rewrite.is_read_only_by(norm.inputs["x"], norm_index):
        outputs["sum"] = add.outputs["y"]
    inputs = {
        "x": add.inputs["b"],
        "residual": add.inputs["a"],
        "weight": norm.inputs["weight"],
    }
    # where the add was: every reader of the sum and of the norm comes after it
    rewrite.replace(add_index, Node("add_rms_norm", inputs, outputs, norm.attributes))
    rewrite.replace(norm_index)
