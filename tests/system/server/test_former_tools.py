"""What the tools of the former backend do to a server: the chain by hand against the ensemble and the
BLS, with and without drafts; benchmarks of tensorrt_llm; a queue that overflows."""

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from triton_server import Server, Stream, llm_request, overridden, tensors, unary
from tritonclient.utils import InferenceServerException

WORDS = {"BAD_WORDS_DICT": [""], "STOP_WORDS_DICT": [""]}
FLAGS = ("return_log_probs", "return_context_logits", "return_generation_logits")
PROMPTS = ["To be, or not to be", "Speak! " * 9, "abc"]


def preprocessed(server: Server, prompt: str, length: int) -> dict[str, np.ndarray]:
    """preprocessing's answer under the names of tensorrt_llm."""
    made = unary(server, "preprocessing", QUERY=prompt, REQUEST_OUTPUT_LEN=length, **WORDS)
    # A list of nothing but "": one column of no word.
    assert made["STOP_WORDS_IDS"].tolist() == made["BAD_WORDS_IDS"].tolist() == [[[0], [-1]]]
    assert made["EMBEDDING_BIAS"].shape == (1, 0)
    names = {
        "INPUT_ID": "input_ids",
        "REQUEST_INPUT_LEN": "input_lengths",
        "REQUEST_OUTPUT_LEN": "request_output_len",
        "DECODER_INPUT_ID": "decoder_input_ids",
        "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
        "BAD_WORDS_IDS": "bad_words_list",
        "STOP_WORDS_IDS": "stop_words_list",
        "EMBEDDING_BIAS": "embedding_bias",
        "OUT_END_ID": "end_id",
        "OUT_PAD_ID": "pad_id",
    }
    return {name: made[given] for given, name in names.items()}


def text_of(server: Server, answer: dict[str, np.ndarray]) -> str:
    ids = {
        "TOKENS_BATCH": answer["output_ids"],
        "SEQUENCE_LENGTH": answer["sequence_length"],
    }
    (text,) = unary(server, "postprocessing", **ids)["OUTPUT"]
    return text.decode()


@pytest.mark.parametrize("prompt", PROMPTS)
def test_by_hand_equals_ensemble_equals_bls(server: Server, prompt: str) -> None:
    length, flags = 12, dict.fromkeys(FLAGS, True)
    request = preprocessed(server, prompt, length)
    request["end_id"] = np.array([[-1]], np.int32)
    by_hand = unary(server, "plain", **request, **flags)
    text = text_of(server, by_hand)
    assert text.startswith(prompt)
    for model in ("ensemble", "tensorrt_llm_bls"):
        with Stream(server, model) as stream:
            (answer,) = stream.run(
                text_input=prompt,
                max_tokens=length,
                bad_words=[""],
                stop_words=[""],
                end_id=-1,
                **flags,
            )
        assert answer.text == text
        for name in ("cum_log_probs", "output_log_probs", "context_logits", "generation_logits"):
            assert answer.outputs[name].shape == by_hand[name].shape
            np.testing.assert_allclose(answer.outputs[name], by_hand[name], atol=1e-4)
    vocab_size = 259  # not padded
    assert by_hand["context_logits"].shape == (1, request["input_lengths"].item(), vocab_size)
    assert by_hand["generation_logits"].shape == (1, 1, length, vocab_size)


def test_drafts_are_refused_and_what_goes_before_them_works(server: Server) -> None:
    """A draft model makes a few tokens, which another call is to verify: the first is served, the
    second refused by the tensor's name. Without drafts the loop says what one call says."""
    prompt, length, num_drafts = "To be, or not", 15, 5
    request = preprocessed(server, prompt, length)
    request["end_id"] = np.array([[-1]], np.int32)
    (whole,) = unary(server, "plain", **request)["output_ids"][0]
    ids = request["input_ids"]
    while ids.shape[1] < len(whole):
        request["input_ids"] = ids
        request["input_lengths"] = np.array([[ids.shape[1]]], np.int32)
        request["request_output_len"] = np.array([[num_drafts]], np.int32)
        draft = unary(server, "plain", **request, min_length=num_drafts)
        assert draft["sequence_length"].shape == (1, 1)
        drafted = draft["output_ids"][0, 0, ids.shape[1] :]
        assert drafted.size == num_drafts
        request["request_output_len"] = np.array([[num_drafts + 1]], np.int32)
        with pytest.raises(InferenceServerException, match="draft_input_ids is not supported yet"):
            unary(server, "plain", **request, draft_input_ids=drafted.reshape(1, -1))
        ids = draft["output_ids"][0]
    assert ids[0].tolist() == whole.tolist()
    wanted = {"text_input": prompt, "max_tokens": length, "num_draft_tokens": num_drafts}
    with (
        Stream(server, "tensorrt_llm_bls") as stream,
        pytest.raises(InferenceServerException, match="num_draft_tokens is not supported yet"),
    ):
        stream.run(**wanted)


