"""Each field of a body arrives in the requests of the engine, under the engine's name for it."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from inflight.openai.engine_request import EngineRequest
from inflight.openai.protocol import CompletionBody, SamplingBody
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest, completion_choices
from openai_tokenizers import byte_level

TOKENIZER = byte_level()
MODEL = ServedModel("m", TOKENIZER, TOKENIZER.vocab_size, 4096, end_ids=(2,))
BODY = {
    "model": "m",
    "prompt": [5, 6],
    "stream": True,
    "n": 2,
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.25,
    "presence_penalty": 1.5,
    "frequency_penalty": -1.5,
    "seed": 7,
    "stop": ["x", "yz"],
    "logit_bias": {"3": -2.0},
    "top_k": 11,
    "min_p": 0.125,
    "repetition_penalty": 1.25,
    "min_tokens": 4,
    "cache_salt": "salt",
    "priority": -3,
    "tenant": "team",
    "logprobs": 2,
}
BIAS = np.zeros(TOKENIZER.vocab_size, np.float32)
BIAS[3] = -2.0
REQUEST = EngineRequest(
    prompt_ids=[5, 6],
    max_tokens=9,
    streaming=True,
    end_id=2,
    numbers={
        "temperature": 0.5,
        "runtime_top_p": 0.25,
        "min_p": 0.125,
        "repetition_penalty": 1.25,
        "presence_penalty": 1.5,
        "frequency_penalty": -1.5,
    },
    counts={"runtime_top_k": 11, "min_tokens": 4, "priority": -3},
    seed=7,
    log_probs=True,
    num_top_log_probs=2,
    bias=BIAS.tobytes(),
    cache_salt="salt",
    tenant="team",
)
# Of the answer's form, of clients' books, refused, or the subject of a test below.
ELSEWHERE = {
    "stream_options", "user", "metadata", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "store", "service_tier", "use_beam_search", "ignore_eos",
}  # fmt: skip


def choices_of(**changes: object) -> list[ChoiceRequest]:
    body = CompletionBody.model_validate({**BODY, **changes})
    return asyncio.run(completion_choices(MODEL, body))


def test_every_field_arrives() -> None:
    assert SamplingBody.model_fields.keys() - BODY.keys() == ELSEWHERE
    first, second = choices_of()
    assert first.engine == REQUEST
    assert second.engine == replace(REQUEST, seed=8)
    assert first.stop == ("x", "yz") and first.end_ids == {2} and first.min_tokens == 4


def test_end_ids_may_be_ignored() -> None:
    choice, _ = choices_of(ignore_eos=True)
    assert choice.engine.end_id is None and choice.end_ids == frozenset()


@pytest.mark.parametrize("greedy", [{"temperature": 0}, {"top_p": 0}], ids=str)
def test_what_is_greedy_draws_nothing(greedy: dict) -> None:
    choice, _ = choices_of(**greedy)
    sampling = {"temperature", "runtime_top_p", "runtime_top_k", "min_p"}
    assert not sampling & (choice.engine.numbers.keys() | choice.engine.counts.keys())


def test_what_is_not_given_is_not_sent() -> None:
    body = CompletionBody.model_validate({"model": "m", "prompt": [5, 6]})
    (choice,) = asyncio.run(completion_choices(MODEL, body))
    plain = EngineRequest([5, 6], 16, streaming=False, end_id=2, seed=choice.engine.seed)
    assert choice.engine == replace(plain, numbers={"temperature": 1.0, "runtime_top_p": 1.0})
