"""rope_kv_append, attention of its queries -> rope_attention, which a GPU may do in one kernel."""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite

_KEPT = ("kv_cache", "block_tables", "query_starts", "kv_lengths")


def fuse_rope_attention(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "attention":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, index: int, attention: Node) -> None:
    found = rewrite.producer(attention.inputs["q"], "rope_kv_append")
    # Without query_starts it has fewer rows than there are keys to append.
    if found is None or "query_starts" not in attention.inputs:
        return
    append_index, append = found
    same_cache = append.inputs["kv_cache"] == attention.inputs["kv_cache"]
    if not same_cache or not rewrite.is_read_only_by(append.outputs["q"], index):
        return
    inputs = {**append.inputs, **{name: attention.inputs[name] for name in _KEPT}}
    rewrite.replace(append_index)
    rewrite.replace(index, Node("rope_attention", inputs, attention.outputs, attention.attributes))
