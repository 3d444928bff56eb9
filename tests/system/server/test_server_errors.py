"""Bad requests: each gets an error that names value and limit, and the server goes on."""

from collections.abc import Iterator
from threading import Thread
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.utils.shared_memory as shared_memory
from inflight.serving.schema import BLS, ENSEMBLE, PREPROCESSING, TENSORRT_LLM
from inflight.serving.tensors import Model, Support, Tensor
from triton_server import MAX_SEQ_LEN, Server, Stream, ask, llm_request, tensors
from tritonclient.utils import InferenceServerException

PROMPT = [5, 17, 200]

CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "prompt too long": (
        llm_request([3] * MAX_SEQ_LEN, 1),
        [str(MAX_SEQ_LEN), str(MAX_SEQ_LEN - 1)],
    ),
    "empty prompt": (
        llm_request([5], 1, input_ids=np.zeros((1, 0), np.int32)),
        ["input_ids"],
    ),
    "id beyond the vocabulary": (llm_request([5, 259], 1), ["259"]),
    "negative id": (llm_request([5, -1], 1), ["-1"]),
    "no output": (llm_request(PROMPT, 0), ["request_output_len is 0"]),
    "negative output": (llm_request(PROMPT, -3), ["request_output_len is -3"]),
    "end id beyond the vocabulary": (
        llm_request(PROMPT, 1, end_id=259),
        ["end_id holds", "259"],
    ),
    "one of the end ids": (
        llm_request(PROMPT, 1, end_ids=np.array([[-1, 7, -2]], np.int32)),
        ["end_ids holds", "-2"],
    ),
    "more log-probabilities than ids": (
        llm_request(PROMPT, 1, return_log_probs=True, num_top_log_probs=260),
        ["num_top_log_probs is 260", "259"],
    ),
    "negative temperature": (
        llm_request(PROMPT, 1, temperature=-1.0),
        ["Incorrect sampling config", "temperature", "-1"],
    ),
    "infinite temperature": (
        llm_request(PROMPT, 1, temperature=float("inf")),
        ["temperature", "inf"],
    ),
    "top_p that is no number": (
        llm_request(PROMPT, 1, runtime_top_p=float("nan")),
        ["top_p", "nan"],
    ),
    "top_p above one": (llm_request(PROMPT, 1, runtime_top_p=1.5), ["top_p", "1.5"]),
    "negative top_k": (llm_request(PROMPT, 1, runtime_top_k=-2), ["top_k", "-2"]),
    "min_p above one": (llm_request(PROMPT, 1, min_p=2.0), ["min_p", "2"]),
    "no repetition penalty": (
        llm_request(PROMPT, 1, repetition_penalty=0.0),
        ["repetition", "0"],
    ),
    "presence penalty that is no number": (
        llm_request(PROMPT, 1, presence_penalty=float("nan")),
        ["presence_penalty", "nan"],
    ),
    "negative min_tokens": (llm_request(PROMPT, 1, min_tokens=-1), ["min_tokens is -1"]),
    "negative min_length": (llm_request(PROMPT, 1, min_length=-1), ["min_length is -1"]),
    "two values for one option": (
        llm_request(PROMPT, 1, temperature=np.ones((1, 2), np.float32)),
        ["temperature"],
    ),
    "top_p_decay of nothing": (
        llm_request(PROMPT, 1, runtime_top_p=0.9, runtime_top_p_decay=0.0),
        ["Incorrect sampling config", "top_p_decay is 0"],
    ),
    "top_p_decay above one": (
        llm_request(PROMPT, 1, runtime_top_p=0.9, runtime_top_p_decay=1.5),
        ["Incorrect sampling config", "top_p_decay is 1.5"],
    ),
    "top_p_min above one": (
        llm_request(PROMPT, 1, runtime_top_p_min=1.25),
        ["top_p_min is 1.25"],
    ),
    "reset id beyond the vocabulary": (
        llm_request(PROMPT, 1, runtime_top_p_reset_ids=259),
        ["top_p_reset_ids is 259"],
    ),
    "frequency penalty that is no number": (
        llm_request(PROMPT, 1, frequency_penalty=float("inf")),
        ["frequency_penalty", "inf"],
    ),
    "negative prompt_ignore_length": (
        llm_request(PROMPT, 1, prompt_ignore_length=-1),
        ["prompt_ignore_length is -1"],
    ),
    "negative no_repeat_ngram_size": (
        llm_request(PROMPT, 1, no_repeat_ngram_size=-1),
        ["no_repeat_ngram_size is -1"],
    ),
    "bias of more ids than there are": (
        llm_request(PROMPT, 1, embedding_bias=np.zeros((1, 260), np.float32)),
        ["embedding_bias has 260", "259"],
    ),
    "bias that is no number": (
        llm_request(PROMPT, 1, embedding_bias=np.array([[0, np.nan]], np.float32)),
        ["embedding_bias of token id 1", "nan"],
    ),
    "two lengths under two names": (
        llm_request(PROMPT, 2, min_tokens=1, min_length=2),
        ["min_tokens", "min_length"],
    ),
    "two seeds under two names": (
        llm_request(PROMPT, 2, seed=1, random_seed=2),
        ["seed", "random_seed"],
    ),
    "likeliest ids without log-probabilities": (
        llm_request(PROMPT, 1, num_top_log_probs=2),
        ["num_top_log_probs is 2 without return_log_probs"],
    ),
    "no time at all": (llm_request(PROMPT, 1, timeout_ms=0), ["timeout_ms is 0"]),
    "word list that goes on after its end": (
        llm_request(PROMPT, 1, bad_words_list=np.array([[[7, 8, 9], [1, -1, 3]]], np.int32)),
        ["sparse list bad_words_list", "offset 3 after the first -1"],
    ),
    "word list that ends beyond its length": (
        llm_request(PROMPT, 1, bad_words_list=np.array([[[7, 8], [1, 3]]], np.int32)),
        ["sparse list bad_words_list", "offset 3 beyond its length of 2"],
    ),
    "bad word beyond the vocabulary": (
        llm_request(PROMPT, 1, bad_words_list=np.array([[[999], [1]]], np.int32)),
        ["bad_words_list holds token id 999"],
    ),
    "group that is no pair": (
        llm_request(PROMPT, 1, response_group=np.array([[4]], np.int64)),
        ["response_group"],
    ),
    "group with logits": (
        llm_request(
            PROMPT,
            1,
            response_group=np.array([[4, 1]], np.int64),
            return_context_logits=True,
        ),
        ["response_group together with return_context_logits is not supported"],
    ),
    "group of several sequences": (
        llm_request(
            PROMPT,
            1,
            response_group=np.array([[4, 1]], np.int64),
            num_return_sequences=2,
        ),
        ["response_group is for requests of one sequence"],
    ),
    "cache events where none are kept": (
        llm_request(PROMPT, 1, kv_cache_events_after=np.array([[-1]], np.int64)),
        ["kv_cache_event_buffer_max_size is 0"],
    ),
    "odd word list": (
        llm_request(PROMPT, 1, stop_words_list=np.array([[[1, 2], [2, 1]]], np.int32)),
        ["sparse list", "stop_words_list", "offset 1"],
    ),
    "stop word beyond the vocabulary": (
        llm_request(PROMPT, 1, stop_words_list=np.array([[[999], [1]]], np.int32)),
        ["stop_words_list holds token id 999"],
    ),
    "wrong type": (
        llm_request(PROMPT, 1, temperature=np.ones((1, 1), np.int32)),
        ["temperature"],
    ),
    "wrong shape": (
        llm_request(PROMPT, 1, input_ids=np.ones((1, 2, 2), np.int32)),
        ["input_ids"],
    ),
    "missing tensor": (
        {"input_ids": PROMPT, "input_lengths": 3},
        ["request_output_len"],
    ),
    "no ids at all": (
        {"input_lengths": 3, "request_output_len": 1},
        ["input_ids is not present in the request"],
    ),
    "unknown tensor": (llm_request(PROMPT, 1, no_such_input=1), ["no_such_input"]),
    "rows shorter than said": (
        {
            "input_ids": np.full((2, 3), 5, np.int32),
            "input_lengths": np.array([[3], [4]], np.int32),
            "request_output_len": np.full((2, 1), 1, np.int32),
        },
        ["input_lengths[1] is 4", "at most 3"],
    ),
    "more rows than a batch has": (
        {
            "input_ids": np.full((17, 3), 5, np.int32),
            "input_lengths": np.full((17, 1), 3, np.int32),
            "request_output_len": np.full((17, 1), 1, np.int32),
        },
        ["batch-size must be <= 16"],
    ),
    "no sequence": (
        llm_request(PROMPT, 1, num_return_sequences=0),
        ["num_return_sequences", "0"],
    ),
    "too many sequences": (
        llm_request(PROMPT, 1, num_return_sequences=1025),
        ["num_return_sequences", "1025", "1024"],
    ),
    "stop without an id": (
        llm_request([0], 0, stop=True),
        ["request ID is not provided"],
    ),
}


