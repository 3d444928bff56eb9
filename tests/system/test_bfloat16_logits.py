"""With bfloat16 weights, log-probabilities of the whole vocabulary next to transformers'.

The engine must be as near to the float32 truth as transformers in bfloat16 is, and as near to
transformers in bfloat16 as its own attention implementations (eager, sdpa) are to each other.

Differences are root mean squares over vocabulary and positions of prompt-and-answer sequences.
Both may exceed the measure by a quarter: two sets of equally good roundings differ by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from random_llamas import Case, make_case, make_model

ALLOWED = 1.25


def fast(seed: int, head_dim: int, tokens_per_block: int) -> Case:
    """A Llama whose heads and blocks a GPU's fast kernels take."""
    case = make_case(seed, num_prompts=6)
    build = {**case.build, "tokens_per_block": tokens_per_block}
    return replace(case, config={**case.config, "head_dim": head_dim}, build=build)


def windowed(
    seed: int, head_dim: int, tokens_per_block: int, window: int, layers_differ: bool = False
) -> Case:
    """A Mistral of that kind, or a Ministral if layers differ."""
    case = fast(seed, head_dim, tokens_per_block)
    config = {**case.config, "sliding_window": window}
    del config["attention_bias"], config["mlp_bias"]
    if layers_differ:
        config["num_hidden_layers"] = 3
        config["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    return replace(case, config=config)


CASES = [
    *(make_case(seed, num_prompts=6) for seed in range(100, 110)),
    fast(111, head_dim=64, tokens_per_block=16),
    fast(114, head_dim=128, tokens_per_block=32),
    windowed(110, head_dim=64, tokens_per_block=16, window=33),
    windowed(113, head_dim=128, tokens_per_block=32, window=150),
    windowed(118, head_dim=64, tokens_per_block=32, window=70, layers_differ=True),
]


def log_probs_of_engine(
    llm: LLM, case: Case, num_tokens: int
) -> list[tuple[list[int], np.ndarray]]:
    """Of each prompt: prompt and greedy answer, and log-probabilities [num_tokens, vocab]."""
    vocab_size = case.config["vocab_size"]
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True, logprobs=vocab_size)
    results = []
    for output in llm.generate([list(p) for p in case.prompts], params, use_tqdm=False):
        answer = output.outputs[0]
        table = np.empty((num_tokens, vocab_size))
        for row, entry in zip(table, answer.logprobs, strict=True):
            assert len(entry) == vocab_size
            for id, value in entry.items():
                row[id] = value.logprob
        results.append((output.prompt_token_ids + answer.token_ids, table))
    return results


def log_probs_of_transformers(
    folder: Path, dtype: str, attention: str, sequences: Sequence[list[int]], num_tokens: int
) -> list[np.ndarray]:
    """For the same sequences at the same positions, in one pass each."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention, local_files_only=True
    ).eval()
    with torch.inference_mode():
        return [
            model(torch.tensor([ids[:-1]])).logits[0, -num_tokens:].float().log_softmax(-1).numpy()
            for ids in sequences
        ]


def check_near(folder: Path, ours: list[np.ndarray], sequences: Sequence[list[int]], num: int):
    """`ours`: log-probabilities of the last `num` positions but the newest of `sequences`."""
    truth = log_probs_of_transformers(folder, "float32", "eager", sequences, num)
    eager = log_probs_of_transformers(folder, "bfloat16", "eager", sequences, num)
    sdpa = log_probs_of_transformers(folder, "bfloat16", "sdpa", sequences, num)
    figures = {
        "ours-truth": rms(ours, truth),
        "eager-truth": rms(eager, truth),
        "sdpa-truth": rms(sdpa, truth),
        "ours-eager": rms(ours, eager),
        "ours-sdpa": rms(ours, sdpa),
        "eager-sdpa": rms(eager, sdpa),
    }
    print(figures)
    assert figures["ours-truth"] <= ALLOWED * max(figures["eager-truth"], figures["sdpa-truth"])
    assert min(figures["ours-eager"], figures["ours-sdpa"]) <= ALLOWED * figures["eager-sdpa"]


def rms(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return float(np.sqrt(np.mean((np.concatenate(ours) - np.concatenate(theirs)) ** 2)))


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("case", [c for c in CASES if "dynamic" not in str(c)], ids=str)
def test_bfloat16_log_probs(case: Case, tmp_path: Path, device: str):
    # Dynamic scaling is left out: one pass over a sequence is not what a cache has seen.
    folder = tmp_path / "checkpoint"
    family = "Mistral" if "sliding_window" in case.config else "Llama"
    family = "Ministral" if "layer_types" in case.config else family
    make_model(case, "bfloat16", family).save_pretrained(folder)
    engine = build_engine(folder, tmp_path / "engine", **case.build)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        assert llm.info.dtype == "bfloat16"
        sequences, ours = zip(*log_probs_of_engine(llm, case, num_tokens=32), strict=True)
    check_near(folder, list(ours), sequences, 32)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("case", [fast(111, 64, 16), fast(114, 128, 32)], ids=str)
def test_logits_of_prompts(case: Case, tmp_path: Path, device: str):
    """A chunk's rows see each other's keys, which the step itself makes, in every layer."""
    case = replace(case, config={**case.config, "num_hidden_layers": 3})
    folder = tmp_path / "checkpoint"
    make_model(case, "bfloat16").save_pretrained(folder)
    limits = {"max_num_tokens": 128, "max_batch_size": 128}
    engine = build_engine(folder, tmp_path / "engine", **{**case.build, **limits})
    prompts = [list(prompt) for prompt in case.prompts if len(prompt) > 64]
    params = SamplingParams(max_tokens=1, ignore_eos=True, return_context_logits=True)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        outputs = llm.generate(prompts, params, use_tqdm=False)
    logits = [output.context_logits[-64:].astype(np.float64) for output in outputs]
    ours = [rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True)) for rows in logits]
    sequences = [output.prompt_token_ids + output.outputs[0].token_ids for output in outputs]
    check_near(folder, ours, sequences, 64)
