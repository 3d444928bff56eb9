"""Lowering writes every value, weight and row, and refuses what no kernel computes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from inflight.builder.build import compile_checkpoint, model_graph
from inflight.checkpoint.reader import CheckpointReader
from inflight.config import BuildConfig
from inflight.ir.graph import STEP_INPUTS, Recipe, Source, TensorType, Weight
from inflight.ir.ops import OPS
from inflight.passes.lower import LoweringError, lower, lower_weight
from inflight.passes.plan_memory import plan_memory


def test_rows_name_only_what_the_engine_file_declares(
    tiny_checkpoint: Path, compile_model: Callable
) -> None:
    graph = compile_model(tiny_checkpoint).graph
    rank = lower(graph, plan_memory(graph, 64, 8))
    known = set(STEP_INPUTS) | {"kv_cache.0", "kv_cache.1"} | set(rank["weights"])
    for row in rank["plan"]:
        schema = OPS[row["op"]]
        assert schema.has_kernel
        required = {spec.name for spec in schema.inputs if not spec.optional}
        assert required <= set(row["inputs"]) <= {spec.name for spec in schema.inputs}
        assert set(row["inputs"].values()) <= known
        known |= set(row["outputs"].values())
    assert known >= set(rank["values"])
    assert list(rank["values"]) == [f"v{i}" for i in range(len(rank["values"]))]
    assert rank["values"][rank["outputs"]["logits"]]["shape"] == ["B", 320]
    assert rank["values"][rank["outputs"]["logits"]]["dtype"] == "float32"
    qkv = rank["weights"]["layers.1.attention.qkv.weight"]
    assert qkv["shape"] == [128, 64]
    assert [source["tensor"] for source in qkv["recipe"]["sources"]] == [
        f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkv"
    ]


def test_a_graph_that_no_pass_has_seen_is_refused(tiny_checkpoint: Path) -> None:
    reader = CheckpointReader.open(tiny_checkpoint)
    compiled = compile_checkpoint(reader, BuildConfig())
    graph = model_graph(compiled.model, compiled.settings)
    with pytest.raises(LoweringError, match="no kernel computes rope"):
        lower(graph, plan_memory(graph, 64, 8))


def test_slices_are_written_as_ranges() -> None:
    source = Source("w", ((0, 4), (2, 8)))
    weight = Weight(TensorType("float16", (4, 6)), Recipe((source,), ((8, 8),), axis=1))
    assert lower_weight(weight) == {
        "dtype": "float16",
        "shape": [4, 6],
        "recipe": {"axis": 1, "sources": [{"tensor": "w", "slice": [[0, 4], [2, 8]]}]},
    }
    with pytest.raises(ValueError, match="axis 0"):
        replace(weight.recipe, axis=0).concatenated(weight.recipe)
