"""The list of passes, in order, with a look at the graph after each."""

from collections.abc import Callable, Iterator

from inflight.ir.graph import Graph
from inflight.ir.verify import verify
from inflight.passes.dead_code import dead_code
from inflight.passes.fuse_add_norm import fuse_add_norm
from inflight.passes.fuse_gate_up import fuse_gate_up
from inflight.passes.fuse_qkv import fuse_qkv
from inflight.passes.fuse_rope_kv_append import fuse_rope_kv_append

Pass = Callable[[Graph], Graph]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("fuse_qkv", fuse_qkv),
    ("fuse_gate_up", fuse_gate_up),
    ("fuse_add_norm", fuse_add_norm),
    ("fuse_rope_kv_append", fuse_rope_kv_append),
    ("dead_code", dead_code),
)


def stages(graph: Graph) -> Iterator[tuple[str, Graph]]:
    """The graph as the model wrote it, then as each pass left it; every one is verified."""
    graph = verify(graph)
    yield "model", graph
    for name, run in PASSES:
        graph = verify(run(graph))
        yield name, graph


def optimize(graph: Graph) -> Graph:
    """The graph after all passes."""
    *_, (_, optimized) = stages(graph)
    return optimized
