"""Chunks of ids to text: joined, they are the text of the whole, cut after the first stop word."""

import itertools
import json
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.serving import postprocess
from inflight.serving.postprocess import Postprocessor, Text
from inflight.text.tokenizer import Tokenizer
from serving_tokenizers import BUILDERS

TOKENIZERS = {kind: build() for kind, build in BUILDERS.items()}
KINDS = sorted(TOKENIZERS)
TEXTS = st.text(alphabet="stop STOPENDing theaé東😀.", min_size=1, max_size=40)
STOPS = st.lists(
    st.sampled_from(["stop", "END", "top", " the", "g", "é", "pin", "😀.", "東"]), max_size=3
)


def chunk_call(
    post: Postprocessor,
    previous: list[int],
    chunk: list[int],
    final: bool,
    stop: list[str],
    request_id: int,
    prompt: list[int] | None = None,
    reasons: dict[str, np.ndarray] | None = None,
    **context,
) -> Text:
    ids = (prompt or []) + chunk
    context = json.dumps({"stop": stop, **context} if stop else context).encode() + b"  "
    return post.process(
        {
            **batch(
                np.array([[ids]], np.int32).reshape(1, 1, -1), np.array([[len(ids)]], np.int32)
            ),
            "TEXT_CONTEXT": np.frombuffer(context, np.uint8)[None],
            "PREVIOUS_IDS": np.array([previous], np.int32).reshape(1, -1),
            "RESPONSE_STATE": np.array([[request_id, int(final), len(chunk)]], np.int64),
            **(reasons or {}),
        }
    )


