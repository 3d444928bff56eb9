"""The list of passes, in order, with a look at the graph after each."""

from collections.abc import Callable, Iterator

from inflight.ir.graph import Graph
from inflight.ir.verify import verify
from inflight.passes.dead_code import dead_code
from inflight.passes.fuse_gate_up import fuse_gate_up
from inflight.passes.fuse_linear_add import fuse_linear_add
from inflight.passes.fuse_linear_silu_mul import fuse_linear_silu_mul
from inflight.passes.fuse_norm_linear import fuse_norm_linear
from inflight.passes.fuse_qkv import fuse_qkv
from inflight.passes.fuse_rope_attention import fuse_rope_attention
from inflight.passes.fuse_rope_kv_append import fuse_rope_kv_append
from inflight.passes.gather_early import gather_early

Pass = Callable[[Graph], Graph]

PASSES: tuple[tuple[str, Pass], ...] = (
    ("fuse_qkv", fuse_qkv),
    ("fuse_gate_up", fuse_gate_up),
    ("fuse_norm_linear", fuse_norm_linear),
    ("fuse_linear_silu_mul", fuse_linear_silu_mul),
    ("fuse_linear_add", fuse_linear_add),
    ("fuse_rope_kv_append", fuse_rope_kv_append),
    ("gather_early", gather_early),
    ("fuse_rope_attention", fuse_rope_attention),
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
