"""Streams of ids to text against the whole decode of the `tokenizers` library."""

from __future__ import annotations

import functools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.text.tokenizer import Tokenizer
from text_tokenizers import BUILDERS
from tokenizers import decoders

KINDS = sorted(BUILDERS)  # each property meets some 1,000 examples of all kinds together


@functools.cache
def load(kind: str):
    raw = BUILDERS[kind]()
    return raw, Tokenizer(raw, {"bos_token": "<s>", "eos_token": "</s>"}, None)


def reference(raw, ids: list[int], skip_special_tokens: bool) -> str:
    """The library's text of all ids; ill-formed bytes of byte tokens as SentencePiece shows them.

    The library blanks a whole run of byte tokens when any of it is ill-formed. SentencePiece keeps
    the characters and shows each byte that belongs to none as U+FFFD.
    """
    if skip_special_tokens:
        special = {id for id, t in raw.get_added_tokens_decoder().items() if t.special}
        ids = [id for id in ids if id not in special]
    tokens = [raw.id_to_token(id) for id in ids]
    if not any(token and token.startswith("<0x") for token in tokens):
        return raw.decode(ids, skip_special_tokens=False)
    # Replace each run by its text, as characters of the Latin-1 bytes, and decode by hand.
    data = b""
    text = ""
    for token in [token for token in tokens if token is not None]:
        match = re.fullmatch("<0x([0-9A-F]{2})>", token)
        if match:
            data += bytes([int(match[1], 16)])
            continue
        text += sentencepiece_text(data) + token.replace("▁", " ")
        data = b""
    text += sentencepiece_text(data)
    strips = "Strip" in raw.to_str()
    return text[1:] if strips and text.startswith(" ") else text


def sentencepiece_text(data: bytes) -> str:
    text = ""
    while data:
        for length in (1, 2, 3, 4):
            try:
                text += data[:length].decode()
            except UnicodeDecodeError:
                continue
            data = data[length:]
            break
        else:
            text += "\ufffd"
            data = data[1:]
    return text


def cut(ids: list[int], lengths: list[int]) -> list[list[int]]:
    chunks = []
    for length in lengths:
        chunks.append(ids[:length])
        ids = ids[length:]
    return [*chunks, ids]


def streamed(tokenizer: Tokenizer, chunks: list[list[int]], skip_special_tokens: bool) -> list[str]:
    stream = tokenizer.detokenizer(skip_special_tokens=skip_special_tokens)
    return [stream.feed(chunk) for chunk in chunks] + [stream.finish()]


chunk_lengths = st.lists(st.integers(0, 5), max_size=60)
texts = (
    st.text(max_size=60)
    | st.text(alphabet="ab é日😀👍🏽\n\t ,.!'", max_size=60)
    | st.lists(
        # Added and special tokens inside, blanks at every place, marks that combine.
        st.sampled_from(
            ["<tool>", "日本", "<s>", "</s>", "<unk>", "<|eot_id|>", "<｜end｜>", "<|turn|>", " ", "  ",
             "\n", "e\u0301", "\u200d", "👩‍👩‍👧", "नमस्ते", "the", " to", "question", "'s", ".", "##a"]
        ),
        max_size=20,
    ).map("".join)
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(text=texts, lengths=chunk_lengths, skip=st.booleans())
def test_streamed_text_is_the_whole_text(kind: str, text: str, lengths: list[int], skip: bool):
    raw, tokenizer = load(kind)
    ids = tokenizer.encode(text)
    pieces = streamed(tokenizer, cut(ids, lengths), skip)
    assert "".join(pieces) == raw.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=chunk_lengths, skip=st.booleans())
def test_any_ids_any_chunks(kind: str, data: st.DataObject, lengths: list[int], skip: bool):
    raw, tokenizer = load(kind)
    ids = data.draw(st.lists(st.integers(0, raw.get_vocab_size() + 5), max_size=60))
    expected = reference(raw, ids, skip)
    assert "".join(streamed(tokenizer, cut(ids, lengths), skip)) == expected
    assert tokenizer.decode(ids, skip_special_tokens=skip) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=chunk_lengths)
