"""Logits of prompts and of answers next to those of transformers; what they cost is chunks of prompts.

Sequences of one row that share a cache are what a prompt's chunk becomes then: on a GPU other kernels
than a prompt's, and a row of padding where the step would look like one that generates.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from random_llamas import Case, make_case, make_model

CASES = [make_case(seed, num_prompts=6) for seed in (0, 1, 3, 4)]  # a rope each
NUM_TOKENS = 12
WANTED = {
    "max_tokens": NUM_TOKENS,
    "ignore_eos": True,
    "return_context_logits": True,
    "return_generation_logits": True,
}


def logits_of_transformers(model, ids: list[int]) -> np.ndarray:
    """Of each position, run in one go."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits[0].numpy()


def built(case: Case, folder: Path, **limits: int):
    model = make_model(case)
    model.save_pretrained(folder / "checkpoint")
    return model, build_engine(folder / "checkpoint", folder / "engine", **{**case.build, **limits})


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("is_tight", [False, True])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_logits_are_those_of_transformers(
    case: Case, is_tight: bool, tmp_path: Path, device: str
) -> None:
    # The tightest: a step may hold as many tokens as rows of logits.
    limits = {"max_num_tokens": 16, "max_batch_size": 16} if is_tight else {}
    model, engine = built(case, tmp_path, **limits)
    prompts = [list(prompt[:90]) for prompt in case.prompts]
    plain = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        expected_ids = [o.outputs[0].token_ids for o in llm.generate(prompts, plain)]
        mixed = [SamplingParams(**WANTED) if i % 3 else plain for i in range(len(prompts))]
        outputs = llm.generate(prompts, mixed, use_tqdm=False)
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        answer = output.outputs[0]
        assert answer.token_ids == expected_ids[i]
        if i % 3 == 0:
            assert output.context_logits is None and answer.generation_logits is None
            continue
        expected = logits_of_transformers(model, prompt + answer.token_ids)
        assert output.context_logits.shape == (len(prompt), case.config["vocab_size"])
        assert output.context_logits.dtype == answer.generation_logits.dtype == np.float32
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            output.context_logits, expected[: len(prompt)], atol=2e-5 * scale
        )
        np.testing.assert_allclose(
            answer.generation_logits, expected[len(prompt) - 1 : -1], atol=2e-5 * scale
        )
        np.testing.assert_array_equal(output.context_logits[-1], answer.generation_logits[0])


@pytest.fixture(scope="module")
def served(device: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple]:
    case = CASES[0]
    model, engine = built(case, tmp_path_factory.mktemp("logits"), max_batch_size=7)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        yield llm, model, [list(prompt[:70]) for prompt in case.prompts]


def test_logits_are_those_before_biases_penalties_and_filters(served) -> None:
    llm, _, prompts = served
    plain = llm.generate(prompts[1], SamplingParams(**WANTED))
    first = plain.outputs[0].token_ids[0]
    edited = llm.generate(
        prompts[1],
        SamplingParams(
            **WANTED,
            logit_bias={first: float("-inf")},
            repetition_penalty=1.9,
            temperature=2.0,
            top_k=5,
            seed=1,
        ),
    )
    assert edited.outputs[0].token_ids[0] != first
    np.testing.assert_array_equal(
        edited.outputs[0].generation_logits[0], plain.outputs[0].generation_logits[0]
    )


def test_a_stream_has_its_logits_token_by_token(served) -> None:
    llm, _, prompts = served
    whole = llm.generate(prompts[2], SamplingParams(**WANTED))
    stream = llm.generate_async(prompts[2], SamplingParams(**WANTED), streaming=True)
    for output in stream:
        np.testing.assert_array_equal(output.context_logits, whole.context_logits)
        rows = len(output.outputs[0].token_ids)
        assert output.outputs[0].generation_logits.shape[0] == rows
    np.testing.assert_array_equal(
        output.outputs[0].generation_logits, whole.outputs[0].generation_logits
    )


@pytest.mark.usefixtures("one_torch_thread")
def test_log_probs_of_the_prompt(served) -> None:
    import torch

    llm, model, prompts = served
    output = llm.generate(prompts[3], SamplingParams(max_tokens=1, prompt_logprobs=2))
    assert output.context_logits is None
    expected = torch.log_softmax(
        torch.tensor(logits_of_transformers(model, prompts[3])), -1
    ).numpy()
    assert output.prompt_logprobs[0] is None
    for row, (token, entry) in enumerate(
        zip(prompts[3][1:], output.prompt_logprobs[1:], strict=True)
    ):
        assert entry[token].logprob == pytest.approx(float(expected[row, token]), abs=1e-3)
        best = int(expected[row].argmax())
        assert entry[best].rank == 1 and 2 <= len(entry) <= 3


def test_what_is_too_much(served) -> None:
    llm, _, prompts = served
    stats = llm.get_stats()
    with pytest.raises(ValueError, match="logprobs"):
        SamplingParams(prompt_logprobs=-1)
    for prompt in prompts:  # cancelled ones leave nothing behind
        llm.generate_async(prompt, SamplingParams(**WANTED)).abort()
    assert llm.generate(prompts[0], SamplingParams(**WANTED)).context_logits is not None
    assert llm.get_stats().failed_requests == stats.failed_requests


def test_logits_of_all_requests_are_bounded(tmp_path: Path, device: str) -> None:
    """By a limit that one request's just meet: several wait for each other in generate."""
    case = CASES[0]
    model, engine = built(case, tmp_path)
    prompt = list(case.prompts[0][:20])
    num_bytes = (len(prompt) + NUM_TOKENS) * model.config.vocab_size * 4
    wanted = SamplingParams(**WANTED)
    options = {"device": device, "skip_tokenizer_init": True}
    with LLM(engine, **options, max_logits_bytes=num_bytes) as llm:
        outputs = llm.generate([prompt] * 4, wanted, use_tqdm=False)
        rows = [output.outputs[0].generation_logits for output in outputs]
        assert all(len(row) == NUM_TOKENS for row in rows)
        message = f"requests under way hold {num_bytes} of max_logits_bytes {num_bytes}: try again"
        with pytest.raises(RuntimeError, match=message):
            for _ in range(300):  # a quick engine may have ended the first before the second comes
                under_way = [llm.generate_async(prompt, wanted)]
                under_way.append(llm.generate_async(prompt, wanted))
                for request in under_way:
                    request.result()
        under_way[0].result()
        message = f"are {num_bytes + 4 * model.config.vocab_size} bytes; max_logits_bytes allows"
        with pytest.raises(ValueError, match=message):
            llm.generate([*prompt, 5], wanted)
    with pytest.raises(ValueError, match="max_logits_bytes is -1, must be 0"):
        LLM(engine, **options, max_logits_bytes=-1)
