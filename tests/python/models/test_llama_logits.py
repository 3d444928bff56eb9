"""The compiled graph's logits are those of transformers, through checkpoint, recipes and cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inflight.ir.interpreter import Chunk, Interpreter, pack
from packed_steps import assert_close, check_packed_steps

CASES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "all_biases_tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "multi_query_odd": {
        "hidden_size": 35,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
        "head_dim": 6,
        "intermediate_size": 53,
        "vocab_size": 97,
    },
    "five_to_one": {
        "hidden_size": 40,
        "num_attention_heads": 10,
        "num_key_value_heads": 2,
        "head_dim": 4,
    },
    "wide_heads": {"num_key_value_heads": 4, "head_dim": 40, "num_hidden_layers": 3},
    "one_head": {
        "hidden_size": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "intermediate_size": 1,
    },
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 5e5,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    },
    "yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 16.0,
            "original_max_position_embeddings": 32,
        }
    },
    "epsilon": {"rms_norm_eps": 0.05},
}


def _transformers_model(checkpoint: Path) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(checkpoint).to(torch.float64).eval()


@pytest.mark.parametrize("case", CASES)
def test_logits_of_packed_steps_are_those_of_transformers(
    case: str,
    make_checkpoint: Callable[..., Path],
    compile_model: Callable[..., Any],
    make_workload: Callable[..., Any],
) -> None:
    checkpoint = make_checkpoint(seed=5, **CASES[case])
    model = _transformers_model(checkpoint)
    compiled = compile_model(checkpoint, tokens_per_block=4)
    workload = make_workload(6, vocab_size=model.config.vocab_size)
    check_packed_steps(model, compiled, workload)


@pytest.mark.parametrize("prompt_length", [5, 15, 16, 17, 30])
def test_dynamic_rope_follows_the_sequence_as_generate_does(
    prompt_length: int,
    make_checkpoint: Callable[..., Path],
    compile_model: Callable[..., Any],
) -> None:
    """Prompt tokens turn with the prompt's length, generated ones with the length they make."""
    import torch

    checkpoint = make_checkpoint(
        seed=7,
        max_position_embeddings=16,
        rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
    )
    model = _transformers_model(checkpoint)
    compiled = compile_model(checkpoint, tokens_per_block=4)
    tokens = tuple(map(int, np.random.default_rng(8).integers(0, 320, prompt_length + 6)))
    interpreter = Interpreter(compiled.graph, compiled.weights, 10, np.float64)
    cache, done = None, 0
    for end in range(prompt_length, len(tokens) + 1):
        with torch.no_grad():
            answer = model(torch.tensor([tokens[done:end]]), past_key_values=cache, use_cache=True)
        cache = answer.past_key_values
        cuts = [done, done + 4, end] if end - done > 4 else [done, end]
        for begin, stop in zip(cuts[:-1], cuts[1:], strict=True):
            chunk = Chunk(tokens[begin:stop], begin, tuple(range(10)), prompt_length)
            logits = interpreter.run(pack([chunk], 4))["logits"]
        assert_close(logits[0], answer.logits[0, -1].numpy())
        done = end


def test_float32_agrees_with_float32_of_transformers(
    tiny_checkpoint: Path, compile_model: Callable[..., Any], make_workload: Callable[..., Any]
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny_checkpoint)
    compiled = compile_model(tiny_checkpoint, tokens_per_block=4)
    workload = make_workload(9)
    interpreter = Interpreter(compiled.graph, compiled.weights, workload.num_blocks)
    with torch.no_grad():
        expected = [model(torch.tensor([t])).logits[0].numpy() for t in workload.sequences]
    for step in workload.steps:
        logits = interpreter.run(step.inputs)["logits"]
        assert logits.dtype == np.float32
        for row, (sequence, position) in enumerate(step.last):
            theirs = expected[sequence][position]
            np.testing.assert_allclose(logits[row], theirs, atol=2e-5 * np.abs(theirs).max())


def test_bfloat16_agrees_as_well_as_transformers_does_with_itself(
    make_checkpoint: Callable[..., Path],
    compile_model: Callable[..., Any],
    make_workload: Callable[..., Any],
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    checkpoint = make_checkpoint(seed=10, dtype="bfloat16")
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16)
    exact = _transformers_model(checkpoint)
    compiled = compile_model(checkpoint, tokens_per_block=4)
    workload = make_workload(11)
    interpreter = Interpreter(compiled.graph, compiled.weights, workload.num_blocks)
    ours, theirs = [], []
    with torch.no_grad():
        rounded = [model(torch.tensor([t])).logits[0].double() for t in workload.sequences]
        truth = [exact(torch.tensor([t])).logits[0] for t in workload.sequences]
    for step in workload.steps:
        logits = interpreter.run(step.inputs)["logits"]
        for row, (i, position) in enumerate(step.last):
            ours.append(np.abs(logits[row] - truth[i][position].numpy()).mean())
            theirs.append((rounded[i][position] - truth[i][position]).abs().mean().item())
    assert np.mean(ours) <= 1.1 * np.mean(theirs)