def http_tensors(**values: np.ndarray) -> list[http.InferInput]:
    inputs = []
    for tensor in tensors(**values):
        inputs.append(http.InferInput(tensor.name(), list(tensor.shape()), tensor.datatype()))
        inputs[-1].set_data_from_numpy(values[tensor.name()])
    return inputs


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_benchmark_that_rotates_over_models(server: Server, way: str) -> None:
    """No output is listed, ids of requests are numbers, and lengths are read off shape[2] of the first
    output."""
    module = http if way == "http" else grpc
    port = server.http_port if way == "http" else server.grpc_port
    models, num_requests = ["plain", "static"], 12
    draw = np.random.default_rng(2)
    options = {"concurrency": 8} if way == "http" else {}
    with module.InferenceServerClient(f"localhost:{port}", **options) as client:

        def lengths(number: int) -> tuple[int, int]:
            num_input = int(draw.integers(3, 30))
            num_output = 5 + number
            given = llm_request(draw.integers(3, 259, num_input).tolist(), num_output)
            given |= {"pad_id": 0, "end_id": -1}
            arrays = {name: np.array([np.atleast_1d(v)], np.int32) for name, v in given.items()}
            inputs = http_tensors(**arrays) if way == "http" else tensors(**arrays)
            model = models[number % len(models)]
            result = client.infer(model, inputs, request_id=str(number))
            response = result.get_response()
            first = response["outputs"][0] if way == "http" else response.outputs[0]
            told_id = response["id"] if way == "http" else response.id
            assert told_id == str(number)
            shape = first["shape"] if way == "http" else first.shape
            return shape[2], num_input + num_output

        with ThreadPoolExecutor(1 if way == "http" else 4) as pool:
            for told, expected in pool.map(lengths, range(num_requests)):
                assert told == expected
    for model in models:
        server.wait_until_idle(model)


def test_a_decoupled_benchmark(server: Server) -> None:
    """On one stream, ids of requests in any order of ends."""
    with Stream(server, "tensorrt_llm") as stream:
        for number in range(10):
            request = llm_request([5 + number] * (3 + number), 4 + number, pad_id=0, end_id=-1)
            stream.send(request_id=str(number), **request)
        told = {}
        for _ in range(10):
            result, error = stream.answers.get(timeout=60)
            assert error is None
            told[result.get_response().id] = result.get_response().outputs[0].shape[2]
    assert told == {str(number): 7 + 2 * number for number in range(10)}


def test_a_queue_that_overflows(server: Server) -> None:
    """By HTTP the tool looks for one wording, by a stream for the other: the error has both. The id
    is the same for all."""
    num_requests = 30
    request = {name: np.array([np.atleast_1d(v)], np.int32)
               for name, v in llm_request([5, 17, 200], 400, beam_width=1).items()}  # fmt: skip
    request["return_log_probs"] = np.array([[True]])
    few = {"max_batch_size": "1", "max_queue_size": "2"}
    with overridden(server, "plain", parameters=few):
        with http.InferenceServerClient(
            f"localhost:{server.http_port}", concurrency=num_requests
        ) as client:
            calls = [
                client.async_infer("plain", http_tensors(**request), request_id="1")
                for _ in range(num_requests)
            ]
            errors = []
            for call in calls:
                try:
                    call.get_result()
                except InferenceServerException as error:
                    assert error.status() == "503"
                    errors.append(error.message())
        assert 0 < len(errors) < num_requests
        answers: queue.Queue = queue.Queue()
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            for _ in range(num_requests):
                client.async_stream_infer("plain", tensors(**request), request_id="1")
            client.stop_stream(cancel_requests=False)
        refused = [str(error) for _, error in answers.queue if error is not None]
        assert answers.qsize() == num_requests and 0 < len(refused) < num_requests
        for message in errors + refused:
            assert "Maximum queue size of" in message and "Exceeds maximum queue size" in message
        server.wait_until_idle("plain")
