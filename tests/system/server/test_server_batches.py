"""Requests of several rows and of several sequences, on the engine's model and the ensemble."""

from collections import defaultdict

import numpy as np
import pytest
from triton_server import Answer, Server, Stream, ask, ask_text, llm_request

PROMPTS = [[5, 17, 200, 33], [90, 91], [4, 5, 6, 7, 8, 9, 10]]
ALONE = {"exclude_input_in_output": True}
ALL_FIT = 1300  # tokens; of six sequences at once, into the cache: one that waits says nothing


def batch(prompts: list[list[int]], lengths: list[int], **others) -> dict[str, np.ndarray]:
    """Rows padded with 2 on the right; `others` are the same in every row."""
    longest = max(map(len, prompts))
    rows = [prompt + [2] * (longest - len(prompt)) for prompt in prompts]
    column = {name: np.array([[value]] * len(prompts)) for name, value in others.items()}
    return {
        "input_ids": np.array(rows, np.int32),
        "input_lengths": np.array([[len(prompt)] for prompt in prompts], np.int32),
        "request_output_len": np.array([[length] for length in lengths], np.int32),
        **column,
    }


def by_index(answers: list[Answer]) -> dict[tuple[int | None, int | None], list[int]]:
    """Ids by batch_index and sequence_index, in order of arrival."""
    ids = defaultdict(list)
    for answer in answers:
        index = [answer.outputs.get(name) for name in ("batch_index", "sequence_index")]
        for part in index:
            assert part is None or (part.shape == (1, 1) and part.dtype == np.int32)
        ids[tuple(None if part is None else part.item() for part in index)] += answer.ids
    return dict(ids)


def ends_once(answers: list[Answer]) -> bool:
    return [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]


@pytest.mark.parametrize("stream", [False, True])
def test_rows_of_a_batch(server: Server, stream: bool) -> None:
    lengths = [9, 1, 30]
    request = batch(PROMPTS, lengths, streaming=stream, exclude_input_in_output=True)
    answers = ask(server, "tensorrt_llm", **request)
    assert ends_once(answers)
    if not stream:
        assert len(answers) == 3
    ids = by_index(answers)
    for row, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True)):
        (alone,) = ask(server, "tensorrt_llm", **llm_request(prompt, length, **ALONE))
        assert ids[row, None] == alone.ids


def test_a_row_alone_is_as_long_as_it_is(server: Server) -> None:
    """Lengths are for what pads the rows of a batch; of one row nobody asks."""
    (plain,) = ask(server, "tensorrt_llm", **llm_request(PROMPTS[2], 6))
    for length in (1, 100, -1):
        request = {**llm_request(PROMPTS[2], 6), "input_lengths": length}
        (answer,) = ask(server, "tensorrt_llm", **request)
        assert answer.ids == plain.ids


@pytest.mark.parametrize("stream", [False, True])
def test_sequences(server: Server, stream: bool) -> None:
    hot = {"runtime_top_k": 50, "temperature": 3.0, "streaming": stream, **ALONE}
    request = llm_request(PROMPTS[0], 20, num_return_sequences=3, seed=11, **hot)
    answers = ask(server, "tensorrt_llm", **request)
    assert ends_once(answers)
    ids = by_index(answers)
    assert set(ids) == {(None, i) for i in range(3)}
    hot["streaming"] = False
    for i in range(3):
        (alone,) = ask(server, "tensorrt_llm", **llm_request(PROMPTS[0], 20, seed=11 + i, **hot))
        assert ids[None, i] == alone.ids
    assert len({tuple(value) for value in ids.values()}) == 3


def test_sequences_of_rows(server: Server) -> None:
    request = batch(PROMPTS[:2], [6, 8], streaming=True)
    request["num_return_sequences"] = np.array([[2], [3]], np.int32)
    answers = ask(server, "tensorrt_llm", **request)
    assert ends_once(answers)
    ids = by_index(answers)
    assert set(ids) == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)}
    assert {index: len(value) for index, value in ids.items()} == {
        index: 6 if index[0] == 0 else 8 for index in ids
    }


@pytest.mark.parametrize("stream", [False, True])
def test_text_of_a_batch(server: Server, stream: bool) -> None:
    prompts = ["To be", "or not to be: 東"]
    request = {
        "text_input": np.array([[text.encode()] for text in prompts], object),
        "max_tokens": np.array([[12], [20]], np.int32),
        "end_id": np.full((2, 1), -1, np.int32),
        "exclude_input_in_output": np.ones((2, 1), np.bool_),
        "stream": np.full((2, 1), stream),
    }
    answers = ask(server, "ensemble", **request)
    texts = defaultdict(str)
    for answer in answers:
        texts[answer.outputs["batch_index"].item()] += answer.text
    for row, (prompt, length) in enumerate(zip(prompts, [12, 20], strict=True)):
        assert texts[row] == ask_text(server, prompt, length, end_id=-1, **ALONE)


@pytest.mark.parametrize("stream", [False, True])
def test_text_of_sequences(server: Server, stream: bool) -> None:
    hot = {"top_k": 50, "temperature": 3.0, "end_id": -1, **ALONE}
    request = {"text_input": "To be", "max_tokens": 20, "num_return_sequences": 2, "seed": 5}
    texts = defaultdict(str)
    for answer in ask(server, "ensemble", stream=stream, **request, **hot):
        texts[answer.outputs["sequence_index"].item()] += answer.text
    expected = {i: ask_text(server, "To be", 20, seed=5 + i, **hot) for i in range(2)}
    assert texts == expected
    assert expected[0] != expected[1]


def test_a_stop_ends_all_of_a_request(server: Server) -> None:
    request = batch(PROMPTS, [ALL_FIT] * 3, streaming=True)
    request["num_return_sequences"] = np.full((3, 1), 2, np.int32)
    with Stream(server, "tensorrt_llm") as stream:
        stream.send(request_id="six", **request)
        begun = set()
        while len(begun) < 6:
            begun.update(by_index([stream.next()]))
        with Stream(server, "tensorrt_llm") as other:
            other.send(request_id="six", **llm_request([0], 0, stop=True))
            assert other.next().outputs == {}
        answer = stream.next()
        while not answer.final:
            answer = stream.next()
    server.wait_until_idle()
