"""linear q, linear k, linear v of the same x -> one linear and a split."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite, fuse_linears


def fuse_qkv(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for node in graph.nodes:
        if node.op == "kv_append":
            _fuse(rewrite, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, append: Node) -> None:
    attention = _attention_on(rewrite, append.inputs["kv_cache"])
    if attention is None:
        return
    sources = (attention.inputs["q"], append.inputs["k"], append.inputs["v"])
    found = [_linear_behind(rewrite, value) for value in sources]
    if any(match is None for match in found):
        return
    linears = [node for _, node in found]
    if len({node.inputs["x"] for node in linears}) != 1:
        return
    fused = fuse_linears(rewrite, linears, "qkv")
    if fused is None:
        return
    outputs = {f"y{i}": node.outputs["y"] for i, node in enumerate(linears)}
    sizes = [rewrite.graph.values[value].shape[1] for value in outputs.values()]
    split = Node("split", {"x": fused.outputs["y"]}, outputs, {"sizes": sizes})
    first, *others = sorted(index for index, _ in found)
    rewrite.replace(first, fused, split)
    for index in others:
        rewrite.replace(index)


def _attention_on(rewrite: Rewrite, cache: str) -> Node | None:
    nodes = [rewrite.graph.nodes[i] for i in rewrite.readers(cache)]
    attentions = [node for node in nodes if node.op == "attention"]
    return attentions[0] if len(attentions) == 1 else None


def _linear_behind(rewrite: Rewrite, value: str) -> tuple[int, Node] | None:
    """The linear that makes `value`, directly or through a rope."""
    rope = rewrite.producer(value, "rope")
    return rewrite.producer(rope[1].inputs["x"] if rope else value, "linear")
