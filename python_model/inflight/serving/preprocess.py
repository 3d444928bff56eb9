"""Text to ids: what the `preprocessing` model does with one request. Knows no Triton."""

import functools
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from inflight.serving.schema import PREPROCESSING
from inflight.serving.support import refuse_unsupported
from inflight.serving.words import no_words, pack_words
from inflight.text.tokenizer import Tokenizer

Tensors = dict[str, np.ndarray]

# Requests bring the same few stop and bad words again and again: so many keep their ids, if they have
# at most so many characters.
_MAX_KEPT_WORDS, _MAX_KEPT_LENGTH = 1024, 64


def vocab_size_of_model(folder: str | Path) -> int | None:
    """Of the engine or checkpoint that a tokenizer's folder holds, too; None where there is none."""
    for name, section in (("engine.json", "model"), ("config.json", None)):
        file = Path(folder) / name
        if file.is_file():
            facts = json.loads(file.read_text(encoding="utf-8"))
            size = (facts.get(section, {}) if section else facts).get("vocab_size")
            if size is not None:
                return int(size)
    return None


class Preprocessor:
    def __init__(
        self,
        tokenizer: Tokenizer,
        add_special_tokens: bool = True,
        model_vocab_size: int | None = None,
    ) -> None:
        """`model_vocab_size`: ids of words to be biased must be below it; None if it is not known
        here (the engine refuses them then)."""
        self._tokenizer = tokenizer
        self._model_vocab_size = model_vocab_size
        self._add_special_tokens = add_special_tokens
        eos = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id
        self._end_id = -1 if eos is None else eos
        self._pad_id = (0 if eos is None else eos) if pad is None else pad
        self._stop_ids = _kept(self._make_stop_ids)
        self._bad_ids = _kept(self._make_bad_ids)

    def process(self, inputs: Mapping[str, np.ndarray | None]) -> Tensors:
        """Tensors of PREPROCESSING, batch dimension first; absent ones are None or missing."""
        refuse_unsupported(PREPROCESSING, inputs)
        queries = [_text("QUERY", row) for row in inputs["QUERY"].reshape(-1)]
        batch_size = len(queries)
        end_ids = self._ids_or(inputs.get("END_ID"), self._end_id, batch_size)
        pad_ids = self._ids_or(inputs.get("PAD_ID"), self._pad_id, batch_size)
        prompts = self._tokenizer.encode_batch(queries, self._add_special_tokens)
        stop_words = _words("STOP_WORDS_DICT", inputs, batch_size)
        include_stop = inputs.get("INCLUDE_STOP_STR_IN_OUTPUT")
        return {
            "INPUT_ID": _pad_right(prompts, pad_ids),
            "REQUEST_INPUT_LEN": np.array([[len(prompt)] for prompt in prompts], np.int32),
            "DECODER_INPUT_ID": pad_ids.copy(),
            "REQUEST_DECODER_INPUT_LEN": np.ones((batch_size, 1), np.int32),
            "REQUEST_OUTPUT_LEN": inputs["REQUEST_OUTPUT_LEN"],
            "STOP_WORDS_IDS": _pack(stop_words, batch_size, self._stop_ids),
            "BAD_WORDS_IDS": _pack(
                _words("BAD_WORDS_DICT", inputs, batch_size), batch_size, self._bad_ids
            ),
            "EMBEDDING_BIAS": self._embedding_bias(inputs, batch_size),
            "OUT_END_ID": end_ids,
            "OUT_PAD_ID": pad_ids,
            "TEXT_CONTEXT": _text_contexts(stop_words, include_stop, batch_size),
        }

    @staticmethod
    def _ids_or(given: np.ndarray | None, otherwise: int, batch_size: int) -> np.ndarray:
        if given is None or given.size == 0:
            return np.full((batch_size, 1), otherwise, np.int32)
        return given.reshape(batch_size, 1).astype(np.int32)

    def _embedding_bias(
        self, inputs: Mapping[str, np.ndarray | None], batch_size: int
    ) -> np.ndarray:
        """float32 [B, n]: the weight of each word on every id of it, those of the special tokens
        around a text included; weights of an id add up. n is 1 more than the largest of these ids,
        0 without words: a tokenizer may know more ids than the model, which takes no longer ones.
        """
        words = _given_rows("EMBEDDING_BIAS_WORDS", inputs, batch_size)
        weights = _given_rows("EMBEDDING_BIAS_WEIGHTS", inputs, batch_size)
        if words.shape != weights.shape:
            raise ValueError(
                f"EMBEDDING_BIAS_WORDS has {words.shape[1]} words, but EMBEDDING_BIAS_WEIGHTS has "
                f"{weights.shape[1]} weights"
            )
        if words.size == 0:
            return np.zeros((batch_size, 0), np.float32)
        texts = [[_text("EMBEDDING_BIAS_WORDS", word) for word in row] for row in words]
        ids = [[self._biased_ids(text) for text in row] for row in texts]
        size = 1 + max((id for row in ids for word in row for id in word), default=-1)
        bias = np.zeros((batch_size, size), np.float32)
        for row, row_ids, row_weights in zip(bias, ids, weights, strict=True):
            for word_ids, weight in zip(row_ids, row_weights, strict=True):
                np.add.at(row, word_ids, weight)
        return bias

    def _biased_ids(self, word: str) -> list[int]:
        ids = self._tokenizer.encode(word) if word else []
        if self._model_vocab_size is not None and max(ids, default=-1) >= self._model_vocab_size:
            raise ValueError(
                f"EMBEDDING_BIAS_WORDS has {word[:40]!r}, token id {max(ids)} of the tokenizer's "
                f"{self._tokenizer.vocab_size}; the model's vocabulary has {self._model_vocab_size}"
            )
        return ids

    def _make_bad_ids(self, word: str) -> list[list[int]]:
        return [self._tokenizer.encode(word, add_special_tokens=False)]

    def _make_stop_ids(self, word: str) -> list[list[int]]:
        """Ways in which the word may come out of the model: alone and after a blank.

        They end the generation early; the text itself is watched in postprocessing, which also
        finds the word in any other division. A way that does not spell the word (unknown
        characters) is left to that.
        """
        ways: list[list[int]] = []
        for spelling in (word, " " + word):
            ids = self._tokenizer.encode(spelling, add_special_tokens=False)
            spelt = self._tokenizer.decode(ids, skip_special_tokens=False)
            if ids and ids not in ways and (word.strip() or word).lower() in spelt.lower():
                ways.append(ids)
        return ways


