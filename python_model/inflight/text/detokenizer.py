"""Token ids to text, a few ids at a time.

The pieces of a stream, joined, are the text of all its ids at once, however they were cut: a
character spread over several tokens is held back until it is whole, and a blank that belongs to a
token is never lost because the token came first in its chunk. Decoding follows the tokenizer's own
decoder with one difference: bytes that form no character become one U+FFFD each and spoil nothing
around them (the Rust library blanks the whole run of byte tokens). `clean_up_tokenization_spaces`
is not applied: it changes text already sent.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence

import tokenizers

_REPLACEMENT = "\ufffd"
# No character has more than four bytes, so what eight tokens leave pending does not depend on what
# came before them.
_CONTEXT_TOKENS = 8


def _byte_level_alphabet() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE: character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _decoder_stages(tokenizer: tokenizers.Tokenizer) -> list[dict]:
    """The tokenizer's decoder as a flat list of its JSON descriptions."""
    description = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else None
    stages: list[dict] = []

    def flatten(stage: dict) -> None:
        if stage["type"] == "Sequence":
            for inner in stage["decoders"]:
                flatten(inner)
        else:
            stages.append(stage)

    if description:
        flatten(description)
    return stages


def _is_local(stages: list[dict]) -> bool:
    """Whether every token has one text, but for bytes and for the first and last token of all."""
    seen: set[str] = set()
    for stage in stages:
        kind = stage["type"]
        if kind not in {
            "Replace",
            "ByteFallback",
            "Fuse",
            "Strip",
            "Metaspace",
            "WordPiece",
            "BPEDecoder",
        }:
            return False
        if kind == "Replace" and seen & {"ByteFallback", "Fuse"}:
            return False
        if kind == "Strip" and "Fuse" in seen and stage["stop"]:
            return False
        if kind in {"Metaspace", "WordPiece", "BPEDecoder"} and len(stages) > 1:
            return False
        seen.add(kind)
    return True


