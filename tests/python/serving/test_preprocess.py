"""Text to the tensors that the engine's model takes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inflight.serving.preprocess import Preprocessor, vocab_size_of_model
from inflight.serving.words import no_words, pack_words
from serving_tokenizers import BUILDERS, byte_fallback, byte_level
from tokenizers import processors


def texts(*rows: str | list[str]) -> np.ndarray:
    return np.array(
        [[w.encode() for w in ([r] if isinstance(r, str) else r)] for r in rows], object
    )


def inputs(*prompts: str, **others: np.ndarray) -> dict[str, np.ndarray]:
    lengths = np.full((len(prompts), 1), 5, np.int32)
    return {"QUERY": texts(*prompts), "REQUEST_OUTPUT_LEN": lengths, **others}


def unpack(packed: np.ndarray) -> list[list[list[int]]]:
    """The lists as the engine reads them: a word ends at its offset, -1 ends the row."""
    rows = []
    for ids, ends in packed.tolist():
        words, begin = [], 0
        for end in ends:
            if end == -1:
                break
            words.append(ids[begin:end])
            begin = end
        rows.append(words)
    return rows


WORD = st.lists(st.integers(0, 99), min_size=1, max_size=4)


@given(st.lists(st.lists(WORD, max_size=4), min_size=1, max_size=3))
def test_word_lists_come_back(rows: list[list[list[int]]]) -> None:
    packed = pack_words(rows)
    assert packed.dtype == np.int32
    assert packed.shape == (len(rows), 2, max(1, *(sum(map(len, row)) for row in rows), 1))
    assert unpack(packed) == rows


def test_word_list_layout() -> None:
    assert pack_words([[[5, 6], [7]], [[8]]]).tolist() == [
        [[5, 6, 7], [2, 3, -1]],
        [[8, 0, 0], [1, -1, -1]],
    ]
    assert pack_words([[]]).tolist() == [[[0], [-1]]]
    assert no_words(2).shape == (2, 2, 0)


@pytest.mark.parametrize("kind", BUILDERS)
def test_prompts_are_padded_on_the_right(kind: str) -> None:
    tokenizer = BUILDERS[kind]()
    long, short = "stopping the end", "a"
    out = Preprocessor(tokenizer).process(inputs(long, short))
    assert out["INPUT_ID"].dtype == np.int32
    for row, text in enumerate((long, short)):
        ids = tokenizer.encode(text)
        assert out["REQUEST_INPUT_LEN"][row, 0] == len(ids)
        assert out["INPUT_ID"][row, : len(ids)].tolist() == ids
        assert (out["INPUT_ID"][row, len(ids) :] == tokenizer.eos_token_id).all()
    assert out["REQUEST_OUTPUT_LEN"].tolist() == [[5], [5]]


def test_ids_of_the_ends() -> None:
    tokenizer = byte_level()
    out = Preprocessor(tokenizer).process(inputs("a"))
    assert out["OUT_END_ID"].tolist() == [[tokenizer.eos_token_id]]
    assert out["OUT_PAD_ID"].tolist() == [[tokenizer.eos_token_id]]
    assert out["DECODER_INPUT_ID"].tolist() == [[tokenizer.eos_token_id]]
    assert out["REQUEST_DECODER_INPUT_LEN"].tolist() == [[1]]
    given_ids = {"END_ID": np.array([[7]], np.int32), "PAD_ID": np.array([[9]], np.int32)}
    out = Preprocessor(tokenizer).process(inputs("a", **given_ids))
    assert (out["OUT_END_ID"].item(), out["OUT_PAD_ID"].item()) == (7, 9)


def test_without_words() -> None:
    out = Preprocessor(byte_level()).process(inputs("a"))
    assert out["STOP_WORDS_IDS"].shape == out["BAD_WORDS_IDS"].shape == (1, 2, 0)
    assert out["EMBEDDING_BIAS"].shape == (1, 0)
    assert json.loads(out["TEXT_CONTEXT"].tobytes()) == {}
    empty = Preprocessor(byte_level()).process(inputs("a", STOP_WORDS_DICT=texts("")))
    assert empty["STOP_WORDS_IDS"].tolist() == [[[0], [-1]]]
    assert json.loads(empty["TEXT_CONTEXT"].tobytes()) == {}


@pytest.mark.parametrize("kind", BUILDERS)
def test_stop_words_alone_and_after_a_blank(kind: str) -> None:
    tokenizer = BUILDERS[kind]()
    words = ["stop", "END", ""]
    out = Preprocessor(tokenizer).process(inputs("a", STOP_WORDS_DICT=texts(words)))
    (ways,) = unpack(out["STOP_WORDS_IDS"])
    spelt = {tokenizer.decode(way).strip() for way in ways}
    assert spelt == {"stop", "END"}
    for word in ("stop", "END"):
        assert tokenizer.encode(word, add_special_tokens=False) in ways
        assert tokenizer.encode(" " + word, add_special_tokens=False) in ways
    assert json.loads(out["TEXT_CONTEXT"].tobytes()) == {"stop": ["stop", "END"]}


def test_a_word_of_unknown_characters_is_no_stop_id() -> None:
    """Else any unknown character would end the text."""
    tokenizer = byte_fallback()
    without_bytes = Preprocessor(tokenizer)
    tokenizer.encode = lambda text, add_special_tokens=True: [0]  # <unk>
    for word in ("☃", "\r\n"):
        out = without_bytes.process(inputs("a", STOP_WORDS_DICT=texts(word)))
        assert unpack(out["STOP_WORDS_IDS"]) == [[]]
        assert json.loads(out["TEXT_CONTEXT"].tobytes()) == {"stop": [word]}


def test_bad_words_as_they_are() -> None:
    tokenizer = byte_level()
    out = Preprocessor(tokenizer).process(inputs("a", BAD_WORDS_DICT=texts(["stop", " the"])))
    assert unpack(out["BAD_WORDS_IDS"]) == [
        [tokenizer.encode("stop", False), tokenizer.encode(" the", False)]
    ]


def test_rows_of_a_batch_keep_their_words() -> None:
    words = texts(["stop", ""], ["END", "the"])
    out = Preprocessor(byte_level()).process(inputs("a", "b", STOP_WORDS_DICT=words))
    contexts = [json.loads(row.tobytes()) for row in out["TEXT_CONTEXT"]]
    assert contexts == [{"stop": ["stop"]}, {"stop": ["END", "the"]}]


def test_embedding_bias() -> None:
    """As the contract has it: on all ids of a word, and on those that go around every text."""
    tokenizer = byte_level()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    words = texts(["stop", "", "the"], ["stopstop", "END", ""])
    weights = np.array([[1.5, 8.0, -2.0], [0.25, 4.0, 1.0]], np.float32)
    out = Preprocessor(tokenizer).process(
        inputs("a", "b", EMBEDDING_BIAS_WORDS=words, EMBEDDING_BIAS_WEIGHTS=weights)
    )
    bias = out["EMBEDDING_BIAS"]
    largest = max(id for word in ("stop", "the", "END") for id in tokenizer.encode(word))
    assert (bias.dtype, bias.shape) == (np.float32, (2, largest + 1))
    for row, pairs in enumerate(
        [[("stop", 1.5), ("the", -2.0)], [("stopstop", 0.25), ("END", 4.0)]]
    ):
        expected: dict[int, float] = {}
        for word, weight in pairs:
            for id in [tokenizer.bos_token_id, *tokenizer.encode(word, False)]:
                expected[id] = expected.get(id, 0) + weight
        assert {int(id): float(bias[row, id]) for id in np.flatnonzero(bias[row])} == expected


def test_embedding_bias_where_the_tokenizer_is_larger_than_the_model() -> None:
    """Words that the model knows are biased as ever, others refused with both sizes."""
    tokenizer = byte_level()
    size = tokenizer.vocab_size
    tokenizer._tokenizer.add_tokens(["<extra>"])
    assert (tokenizer.vocab_size, tokenizer.encode("<extra>", False)) == (size + 1, [size])
    preprocessor = Preprocessor(tokenizer, model_vocab_size=size)

    def biased(preprocessor: Preprocessor, word: str) -> np.ndarray:
        weights = np.array([[2.0]], np.float32)
        given = {"EMBEDDING_BIAS_WORDS": texts(word), "EMBEDDING_BIAS_WEIGHTS": weights}
        return preprocessor.process(inputs("a", **given))["EMBEDDING_BIAS"]

    ids = tokenizer.encode("the")
    assert biased(preprocessor, "the").shape == (1, max(ids) + 1)
    message = f"has '<extra>', token id {size} of the tokenizer's {size + 1}; the model's vocabulary has {size}"
    with pytest.raises(ValueError, match=message):
        biased(preprocessor, "<extra>")
    assert biased(Preprocessor(tokenizer), "<extra>")[0, size] == 2  # the engine's to refuse


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, None),
        ({"config.json": {"vocab_size": 9}}, 9),
        ({"config.json": {"vocab_size": 9}, "engine.json": {"model": {"vocab_size": 8}}}, 8),
        ({"engine.json": {}, "config.json": {}}, None),
    ],
)
def test_vocab_size_of_the_model_beside_a_tokenizer(
    tmp_path: Path, files: dict[str, dict], expected: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert vocab_size_of_model(tmp_path) == expected


@pytest.mark.parametrize("num_weights", [0, 1, 3])
def test_embedding_bias_needs_a_weight_a_word(num_weights: int) -> None:
    given = {"EMBEDDING_BIAS_WORDS": texts(["a", "b"])}
    if num_weights:
        given["EMBEDDING_BIAS_WEIGHTS"] = np.ones((1, num_weights), np.float32)
    message = f"has 2 words, but EMBEDDING_BIAS_WEIGHTS has {num_weights} weights"
    with pytest.raises(ValueError, match=message):
        Preprocessor(byte_level()).process(inputs("a", **given))


def test_words_have_no_special_tokens() -> None:
    tokenizer = byte_level()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    words = {"STOP_WORDS_DICT": texts("stop"), "BAD_WORDS_DICT": texts("stop")}
    for add, first in ((True, [tokenizer.bos_token_id]), (False, [])):
        preprocessor = Preprocessor(tokenizer, add_special_tokens=add)
        out = preprocessor.process(inputs("the", **words))
        assert out["INPUT_ID"].tolist() == [first + tokenizer.encode("the", False)]
        for name in ("STOP_WORDS_IDS", "BAD_WORDS_IDS"):
            ids = [id for word in unpack(out[name])[0] for id in word]
            assert ids and tokenizer.bos_token_id not in ids


def test_whether_a_stop_word_is_told_goes_along() -> None:
    include = np.array([[True], [False]])
    out = Preprocessor(byte_level()).process(
        inputs("a", "b", STOP_WORDS_DICT=texts("x", "y"), INCLUDE_STOP_STR_IN_OUTPUT=include)
    )
    assert [json.loads(row.tobytes()) for row in out["TEXT_CONTEXT"]] == [
        {"stop": ["x"], "include_stop": True},
        {"stop": ["y"], "include_stop": False},
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGE_URL", texts("http://x")),
        ("PROMPT_TABLE_EXTRA_ID", np.array([[3]], np.uint64)),
        ("IMAGE_BYTES", np.ones((1, 2, 2, 3, 1), np.uint8)),
    ],
)
def test_what_is_not_supported_is_refused(name: str, value: np.ndarray) -> None:
    with pytest.raises(ValueError, match=f"input tensor {name} is not supported yet"):
        Preprocessor(byte_level()).process(inputs("a", **{name: value}))
    empty = value[:, :0] if value.dtype != object else texts("")
    Preprocessor(byte_level()).process(inputs("a", **{name: empty}))


def test_text_must_be_utf8() -> None:
    query = np.array([[b"\xff\xfe"]], object)
    with pytest.raises(ValueError, match="QUERY is not UTF-8"):
        Preprocessor(byte_level()).process({**inputs("a"), "QUERY": query})


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    encoded = text.encode("utf-8", "ignore").decode()
    out = Preprocessor(byte_level()).process(inputs(encoded))
    assert out["REQUEST_INPUT_LEN"].item() == out["INPUT_ID"].shape[1]
