"""Sliding windows in the compiled graph: logits of Mistral and Ministral are those of transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inflight.config import ModelConfig, ProblemsError
from model_configs import model_config
from packed_steps import check_packed_steps

CASES: dict[str, dict[str, Any]] = {
    "no_window": {"family": "Mistral", "sliding_window": None},
    "window_of_one": {"family": "Mistral", "sliding_window": 1},
    "window_within_a_block": {"family": "Mistral", "sliding_window": 3},
    "window_of_blocks": {"family": "Mistral", "sliding_window": 8, "head_dim": 10},
    "tied_multi_query": {
        "family": "Mistral",
        "sliding_window": 5,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
    "layers_that_differ": {
        "family": "Ministral",
        "sliding_window": 4,
        "head_dim": 16,  # theirs knows no other default
        "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
    },
}


@pytest.mark.parametrize("case", CASES)
def test_logits_of_packed_steps_are_those_of_transformers(
    case: str,
    make_checkpoint: Callable[..., Path],
    compile_model: Callable[..., Any],
    make_workload: Callable[..., Any],
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    checkpoint = make_checkpoint(seed=5, **CASES[case])
    model = AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    model = model.to(torch.float64).eval()
    compiled = compile_model(checkpoint, tokens_per_block=4)
    num_groups = len(CASES[case].get("layer_types", [""])[:2])  # at most two kinds
    workload = make_workload(6, prompt_lengths=(9, 1, 29, 4), num_groups=num_groups)
    check_packed_steps(model, compiled, workload)


def test_each_layer_has_its_own_window(
    make_checkpoint: Callable[..., Path], compile_model: Callable[..., Any]
) -> None:
    checkpoint = make_checkpoint(**CASES["layers_that_differ"])
    nodes = compile_model(checkpoint).graph.nodes
    attributes = [node.attributes for node in nodes if "attention" in node.op]
    assert [a.get("window", 0) for a in attributes] == [0, 4, 0, 4]


BASE = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({}, [4096, 4096]),  # the key left out: as transformers has it
        ({"sliding_window": None}, [0, 0]),
        ({"sliding_window": 7}, [7, 7]),
        ({"sliding_window": 7, "use_sliding_window": False}, [0, 0]),
        ({"sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]}, [7, 0]),
        ({"model_type": "llama"}, [0, 0]),
    ],
)
def test_windows_of_a_configuration(changes: dict[str, Any], windows: list[int]) -> None:
    model = model_config({**BASE, **changes})
    assert [model.window_of(layer) for layer in range(2)] == windows
    assert ModelConfig.from_json(model.to_json()) == model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sliding_window": 0}, "sliding_window: expected a positive integer, got 0"),
        ({"sliding_window": "8"}, "sliding_window: expected a positive integer, got '8'"),
        ({"layer_types": ["full_attention"]}, "layer_types: 1 types of 2 layers"),
        (
            {"sliding_window": None, "layer_types": ["sliding_attention", "full_attention"]},
            "sliding_window: missing, layers of sliding_attention need it",
        ),
    ],
)
def test_impossible_windows_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemsError, match=message):
        model_config({**BASE, **changes})