def error_of(server: Server, model: str, **values: Any) -> str:
    with pytest.raises(InferenceServerException) as caught:
        ask(server, model, **values)
    return caught.value.message()


@pytest.mark.parametrize("name", CASES)
def test_bad_request(server: Server, name: str) -> None:
    values, parts = CASES[name]
    message = error_of(server, "tensorrt_llm", **values)
    assert all(part in message for part in parts), message
    (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 2))
    assert len(answer.ids) == 5


def example(dtype: str, dims: tuple[int, ...]) -> np.ndarray:
    shape = (1, *(2 if dim == -1 else dim for dim in dims))
    if dtype == "STRING":
        return np.full(shape, b"json", object)
    numpy_type = {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32}
    other = {
        "INT32": np.int32,
        "INT64": np.int64,
        "UINT64": np.uint64,
        "UINT8": np.uint8,
    }
    return np.full(shape, 7, {**numpy_type, **other}[dtype])


@pytest.mark.parametrize(
    "tensor",
    [tensor for tensor in TENSORRT_LLM.inputs if tensor.support is Support.REFUSED],
    ids=lambda tensor: tensor.name,
)
def test_what_is_not_supported_says_so(server: Server, tensor) -> None:
    value = example(tensor.dtype, tensor.dims)
    message = error_of(server, "tensorrt_llm", **llm_request(PROMPT, 1), **{tensor.name: value})
    assert f"input tensor {tensor.name} is not supported yet; leave it out" in message
    if tensor.default is not None:
        assert message.endswith(f" or give it {tensor.default}")


