"""A choice fed in any cuts tells the same, and its end is the right one."""

import random

import pytest
from inflight.openai.choice import Choice
from inflight.openai.engine_request import EngineRequest, Part
from inflight.openai.errors import ApiError
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest, Prompt
from inflight.text.tokenizer import Tokenizer
from openai_tokenizers import byte_fallback, byte_level

TEXT = "naïve café 😀 to be, or not to be, 日本 that is the question"


def model_of(tokenizer: Tokenizer) -> ServedModel:
    return ServedModel("m", tokenizer, tokenizer.vocab_size, 4096, end_ids=(1, 2))


def choice_of(model: ServedModel, max_tokens: int, **options) -> Choice:
    prompt = Prompt(model.tokenizer.encode("some prompt"))
    engine = EngineRequest(prompt.ids, max_tokens)
    defaults = {"stop": (), "end_ids": frozenset(model.end_ids)}
    return Choice(model, ChoiceRequest(prompt, engine, **{**defaults, **options}))


def run(
    choice: Choice, ids: list[int], reason: str, cuts: random.Random
) -> tuple[str, str | None, int]:
    """Text, reason, deltas after the end that said something."""
    text, late = "", 0
    at = 0
    while at < len(ids) or choice.finish_reason is None:
        count = cuts.randint(0, 4)
        final = at + count >= len(ids)
        ended = choice.finish_reason is not None
        delta = choice.feed(Part(ids[at : at + count], [], final, reason if final else ""))
        text += delta.text
        late += ended and bool(delta.text)
        at += count
    return text, choice.finish_reason, late


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_any_cut_gives_the_same_text(make) -> None:
    tokenizer = make()
    model, ids = model_of(tokenizer), tokenizer.encode(TEXT, add_special_tokens=False)
    # What the ids say where they stand, after the prompt.
    whole = tokenizer.text_of(tokenizer.encode("some prompt"), ids, final=True)
    for seed in range(40):
        cuts = random.Random(seed)
        assert run(choice_of(model, 999), ids, "length", cuts) == (whole, "length", 0)
        assert run(choice_of(model, 999), ids, "stop", cuts) == (whole, "stop", 0)
        got = run(choice_of(model, 999, stop=("or not", "zzz")), ids, "length", cuts)
        assert got == (whole[: whole.index("or not")], "stop", 0)


def test_end_ids_are_no_text_and_no_tokens() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("to be", add_special_tokens=False)
    for end in (1, 2):
        choice = choice_of(model_of(tokenizer), 99)
        assert choice.feed(Part([*ids, end, *ids], [], False)).text == "to be"
        assert (choice.finish_reason, choice.num_tokens) == ("stop", len(ids))


def test_nothing_ends_before_min_tokens() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("to be", add_special_tokens=False)
    choice = choice_of(model_of(tokenizer), 99, min_tokens=len(ids) + 1, stop=("be",))
    assert choice.feed(Part([*ids, 2], [], False)).finish_reason is None
    assert choice.num_tokens == len(ids) + 1
    assert choice.feed(Part([2], [], False)).finish_reason == "stop"


def test_a_stop_string_held_back_at_the_end_is_told() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("to be", add_special_tokens=False)
    choice = choice_of(model_of(tokenizer), len(ids), stop=("beast",))
    first = choice.feed(Part(ids[:-1], [], False)).text
    assert first + choice.feed(Part(ids[-1:], [], True, "length")).text == "to be"
    assert choice.finish_reason == "length"


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [("deadline", 504, "timeout"), ("cancelled", 503, "cancelled"), ("", 503, "cancelled")],
)
def test_an_answer_that_others_ended_is_an_error(reason: str, status: int, code: str) -> None:
    choice = choice_of(model_of(byte_level()), 99)
    with pytest.raises(ApiError) as ended:
        choice.feed(Part([5], [], True, reason))
    assert (ended.value.status, ended.value.code) == (status, code)


def test_log_probs_go_with_their_tokens() -> None:
    tokenizer = byte_level()
    ids = tokenizer.encode("😀 to", add_special_tokens=False)
    choice = choice_of(model_of(tokenizer), 99)
    delta = choice.feed(Part(ids, [-0.5 * index for index in range(len(ids))], False))
    assert b"".join(one.bytes for one in delta.log_probs).decode() == "😀 to"
    assert [one.log_prob for one in delta.log_probs] == [-0.5 * i for i in range(len(ids))]
