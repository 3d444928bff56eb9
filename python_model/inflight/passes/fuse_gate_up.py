"""mul(silu(linear gate), linear up) of the same x -> one linear and silu_mul."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite, fuse_linears


def fuse_gate_up(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "mul":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, mul_index: int, mul: Node) -> None:
    silu = rewrite.producer(mul.inputs["a"], "silu")
    up = rewrite.producer(mul.inputs["b"], "linear")
    gate = rewrite.producer(silu[1].inputs["x"], "linear") if silu else None
    if silu is None or up is None or gate is None:
        return
    single_use = (
        rewrite.is_read_only_by(mul.inputs["a"], mul_index)
        and rewrite.is_read_only_by(mul.inputs["b"], mul_index)
        and rewrite.is_read_only_by(silu[1].inputs["x"], silu[0])
    )
    if not single_use or gate[1].inputs["x"] != up[1].inputs["x"]:
        return
    fused = fuse_linears(rewrite, [gate[1], up[1]], "gate_up")
    if fused is None:
        return
    rewrite.replace(gate[0], fused)
    rewrite.replace(up[0])
    rewrite.replace(silu[0])
    rewrite.replace(mul_index, Node("silu_mul", {"gate_up": fused.outputs["y"]}, mul.outputs))