@pytest.mark.parametrize(
    ("model", "tensor"),
    [
        pytest.param(model, tensor, id=f"{model.name}-{tensor.name}")
        for model in (PREPROCESSING, ENSEMBLE, BLS)
        for tensor in model.inputs
        if tensor.support is Support.REFUSED
    ],
)
def test_the_other_models_refuse_too(server: Server, model: Model, tensor: Tensor) -> None:
    request: dict[str, Any] = {"text_input": "abc", "max_tokens": 2}
    if model is PREPROCESSING:
        request = {"QUERY": "abc", "REQUEST_OUTPUT_LEN": 2}
    request[tensor.name] = example(tensor.dtype, tensor.dims)
    assert "is not supported yet" in error_of(server, model.name, **request)


def nothing(tensor: Tensor) -> np.ndarray:
    """What asks for nothing: no element, the default, or empty text."""
    if -1 in tensor.dims:
        return example(tensor.dtype, tuple(0 if dim == -1 else dim for dim in tensor.dims))
    value = example(tensor.dtype, tensor.dims)
    value[...] = b"" if tensor.dtype == "STRING" else tensor.default
    return value


def test_what_asks_for_nothing_is_accepted(server: Server) -> None:
    """All tensors at once that are refused otherwise; and, whatever they say, those without effect."""
    (plain,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 6))
    refused = [tensor for tensor in TENSORRT_LLM.inputs if tensor.support is Support.REFUSED]
    without = [tensor for tensor in TENSORRT_LLM.inputs if tensor.support is Support.IGNORED]
    assert len(refused) > 20 and len(without) >= 6
    others = {tensor.name: nothing(tensor) for tensor in refused}
    others |= {tensor.name: example(tensor.dtype, tensor.dims) for tensor in without}
    (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 6), **others)
    assert answer.ids == plain.ids
    for model in (ENSEMBLE, BLS):
        (plain,) = ask(server, model.name, text_input="abc", max_tokens=6)
        others = {
            tensor.name: nothing(tensor)
            for tensor in model.inputs
            if tensor.support is Support.REFUSED
        }
        without = [tensor for tensor in model.inputs if tensor.support is Support.IGNORED]
        assert "decoder_text_input" in [tensor.name for tensor in without]
        others |= {tensor.name: example(tensor.dtype, tensor.dims) for tensor in without}
        (answer,) = ask(server, model.name, text_input="abc", max_tokens=6, **others)
        assert answer.text == plain.text


def test_streaming_needs_a_decoupled_model(server: Server) -> None:
    message = error_of(server, "plain", **llm_request(PROMPT, 1, streaming=True))
    assert "decoupled" in message


