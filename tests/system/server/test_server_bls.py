"""tensorrt_llm_bls answers as the ensemble does, and hears of its client."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, Stream, ask
from tritonclient.utils import InferenceServerException

BLS = "tensorrt_llm_bls"
LONG = 3000  # tokens; nobody waits for all of them


def both(server: Server, **request) -> tuple[list[Answer], list[Answer]]:
    return ask(server, "ensemble", **request), ask(server, BLS, **request)


def text(answers: list[Answer]) -> str:
    return "".join(answer.text for answer in answers)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exclude_input_in_output": True},
        {"top_k": 50, "temperature": 2.0, "seed": 5},
        {"return_log_probs": True},
        {"bad_words": ["e", "a"], "stop_words": ["q", "zz"]},
        {"repetition_penalty": 3.0, "min_tokens": 5, "end_id": 40},
    ],
    ids=str,
)
def test_equals_the_ensemble(server: Server, stream: bool, options: dict) -> None:
    request = {"text_input": "To be, or: 東", "max_tokens": 30, "end_id": -1, "stream": stream}
    theirs, ours = both(server, **{**request, **options})
    assert text(ours) == text(theirs)
    assert [answer.final for answer in ours] == [False] * (len(ours) - 1) + [True]
    if not stream:
        assert len(ours) == 1 and set(ours[0].outputs) == set(theirs[0].outputs)
        for name, value in theirs[0].outputs.items():
            assert value.shape == ours[0].outputs[name].shape
            if name != "text_output":
                np.testing.assert_allclose(ours[0].outputs[name], value, rtol=1e-4)


@pytest.mark.parametrize("stream", [False, True])
def test_stop_words_at_any_place(server: Server, stream: bool) -> None:
    request = {"text_input": "Whether", "max_tokens": 50, "end_id": -1}
    request["exclude_input_in_output"] = True
    whole = text(ask(server, BLS, **request))
    for begin in range(0, 30, 5):
        word = whole[begin : begin + 3]
        if not word.strip() or "\ufffd" in word:
            continue
        told = text(ask(server, BLS, stop_words=[word], stream=stream, **request))
        assert told == whole[: whole.index(word) + len(word)]
        bare = ask(server, BLS, stop_words=[word], include_stop_str_in_output=False, **request)
        assert text(bare) == whole[: whole.index(word)]


@pytest.mark.parametrize("model", ["ensemble", BLS])
@pytest.mark.parametrize("stream", [False, True])
def test_rows_and_sequences(server: Server, model: str, stream: bool) -> None:
    """Each row and sequence of a batch says what it says alone."""
    prompts = ["abc", "To be, or not", "é"]
    options = {"max_tokens": 12, "end_id": -1, "top_k": 50, "temperature": 2.0, "seed": 7}

    def column(value, dtype) -> np.ndarray:
        return np.full((len(prompts), 1), value, dtype)

    answers = ask(
        server,
        model,
        text_input=np.array([[prompt.encode()] for prompt in prompts], object),
        max_tokens=column(12, np.int32),
        end_id=column(-1, np.int32),
        top_k=column(50, np.int32),
        temperature=column(2.0, np.float32),
        seed=column(7, np.uint64),
        num_return_sequences=column(2, np.int32),
        exclude_input_in_output=column(True, bool),
        stream=column(stream, bool),
    )
    told: dict[tuple[int, int], str] = {}
    for answer in answers:
        key = tuple(int(answer.outputs[n].item()) for n in ("batch_index", "sequence_index"))
        told[key] = told.get(key, "") + answer.text
    assert set(told) == {(row, sequence) for row in range(3) for sequence in range(2)}
    for (row, sequence), said in told.items():
        alone = {**options, "seed": 7 + sequence, "exclude_input_in_output": True}
        assert said == text(ask(server, "ensemble", text_input=prompts[row], **alone))
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_the_generation(server: Server, stream: bool) -> None:
    before = server.gauges()["iteration_counter"]
    with Stream(server, BLS) as client:
        client.send(text_input="abc", max_tokens=LONG, stream=stream, end_id=-1)
        if stream:
            client.next()
        while server.gauges()["active"] == 0:
            time.sleep(0.01)
        client.cancel()
    server.wait_until_idle()
    assert server.gauges()["iteration_counter"] - before < LONG
    assert text(ask(server, BLS, text_input="abc", max_tokens=5, end_id=-1))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"text_input": "", "max_tokens": 3}, "text_input is empty"),
        ({"text_input": "a", "max_tokens": 0}, "max_tokens is 0"),
        ({"text_input": "a", "max_tokens": 3, "num_draft_tokens": 4}, "num_draft_tokens is not"),
        ({"text_input": "a", "max_tokens": 3, "temperature": -1.0}, "temperature"),
    ],
)
def test_errors(server: Server, request_: dict, message: str) -> None:
    with pytest.raises(InferenceServerException, match=message):
        ask(server, BLS, **request_)


def test_short_answers_of_many_clients(server: Server) -> None:
    """Nothing between the models may wait for itself, however fast answers follow each other."""
    request = {"text_input": "abc", "end_id": -1, "exclude_input_in_output": True}
    whole = text(ask(server, BLS, max_tokens=8, **request))

    def client(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(60):
            length, stream = draw.randint(1, 8), draw.random() < 0.5
            answers = ask(server, BLS, max_tokens=length, stream=stream, **request)
            assert whole.startswith(text(answers).rstrip("\ufffd"))
            assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client, range(8)))


def test_by_http(server: Server, tokenizer: Tokenizer) -> None:
    expected = text(ask(server, "ensemble", text_input="To be", max_tokens=9, end_id=-1))
    body = {"text_input": "To be", "max_tokens": 9, "end_id": -1, "bad_words": "", "stop_words": ""}
    status, page = server.post(f"/v2/models/{BLS}/generate", body)
    assert status == 200, page
    assert json.loads(page)["text_output"] == expected