class TokenTexts:
    """What each id of a tokenizer says: bytes, or text. Shared by all streams of the tokenizer.

    Filled as ids are met; any thread may read and fill it (entries never change).
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        stages = _decoder_stages(tokenizer)
        kinds = {stage["type"] for stage in stages}
        self.is_byte_level = "ByteLevel" in kinds and kinds <= {"ByteLevel", "Fuse"}
        self.is_local = self.is_byte_level or _is_local(stages)
        self._alphabet = _byte_level_alphabet() if self.is_byte_level else {}
        self._byte_of_token: dict[str, int] = {}
        if "ByteFallback" in kinds:
            self._byte_of_token = {f"<0x{byte:02X}>": byte for byte in range(256)}
        # Of BPE whose tokens end words (CTRL, OpenAI's first GPT): a blank, but for the last token.
        self.word_end = stages[0]["suffix"] if kinds == {"BPEDecoder"} else None
        self._known: dict[int, bytes | str | None] = {}
        needs_neutral = self.is_local and not self.is_byte_level and self.word_end is None
        self._neutral = self._neutral_token() if needs_neutral else None

    def _neutral_token(self) -> tuple[list[int], int] | None:
        """A token with text of its own, to stand before others: ([id], length of its text)."""
        for id in range(self.tokenizer.get_vocab_size()):
            token = self.tokenizer.id_to_token(id)
            if token is None or id in self.special_ids or token in self._byte_of_token:
                continue
            text = self.tokenizer.decode([id], skip_special_tokens=False)
            if text and text.isalnum():
                return [id], len(text)
        return None

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def of(self, id: int) -> bytes | str | None:
        """Bytes of a byte(-level) token, text of another where text came before; None: no token."""
        try:
            return self._known[id]
        except KeyError:
            value = self._known[id] = self._look_up(id)
            return value

    def _look_up(self, id: int) -> bytes | str | None:
        token = self.tokenizer.id_to_token(id) if id >= 0 else None
        if token is None:
            return None
        if self.is_byte_level:
            try:
                return bytes(self._alphabet[character] for character in token)
            except KeyError:
                return token.encode()
        byte = self._byte_of_token.get(token)
        if byte is not None:
            return bytes([byte])
        if self.word_end is not None:
            return token.replace(self.word_end, " ")
        if self._neutral is None:  # whole decoding; or no token has text of its own
            return token
        before, length = self._neutral
        return self.decode([*before, id])[length:]


class Detokenizer:
    """One stream of ids to text. `context_ids` came before it (a prompt, or what another stream
    has already told): the text continues theirs, and a character they left incomplete comes with
    the bytes that complete it. Without context the text starts as the tokenizer starts a text,
    for SentencePiece-like ones without the leading blank.
    """

    def __init__(
        self,
        texts: TokenTexts,
        context_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
    ) -> None:
        self._texts = texts
        self._skipped = texts.special_ids if skip_special_tokens else frozenset()
        self._reset()
        if len(context_ids):
            tail = context_ids[-_CONTEXT_TOKENS:] if texts.is_local else context_ids
            self.feed(tail)
            if not self._started and len(tail) < len(context_ids):
                self._reset()
                self.feed(context_ids)

    def _reset(self) -> None:
        self._pending = b""  # of a character not yet whole
        self._pending_ids: list[int] = []  # its byte tokens
        self._started = self._texts.is_byte_level  # has any text come out?
        self._word_ends = ""  # and what follows the first: blanks, if more tokens come
        self._ids: list[int] = []  # until then, or with a decoder that needs all: ids so far
        self._num_told = 0  # with such a decoder: characters told so far

    def feed(self, ids: Iterable[int]) -> str:
        """The text that has become certain with these ids."""
        if not self._texts.is_local:
            return self._feed_whole(ids)
        pieces: list[str] = []
        for id in ids:
            if id in self._skipped:
                continue
            value = self._texts.of(id)
            if value is None:
                continue
            if isinstance(value, bytes):
                self._feed_bytes(value, id, pieces)
            elif self._texts.word_end is not None:
                self._feed_word(id, pieces)
            else:
                self._give_up_pending(pieces)
                self._tell(value, [id], pieces)
        return "".join(pieces)

    def finish(self) -> str:
        """The rest: what was held back for ids that will not come."""
        if not self._texts.is_local:
            text = self._texts.decode(self._ids)[self._num_told :]
            self._num_told += len(text)
            return text
        pieces: list[str] = []
        self._give_up_pending(pieces)
        pieces.append(self._word_ends.replace(self._texts.word_end or "", ""))
        self._word_ends = ""
        return "".join(pieces)

    def _tell(self, text: str, ids: list[int], pieces: list[str]) -> None:
        if not self._started:
            self._ids += ids
            text = self._texts.decode(self._ids)
            self._started = bool(text)
        pieces.append(text)

    def _feed_word(self, id: int, pieces: list[str]) -> None:
        """An end of a word is a blank if another token follows, and nothing if none does."""
        token, end = self._texts.tokenizer.id_to_token(id), self._texts.word_end
        pieces.append(self._word_ends.replace(end, " "))
        at = token.find(end)
        if at < 0:
            at = len(token)
        pieces.append(token[:at])
        self._word_ends = token[at:]
        self._started = True

    def _feed_bytes(self, value: bytes, id: int, pieces: list[str]) -> None:
        self._pending += value
        if self._texts.is_byte_level:
            text, num_used = codecs.utf_8_decode(self._pending, "replace", False)
            self._pending = self._pending[num_used:]
            pieces.append(text)
            return
        self._pending_ids.append(id)
        while self._pending:
            try:
                text, num_used = codecs.utf_8_decode(self._pending, "strict", False)
            except UnicodeDecodeError:  # the first byte begins no character
                pieces.append(_REPLACEMENT)
                self._started = True
                self._pending = self._pending[1:]
                del self._pending_ids[0]
                continue
            if num_used:
                self._tell(text, self._pending_ids, pieces)
                self._pending, self._pending_ids = b"", []
            return

    def _give_up_pending(self, pieces: list[str]) -> None:
        if self._pending:
            if self._texts.is_byte_level:
                pieces.append(self._pending.decode("utf-8", "replace"))
            else:
                pieces.append(_REPLACEMENT * len(self._pending))
            self._pending, self._pending_ids = b"", []
            self._started = True

    def _feed_whole(self, ids: Iterable[int]) -> str:
        """Decoders without a text for each token: decode everything each time."""
        self._ids += [id for id in ids if id not in self._skipped]
        text = self._texts.decode(self._ids).rstrip(_REPLACEMENT)
        new = text[self._num_told :]
        self._num_told += len(new)
        self._started = self._started or bool(text)
        return new
