"""split, rope of q and of k, kv_append -> rope_kv_append, which reads the packed q, k, v."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite


def fuse_rope_kv_append(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "kv_append":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, append_index: int, append: Node) -> None:
    split = rewrite.producer(append.inputs["v"], "split")
    k_rope = rewrite.producer(append.inputs["k"], "rope")
    if split is None or k_rope is None or len(split[1].outputs) != 3:
        return
    q, k, v = (split[1].outputs[f"y{i}"] for i in range(3))
    if len(rewrite.readers(q)) != 1:
        return
    q_rope_index = rewrite.readers(q)[0]
    q_rope = rewrite.graph.nodes[q_rope_index]
    if q_rope.op != "rope" or k_rope[1].inputs["x"] != k or append.inputs["v"] != v:
        return
    single_use = (
        rewrite.is_read_only_by(k, k_rope[0])
        and rewrite.is_read_only_by(v, append_index)
        and rewrite.is_read_only_by(append.inputs["k"], append_index)
    )
    same_table = q_rope.inputs["cos_sin"] == k_rope[1].inputs["cos_sin"]
    q_is_later = all(i > append_index for i in rewrite.readers(q_rope.outputs["y"]))
    if not single_use or not same_table or not q_is_later:
        return
    inputs = {
        "qkv": split[1].inputs["x"],
        "cos_sin": q_rope.inputs["cos_sin"],
        "slots": append.inputs["slots"],
        "kv_cache": append.inputs["kv_cache"],
    }
    attributes = {
        "num_heads": q_rope.attributes["num_heads"],
        "num_kv_heads": append.attributes["num_kv_heads"],
        "head_size": append.attributes["head_size"],
    }
    for index in (split[0], q_rope_index, k_rope[0]):
        rewrite.replace(index)
    rewrite.replace(
        append_index,
        Node("rope_kv_append", inputs, {"q": q_rope.outputs["y"]}, attributes),
    )
