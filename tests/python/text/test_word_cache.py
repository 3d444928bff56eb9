"""Ids by words are the library's ids, and only tokenizers whose words are independent have a cache."""

from __future__ import annotations

import json
import random
import threading

import pytest
import tokenizers
from inflight.text import word_cache
from inflight.text.tokenizer import Tokenizer
from inflight.text.word_cache import WordCache
from text_tokenizers import (
    BUILDERS,
    CORPUS,
    LLAMA_3_PATTERN,
    byte_fallback,
    byte_level,
    metaspace,
    split_by,
    word_piece,
)
from tokenizers import AddedToken, normalizers, pre_tokenizers


def qwen_like() -> tokenizers.Tokenizer:
    description = json.loads(byte_level().to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if t["content"].isascii()]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(description))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = split_by(LLAMA_3_PATTERN.replace("{1,3}", ""))
    return tokenizer


def blanks_as_tokens() -> tokenizers.Tokenizer:
    """As GPT-NeoX and Phi, whose runs of blanks are added tokens."""
    tokenizer = qwen_like()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in (2, 3, 4, 8)])
    return tokenizer


WITHOUT = {"byte_fallback", "characters"}
CACHED = {name: build for name, build in BUILDERS.items() if name not in WITHOUT}
CACHED |= {"qwen_like": qwen_like, "blanks_as_tokens": blanks_as_tokens}
# Blanks of every kind, marks that join what is before them, what normalisers change, tokens of the
# tokenizers above, and pieces of words.
PIECES = [
    *(" ", "  ", "   ", " \n", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0", "\u2003", "\u2028"),
    *("\u3000", "\u200b", "\ufeff", "\u0301", "\u0345", "é", "e\u0301", "ß", "İ", "ﬁ", "ﷺ", "ͺ", "´"),
    *("'s", "'S", "n't", "'", "12345", "1 2", "...", "!\n", "-- ", "(a", "_", "▁", "▁a", "東", "京 ", "한"),
    *("<s>", "</s>", "<tool>", "日本", "<|turn|>", "<|eot_id|>", "<unk>", "[CLS]", "😀", "\0", " a", "x "),
]  # fmt: skip
WORDS = sorted({word for line in CORPUS for word in line.split()})


def some_text(draw: random.Random) -> str:
    return "".join(
        draw.choice(PIECES) if draw.random() < 0.6 else draw.choice(WORDS) + " "
        for _ in range(draw.randrange(14))
    )


def library(tokenizer: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=add_special_tokens).ids


@pytest.mark.parametrize("name", CACHED)
def test_equals_the_library(name: str) -> None:
    raw = CACHED[name]()
    ours = Tokenizer(raw, {}, None)
    cache = WordCache.of(raw)
    draw = random.Random(name)
    num_cached = 0
    for _ in range(250):
        text = some_text(draw)
        for each in (text, text * 3):  # of words that come once nothing is kept
            found = cache.encode(each)
            num_cached += found is not None
            assert found in (None, library(raw, each, False)), each
            assert ours.encode(each) == library(raw, each, True), each
    assert num_cached > 20
    every = " ".join([word for word in WORDS if word.isascii()] * 3)
    assert cache.encode(every) == cache.encode(every) == library(raw, every, False)


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_words_that_may_depend_on_each_other(name: str) -> None:
    assert WordCache.of(BUILDERS[name]()) is None


def with_token(content: str, build=byte_level, **options: bool) -> tokenizers.Tokenizer:
    tokenizer = build()
    tokenizer.add_tokens([AddedToken(content, **options)])
    return tokenizer


def with_parts(build, normalizer=None, pre_tokenizer=None) -> tokenizers.Tokenizer:
    tokenizer = build()
    tokenizer.normalizer = normalizer or tokenizer.normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or tokenizer.pre_tokenizer
    return tokenizer


def tokens_across_words() -> tokenizers.Tokenizer:
    """As gemma_like, with one merge more: "e" and the blank behind it."""
    description = json.loads(BUILDERS["gemma_like"]().to_str())
    description["model"]["vocab"]["e▁"] = len(description["model"]["vocab"])
    description["model"]["merges"].insert(0, ["e", "▁"])
    return tokenizers.Tokenizer.from_str(json.dumps(description))


DOUBTFUL = {
    "a token that ends with a blank": tokens_across_words,
    "a token of two words": lambda: with_token("in the"),
    "a token that takes blanks before it": lambda: with_token("<mask>", lstrip=True),
    "a token that takes blanks behind it": lambda: with_token("<mask>", rstrip=True),
    "a token that must be a word": lambda: with_token("word", single_word=True),
    "a token of blanks where blanks are dropped": lambda: with_token("  ", word_piece),
    "a token of lines where lines are dropped": lambda: with_token("\n", word_piece),
    "a token that is normalised": lambda: with_parts(
        lambda: with_token("日本", word_piece, normalized=True), normalizers.BertNormalizer()
    ),
    "a normaliser that makes blanks": lambda: with_parts(byte_level, normalizers.NFKC()),
    "a pattern that is not known": lambda: with_parts(
        byte_level, pre_tokenizer=split_by(r"\w+ \w+|\s+|\S+")
    ),
    "words in one piece": lambda: with_parts(
        metaspace, pre_tokenizer=pre_tokenizers.Metaspace(split=False)
    ),
    "no pre-tokenizer": lambda: byte_fallback(),
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_what_is_not_certain_has_no_cache(name: str) -> None:
    raw = DOUBTFUL[name]()
    assert WordCache.of(raw) is None
    text = " ".join(["in the  word <mask> 日本 \n  to be"] * 3)
    assert Tokenizer(raw, {}, None).encode(text) == library(raw, text, True)


def test_a_tokenizer_without_special_tokens() -> None:
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    assert WordCache.of(raw) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "_MAX_CHARACTERS", 400)
    raw = byte_level()
    cache = WordCache.of(raw)
    most = 0
    for number in range(200):
        text = " ".join(f"word{number + i // 3}" for i in range(30))
        assert cache.encode(text) in (None, library(raw, text, False))
        most = max(most, sum(map(len, cache._ids)))
    assert 200 < most <= 400
    assert cache.encode("a " * 500 + "x" * 401 + " x") is None  # larger than all that may be kept


def test_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while others throw away what is kept."""
    monkeypatch.setattr(word_cache, "_MAX_CHARACTERS", 200)
    raw = byte_level()
    tokenizer = Tokenizer(raw, {}, None)
    texts = [" ".join(f"{word}{number}" for word in WORDS[:8]) + " " for number in range(20)]
    expected = [library(raw, text * 3, True) for text in texts]
    wrong: list[str] = []

    def work(start: int) -> None:
        for turn in range(100):
            at = (start + turn) % len(texts)
            if tokenizer.encode(texts[at] * 3) != expected[at]:
                wrong.append(texts[at])

    threads = [threading.Thread(target=work, args=(5 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
