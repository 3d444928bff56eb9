"""What the clients of the former backend send, and what they make sure of: the one that speaks to
`tensorrt_llm` in ids, and the one that speaks to `ensemble` or `tensorrt_llm_bls` in text."""

import queue
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, Stream, ask, llm_request, tensors
from tritonclient.utils import InferenceServerException

PROMPT = [54, 81, 17, 200, 33]
COUNTS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
DRAFTS = ("acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens")
PERF_METRICS = {*COUNTS, *TIMES, *DRAFTS}
FLAGS = ("return_log_probs", "return_context_logits", "return_generation_logits")
OUTPUTS = {
    "return_log_probs": {"cum_log_probs", "output_log_probs"},
    "return_context_logits": {"context_logits"},
    "return_generation_logits": {"generation_logits"},
    "return_num_input_tokens": {"num_input_tokens"},
    "return_num_output_tokens": {"num_output_tokens"},
}
LONG = 3000  # tokens; nobody waits for all of them


def always_sent(length: int, streaming: bool = False, **others: Any) -> dict[str, Any]:
    """The padding id is GPT-2's, outside of this vocabulary; top_p 0 is none."""
    request = llm_request(PROMPT, length, beam_width=1, temperature=1.0, streaming=streaming)
    ends = {"end_id": -1, "pad_id": 50256}
    return {**request, **ends, "runtime_top_k": 1, "runtime_top_p": 0.0, **others}


class UnaryClient:
    """Calls a model that is not decoupled without waiting, as the former client does."""

    def __init__(self, server: Server, model: str = "plain") -> None:
        self._model = model
        self._client = grpc.InferenceServerClient(f"localhost:{server.grpc_port}")
        self._answers: queue.Queue = queue.Queue()

    def send(self, request_id: str = "", outputs: list[str] | None = None, **values: Any):
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
        return self._client.async_infer(
            self._model,
            tensors(**values),
            outputs=wanted,
            request_id=request_id,
            callback=lambda result, error: self._answers.put((result, error)),
            parameters={"Streaming": False},  # of no meaning to the model
        )

    def next(self) -> dict[str, np.ndarray]:
        result, error = self._answers.get(timeout=60)
        if error is not None:
            raise error
        return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


@pytest.mark.parametrize("exclude", [False, True])
def test_ids_are_as_expected(
    server: Server, greedy: Callable[[list[int], int], list[int]], exclude: bool
) -> None:
    expected = ([] if exclude else PROMPT) + greedy(PROMPT, 16)
    client = UnaryClient(server)
    client.send(**always_sent(16, exclude_input_in_output=exclude))
    outputs = client.next()
    assert list(outputs) == ["output_ids", "sequence_length"]
    assert outputs["output_ids"][0][0].tolist() == expected
    assert outputs["sequence_length"].tolist() == [[len(expected)]]
    streamed = ask(server, "tensorrt_llm", **always_sent(16, streaming=True))
    assert sum((answer.ids for answer in streamed), []) == greedy(PROMPT, 16)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("flags", [(), *((flag,) for flag in OUTPUTS), tuple(OUTPUTS)], ids=str)
def test_the_outputs_are_those_requested(
    server: Server, flags: tuple[str, ...], streaming: bool
) -> None:
    """Exactly, in every response of a stream; asked for in the other order than they are told."""
    names = ["sequence_length", "output_ids"]
    names += sorted(name for flag in flags for name in OUTPUTS[flag])
    request = always_sent(6, streaming, **dict.fromkeys(flags, True))
    if streaming:
        with Stream(server, "tensorrt_llm") as stream:
            stream.send(outputs=names, **request)
            answers = [stream.next()]
            while not answers[-1].final:
                answers.append(stream.next())
        told = [answer.outputs for answer in answers]
    else:
        client = UnaryClient(server)
        client.send(outputs=names, **request)
        told = [client.next()]
    for outputs in told:
        assert set(outputs) == set(names)
        assert next(iter(outputs)) == "output_ids"
    if "return_log_probs" in flags:
        if streaming:  # the client puts them one upon another
            assert np.vstack([o["output_log_probs"] for o in told]).shape == (6, 1, 1)
        log_probs = np.concatenate([outputs["output_log_probs"][0][0] for outputs in told])
        assert log_probs.shape == (6,)
        np.testing.assert_allclose(told[-1]["cum_log_probs"][0], [log_probs.sum()], rtol=1e-4)
    if "return_context_logits" in flags:
        assert told[-1]["context_logits"].shape == (1, len(PROMPT), 259)


