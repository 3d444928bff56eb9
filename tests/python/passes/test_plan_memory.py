"""The arena: no two values that live at once share a byte, and little is wasted."""

from collections.abc import Callable, Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.builder.build import model_graph
from inflight.config import BuildConfig, ModelConfig
from inflight.ir.graph import Graph
from inflight.passes.pipeline import optimize
from inflight.passes.plan_memory import (
    ALIGNMENT,
    Lifetime,
    MemoryPlan,
    lifetimes,
    place,
    plan_memory,
)


def _check(lives: dict[str, Lifetime], plan: MemoryPlan) -> None:
    assert set(plan.offsets) == set(lives)
    for name, life in lives.items():
        begin, end = plan.offsets[name], plan.offsets[name] + life.bytes
        assert begin % ALIGNMENT == 0
        assert 0 <= begin and end <= plan.arena_bytes
        for other, other_life in lives.items():
            if other == name:
                continue
            alive_together = life.first <= other_life.last and other_life.first <= life.last
            other_begin = plan.offsets[other]
            if alive_together:
                assert end <= other_begin or other_begin + other_life.bytes <= begin


def _lower_bound(lives: Mapping[str, Lifetime]) -> int:
    """The bytes alive at the fullest moment: no plan takes less."""
    moments = sorted({life.first for life in lives.values()})
    return max(
        (sum(v.bytes for v in lives.values() if v.first <= m <= v.last) for m in moments),
        default=0,
    )


@st.composite
def _lives(draw: st.DrawFn) -> dict[str, Lifetime]:
    lives = {}
    for i in range(draw(st.integers(0, 25))):
        first = draw(st.integers(0, 20))
        last = first + draw(st.integers(0, 20))
        lives[f"v{i}"] = Lifetime(ALIGNMENT * draw(st.integers(0, 50)), first, last)
    return lives


@given(_lives())
@settings(max_examples=200, deadline=None)
def test_values_that_live_at_once_share_no_byte(lives: dict[str, Lifetime]) -> None:
    plan = place(lives)
    _check(lives, plan)
    assert plan.arena_bytes >= _lower_bound(lives)


def _llama(hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocab: int) -> Graph:
    model = ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=vocab,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv,
        head_size=hidden // heads,
        intermediate_size=intermediate,
        max_position_embeddings=4096,
    )
    return optimize(model_graph(model, BuildConfig(dtype="bfloat16")))


def test_llama_takes_little_more_than_the_least_possible() -> None:
    for graph in (
        _llama(4096, 14336, 32, 32, 8, 128256),
        _llama(2048, 8192, 16, 32, 8, 128256),
        _llama(768, 2048, 12, 12, 12, 32000),
        _llama(64, 176, 2, 4, 2, 320),
    ):
        for num_tokens, num_sequences in ((2048, 64), (64, 64), (8192, 256), (1, 1)):
            lives = lifetimes(graph, num_tokens, num_sequences)
            plan = plan_memory(graph, num_tokens, num_sequences)
            _check(lives, plan)
            assert plan.arena_bytes <= 1.2 * _lower_bound(lives)


def test_what_lies_within_an_op_is_not_in_the_arena() -> None:
    graph = _llama(4096, 14336, 32, 32, 8, 128256)
    plan = plan_memory(graph, 2048, 64)
    # the stream before and after an MLP, and the rows between its two linears
    assert plan.arena_bytes < 1.02 * 2048 * 2 * (4096 + 14336 + 4096)


def test_a_node_never_writes_over_what_it_reads(
    tiny_checkpoint: Path, compile_model: Callable
) -> None:
    graph = compile_model(tiny_checkpoint).graph
    lives = lifetimes(graph, 100, 10)
    for index, node in enumerate(graph.nodes):
        for name in (*node.inputs.values(), *node.outputs.values()):
            if name in lives:
                assert lives[name].first <= index <= lives[name].last
    logits = graph.outputs["logits"]
    assert lives[logits].last == len(graph.nodes)
    assert lives[logits].bytes == 10 * 320 * 4
