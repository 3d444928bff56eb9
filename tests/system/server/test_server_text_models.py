"""preprocessing and postprocessing called by themselves, as the former backend's tools do: every
tensor of theirs, with what it changes and what it leaves alone."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from inflight.serving.schema import POSTPROCESSING, PREPROCESSING
from inflight.serving.tensors import Model, Support, Tensor
from inflight.text.tokenizer import Tokenizer
from triton_server import Server, unary

LONG, SHORT = "To be, or not", "abc"


@dataclass(frozen=True)
class Change:
    """What is given beside two prompts, and the outputs that it changes, with their values."""

    given: dict[str, np.ndarray]
    outputs: dict[str, list[Any]]


def texts(*rows: list[str]) -> np.ndarray:
    return np.array([[word.encode() for word in row] for row in rows], object)


def column(*values: int) -> np.ndarray:
    return np.array([[value] for value in values], np.int32)


def word_list(row: list[int], ends: list[int]) -> list[list[int]]:
    return [row, ends]


def context(told: dict[str, np.ndarray]) -> list[dict]:
    return [json.loads(row.tobytes()) for row in told["TEXT_CONTEXT"]]


def used(tensors: tuple[Tensor, ...]) -> set[str]:
    return {tensor.name for tensor in tensors if tensor.support is Support.USED}


def changes(tokenizer: Tokenizer) -> dict[str, Change]:
    """By the tensor that each shows. An id stands for a byte: a word has as many as bytes."""
    long, short, other = (tokenizer.encode(text) for text in (LONG, SHORT, "or"))
    (a,), (b,), (c,), (blank,) = (tokenizer.encode(letter, False) for letter in "abc ")
    weights = np.array([[2.0, 0.5], [-1.0, 4.0]], np.float32)
    words = {"EMBEDDING_BIAS_WORDS": texts(["a", "ab"], ["c", ""])}
    bias = np.zeros((2, c + 1), np.float32)
    bias[0, [a, b]] = 2.5, 0.5
    bias[1, c] = -1.0
    padded = [long, short + [9] * (len(long) - len(short))]
    stop = {"STOP_WORDS_DICT": texts(["a", ""], ["bc", "a"])}
    return {
        "QUERY": Change(
            {"QUERY": texts([LONG], ["or"])},
            {
                "INPUT_ID": [long, other + [2] * (len(long) - len(other))],
                "REQUEST_INPUT_LEN": [[len(long)], [len(other)]],
            },
        ),
        "REQUEST_OUTPUT_LEN": Change(
            {"REQUEST_OUTPUT_LEN": column(7, 8)}, {"REQUEST_OUTPUT_LEN": [[7], [8]]}
        ),
        "END_ID": Change({"END_ID": column(7, -1)}, {"OUT_END_ID": [[7], [-1]]}),
        "PAD_ID": Change(
            {"PAD_ID": column(8, 9)},
            {"OUT_PAD_ID": [[8], [9]], "DECODER_INPUT_ID": [[8], [9]], "INPUT_ID": padded},
        ),
        "BAD_WORDS_DICT": Change(
            {"BAD_WORDS_DICT": texts(["ab", ""], ["c", "ca"])},
            {
                "BAD_WORDS_IDS": [
                    word_list([a, b, 0], [2, -1, -1]),
                    word_list([c, c, a], [1, 3, -1]),
                ]
            },
        ),
        # Each is looked for alone and after a blank, and goes along for who watches the text.
        "STOP_WORDS_DICT": Change(
            stop,
            {
                "STOP_WORDS_IDS": [
                    word_list([a, blank, a, 0, 0, 0, 0, 0], [1, 3, *[-1] * 6]),
                    word_list([b, c, blank, b, c, a, blank, a], [2, 5, 6, 8, *[-1] * 4]),
                ],
                "TEXT_CONTEXT": [{"stop": ["a"]}, {"stop": ["bc", "a"]}],
            },
        ),
        "INCLUDE_STOP_STR_IN_OUTPUT": Change(
            {"INCLUDE_STOP_STR_IN_OUTPUT": np.array([[False], [True]])},
            {"TEXT_CONTEXT": [{"include_stop": False}, {"include_stop": True}]},
        ),
        "EMBEDDING_BIAS_WORDS": Change(
            {**words, "EMBEDDING_BIAS_WEIGHTS": weights}, {"EMBEDDING_BIAS": bias.tolist()}
        ),
        "EMBEDDING_BIAS_WEIGHTS": Change(
            {**words, "EMBEDDING_BIAS_WEIGHTS": 2 * weights},
            {"EMBEDDING_BIAS": (2 * bias).tolist()},
        ),
        # Of models with a decoder of its own: its first ids are what pads, whatever is said.
        "DECODER_QUERY": Change({"DECODER_QUERY": texts(["abc"], ["or"])}, {}),
    }  # fmt: skip


def test_each_input_of_preprocessing(server: Server, tokenizer: Tokenizer) -> None:
    def run(**given: np.ndarray) -> dict[str, list[Any]]:
        request = {"QUERY": texts([LONG], [SHORT]), "REQUEST_OUTPUT_LEN": column(5, 6)}
        told = unary(server, "preprocessing", **{**request, **given})
        assert told.keys() == used(PREPROCESSING.outputs)
        return {name: v.tolist() for name, v in told.items()} | {"TEXT_CONTEXT": context(told)}

    plain = run()
    long, short = tokenizer.encode(LONG), tokenizer.encode(SHORT)
    assert plain == {
        "INPUT_ID": [long, short + [2] * (len(long) - len(short))],
        "REQUEST_INPUT_LEN": [[len(long)], [len(short)]],
        "DECODER_INPUT_ID": [[2], [2]],
        "REQUEST_DECODER_INPUT_LEN": [[1], [1]],
        "REQUEST_OUTPUT_LEN": [[5], [6]],
        "STOP_WORDS_IDS": [[[], []]] * 2,
        "BAD_WORDS_IDS": [[[], []]] * 2,
        "EMBEDDING_BIAS": [[], []],
        "OUT_END_ID": [[2], [2]],
        "OUT_PAD_ID": [[2], [2]],
        "TEXT_CONTEXT": [{}, {}],
    }
    cases = changes(tokenizer)
    assert used(PREPROCESSING.inputs) <= cases.keys()
    for name, change in cases.items():
        assert name in change.given
        assert run(**change.given) == {**plain, **change.outputs}, name


def decoded(server: Server, rows: list[list[str]], **others: np.ndarray) -> dict[str, list[str]]:
    """Of texts by row and beam: each as ids of a byte, padded with -1 to the longest."""
    tokenizer: Tokenizer = others.pop("tokenizer")
    ids = [[tokenizer.encode(text, False) for text in row] for row in rows]
    longest = max(len(one) for row in ids for one in row)
    padded = [[one + [-1] * (longest - len(one)) for one in row] for row in ids]
    lengths = [[len(one) for one in row] for row in ids]
    others = {
        "TOKENS_BATCH": np.array(padded, np.int32),
        "SEQUENCE_LENGTH": np.array(lengths, np.int32),
        **others,
    }
    told = unary(server, "postprocessing", **others)
    return {name: [text.decode() for text in v.reshape(-1)] for name, v in told.items()}


def test_each_input_of_postprocessing(server: Server, tokenizer: Tokenizer) -> None:
    def run(rows: list[list[str]], **others: np.ndarray) -> dict[str, list[str]]:
        return decoded(server, rows, tokenizer=tokenizer, **others)

    shown = {"TOKENS_BATCH"}
    # A text for each row and beam, each as long as it is said to be.
    assert run([["abc", "é"], ["", "To be"]]) == {"OUTPUT": ["abc", "é", "", "To be"]}
    cut = np.array([[2]], np.int32)
    assert run([["abc"]], SEQUENCE_LENGTH=cut) == {"OUTPUT": ["ab"]}
    shown.add("SEQUENCE_LENGTH")

    # A piece of a stream: number 2^40 of an engine, which has none of it, the last, of so many ids.
    stop = np.frombuffer(json.dumps({"stop": ["be or"]}).encode(), np.uint8)[None]
    none = np.zeros((1, 0), np.int32)

    def piece(text: str, before: str = "", **others: np.ndarray) -> dict[str, list[str]]:
        told = np.array([tokenizer.encode(before, False)], np.int32) if before else none
        num_new = len(tokenizer.encode(text, False))
        state = {"RESPONSE_STATE": np.array([[1 << 40, 1, num_new]], np.int64)}
        return run([[text]], **{"PREVIOUS_IDS": told, "TEXT_CONTEXT": stop, **state, **others})

    assert piece("To be or not") == {"OUTPUT": ["To be or"]}
    empty = np.frombuffer(b"{}", np.uint8)[None]
    assert piece("To be or not", TEXT_CONTEXT=empty) == {"OUTPUT": ["To be or not"]}
    shown.add("TEXT_CONTEXT")
    assert piece(" or not") == {"OUTPUT": [" or not"]}
    # What was held back of the piece before goes first.
    assert piece(" or not", before="To be") == {"OUTPUT": ["be or"]}
    shown.add("PREVIOUS_IDS")
    # The prompt stands before the ids that are new, and is searched for no word.
    state = np.array([[1 << 40, 1, len(" not")]], np.int64)
    assert piece("To be or not", RESPONSE_STATE=state) == {"OUTPUT": ["To be or not"]}
    shown.add("RESPONSE_STATE")
    reasons = {"FINISH_REASON": texts(["length"]), "STOP_REASON": texts([""])}
    told = piece("To be", **reasons)
    assert told == {
        "OUTPUT": ["To be"],
        "FINISH_REASON_OUT": ["length"],
        "STOP_REASON_OUT": [""],
    }
    told = piece(
        "To be or",
        **{**reasons, "FINISH_REASON": texts(["stop"]), "STOP_REASON": texts(["5 6"])},
    )
    assert told["FINISH_REASON_OUT"] == ["stop"] and told["STOP_REASON_OUT"] == ["be or"]
    assert set(told) == used(POSTPROCESSING.outputs)
    assert shown | reasons.keys() == used(POSTPROCESSING.inputs)


@pytest.mark.parametrize(
    ("model", "given", "part"),
    [
        (PREPROCESSING, {"QUERY": np.array([[b"\xff"]], object)}, "QUERY is not UTF-8"),
        (PREPROCESSING, {"EMBEDDING_BIAS_WORDS": texts(["a"])}, "EMBEDDING_BIAS_WEIGHTS has 0"),
        (PREPROCESSING, {"REQUEST_OUTPUT_LEN": None}, "REQUEST_OUTPUT_LEN"),
        (PREPROCESSING, {"QUERY": column(4)}, "QUERY"),
        (POSTPROCESSING, {"SEQUENCE_LENGTH": None}, "SEQUENCE_LENGTH"),
        (POSTPROCESSING, {"SEQUENCE_LENGTH": np.ones((1, 2), np.int32)}, "SEQUENCE_LENGTH"),
        (POSTPROCESSING, {"TOKENS_BATCH": np.ones((1, 1, 2), np.float32)}, "TOKENS_BATCH"),
    ],
    ids=str,
)  # fmt: skip
def test_what_they_refuse(server: Server, model: Model, given: dict, part: str) -> None:
    request: dict[str, Any] = {"QUERY": texts(["a"]), "REQUEST_OUTPUT_LEN": column(1)}
    if model is POSTPROCESSING:
        request = {
            "TOKENS_BATCH": np.full((1, 1, 2), 70, np.int32),
            "SEQUENCE_LENGTH": column(2),
        }
    sent = {name: value for name, value in {**request, **given}.items() if value is not None}
    with pytest.raises(Exception, match=part):
        unary(server, model.name, **sent)
    assert unary(server, model.name, **request)