def batch(tokens: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
    return {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths}


def cut(ids: list[int], lengths: list[int]) -> list[list[int]]:
    chunks, at = [], 0
    for length in itertools.cycle(lengths):
        if at >= len(ids):
            return chunks
        chunks.append(ids[at : at + length])
        at += length
    return chunks


def expected(text: str, stop: list[str], include: bool = True) -> str:
    """Up to the stop word that ends first (the longest of those), by looking at every end."""
    for end in range(len(text) + 1):
        ending = [word for word in stop if text[:end].endswith(word)]
        if ending:
            return text[:end] if include else text[: end - max(map(len, ending))]
    return text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("include", [True, False])
@settings(max_examples=100, deadline=None)
@given(
    text=TEXTS,
    stop=STOPS,
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    forget=st.sets(st.integers(0, 20)),
)
def test_streams(kind: str, include: bool, text: str, stop: list[str], lengths, forget) -> None:
    """Whatever the chunks, and whether or not earlier chunks are remembered."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text, add_special_tokens=False)
    post = Postprocessor(tokenizer, include_stop_words=include)
    told, previous, stops = [], [], 0
    chunks = cut(ids, lengths)
    for index, chunk in enumerate(chunks):
        if index in forget:
            post = Postprocessor(tokenizer, include_stop_words=include)
        answer = chunk_call(post, previous, chunk, index == len(chunks) - 1, stop, 77)
        (piece,) = answer.texts
        stops += answer.stop_engine_request == 77
        told.append(piece)
        previous = previous + chunk
        assert answer.receipt == ((77, len(previous)) if index < len(chunks) - 1 else None)
    whole = tokenizer.decode(ids)
    assert "".join(told) == expected(whole, stop, include)
    stopped = expected(whole, stop, True) != whole or any(map(whole.endswith, stop))
    assert stops <= int(stopped)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_of_another_stream_is_left_alone(kind: str) -> None:
    """The same number with other ids before it: of an engine that was loaded anew, or of a stream of
    which another process made a piece."""
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode("the stop 東 the end", add_special_tokens=False)
    expected = tokenizer.decode(ids)
    post = Postprocessor(tokenizer)
    chunk_call(post, [], ids[:6], False, ["END"], 7)
    (anew,) = chunk_call(post, [], ids, True, ["END"], 7).texts
    assert anew == expected
    (begun,) = chunk_call(post, [], ids[:2], False, ["END"], 8).texts
    (elsewhere,) = chunk_call(Postprocessor(tokenizer), ids[:2], ids[2:5], False, ["END"], 8).texts
    (rest,) = chunk_call(post, ids[:5], ids[5:], True, ["END"], 8).texts
    assert begun + elsewhere + rest == expected


def check_interleaved(post: Postprocessor, tokenizer: Tokenizer) -> None:
    texts = [f"stop {'😀' * n} the end {'東' * n}ing" for n in range(1, 30)]
    streams = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    told = [""] * len(streams)
    for at in range(max(map(len, streams))):
        for number, ids in enumerate(streams):
            if at < len(ids):
                final = at == len(ids) - 1
                told[number] += chunk_call(
                    post, ids[:at], ids[at : at + 1], final, [], number
                ).texts[0]
    assert told == [tokenizer.decode(ids) for ids in streams]


@pytest.mark.parametrize("kind", KINDS)
def test_streams_do_not_mix(kind: str) -> None:
    check_interleaved(Postprocessor(TOKENIZERS[kind]), TOKENIZERS[kind])


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of far more streams than are remembered most are worked out again each time."""
    monkeypatch.setattr(postprocess, "_MAX_REMEMBERED", 3)
    tokenizer = TOKENIZERS["byte_level"]
    made = Mock(wraps=tokenizer.detokenizer)
    monkeypatch.setattr(tokenizer, "detokenizer", made)
    check_interleaved(Postprocessor(tokenizer), tokenizer)
    assert made.call_count > 2 * 29  # one for each stream, one for each whole text


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    ("text", "stop", "engines", "expected"),
    [
        ("the end", [], ("length", ""), ("length", "")),
        ("the end", [], ("stop", "2"), ("stop", "2")),  # an end id
        ("a stop", ["top", "stop"], ("stop", "5 6"), ("stop", "stop")),  # a spelling it knew
        ("a STOPping", ["OPp"], ("cancelled", ""), ("stop", "OPp")),  # one it did not
        ("the end", ["x"], ("cancelled", ""), ("cancelled", "")),
    ],
)
def test_why_it_ended(text: str, stop: list[str], engines, expected, asked: bool) -> None:
    """What the text shows goes before what the engine knows; nothing is said without being asked."""
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode(text, add_special_tokens=False)
    post = Postprocessor(tokenizer)
    for at in range(len(ids)):
        final = at == len(ids) - 1
        reasons = engines if final else ("", "")
        tensors = {
            name: np.array([[reason.encode()]], object)
            for name, reason in zip(("FINISH_REASON", "STOP_REASON"), reasons, strict=True)
        }
        answer = chunk_call(post, ids[:at], ids[at : at + 1], final, stop, 9,
                            reasons=tensors if asked else {})  # fmt: skip
        told = {
            name: value.item().decode()
            for name, value in answer.tensors().items()
            if name != "OUTPUT"
        }
        names = ("FINISH_REASON_OUT", "STOP_REASON_OUT")
        wanted = expected if final else ("", "")
        assert told == (dict(zip(names, wanted, strict=True)) if asked else {})


def test_engine_is_stopped_once_and_only_while_it_runs() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("aSTOPbcd", add_special_tokens=False)
    post = Postprocessor(tokenizer)
    asked = []
    for at in range(len(ids)):
        answer = chunk_call(post, ids[:at], ids[at : at + 1], at == len(ids) - 1, ["STOP"], 5)
        asked.append(answer.stop_engine_request)
    assert [value for value in asked if value is not None] == [5]
    ends = chunk_call(post, [], tokenizer.encode("STOP", False), True, ["STOP"], 6)
    assert ends == Text(["STOP"])