@pytest.mark.parametrize(
    ("listed", "missing"),
    [
        ("output_ids", "sequence_length"),
        ("sequence_length", "output_ids"),
        ("cum_log_probs", "output_ids"),
    ],
)
def test_both_ids_and_lengths_must_be_requested(server: Server, listed: str, missing: str) -> None:
    client = UnaryClient(server)
    client.send(outputs=[listed], **always_sent(2))
    with pytest.raises(
        InferenceServerException, match=f"must hold .*; {missing} is missing"
    ) as error:
        client.next()
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_stream_that_ends_early_tells_all_it_was_asked_for(server: Server) -> None:
    """Its last response may have no tokens: an end id is none of them."""
    (whole,) = ask(server, "tensorrt_llm", **always_sent(24, exclude_input_in_output=True))
    end = next(i for i in range(3, 24) if whole.ids[i] not in whole.ids[:i])
    request = always_sent(24, streaming=True, **dict.fromkeys(FLAGS, True))
    answers = ask(server, "tensorrt_llm", **{**request, "end_id": whole.ids[end]})
    assert sum((answer.ids for answer in answers), []) == whole.ids[:end]
    rows = [answer.outputs["generation_logits"] for answer in answers]
    assert sum(row.shape[1] for row in rows) == end
    for answer in answers:
        assert answer.outputs["output_log_probs"].shape == (1, 1, len(answer.ids))


def test_a_stop_after_a_while(server: Server) -> None:
    """Unary: the answer and that of the stop come in either order; fewer tokens than asked for."""
    client, other = UnaryClient(server), UnaryClient(server)
    client.send(request_id="7", **always_sent(LONG))
    while server.gauges("plain")["scheduled"] == 0:
        time.sleep(0.01)
    time.sleep(0.05)
    other.send(request_id="7", **{**llm_request([0], 0), "stop": True})
    assert other.next() == {}  # no output at all
    outputs = client.next()
    ids = outputs["output_ids"].reshape(-1).tolist()
    assert ids[: len(PROMPT)] == PROMPT
    assert outputs["sequence_length"].item() == len(ids)
    assert len(PROMPT) < len(ids) < len(PROMPT) + LONG
    server.wait_until_idle("plain")
    other.send(request_id="7", **{**llm_request([0], 0), "stop": True})
    assert other.next() == {}  # of a request that has ended: as well


def test_a_cancelled_call(server: Server) -> None:
    client = UnaryClient(server)
    call = client.send(request_id="7", **always_sent(LONG))
    while server.gauges("plain")["scheduled"] == 0:
        time.sleep(0.01)
    before = server.gauges("plain")["iteration_counter"]
    call.cancel()
    with pytest.raises(InferenceServerException) as caught:
        client.next()
    assert caught.value.status() == "StatusCode.CANCELLED"
    server.wait_until_idle("plain")
    assert server.gauges("plain")["iteration_counter"] - before < LONG


