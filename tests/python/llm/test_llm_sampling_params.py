"""SamplingParams judges what it can, and says it to the engine in the engine's words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from inflight.llm import SamplingParams
from inflight.llm.requests import encode_prompts, engine_arguments, is_single, params_for


def arguments(params: SamplingParams, tokenizer=None, prompt_len: int = 5) -> dict:
    return engine_arguments(
        params, prompt_len, eos_token_ids=[2, 7], max_seq_len=64, tokenizer=tokenizer
    )


@pytest.mark.parametrize(
    ("params", "greedy"),
    [
        ({}, True),
        ({"temperature": 0.0}, True),
        ({"top_k": 1, "temperature": 0.7}, True),
        ({"top_p": 0.0}, True),
        ({"min_p": 0.1}, True),
        ({"temperature": 1.0}, False),
        ({"top_k": 0}, False),
        ({"top_p": 0.9}, False),
    ],
)
def test_what_is_greedy(params: dict, greedy: bool):
    assert SamplingParams(**params).is_greedy is greedy
    sent = arguments(SamplingParams(**params))
    assert sent.get("greedy", False) is greedy
    if greedy:
        assert not sent.keys() & {"temperature", "top_k", "top_p", "min_p", "seed"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"max_tokens": 4, "min_tokens": 5}, "min_tokens=5.*max_tokens=4"),
        ({"temperature": -0.1}, "temperature=-0.1"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_p": 1.1}, r"top_p=1.1.*\[0, 1\]"),
        ({"top_k": -1}, "top_k=-1"),
        ({"min_p": 2}, "min_p=2"),
        ({"repetition_penalty": 0}, "repetition_penalty=0"),
        ({"presence_penalty": math.nan}, "presence_penalty=nan"),
        ({"frequency_penalty": -math.inf}, "frequency_penalty=-inf"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**64}, "seed=18446744073709551616"),
        ({"logprobs": -1}, "logprobs=-1"),
        ({"timeout_ms": 0}, "timeout_ms=0"),
        ({"stop": ""}, "stop="),
        ({"bad": ["a", 3]}, "bad="),
        ({"stop": "a", "detokenize": False}, "detokenize=False"),
        ({"prompt_logprobs": -1}, "prompt_logprobs=-1 must be at least 0"),
        ({"top_p_decay": 0}, "top_p_decay=0 must be greater than 0"),
        ({"top_p_decay": 1.5}, "top_p_decay=1.5"),
        ({"top_p_min": -0.1}, "top_p_min=-0.1"),
        ({"top_p_reset_ids": -2}, "top_p_reset_ids=-2 must be at least -1"),
        ({"prompt_ignore_length": -1}, "prompt_ignore_length=-1 must be at least 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size=-1 must be at least 0"),
        ({"logit_bias": {4: float("nan")}}, r"logit_bias\[4\]=nan"),
        ({"logit_bias": {4: float("inf")}}, r"logit_bias\[4\]=inf"),
        ({"end_id": 1, "end_ids": [1]}, "end_id=1 and end_ids=\\[1\\]: give one"),
        ({"n": 2}, "n=2: only one answer"),
    ],
)
def test_errors_name_value_and_limit(params: dict, message: str):
    with pytest.raises(ValueError, match=message):
        SamplingParams(**params)


def test_the_engine_hears_every_choice():
    params = SamplingParams(
        max_tokens=9,
        min_tokens=3,
        temperature=0.5,
        top_k=4,
        top_p=0.8,
        min_p=0.05,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=-0.1,
        seed=11,
        stop_token_ids=[5, 6],
        bad_token_ids=[8],
        logprobs=2,
        normalize_log_probs=False,
        prompt_logprobs=1,
        return_generation_logits=True,
        top_p_decay=0.9,
        top_p_min=0.1,
        top_p_reset_ids=13,
        prompt_ignore_length=3,
        no_repeat_ngram_size=4,
        embedding_bias=[0.5],
        logit_bias={1: 2.0},
    )
    assert arguments(params) == {
        "max_new_tokens": 9,
        "min_new_tokens": 3,
        "end_ids": [2, 7],
        "stop_words": [[5], [6]],
        "bad_words": [[8]],
        "num_logprobs": 2,
        "normalize_log_probs": False,
        "return_context_logits": True,
        "return_generation_logits": True,
        "top_p_decay": 0.9,
        "top_p_min": 0.1,
        "top_p_reset_ids": 13,
        "prompt_ignore_length": 3,
        "no_repeat_ngram_size": 4,
        "embedding_bias": [0.5],
        "logit_bias": {1: 2.0},
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": -0.1,
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.8,
        "min_p": 0.05,
        "seed": 11,
    }


def test_ends_and_lengths():
    assert arguments(SamplingParams())["max_new_tokens"] == 32
    assert arguments(SamplingParams(max_tokens=None))["max_new_tokens"] == 59
    assert arguments(SamplingParams(max_tokens=None), prompt_len=64)["max_new_tokens"] == 1
    assert arguments(SamplingParams(ignore_eos=True))["end_ids"] == []
    assert arguments(SamplingParams(end_id=5))["end_ids"] == [5]
    assert arguments(SamplingParams(end_id=-1))["end_ids"] == []
    assert arguments(SamplingParams(end_ids=[5, 9]))["end_ids"] == [5, 9]
    assert arguments(SamplingParams(end_ids=[]))["end_ids"] == []
    assert arguments(SamplingParams(end_ids=[5], ignore_eos=True))["end_ids"] == []


def test_seeds_differ_unless_given():
    seeds = {arguments(SamplingParams(temperature=1.0))["seed"] for _ in range(8)}
    assert len(seeds) == 8


def test_forms_of_prompts():
    assert is_single("a") and is_single([1, 2]) and is_single(np.array([1, 2]))
    assert is_single({"prompt_token_ids": [1]})
    assert not is_single(["a"]) and not is_single([[1], [2]]) and not is_single([])
    assert not is_single([np.array([1])]) and not is_single([{"prompt": "a"}])
    prompts = [np.array([3, 4]), (5,), {"prompt_token_ids": [6]}]
    assert list(encode_prompts(prompts, [SamplingParams()] * 3, None)) == [
        (None, [3, 4]),
        (None, [5]),
        (None, [6]),
    ]


def test_wrong_prompts():
    plain = [SamplingParams()]
    with pytest.raises(ValueError, match="needs a tokenizer"):
        list(encode_prompts(["text"], plain, None))
    with pytest.raises(ValueError, match="not .*0.5"):
        list(encode_prompts([[0.5]], plain, None))
    with pytest.raises(ValueError, match="prompt or prompt_token_ids.*'text'"):
        list(encode_prompts([{"text": "a"}], plain, None))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        arguments(SamplingParams(stop="x"))
    with pytest.raises(ValueError, match="needs a tokenizer"):
        arguments(SamplingParams(bad="x"))
    with pytest.raises(ValueError, match="2 sampling_params for 3 prompts"):
        params_for(["a", "b", "c"], plain * 2)
