"""What tensors do that no other file tells of in more than test_server_every_tensor.py does."""

import numpy as np
import pytest
import tritonclient.grpc as grpc
from inflight.serving.schema import BLS, ENSEMBLE, TENSORRT_LLM
from triton_server import Server, Stream, ask, llm_request, tensors
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

PROMPT = [5, 17, 200, 33, 90, 91, 4]
ALONE = {"exclude_input_in_output": True}


def ids_of(server: Server, prompt: list[int] = PROMPT, length: int = 24, **options) -> list[int]:
    return ask(server, "tensorrt_llm", **llm_request(prompt, length, **ALONE, **options))[0].ids


def test_top_p_that_decays(server: Server) -> None:
    hot = {"runtime_top_p": 0.95, "temperature": 3.0, "seed": 4}
    decay = {**hot, "runtime_top_p_decay": 0.001}
    whole, narrow = ids_of(server, **hot), ids_of(server, **decay)
    assert narrow[0] == whole[0]
    assert narrow != whole
    assert ids_of(server, **decay, runtime_top_p_min=0.95) == whole
    # From the id on that resets it, the choice is wide again.
    again = ids_of(server, **decay, runtime_top_p_reset_ids=narrow[1])
    assert again[:2] == narrow[:2]
    assert again != narrow


def test_a_prompt_left_out_of_the_penalties(server: Server) -> None:
    even = list(range(4, 258, 2))
    penalised = ids_of(server, even, repetition_penalty=1e9)
    assert not set(penalised) & set(even)
    ignored = ids_of(server, even, repetition_penalty=1e9, prompt_ignore_length=len(even))
    assert set(ignored) & set(even)
    assert len(set(ignored)) == 24


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble"])
def test_likeliest_ids(server: Server, model: str) -> None:
    options = {"return_log_probs": True, "num_top_log_probs": 3, **ALONE}
    if model == "ensemble":
        request = {"text_input": "To be", "max_tokens": 6, "end_id": -1}
    else:
        request = llm_request(PROMPT, 6)
    (answer,) = ask(server, model, **request, **options)
    ids, log_probs = (answer.outputs[name] for name in ("top_log_prob_ids", "top_log_probs"))
    assert ids.shape == log_probs.shape == (1, 1, 6, 3)
    assert (np.diff(log_probs, axis=-1) <= 0).all()
    np.testing.assert_allclose(  # greedy: the likeliest is the one chosen
        log_probs[0, 0, :, 0], answer.outputs["output_log_probs"][0, 0], atol=1e-5
    )
    if model == "tensorrt_llm":
        assert ids[0, 0, :, 0].tolist() == answer.ids


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble", "tensorrt_llm_bls"])
def test_the_old_name_of_perf_metrics(server: Server, model: str) -> None:
    if model == "tensorrt_llm":
        request = llm_request(PROMPT, 2)
    else:
        request = {"text_input": "To be", "max_tokens": 2, "end_id": -1}
    answers = ask(server, model, **request, return_kv_cache_reuse_stats=True)
    assert answers[0].outputs["kv_cache_alloc_new_blocks"].item() == 1


def test_what_postprocessing_is_told(server: Server) -> None:
    """And how it ends one request by the engine's number."""
    context = np.array([[1, 2, 3]], np.uint8)
    outputs = ["output_ids", "sequence_length", "text_context", "previous_ids", "response_state"]
    with Stream(server, "tensorrt_llm") as stream:
        request = llm_request(PROMPT, 4000, streaming=True, text_context=context)
        stream.send(outputs=outputs, **request)
        said: list[int] = []
        for _ in range(2):  # the second comes after a second, for want of a receipt
            answer = stream.next()
            assert answer.outputs["text_context"].tolist() == [[1, 2, 3]]
            assert answer.outputs["previous_ids"].reshape(-1).tolist() == said
            number, is_last, num_new = answer.outputs["response_state"].reshape(-1).tolist()
            assert (is_last, num_new) == (0, len(answer.ids))
            said += answer.ids
        with Stream(server, "tensorrt_llm") as other:
            number_of_it = np.array([[number]], np.uint64)
            other.send(**llm_request([0], 0, stop=True), engine_request_id=number_of_it)
            assert other.next().outputs == {}
        while not answer.final:
            answer = stream.next()
        assert answer.outputs["response_state"].reshape(-1).tolist()[:2] == [number, 1]
        assert answer.outputs["previous_ids"].size + len(answer.ids) < 4000
    server.wait_until_idle()


