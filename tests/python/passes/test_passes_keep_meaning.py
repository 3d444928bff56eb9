"""Every pass leaves the graph computing what it computed: before = after, step by step."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from inflight.builder.assemble import assemble
from inflight.builder.build import compile_checkpoint, model_graph
from inflight.checkpoint.reader import CheckpointReader
from inflight.config import BuildConfig
from inflight.ir.graph import Graph, Node
from inflight.ir.interpreter import Interpreter
from inflight.ir.verify import verify
from inflight.passes.pipeline import PASSES, stages

CASES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi_head_biases": {
        "num_key_value_heads": 4,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 10,
    },
    "one_kv_head_tied_odd": {
        "hidden_size": 30,
        "intermediate_size": 37,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "tie_word_embeddings": True,
        "vocab_size": 101,
    },
}


class Traced:
    """The graphs of a model after each pass, and the weights that each needs."""

    def __init__(self, checkpoint: Path, dtype: str):
        self.reader = CheckpointReader.open(checkpoint)
        compiled = compile_checkpoint(self.reader, BuildConfig(dtype=dtype, tokens_per_block=4))
        self.stages = list(stages(model_graph(compiled.model, compiled.settings)))

    def run(self, graph: Graph, workload: Any, compute: type) -> list[np.ndarray]:
        """The logits of every step and the cache at the end."""
        weights = {name: assemble(self.reader, w) for name, w in graph.weights.items()}
        interpreter = Interpreter(graph, weights, workload.num_blocks, compute)
        logits = [interpreter.run(step.inputs)["logits"] for step in workload.steps]
        return [*logits, *interpreter.kv_cache.values()]


@pytest.mark.parametrize("case", CASES)
def test_each_pass_computes_the_same(
    case: str, make_checkpoint: Callable[..., Path], make_workload: Callable[..., Any]
) -> None:
    config = CASES[case]
    traced = Traced(make_checkpoint(**config), "float32")
    workload = make_workload(3, vocab_size=config.get("vocab_size", 320))
    before = None
    for name, graph in traced.stages:
        after = traced.run(graph, workload, np.float64)
        for a, b in zip(before or after, after, strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9, err_msg=name)
        before = after
    assert all(np.isfinite(array).all() and np.abs(array).max() > 0.1 for array in before)


def test_passes_in_bfloat16_differ_by_its_rounding_only(
    make_checkpoint: Callable[..., Path], make_workload: Callable[..., Any]
) -> None:
    traced = Traced(make_checkpoint(dtype="bfloat16"), "auto")
    workload = make_workload(4)
    (_, first), *_, (_, last) = traced.stages
    before, after = (traced.run(graph, workload, np.float32) for graph in (first, last))
    assert after[-1].dtype == ml_dtypes.bfloat16
    for a, b in zip(before, after, strict=True):
        a, b = a.astype(np.float32), b.astype(np.float32)
        # silu_mul rounds once where silu and mul round twice
        assert np.abs(a - b).max() <= 0.03 * np.abs(a).max()


def test_the_passes_fuse_everything_a_kernel_is_there_for(
    tiny_checkpoint: Path,
) -> None:
    traced = Traced(tiny_checkpoint, "float32")
    ops = {name: Counter(n.op for n in graph.nodes) for name, graph in traced.stages}
    layers = 2
    assert ops["model"]["linear"] == 7 * layers + 1
    assert ops["fuse_qkv"]["linear"] == 5 * layers + 1
    assert ops["fuse_gate_up"]["linear"] == 4 * layers + 1
    assert ops["fuse_norm_linear"]["fused_linear"] == 2 * layers + 1
    assert ops["fuse_linear_silu_mul"]["silu_mul"] == 0
    assert ops["dead_code"] == {
        "embedding": 1,
        "rope_table": 1,
        "fused_linear": 4 * layers + 1,
        "rope_attention": layers,
        "gather_rows": 1,  # of the last layer's residual: its attention is of fewer rows
    }
    last = traced.stages[-1][1]
    linears = [node for node in last.nodes if node.op == "fused_linear"]
    normed = ["norm_weight" in node.inputs for node in linears]
    added = ["residual" in node.inputs for node in linears]
    gated = [node.attributes.get("gated", False) for node in linears]
    assert normed == [True, False] * 2 * layers + [True]
    assert added == [False, True] * 2 * layers + [False]
    assert gated == [False, False, True, False] * layers + [False]
    assert len(last.weights) == 6 * layers + 3


@pytest.mark.parametrize("name", [name for name, _ in PASSES])
def test_a_pass_changes_nothing_the_second_time(name: str, tiny_checkpoint: Path) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[-1][1]
    assert dict(PASSES)[name](graph) == graph


def _edit(graph: Graph, op: str, **inputs: str) -> Graph:
    """The graph with inputs of the first `op` changed."""
    index = next(i for i, node in enumerate(graph.nodes) if node.op == op)
    node = graph.nodes[index]
    changed = replace(node, inputs={**node.inputs, **inputs})
    return replace(graph, nodes=(*graph.nodes[:index], changed, *graph.nodes[index + 1 :]))


def _run_pass(name: str, graph: Graph) -> Counter[str]:
    return Counter(node.op for node in verify(dict(PASSES)[name](verify(graph))).nodes)


def test_linears_of_which_some_have_a_bias_stay_apart(
    make_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = make_checkpoint(attention_bias=True, mlp_bias=True, num_hidden_layers=1)
    graph = Traced(checkpoint, "float32").stages[0][1]
    for name in ("query", "gate"):
        index = next(i for i, n in enumerate(graph.nodes) if name in n.inputs.get("weight", ""))
        node = graph.nodes[index]
        inputs = {k: v for k, v in node.inputs.items() if k != "bias"}
        nodes = list(graph.nodes)
        nodes[index] = replace(node, inputs=inputs)
        graph = replace(graph, nodes=tuple(nodes))
    assert _run_pass("fuse_qkv", graph)["linear"] == 8
    assert _run_pass("fuse_gate_up", graph)["silu_mul"] == 0


def test_linears_of_different_inputs_stay_apart(tiny_checkpoint: Path) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[0][1]
    embedding = graph.nodes[0].outputs["y"]
    assert _run_pass("fuse_qkv", _edit(graph, "linear", x=embedding))["split"] == 1  # layer 1


def test_a_gate_that_something_else_reads_is_not_fused(tiny_checkpoint: Path) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[0][1]
    silu = next(node for node in graph.nodes if node.op == "silu")
    graph = replace(graph, outputs={**graph.outputs, "gate": silu.inputs["x"]})
    assert _run_pass("fuse_gate_up", graph)["silu_mul"] == 1  # layer 1


def test_a_norm_that_others_read_stays(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_gate_up"]
    norm = next(node for node in graph.nodes if node.op == "rms_norm")
    graph = replace(graph, outputs={**graph.outputs, "normed": norm.outputs["y"]})
    ops = _run_pass("fuse_norm_linear", graph)
    assert ops["rms_norm"] == 1 and ops["fused_linear"] == 4  # the other norms: 3 and the last


def test_linears_that_others_read_keep_their_columns(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_norm_linear"]
    silu_mul = next(node for node in graph.nodes if node.op == "silu_mul")
    add = next(node for node in graph.nodes if node.op == "add")
    columns = {"gate_up": silu_mul.inputs["gate_up"], "linear": add.inputs["b"]}
    graph = replace(graph, outputs={**graph.outputs, **columns})
    assert _run_pass("fuse_linear_silu_mul", graph)["silu_mul"] == 1  # layer 1 is fused
    assert _run_pass("fuse_linear_add", graph)["add"] == 1  # of 4


def test_a_linear_is_added_whichever_side_it_stands(tiny_checkpoint: Path) -> None:
    traced = Traced(tiny_checkpoint, "float32")
    graph = dict(traced.stages)["fuse_linear_silu_mul"]
    nodes = [
        replace(node, inputs={"a": node.inputs["b"], "b": node.inputs["a"]})
        if node.op == "add"
        else node
        for node in graph.nodes
    ]
    swapped = replace(graph, nodes=tuple(nodes))
    fuse = dict(PASSES)["fuse_linear_add"]
    assert verify(fuse(swapped)) == verify(fuse(graph))


def test_what_has_a_residual_or_a_gate_is_not_gated(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_linear_add"]
    gated = next(node for node in graph.nodes if node.attributes.get("gated", False))
    with_residual = next(node for node in graph.nodes if "residual" in node.inputs)
    for node in (gated, with_residual):
        y = graph.values[node.outputs["y"]]
        half = replace(y, shape=(y.shape[0], y.shape[1] // 2))
        last = Node("silu_mul", {"gate_up": node.outputs["y"]}, {"y": "half"})
        only = tuple(n for n in graph.nodes[: graph.nodes.index(node) + 1])
        made = {name for n in only for name in n.outputs.values()}
        values = {name: t for name, t in graph.values.items() if name in made} | {"half": half}
        small = replace(graph, nodes=(*only, last), values=values, outputs={"half": "half"})
        assert _run_pass("fuse_linear_silu_mul", small)["silu_mul"] == 1


def test_the_last_layer_goes_on_with_last_rows_alone(tiny_checkpoint: Path) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[-1][1]
    rows = [graph.values[value].shape[0] for node in graph.nodes for value in node.outputs.values()]
    first = rows.index("B")
    assert set(rows[first:]) == {"B"}
    assert [node.op for node in graph.nodes[first:]] == [
        "rope_attention",
        "gather_rows",
        *["fused_linear"] * 4,
    ]
    assert graph.nodes[first].inputs["last_rows"] == "last_rows"


def test_rows_that_others_read_are_all_computed(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_rope_kv_append"]
    gather = next(node for node in graph.nodes if node.op == "gather_rows")
    kept = replace(graph, outputs={**graph.outputs, "hidden": gather.inputs["x"]})
    assert verify(dict(PASSES)["gather_early"](kept)) == kept


def test_equal_gathers_are_merged_unless_they_are_outputs(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_rope_kv_append"]
    gather = next(node for node in graph.nodes if node.op == "gather_rows")
    again = replace(gather, outputs={"y": "again"})
    values = {**graph.values, "again": graph.values[gather.outputs["y"]]}
    twice = replace(graph, nodes=(*graph.nodes, again), values=values)
    early = dict(PASSES)["gather_early"]
    assert [n.op for n in verify(early(twice)).nodes] == [n.op for n in early(graph).nodes]
    asked = replace(twice, outputs={**graph.outputs, "again": "again"})
    assert verify(early(verify(asked))).producers()["again"] > 0


def test_an_attention_of_other_rows_than_the_last_stays(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_rope_kv_append"]
    others = _edit(graph, "gather_rows", rows="kv_lengths")
    nodes = verify(dict(PASSES)["gather_early"](verify(others))).nodes
    assert all("query_starts" in node.inputs for node in nodes if node.op == "attention")


def test_rope_and_append_with_other_tables_stay_apart(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["fuse_qkv"]
    table = next(node for node in graph.nodes if node.op == "rope_table")
    other = Node("rope_table", table.inputs, {"cos_sin": "other"}, table.attributes)
    values = {**graph.values, "other": graph.values[table.outputs["cos_sin"]]}
    graph = replace(graph, nodes=(other, *graph.nodes), values=values)
    assert _run_pass("fuse_rope_kv_append", _edit(graph, "rope", cos_sin="other"))["rope"] == 2


def test_queries_that_others_read_are_rotated_apart(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["gather_early"]
    append = next(node for node in graph.nodes if node.op == "rope_kv_append")
    attentions = [node for node in graph.nodes if node.op == "attention"]
    (gathered,) = (node.inputs["q"] for node in attentions if "query_starts" not in node.inputs)
    assert _run_pass("fuse_rope_attention", graph)["rope_attention"] == 2
    for queries, left in ((append.outputs["q"], 1), (gathered, 1)):
        others = replace(graph, outputs={**graph.outputs, "queries": queries})
        assert _run_pass("fuse_rope_attention", others)["rope_attention"] == left


def test_attention_of_other_rows_than_the_last_is_not_fused(tiny_checkpoint: Path) -> None:
    graph = dict(Traced(tiny_checkpoint, "float32").stages)["gather_early"]
    others = _edit(graph, "gather_rows", rows="kv_lengths")
    assert _run_pass("fuse_rope_attention", others)["rope_attention"] == 1


def test_dead_code_keeps_what_writes_the_cache(tiny_checkpoint: Path) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[0][1]
    x = graph.nodes[0].outputs["y"]
    only_first = replace(graph, outputs={"x": x})
    assert _run_pass("dead_code", only_first)["kv_append"] == 2
    assert _run_pass("dead_code", only_first)["silu"] == 1  # the last layer's MLP is not needed


def test_dead_code_drops_an_optional_output_that_nothing_reads(
    tiny_checkpoint: Path,
) -> None:
    graph = Traced(tiny_checkpoint, "float32").stages[0][1]
    norm = next(node for node in graph.nodes if node.op == "rms_norm")
    x = norm.inputs["x"]
    alone = Node("add_rms_norm", {**norm.inputs, "residual": x}, norm.outputs, norm.attributes)
    nodes = tuple(alone if node is norm else node for node in graph.nodes)
    without_sum = verify(replace(graph, nodes=nodes))
    kept = replace(alone, outputs={**alone.outputs, "sum": "unread"})
    nodes = tuple(kept if node is norm else node for node in graph.nodes)
    values = {**graph.values, "unread": graph.values[norm.outputs["y"]]}
    with_sum = verify(replace(graph, nodes=nodes, values=values))
    assert verify(dict(PASSES)["dead_code"](with_sum)) == without_sum