def test_whole_answer_with_its_prompt() -> None:
    """A stop word in the prompt stops nothing."""
    tokenizer = TOKENIZERS["byte_level"]
    prompt = tokenizer.encode("stop the", add_special_tokens=False)
    answer = tokenizer.encode(" a stop and more", add_special_tokens=False)
    post = Postprocessor(tokenizer)
    got = chunk_call(post, [], answer, True, ["stop"], 1, prompt=prompt)
    assert got.texts == ["stop the a stop"]


@pytest.mark.parametrize("default", [True, False])
def test_a_request_says_whether_its_stop_word_is_told(default: bool) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("the stop and", add_special_tokens=False)
    post = Postprocessor(tokenizer, include_stop_words=default)
    told = [chunk_call(post, [], ids, True, ["stop"], 1, include_stop=flag) for flag in (1, 0)]
    assert [answer.texts for answer in told] == [["the stop"], ["the "]]
    assert chunk_call(post, [], ids, True, ["stop"], 1).texts == told[not default].texts


def test_a_character_across_prompt_and_answer() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = tokenizer.encode("a東b", add_special_tokens=False)
    assert len(ids) == 5
    for middle in range(1, 5):
        post = Postprocessor(tokenizer)
        (text,) = chunk_call(post, [], ids[middle:], True, ["x"], 1, prompt=ids[:middle]).texts
        assert text == "a東b"


def test_a_batch_of_beams() -> None:
    """One text a row and beam, flattened; each cut to its length, without what pads it."""
    tokenizer = TOKENIZERS["byte_fallback"]
    texts = [["the end", "stop"], ["a", ""], ["ing the", "é"]]
    ids = [[tokenizer.encode(text, False) for text in row] for row in texts]
    tokens = np.full((3, 2, 12), -1, np.int32)
    for row, beams in enumerate(ids):
        for beam, one in enumerate(beams):
            tokens[row, beam, : len(one)] = one
    lengths = np.array([[len(one) for one in row] for row in ids], np.int32)
    told = Postprocessor(tokenizer).process(batch(tokens, lengths))
    assert told == Text([text for row in texts for text in row])


def test_a_chunk_without_tokens() -> None:
    post = Postprocessor(TOKENIZERS["byte_level"])
    empty = np.zeros((1, 1, 0), np.int32)
    assert post.process(batch(empty, np.zeros((1, 1), np.int32))) == Text([""])


def test_shapes_that_do_not_fit() -> None:
    post = Postprocessor(TOKENIZERS["byte_level"])
    tokens, lengths = np.zeros((2, 1, 3), np.int32), np.full((2, 1), 3, np.int32)
    with pytest.raises(ValueError, match="SEQUENCE_LENGTH has 1 lengths, but .* has 2 rows"):
        post.process(batch(tokens, lengths[:1]))
    state = np.array([[1, 1, 3], [2, 1, 3]], np.int64)
    with pytest.raises(ValueError, match="of one row and beam"):
        context = np.ones((2, 2), np.uint8)
        post.process({**batch(tokens, lengths), "TEXT_CONTEXT": context, "RESPONSE_STATE": state})


def test_without_the_engines_account_rows_are_decoded() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    first, second = tokenizer.encode("the end", False), tokenizer.encode("stop", False)
    tokens = np.full((1, 2, 12), -1, np.int32)
    tokens[0, 0, : len(first)] = first
    tokens[0, 1, : len(second)] = second
    lengths = np.array([[len(first), len(second)]], np.int32)
    assert Postprocessor(tokenizer).process(batch(tokens, lengths)) == Text(["the end", "stop"])


def test_special_tokens() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    ids = [*tokenizer.encode("the", False), tokenizer.eos_token_id]
    tokens, lengths = np.array([[ids]], np.int32), np.array([[len(ids)]], np.int32)
    assert Postprocessor(tokenizer).process(batch(tokens, lengths)).texts == ["the"]
    shown = Postprocessor(tokenizer, skip_special_tokens=False)
    assert shown.process(batch(tokens, lengths)).texts == ["the</s>"]