def test_stateless_form(kind: str, data: st.DataObject, lengths: list[int]):
    raw, tokenizer = load(kind)
    ids = data.draw(st.lists(st.integers(0, raw.get_vocab_size() - 1), max_size=40))
    chunks = cut(ids, lengths)
    text, told = "", []
    for index, chunk in enumerate(chunks):
        text += tokenizer.text_of(told, chunk, final=index == len(chunks) - 1)
        told += chunk
    assert text == tokenizer.decode(ids)


@pytest.mark.parametrize(
    "kind", ["byte_level", "llama_3_like", "byte_fallback", "gemma_like", "GPT2Tokenizer"]
)
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="é日😀👍🏽पn", max_size=20))
def test_no_piece_holds_a_broken_character(kind: str, text: str):
    _, tokenizer = load(kind)
    chunks = [[id] for id in tokenizer.encode(text)]
    assert not any("\ufffd" in piece for piece in streamed(tokenizer, chunks, True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(prompt=st.text(alphabet="ab é", max_size=30), more=st.text(alphabet="ab é", max_size=30))
def test_text_continues_its_context(kind: str, prompt: str, more: str):
    """Prompt and answer, joined, read as the ids together do: no blank lost between them."""
    _, tokenizer = load(kind)
    ids = tokenizer.encode(prompt + more)
    for middle in range(len(ids) + 1):
        before = tokenizer.detokenizer().feed(ids[:middle])
        stream = tokenizer.detokenizer(context_ids=ids[:middle])
        assert before + stream.feed(ids[middle:]) + stream.finish() == tokenizer.decode(ids)


def test_blank_of_a_first_token_stays_after_a_prompt():
    _, tokenizer = load("byte_fallback")
    prompt, word = tokenizer.encode("to be"), tokenizer.encode("sea")
    assert tokenizer.decode(word) == "sea"
    assert tokenizer.text_of(prompt, word, final=True) == " sea"
    assert tokenizer.text_of([], word, final=True) == "sea"


def test_an_end_of_a_word_is_a_blank_when_a_token_follows():
    raw, tokenizer = load("word_suffix")
    ids = tokenizer.encode("to be")
    pieces = streamed(tokenizer, [[id] for id in ids], True)
    assert "".join(pieces) == raw.decode(ids) == "to be"


@pytest.mark.parametrize("kind", KINDS)
def test_the_cost_of_a_chunk_does_not_grow(kind: str):
    """No decoder of these needs all ids at once."""
    _, tokenizer = load(kind)
    assert tokenizer._texts.is_local


def test_decoders_without_a_text_for_each_token():
    """Rare ones are decoded whole each time: right, and slower with every chunk."""
    raw = BUILDERS["characters"]()
    raw.decoder = decoders.Sequence([decoders.Fuse(), decoders.Replace("to be", "TO BE")])
    tokenizer = Tokenizer(raw, {}, None)
    ids = tokenizer.encode("not to be")
    assert not tokenizer._texts.is_local
    assert tokenizer.decode(ids) == raw.decode(ids) == "not TO BE"


def test_a_line_break_in_bytes_is_told_at_once():
    """Held back until a run of byte tokens ends, a stop at a line break would come late."""
    raw, tokenizer = load("byte_fallback")
    stream = tokenizer.detokenizer(tokenizer.encode("be"))
    assert stream.feed([raw.token_to_id("<0x0A>")]) == "\n"


def test_ill_formed_bytes_spoil_nothing_around_them():
    raw, tokenizer = load("byte_fallback")
    ids = [raw.token_to_id(f"<0x{byte:02X}>") for byte in (0xE6, 0x97, 0xA5, 0xE6, 0x97, 0x41)]
    assert [tokenizer.detokenizer().feed(ids[:n]) for n in range(1, 7)] == [
        "", "", "日", "日", "日", "日\ufffd\ufffdA",
    ]  # fmt: skip
    stream = tokenizer.detokenizer()
    assert stream.feed(ids[:5]) + stream.finish() == "日\ufffd\ufffd"


def test_special_tokens_are_left_out_or_shown():
    raw, tokenizer = load("byte_level")
    ids = [raw.token_to_id("<s>"), *tokenizer.encode("be"), raw.token_to_id("</s>")]
    assert tokenizer.decode(ids) == "be"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>be</s>"
