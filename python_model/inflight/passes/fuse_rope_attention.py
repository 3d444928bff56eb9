"""rope_kv_append, attention of its queries -> rope_attention, which a GPU may do in one kernel.

Likewise where the attention is of the last rows alone: all rows are the last ones in a step that
generates.
"""

from inflight.ir.graph import Graph, Node
from inflight.passes.rewrite import Rewrite

_KEPT = ("kv_cache", "block_tables", "kv_lengths")


def fuse_rope_attention(graph: Graph) -> Graph:
    rewrite = Rewrite(graph)
    for index, node in enumerate(graph.nodes):
        if node.op == "attention":
            _fuse(rewrite, index, node)
    return rewrite.finish()


def _fuse(rewrite: Rewrite, index: int, attention: Node) -> None:
    rows = {name: attention.inputs[name] for name in ("query_starts",) if name in attention.inputs}
    q, reader = attention.inputs["q"], index
    if not rows:  # a row to each sequence
        gathered = rewrite.producer(q, "gather_rows")
        if gathered is None or not rewrite.is_read_only_by(q, index):
            return
        reader, gather = gathered
        if gather.inputs["rows"] != "last_rows":
            return
        q = gather.inputs["x"]
        rows = {"query_starts": "query_starts", "last_rows": "last_rows"}
    found = rewrite.producer(q, "rope_kv_append")
    if found is None or not rewrite.is_read_only_by(q, reader):
        return
    append_index, append = found
    if append.inputs["kv_cache"] != attention.inputs["kv_cache"]:
        return
    inputs = {**append.inputs, **{name: attention.inputs[name] for name in _KEPT}, **rows}
    rewrite.replace(append_index)
    if reader != index:
        rewrite.replace(reader)
    rewrite.replace(index, Node("rope_attention", inputs, attention.outputs, attention.attributes))