def test_several_answers_need_a_decoupled_model(server: Server) -> None:
    message = error_of(server, "plain", **llm_request(PROMPT, 1, num_return_sequences=2))
    assert "num_return_sequences is 2" in message and "decoupled" in message
    rows = {
        "input_ids": np.full((2, 3), 5, np.int32),
        "input_lengths": np.full((2, 1), 3, np.int32),
        "request_output_len": np.full((2, 1), 1, np.int32),
    }
    message = error_of(server, "plain", **rows)
    assert "batch of 2 rows" in message and "decoupled" in message


def test_unknown_model(server: Server) -> None:
    assert "no_such_model" in error_of(server, "no_such_model", **llm_request(PROMPT, 1))


@pytest.mark.parametrize(
    ("request_", "part"),
    [
        ({"text_input": "", "max_tokens": 4}, "input_ids"),
        ({"text_input": "abc", "max_tokens": 0}, "0"),
        ({"text_input": "abc", "max_tokens": 4, "top_p": 7.0}, "top_p"),
        ({"text_input": np.array([[b"\xff"]], object), "max_tokens": 4}, "UTF-8"),
    ],
)
def test_errors_through_the_ensemble(server: Server, request_: dict[str, Any], part: str) -> None:
    assert part in error_of(server, "ensemble", **request_)


EVENTS = {
    "input_lengths": 0,
    "request_output_len": 0,
    "kv_cache_events_after": np.array([[-1]], np.int64),
    "streaming": True,
    "timeout_ms": 3000,
}


@pytest.fixture
def small_region(server: Server) -> Iterator[str]:
    """The name of a region of the server's that holds 4 bytes."""
    name = f"small_{uuid4().hex}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", 4)
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        client.register_system_shared_memory(name, f"/{name}", 4)
        yield name
        client.unregister_system_shared_memory(name)
    shared_memory.destroy_shared_memory_region(region)


@pytest.mark.parametrize(
    ("model", "output", "others", "request_"),
    [
        ("tensorrt_llm", "output_ids", ["sequence_length"], llm_request(PROMPT, 4)),
        (
            "tensorrt_llm",
            "group_members",  # of 8 bytes
            ["output_ids", "sequence_length"],
            llm_request(PROMPT, 9, streaming=True, response_group=np.array([[1, 2]], np.int64)),
        ),
        ("tight", "kv_cache_events", [], EVENTS),
        ("tensorrt_llm_bls", "text_output", [], {"text_input": "abc", "max_tokens": 4}),
    ],
    ids=["answer", "group", "cache events", "bls"],
)
def test_an_answer_too_long_for_shared_memory(
    server: Server,
    small_region: str,
    model: str,
    output: str,
    others: list[str],
    request_: dict[str, Any],
) -> None:
    """It is an error, and the stream ends when its client is done."""
    stream = Stream(server, model).__enter__()
    wanted = grpc.InferRequestedOutput(output)
    wanted.set_shared_memory(small_region, 4)
    asked = [wanted, *map(grpc.InferRequestedOutput, others)]
    stream.client.async_stream_infer(model, tensors(**request_), outputs=asked)
    with pytest.raises(InferenceServerException, match="should be at least|did not take a part"):
        stream.next()
    end = Thread(target=stream.client.stop_stream, daemon=True)
    end.start()
    end.join(10)
    assert not end.is_alive()
    stream.client.close()


def test_full_queue(server: Server) -> None:
    """One sequence at a time and two waiting; the same id for all. Triton's own queue has the same
    bound and may be the one to refuse."""
    with Stream(server, "short_queue") as stream:
        for _ in range(12):
            stream.send(request_id="same", **llm_request(PROMPT, 600))
        errors, answered = [], 0
        for _ in range(12):
            try:
                assert len(stream.next().ids) == 603
                answered += 1
            except InferenceServerException as error:
                errors.append(error.message())
    assert answered >= 3
    assert errors
    assert all("Exceeds maximum queue size" in error for error in errors), errors
    server.wait_until_idle("short_queue")


def test_long_answers_are_shortened(server: Server) -> None:
    prompt = [3] * (MAX_SEQ_LEN - 10)
    (answer,) = ask(server, "tensorrt_llm", request_id="too far", **llm_request(prompt, 100))
    assert len(answer.ids) == MAX_SEQ_LEN
    said = f"request 'too far': max_new_tokens 100 shortened to 10 (prompt of {len(prompt)} tokens"
    assert said in server.log.read_text()
