"""Ids of words that prompts bring again and again, for tokenizers that take words one by one.

Most tokenizers cut a text before blanks, or at them, ahead of everything that costs, or have no token
that goes beyond a word: then the ids of a text are those of its words, one after another, and a
dictionary of words is ten times as quick as the library. `WordCache.of` says for which tokenizers that
is certain, from what they are made of; the others have none. A cut is made only between a letter, digit
or visible ASCII character and a blank, so that a run of white space is never divided.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
# Patterns of byte-level tokenizers. In none of them does a match hold a blank behind another character
# that is not white space, and none looks behind itself: a blank that follows a word begins a match.
_PATTERNS = {
    # Llama 3 and GPT-4; Qwen 2 and later.
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in (r"\p{N}{1,3}", r"\p{N}")
}
_MIN_BLANKS = 4  # of a text that the library is not quicker with in any case
# Characters of all words that are kept: some 5 MB with their ids.
_MAX_CHARACTERS = 1 << 18


class WordCache:
    """Safe to use from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, blank: str, separator: str) -> None:
        """Use `WordCache.of`. `blank`: what stands before a word that is encoded alone, for the blank
        that stands before it in a text. `separator`: a special token."""
        self._tokenizer = tokenizer
        self._blank = blank
        self._separator = separator
        self._separator_id = tokenizer.token_to_id(separator)
        self._ids: dict[str, list[int]] = {}  # of words without the blank before them
        self._num_characters = 0

    @classmethod
    def of(cls, tokenizer: tokenizers.Tokenizer) -> WordCache | None:
        """None where the ids of a word may depend on its neighbours. Later changes of the tokenizer are
        not seen."""
        blank = _blank_before_words(tokenizer)
        separator = _separator(tokenizer)
        return None if blank is None or separator is None else cls(tokenizer, blank, separator)

    def encode(self, text: str) -> list[int] | None:
        """Without the special tokens around a text; None if the library is quicker."""
        if text.count(" ") < _MIN_BLANKS:
            return None
        if not self._blank:
            text = text.replace("\n", " ")
        first, *words = text.split(" ")
        last: str | None = None
        known = self._ids
        new = {word for word in words if word not in known}
        if new:
            if not all(map(_ends_visibly, new)):
                first, words, last = _with_runs_joined(first, words)
                new = {word for word in words if word not in known}
            if new and not self._learn(known, new, len(words)):
                return None
        ids = [self._encode(first), *map(known.__getitem__, words)]
        if last is not None:
            ids.append(self._encode(self._blank + last))
        return list(itertools.chain.from_iterable(ids))

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _learn(self, known: dict[str, list[int]], new: set[str], num_words: int) -> bool:
        """Adds the new words. Each takes longer than in its text: False if they are not repeated."""
        if len(new) * 2 > num_words:
            return False
        words = list(new)
        # One text costs a third less than as many as there are words.
        text = (self._separator + self._blank).join(words)
        num_characters = len(text) - (len(words) - 1) * len(self._separator + self._blank)
        if text.count(self._separator) != len(words) - 1 or num_characters > _MAX_CHARACTERS:
            return False
        if self._num_characters + num_characters > _MAX_CHARACTERS:
            self._ids, self._num_characters = {}, 0  # others may be reading the full one
            return False
        parts = self._parts_of(self._encode(self._blank + text))
        if len(parts) != len(words):  # the separator is what an unknown character becomes, too
            return False
        self._num_characters += num_characters
        known.update(zip(words, parts, strict=True))
        return True

    def _parts_of(self, ids: list[int]) -> list[list[int]]:
        parts, begin = [], 0
        for _ in range(ids.count(self._separator_id)):
            end = ids.index(self._separator_id, begin)
            parts.append(ids[begin:end])
            begin = end + 1
        return [*parts, ids[begin:]]


def _ends_visibly(word: str) -> bool:
    return word != "" and ("!" <= word[-1] <= "~" or word[-1].isalnum())


def _with_runs_joined(first: str, words: list[str]) -> tuple[str, list[str], str | None]:
    """(first, words, last) cut only behind what ends visibly; what is not cut keeps its blank. `last` is
    there if the text does not end visibly."""
    joined = [first]
    for word in words:
        if _ends_visibly(joined[-1]):
            joined.append(word)
        else:
            joined[-1] += " " + word
    last = None if _ends_visibly(joined[-1]) or len(joined) == 1 else joined.pop()
    return joined[0], joined[1:], last


