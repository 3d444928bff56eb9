"""A growing answer against the same answer built in one go, and against plain searches in text."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.llm import SamplingParams
from inflight.llm.answer import Answer, Cursor
from inflight.llm.outputs import Logprob
from inflight.text.tokenizer import Tokenizer
from tokenizers import decoders, models

PIECES = ["▁a", "▁b", "a", "b", "ab", "▁", "\n", "ba", "▁aa", "<s>"]


@functools.cache
def tokenizer() -> Tokenizer:
    vocab = {piece: id for id, piece in enumerate(PIECES)}
    raw = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    raw.add_special_tokens(["<s>"])
    return Tokenizer(raw, {}, None)


def answer(params: SamplingParams, prompt_ids=(0,)) -> Answer:
    return Answer(params, list(prompt_ids), tokenizer())


def text_after_prompt(ids: list[int]) -> str:
    return "".join(PIECES[id].replace("▁", " ") for id in ids if PIECES[id] != "<s>")


ids_lists = st.lists(st.integers(0, len(PIECES) - 1), max_size=24)


@settings(max_examples=400, deadline=None)
@given(
    ids=ids_lists,
    lengths=st.lists(st.integers(0, 4), max_size=24),
    stop=st.lists(st.text(alphabet="ab ", min_size=1, max_size=4), max_size=3),
    include=st.booleans(),
    min_tokens=st.integers(0, 6),
)
def test_any_parts_give_the_same_answer(ids, lengths, stop, include, min_tokens):
    params = SamplingParams(
        stop=stop or None, include_stop_str_in_output=include, min_tokens=min_tokens
    )
    whole = answer(params)
    whole.add(ids)
    whole.finish("length")
    parts = answer(params)
    rest, seen, text, told_ids = ids, Cursor(), "", []
    for length in [*lengths, len(ids)]:
        parts.add(rest[:length])
        rest = rest[length:]
        if not rest:
            parts.finish("length")
        output = parts.snapshot(seen)
        text, told_ids = text + output.text_diff, told_ids + output.token_ids_diff
        assert (text, told_ids) == (output.text, output.token_ids)
        seen = parts.cursor
    assert parts.snapshot(Cursor()) == whole.snapshot(Cursor())

    # Token by token: the first token, from min_tokens on, whose text completes a stop string that
    # begins no earlier than that text.
    output = whole.snapshot(Cursor())
    ignored = len(text_after_prompt(ids[: max(0, min_tokens - 1)]))
    for count in range(max(1, min_tokens), len(ids) + 1):
        text = text_after_prompt(ids[:count])
        if any(string in text[ignored:] for string in stop):
            assert output.finish_reason == "stop" and output.stop_reason in stop
            assert output.token_ids == ids[:count]
            if include:
                assert output.text.endswith(output.stop_reason)
            else:
                assert not any(string in output.text[ignored:] for string in stop)
            assert text.startswith(output.text)
            break
    else:
        assert output.finish_reason == "length" and output.stop_reason is None
        assert output.text == text_after_prompt(ids) and output.token_ids == ids


@pytest.mark.parametrize("include", [False, True])
def test_stop_token_ids(include: bool):
    params = SamplingParams(stop_token_ids=[3], include_stop_str_in_output=include, min_tokens=2)
    growing = answer(params)
    growing.add([3])  # too early: an ordinary token
    assert growing.finish_reason is None
    growing.add([4, 3])
    output = growing.snapshot(Cursor())
    assert (output.finish_reason, output.stop_reason) == ("stop", 3)
    assert output.token_ids == ([3, 4, 3] if include else [3, 4])
    assert output.text == ("babb" if include else "bab")


def test_the_first_reason_stays():
    growing = answer(SamplingParams(stop="b"))
    growing.add([2, 3, 2])
    growing.finish("cancelled")
    output = growing.snapshot(Cursor())
    assert (output.text, output.finish_reason, output.stop_reason) == ("a", "stop", "b")


def test_prompt_in_the_output():
    growing = answer(SamplingParams(exclude_input_from_output=False), prompt_ids=[0, 1])
    growing.add([0, 2])
    growing.finish("stop")
    output = growing.snapshot(Cursor())
    assert output.token_ids == [0, 1, 0, 2] and output.text == "a b aa"


def test_special_tokens_in_the_text():
    for skip, text in ((True, "a"), (False, "<s>a")):
        growing = answer(SamplingParams(skip_special_tokens=skip))
        growing.add([9, 2])
        growing.finish("length")
        assert growing.snapshot(Cursor()).text == text


@dataclass
class LogProbs:
    chosen: float
    top: list[tuple[int, float]]


def test_log_probs():
    growing = answer(SamplingParams(logprobs=2, stop="b"))
    growing.add([2, 5], [LogProbs(-1.5, [(7, -0.5), (2, -1.5)]), LogProbs(-3.0, [(7, -0.1)])])
    growing.add([3, 2], [LogProbs(-0.25, [(3, -0.25)]), LogProbs(-9.0, [])])
    output = growing.snapshot(Cursor())
    assert output.token_ids == [2, 5, 3]
    assert output.logprobs == [
        {2: Logprob(-1.5, 2), 7: Logprob(-0.5, 1)},
        {5: Logprob(-3.0, None), 7: Logprob(-0.1, 1)},
        {3: Logprob(-0.25, 1)},
    ]
    assert output.cumulative_logprob == -4.75


def test_without_tokenizer_there_are_ids_only():
    growing = Answer(SamplingParams(), [1], None)
    growing.add([2, 3])
    growing.finish("length")
    output = growing.snapshot(Cursor())
    assert output.text == "" and output.token_ids == [2, 3] and output.logprobs is None