def test_heartbeats(server: Server) -> None:
    """For an ensemble, which asks for them: the number of the sequence, while there is no more."""
    context = np.array([[1, 2, 3]], np.uint8)
    request = llm_request(PROMPT, 1500, text_context=context)
    with Stream(server, "tensorrt_llm") as stream:
        stream.send(
            outputs=["output_ids", "sequence_length", "response_state", "heartbeat"], **request
        )
        answers = [stream.next()]
        while not answers[-1].final:
            answers.append(stream.next())
    *heartbeats, answer = answers
    assert heartbeats and all(set(beat.outputs) == {"heartbeat"} for beat in heartbeats)
    number = answer.outputs["response_state"].flat[0]
    assert {beat.outputs["heartbeat"].item() for beat in heartbeats} == {number}
    assert len(answer.ids) == len(PROMPT) + 1500


def error_of(
    server: Server, parameters: dict[str, str] | None = None, model="tensorrt_llm", **options
) -> str:
    request = {"text_input": "To be", "max_tokens": 2}
    if model == "tensorrt_llm":
        request = llm_request(PROMPT, 2)
    answers = []
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.append((result, error)))
        client.async_stream_infer(model, tensors(**request, **options), parameters=parameters)
        client.stop_stream()
    ((_, error),) = answers
    return "" if error is None else error.message()


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble", "tensorrt_llm_bls"])
def test_request_types(server: Server, model: str) -> None:
    """A parameter, which ensemble and BLS hand on."""
    for kind in ("context_only", "generation_only"):
        assert f"request_type is {kind}" in error_of(server, {"request_type": kind}, model)
    assert error_of(server, {"request_type": "context_and_generation"}, model) == ""
    unknown = f"unknown_to_{model}"
    assert error_of(server, {"request_type": unknown}, model) == ""
    assert f'request_type \\"{unknown}\\" is unknown' in server.log.read_text()


@pytest.mark.parametrize("model", [TENSORRT_LLM, ENSEMBLE, BLS], ids=lambda model: model.name)
def test_outputs_are_as_declared(server: Server, model) -> None:
    """Type and number of dimensions on the wire, the batch's before those of the configuration."""
    request = {"text_input": "To be", "max_tokens": 4, "end_id": -1}
    if model is TENSORRT_LLM:
        request = llm_request(PROMPT, 4, text_context=np.ones((1, 2), np.uint8))
    flags = [t.name for t in model.inputs if t.name.startswith("return_")]
    answers = ask(
        server,
        model.name,
        **request,
        **dict.fromkeys(flags, True),
        num_top_log_probs=2,
        num_return_sequences=2,
    )
    declared = {tensor.name: tensor for tensor in model.outputs}
    not_here = {"batch_index", "context_phase_params", "heartbeat", "kv_cache_events"}
    not_here |= {"group_members", "group_begins", "group_lengths"}
    assert set(answers[0].outputs) == declared.keys() - not_here
    for answer in answers:
        for name, value in answer.outputs.items():
            tensor = declared[name]
            dtype = "STRING" if value.dtype == object else np_to_triton_dtype(value.dtype)
            assert dtype == tensor.dtype, name
            if name != "text_output":  # one text a row, without the batch's dimension
                assert value.ndim == 1 + len(tensor.dims), name


def test_a_prompt_too_long(server: Server) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(server, "tensorrt_llm", **llm_request([3] * 5000, 1))
    assert "Prompt length (5000) exceeds maximum input length (4095)" in caught.value.message()


def test_retention_that_makes_no_sense(server: Server) -> None:
    ranges = {
        "retention_token_range_starts": [0, 4],
        "retention_token_range_ends": [4, -1],
        "retention_token_range_priorities": [9, 9],
    }
    for field in ("ends", "priorities", "durations_ms"):
        name = f"retention_token_range_{field}"
        message = error_of(server, **{**ranges, name: [1, 2, 3]})
        assert f"{name} has 3 elements" in message
    message = error_of(server, **{**ranges, "retention_token_range_priorities": [9, 101]})
    assert "retention_token_range_priorities[1] is 101" in message