def _kept(encode: Callable[[str], list[list[int]]]) -> Callable[[str], list[list[int]]]:
    """The same function with a memory; nobody changes the lists it gives."""
    kept = functools.lru_cache(_MAX_KEPT_WORDS)(encode)
    return lambda word: kept(word) if len(word) <= _MAX_KEPT_LENGTH else encode(word)


def _text(name: str, value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error}") from error


def _given_rows(name: str, inputs: Mapping[str, np.ndarray | None], batch_size: int) -> np.ndarray:
    """[B, n] of a tensor, n = 0 without it."""
    given = inputs.get(name)
    size = 0 if given is None else given.size
    return given.reshape(batch_size, -1) if size else np.zeros((batch_size, 0))


def _words(
    name: str, inputs: Mapping[str, np.ndarray | None], batch_size: int
) -> list[list[str]] | None:
    """None when no list was given; empty words are kept out."""
    given = inputs.get(name)
    if given is None or given.size == 0:
        return None
    rows = given.reshape(batch_size, -1)
    return [[text for text in (_text(name, word) for word in row) if text] for row in rows]


def _pack(
    words: list[list[str]] | None, batch_size: int, encode: Callable[[str], list[list[int]]]
) -> np.ndarray:
    if words is None:
        return no_words(batch_size)
    return pack_words([[ids for word in row for ids in encode(word)] for row in words])


def _pad_right(prompts: list[list[int]], pad_ids: np.ndarray) -> np.ndarray:
    padded = np.repeat(pad_ids, max(map(len, prompts)), axis=1)
    for row, prompt in zip(padded, prompts, strict=True):
        # struct reads a list in less than half of numpy's time.
        row[: len(prompt)] = np.frombuffer(struct.pack(f"{len(prompt)}i", *prompt), np.int32)
    return padded


def _text_contexts(
    stop_words: list[list[str]] | None, include_stop: np.ndarray | None, batch_size: int
) -> np.ndarray:
    """What postprocessing must know, as JSON; the engine hands it through unread."""
    contexts: list[dict[str, object]] = [{} for _ in range(batch_size)]
    for row, words in enumerate(stop_words or []):
        if words:
            contexts[row]["stop"] = words
    if include_stop is not None and include_stop.size:
        for row, include in enumerate(include_stop.reshape(batch_size)):
            contexts[row]["include_stop"] = bool(include)
    texts = [json.dumps(context).encode() for context in contexts]
    width = max(map(len, texts))
    return np.stack([np.frombuffer(text.ljust(width), np.uint8) for text in texts])