def _blank_before_words(tokenizer: tokenizers.Tokenizer) -> str | None:
    """ " " where words are cut before their blank, "" where blanks are dropped, None elsewhere."""
    normalizer, pre_tokenizer = map(_parts, (tokenizer.normalizer, tokenizer.pre_tokenizer))
    kinds = [part["type"] for part in pre_tokenizer]
    normalizers = {part["type"] for part in normalizer}
    added = list(tokenizer.get_added_tokens_decoder().values())
    if any(token.lstrip or token.rstrip or token.single_word for token in added):
        return None
    # One that is looked for in the normalised text is itself normalised, in ways that ASCII is not.
    if normalizer and any(token.normalized and not token.content.isascii() for token in added):
        return None
    if kinds in (["BertPreTokenizer"], ["Whitespace"], ["WhitespaceSplit"]) or (
        kinds == ["WhitespaceSplit", "Metaspace"] and pre_tokenizer[1]["prepend_scheme"] == "always"
    ):
        cuts_at_blanks = normalizers <= {"BertNormalizer", "Lowercase", "NFC", "NFD"}
        with_blanks = any(re.search(r"[ \n]", token.content) for token in added)
        return "" if cuts_at_blanks and not with_blanks else None
    if any(re.search("[^ ] ", token.content) for token in added):
        return None
    if _is_one_piece(normalizer, pre_tokenizer):
        return " " if _merges_stay_in_words(tokenizer) else None
    if not normalizers <= {"NFC"}:
        return None
    if kinds == ["ByteLevel"] and pre_tokenizer[0]["use_regex"]:
        return " "
    if kinds == ["Split", "ByteLevel"] and not (
        pre_tokenizer[1]["use_regex"] or pre_tokenizer[1]["add_prefix_space"]
    ):
        split = pre_tokenizer[0]
        is_known = split["pattern"].get("Regex") in _PATTERNS and split["behavior"] == "Isolated"
        return " " if is_known and not split["invert"] else None
    if kinds == ["Metaspace"] and pre_tokenizer[0]["split"] and not normalizer:
        return " "
    return None


def _is_one_piece(normalizer: list[dict[str, Any]], pre_tokenizer: list[dict[str, Any]]) -> bool:
    """Whether a text goes to the model whole, with "▁" for each blank, as SentencePiece does it."""
    if not normalizer and [part["type"] for part in pre_tokenizer] == ["Metaspace"]:
        return pre_tokenizer[0]["replacement"] == "▁" and not pre_tokenizer[0]["split"]
    is_replaced = [
        (part["type"], part.get("pattern"), part.get("content")) for part in normalizer
    ] == [("Replace", {"String": " "}, "▁")]
    # Gemma's cuts at blanks, of which none is left.
    cuts_nothing = not pre_tokenizer or (
        len(pre_tokenizer) == 1 and pre_tokenizer[0].get("pattern") == {"String": " "}
    )
    return is_replaced and cuts_nothing


def _merges_stay_in_words(tokenizer: tokenizers.Tokenizer) -> bool:
    """No token goes on with "▁" behind anything else, so that no merge crosses the beginning of a word."""
    model = tokenizer.model
    if not isinstance(model, tokenizers.models.BPE) or model.dropout is not None:
        return False
    vocab = tokenizer.get_vocab(with_added_tokens=False)
    return "▁" in vocab and not any("▁" in token.lstrip("▁") for token in vocab)


def _separator(tokenizer: tokenizers.Tokenizer) -> str | None:
    """The library takes a text apart at each special token, before anything else, and each part like a
    text of its own. One that unknown characters become would be found between the words, too."""
    added = tokenizer.get_added_tokens_decoder().values()
    found = [token.content for token in added if token.special and not token.normalized]
    return min(found, default=None, key=lambda content: ("unk" in content.lower(), len(content)))


def _parts(component: Any) -> list[dict[str, Any]]:
    """Descriptions of a normaliser or pre-tokenizer, of each of a sequence."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return state.get("normalizers") or state.get("pretokenizers") or [state]
