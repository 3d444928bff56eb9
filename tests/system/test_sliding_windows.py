"""Greedy tokens of models whose layers see sliding windows, many requests in flight, equal
transformers' one by one, past many windows' length: all layers alike (Mistral) and layers that differ
(Ministral). Prompts are cut in chunks, and requests wait for others to end."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from random_llamas import NUM_GENERATED, Case, greedy_of_transformers, make_case, make_model

WINDOWS = (1, 5, 16, 33, 50, 128)


def windowed(seed: int) -> tuple[str, Case]:
    """Family and case: the random Llama of that seed with windows."""
    draw, case = random.Random(seed), make_case(seed, num_prompts=6)
    config = {**case.config, "sliding_window": WINDOWS[seed % len(WINDOWS)]}
    del config["attention_bias"], config["mlp_bias"]
    if seed % 2 == 0:
        return "Mistral", replace(case, config=config)
    config["num_hidden_layers"] = 3
    config["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
    draw.shuffle(config["layer_types"])
    return "Ministral", replace(case, config=config)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("seed", range(len(WINDOWS)))
def test_greedy_equals_transformers(seed: int, tmp_path: Path, device: str) -> None:
    family, case = windowed(seed)
    model = make_model(case, family=family)
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path / "checkpoint")
    engine = build_engine(tmp_path / "checkpoint", tmp_path / "engine", **case.build)
    params = SamplingParams(max_tokens=NUM_GENERATED, ignore_eos=True)
    prompts = [list(prompt) for prompt in case.prompts]
    expected = [greedy_of_transformers(model, prompt, NUM_GENERATED) for prompt in prompts]
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        outputs = llm.generate(prompts, params, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs] == expected
