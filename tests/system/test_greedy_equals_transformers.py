"""Greedy tokens of the engine, many requests in flight, equal transformers' one by one.

30 random models, 10 prompts each: every head ratio from 1 to 8, every rope type, odd sizes, tied and
separate embeddings, biases; random limits, so that prompts are cut in chunks and requests wait. On a GPU with
recorded steps and without, all at once and one by one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from random_llamas import NUM_GENERATED, Case, greedy_of_transformers, make_case, make_model

CASES = [make_case(seed, num_prompts=10) for seed in range(30)]


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_greedy_equals_transformers(case: Case, tmp_path: Path, device: str):
    model = make_model(case)
    model.save_pretrained(tmp_path / "checkpoint")
    engine = build_engine(tmp_path / "checkpoint", tmp_path / "engine", **case.build)
    params = SamplingParams(max_tokens=NUM_GENERATED, ignore_eos=True)
    prompts = [list(prompt) for prompt in case.prompts]
    expected = [greedy_of_transformers(model, prompt, NUM_GENERATED) for prompt in prompts]
    for cuda_graphs in (False, True) if device == "cuda" else (True,):
        with LLM(
            engine, device=device, enable_cuda_graphs=cuda_graphs, skip_tokenizer_init=True
        ) as llm:
            outputs = llm.generate(prompts, params, use_tqdm=False)
            assert [output.outputs[0].token_ids for output in outputs] == expected
            assert {output.outputs[0].finish_reason for output in outputs} == {"length"}
            if device == "cuda":
                alone = [llm.generate(prompt, params).outputs[0].token_ids for prompt in prompts]
                assert alone == expected


def test_the_cases_cover_what_they_claim():
    configs = [case.config for case in CASES]
    ratios = {c["num_attention_heads"] // c["num_key_value_heads"] for c in configs}
    assert ratios == set(range(1, 9))
    assert len({c["rope_parameters"]["rope_type"] for c in configs}) == 5
    for name in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        assert {c[name] for c in configs} == {False, True}
    lengths = {len(prompt) for case in CASES for prompt in case.prompts}
    assert {1, 300} <= lengths and len(CASES) * len(CASES[0].prompts) == 300


@pytest.mark.usefixtures("one_torch_thread")
def test_generate_of_transformers_gives_the_same():
    """The loop above stands for `generate`; here they meet."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    for case in CASES[:5]:
        model = make_model(case)
        prompt = case.prompts[0]
        expected = greedy_of_transformers(model, prompt, 16)
        model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
        model.generation_config.eos_token_id = None
        generated = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=16,
            pad_token_id=0,
        )
        assert generated[0, len(prompt) :].tolist() == expected
