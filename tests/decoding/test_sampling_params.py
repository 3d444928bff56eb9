"""Every limit of the sampling and stop parameters: the edge is legal, one step beyond is an error
that names field, value and limit."""

import math

import pytest
from inflight import _core

decoding = _core.decoding
VOCAB_SIZE = 100
FLOAT_FIELDS = [
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
]

LEGAL = [
    {},
    {"temperature": 0.0},
    {"temperature": 1e-45},
    {"temperature": 3e38},
    {"top_k": 0},
    {"top_k": 2**31 - 1},
    {"top_p": 1e-45},
    {"top_p": 1.0},
    {"min_p": 0.0},
    {"min_p": 1.0},
    {"repetition_penalty": 1e-45},
    {"repetition_penalty": 1e9},
    {"presence_penalty": -3.0},
    {"frequency_penalty": 3.0},
    {"seed": 2**64 - 1},
    {"num_logprobs": -1},
    {"num_logprobs": VOCAB_SIZE},
]
ILLEGAL = [
    ({"temperature": -0.5}, "temperature is -0.5; it must be at least 0"),
    ({"top_k": -1}, "top_k is -1; it must be at least 0"),
    ({"top_p": 0.0}, "top_p is 0; it must be greater than 0 and at most 1"),
    ({"top_p": -1.0}, "top_p is -1; it must be greater than 0 and at most 1"),
    ({"top_p": 1.5}, "top_p is 1.5; it must be greater than 0 and at most 1"),
    ({"min_p": -0.25}, "min_p is -0.25; it must be at least 0 and at most 1"),
    ({"min_p": 1.25}, "min_p is 1.25; it must be at least 0 and at most 1"),
    ({"repetition_penalty": 0.0}, "repetition_penalty is 0; it must be greater than 0"),
    ({"repetition_penalty": -2.0}, "repetition_penalty is -2; it must be greater than 0"),
    ({"num_logprobs": -2}, "num_logprobs is -2; it must be at least -1"),
    ({"num_logprobs": 101}, "num_logprobs is 101; it must be at least -1 (none) and at most 100"),
]


@pytest.mark.parametrize("fields", LEGAL, ids=str)
def test_legal_sampling(fields: dict) -> None:
    decoding.SamplingParams(**fields).validate(VOCAB_SIZE)


@pytest.mark.parametrize(("fields", "message"), ILLEGAL, ids=str)
def test_illegal_sampling(fields: dict, message: str) -> None:
    with pytest.raises(_core.InvalidArgumentError, match="Incorrect sampling config: ") as caught:
        decoding.SamplingParams(**fields).validate(VOCAB_SIZE)
    assert message in str(caught.value)


@pytest.mark.parametrize("field", FLOAT_FIELDS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_values_are_errors(field: str, value: float) -> None:
    with pytest.raises(_core.InvalidArgumentError, match="must be a finite number") as caught:
        decoding.SamplingParams(**{field: value}).validate(VOCAB_SIZE)
    assert f"{field} is {'-' if value < 0 else ''}{'nan' if math.isnan(value) else 'inf'}" in str(
        caught.value
    )


def test_legal_stop() -> None:
    decoding.StopParams(
        max_new_tokens=1,
        min_new_tokens=5,  # more than the maximum: the length wins
        end_ids=[0, 99],
        stop_words=[[0], [99, 1]],
        bad_words=[[99]],
    ).validate(VOCAB_SIZE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1; it must be at least 0"),
        (
            {"end_ids": [100]},
            "end_ids holds token id 100, which is outside the vocabulary [0, 100)",
        ),
        ({"end_ids": [-1]}, "end_ids holds token id -1, which is outside the vocabulary [0, 100)"),
        ({"stop_words": [[5], [1, 200]]}, "stop_words holds token id 200, which is outside"),
        ({"stop_words": [[5], []]}, "stop_words holds an empty word (number 1)"),
        ({"bad_words": [[-7]]}, "bad_words holds token id -7, which is outside"),
        ({"bad_words": [[]]}, "bad_words holds an empty word (number 0)"),
    ],
    ids=str,
)
def test_illegal_stop(fields: dict, message: str) -> None:
    with pytest.raises(_core.InvalidArgumentError) as caught:
        decoding.StopParams(**fields).validate(VOCAB_SIZE)
    assert message in str(caught.value)
