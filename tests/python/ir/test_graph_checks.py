"""verify finds each way in which a graph can be wrong; the printer shows it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inflight.ir.graph import Graph, Node, Recipe, Source, TensorType, Weight
from inflight.ir.graph_builder import GraphBuilder
from inflight.ir.ops import OPS
from inflight.ir.printer import print_graph
from inflight.ir.reference import _MEANINGS
from inflight.ir.verify import GraphError, verify


def _weight(*shape: int, dtype: str = "float32") -> Weight:
    return Weight(TensorType(dtype, shape), Recipe((Source("tensor"),), (shape,)))


def _graph() -> Graph:
    """embedding, norm, linear without a cache."""
    builder = GraphBuilder()
    table = builder.weight("table", _weight(10, 4))
    scale = builder.weight("scale", _weight(4))
    (x,) = builder.add("embedding", {"ids": "input_ids", "table": table})
    (y,) = builder.add("rms_norm", {"x": x, "weight": scale}, epsilon=1e-6)
    (z,) = builder.add("linear", {"x": y, "weight": table}, dtype="float32")
    return builder.finish(z=z)


def _with_node(index: int, **changes: Any) -> Graph:
    graph = _graph()
    nodes = list(graph.nodes)
    nodes[index] = replace(nodes[index], **changes)
    return replace(graph, nodes=tuple(nodes))


def test_a_sound_graph_passes_and_prints() -> None:
    graph = verify(_graph())
    assert print_graph(graph).splitlines() == [
        "v0: float32[T, 4] = embedding(ids=input_ids, table=table)",
        "v1: float32[T, 4] = rms_norm(x=v0, weight=scale) {epsilon=1e-06}",
        "v2: float32[T, 10] = linear(x=v1, weight=table)",
        "return z=v2",
    ]


@pytest.mark.parametrize(
    "graph, message",
    [
        (_with_node(1, op="rms_nrom"), "no such op"),
        (_with_node(1, inputs={"x": "v0"}), "input 'weight' is missing"),
        (_with_node(1, inputs={"x": "v0", "weight": "scale", "b": "v0"}), "has no input 'b'"),
        (_with_node(1, attributes={}), "attribute 'epsilon' is missing"),
        (_with_node(1, attributes={"epsilon": "1"}), "expected float"),
        (_with_node(1, attributes={"epsilon": True}), "expected float"),
        (_with_node(1, attributes={"epsilon": 1e-6, "eps": 1}), "has no attribute 'eps'"),
        (_with_node(1, inputs={"x": "v2", "weight": "scale"}), "before it is made"),
        (_with_node(1, inputs={"x": "nothing", "weight": "scale"}), "before it is made"),
        (_with_node(1, inputs={"x": "v0", "weight": "table"}), "weight must have shape"),
        (_with_node(1, inputs={"x": "input_ids", "weight": "scale"}), "2 dimensions"),
        (_with_node(1, outputs={"y": "v0"}), "a second time"),
        (_with_node(1, outputs={"y": "new"}), "has no type"),
        (_with_node(1, outputs={}), "output 'y' is missing"),
        (_with_node(0, inputs={"ids": "kv_lengths", "table": "table"}), "ids must be"),
        (replace(_graph(), outputs={"z": "v9"}), "no node makes 'v9'"),
        (replace(_graph(), nodes=_graph().nodes[:2]), "no node makes"),
        (
            replace(_graph(), values={**_graph().values, "v1": TensorType("float32", ("T", 5))}),
            "the op makes",
        ),
        (
            replace(_graph(), values={**_graph().values, "v1": TensorType("float16", ("T", 4))}),
            "the op makes",
        ),
        (
            replace(_graph(), inputs={**_graph().inputs, "x": TensorType("int32", ("N",))}),
            "is no dimension",
        ),
        (
            replace(_graph(), inputs={**_graph().inputs, "scale": TensorType("int32", ("T",))}),
            "the same name",
        ),
    ],
)
def test_a_wrong_graph_is_refused(graph: Graph, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        verify(graph)


def test_optional_and_variadic_outputs() -> None:
    builder = GraphBuilder()
    table = builder.weight("table", _weight(10, 4))
    scale = builder.weight("scale", _weight(4))
    (x,) = builder.add("embedding", {"ids": "input_ids", "table": table})
    inputs = {"x": x, "residual": x, "weight": scale}
    y, total = builder.add("add_rms_norm", inputs, epsilon=1e-6)
    a, b, c = builder.add("split", {"x": y}, sizes=[1, 2, 1])
    graph = verify(builder.finish(b=b))
    assert [graph.values[name].shape[1] for name in (a, b, c)] == [1, 2, 1]
    norm = graph.nodes[1]
    without = replace(norm, outputs={"y": norm.outputs["y"]})
    values = {k: v for k, v in graph.values.items() if k != total}
    verify(replace(graph, nodes=(graph.nodes[0], without, graph.nodes[2]), values=values))
    with pytest.raises(TypeError, match="do not add up"):
        builder.add("split", {"x": y}, sizes=[1, 2])
    with pytest.raises(ValueError, match="declared twice"):
        builder.weight("scale", _weight(5))


def test_every_op_has_a_meaning_and_a_use(
    tiny_checkpoint: Path, compile_model: Callable[..., Any]
) -> None:
    assert set(OPS) == {*_MEANINGS, "linear", "fused_linear"}
    kernels = {name for name, schema in OPS.items() if schema.has_kernel}
    # what fused ops are composed of: in plans where nothing was fused, and in older engines
    parts = {"rms_norm", "add_rms_norm", "linear", "silu_mul", "rope_kv_append", "attention"}
    used = {node.op for node in compile_model(tiny_checkpoint).graph.nodes}
    assert kernels == used | parts and not used & parts
    types = {
        spec.type for schema in OPS.values() if schema.has_kernel for spec in schema.attributes
    }
    assert types <= {"bool", "int", "float", "string", "floats"}


def test_a_node_that_reads_a_value_twice_is_one_reader() -> None:
    graph = _graph()
    node = Node("add", {"a": "v0", "b": "v0"}, {"y": "v3"})
    values = {**graph.values, "v3": graph.values["v0"]}
    graph = verify(replace(graph, nodes=(*graph.nodes, node), values=values))
    assert graph.consumers()["v0"] == [1, 3]