def test_log_probs_of_several_sequences(server: Server) -> None:
    flags = dict.fromkeys((*FLAGS, "return_perf_metrics"), True)
    request = always_sent(8, num_return_sequences=3, seed=3, **flags)
    answers = ask(server, "tensorrt_llm", **{**request, "runtime_top_k": 50, "temperature": 2.0})
    by_sequence = {answer.outputs["sequence_index"][0][0]: answer for answer in answers}
    assert sorted(by_sequence) == [0, 1, 2] and len(answers) == 3
    for answer in answers:
        assert answer.outputs["output_log_probs"].shape == (1, 1, 8)
        assert answer.outputs["generation_logits"].shape == (1, 1, 8, 259)
        assert {answer.outputs[name][0][0].item() for name in DRAFTS} == {0}
    assert len({tuple(answer.ids) for answer in answers}) > 1


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ({"beam_width": 2}, "beam_width"),
        ({"lora_task_id": 1}, "lora_task_id"),
        ({"draft_input_ids": [4, 5]}, "draft_input_ids"),
        ({"prompt_embedding_table": np.ones((1, 2, 4), np.float16)}, "prompt_embedding_table"),
        (
            {
                f"lookahead_{name}": 3
                for name in ("window_size", "ngram_size", "verification_set_size")
            },
            "lookahead_",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_ends_the_client_says_why(server: Server, option: dict[str, Any], name: str) -> None:
    client = UnaryClient(server)
    client.send(**{**always_sent(2), **option})
    with pytest.raises(InferenceServerException, match=f"{name}.* is not supported yet") as error:
        client.next()
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"


MODELS = ["ensemble", "tensorrt_llm_bls"]


def text_request(prompt: str, length: int, stream: bool, exclude: bool) -> dict[str, Any]:
    """exclude_input_in_output is always sent, whatever the model's default."""
    request = {"text_input": prompt, "max_tokens": length, "stream": stream, "beam_width": 1}
    return {**request, "temperature": 1.0, "exclude_input_in_output": exclude, "end_id": -1}


def requested(server: Server, model: str, names: list[str], **values: Any) -> list[Answer]:
    with Stream(server, model) as stream:
        stream.send(outputs=names, **values)
        answers = [stream.next()]
        while not answers[-1].final:
            answers.append(stream.next())
    return [answer for answer in answers if answer.outputs]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_text_is_as_expected(
    server: Server, tokenizer: Tokenizer, greedy, model: str, exclude: bool, stream: bool
) -> None:
    """The prompt stands before it when neither streamed nor excluded."""
    prompt = "To be, or not"
    request = text_request(prompt, 20, stream, exclude)
    answers = requested(server, model, ["text_output"], **request)
    expected = tokenizer.decode(greedy(tokenizer.encode(prompt), 20))
    if not stream and not exclude:
        expected = prompt + expected
    assert "".join(answer.text for answer in answers) == expected
    assert {name for answer in answers for name in answer.outputs} == {"text_output"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_every_response_has_the_perf_metrics_and_what_else_was_asked_for(
    server: Server, model: str, stream: bool
) -> None:
    flags = (*FLAGS, "return_perf_metrics")
    names = ["text_output", *sorted(name for flag in FLAGS for name in OUTPUTS[flag])]
    names += sorted(PERF_METRICS)
    request = text_request("To be, or not", 12, stream, exclude=False)
    answers = requested(server, model, names, **request, **dict.fromkeys(flags, True))
    for answer in answers:
        assert set(answer.outputs) == set(names)
        numbers = {name: answer.outputs[name][0][0].item() for name in PERF_METRICS}
        new, reused, total = (numbers[name] for name in COUNTS)  # of a prompt of one block
        assert new == total == 1 and reused in (0, 1)
        assert [numbers[name] for name in DRAFTS] == [0, 0, 0]
        assert isinstance(numbers["acceptance_rate"], float)
        times = [numbers[name] for name in TIMES]
        assert times == sorted(times) and times[0] > 0
    assert answers[-1].outputs["context_logits"].shape[1] == 13


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_batches_with_all_that_is_told_of_words(server: Server, model: str, stream: bool) -> None:
    """Rows by batch_index, sequences by sequence_index; lists of words are rows of equal length."""
    prompts = ["To be, or not", "abc"]

    def rows(values: list[Any], kind: Any) -> np.ndarray:
        return np.array([values] * len(prompts), kind)

    request = {
        "text_input": np.array([[prompt.encode()] for prompt in prompts], object),
        "max_tokens": rows([12], np.int32),
        "stream": rows([stream], bool),
        "beam_width": rows([1], np.int32),
        "temperature": rows([1.0], np.float32),
        "exclude_input_in_output": rows([False], bool),
        "num_return_sequences": rows([2], np.int32),
        "stop_words": rows([b"\xf0\x9f\x98\x80", b"zzzz"], object),
        "bad_words": rows([b"q", b"x"], object),
        "embedding_bias_words": rows([b"z", b"Q"], object),
        "embedding_bias_weights": rows([100.0, -100.0], np.float32),
        "repetition_penalty": rows([1.0], np.float32),
        "presence_penalty": rows([0.0], np.float32),
        "frequency_penalty": rows([0.0], np.float32),
        "end_id": rows([-1], np.int32),
        "pad_id": rows([2], np.int32),
    }
    names = ["text_output", "batch_index", "sequence_index"]
    texts: dict[tuple[int, int], str] = defaultdict(str)
    for answer in requested(server, model, names, **request):
        row, sequence = (answer.outputs[name][0][0].item() for name in names[1:])
        texts[row, sequence] += answer.text
    expected = "zzzz"  # the word that is wished for, four times a stop word
    assert texts == {
        (row, sequence): ("" if stream else prompt) + expected
        for row, prompt in enumerate(prompts)
        for sequence in range(2)
    }
