"""Logits from a real server, next to the log-probabilities that it gives itself."""

import json

import numpy as np
import pytest
import tritonclient.grpc as grpc
from triton_server import Server, Stream, ask, llm_request, overridden, unary

PROMPT = [5, 17, 200, 33, 90, 91, 4]
WANTED = {"return_context_logits": True, "return_generation_logits": True, "return_log_probs": True}
ALONE = {"exclude_input_in_output": True}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def test_logits_of_a_whole_answer(server: Server) -> None:
    (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 5, **ALONE, **WANTED))
    context = answer.outputs["context_logits"]
    generation = answer.outputs["generation_logits"]
    assert context.shape[:2] == (1, 7) and generation.shape[:3] == (1, 1, 5)
    assert generation[0, 0].argmax(axis=-1).tolist() == answer.ids
    np.testing.assert_array_equal(context[0, -1], generation[0, 0, 0])
    chosen = log_softmax(generation[0, 0])[range(5), answer.ids]
    np.testing.assert_allclose(answer.outputs["output_log_probs"][0, 0], chosen, atol=1e-4)


def test_logits_of_a_stream(server: Server) -> None:
    (whole,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 5, **ALONE, **WANTED))
    rows = []
    with Stream(server, "tensorrt_llm") as stream:
        stream.send(**llm_request(PROMPT, 5, streaming=True, **WANTED))
        answer = stream.next()
        np.testing.assert_array_equal(
            answer.outputs["context_logits"], whole.outputs["context_logits"]
        )
        while True:
            step = answer.outputs["generation_logits"]
            assert step.shape[0] == step.shape[2] == 1 and step.shape[1] == len(answer.ids)
            rows += list(step[0, :, 0])
            if answer.final:
                break
            answer = stream.next()
            told = answer.outputs["context_logits"]
            assert told.shape[1] == (len(PROMPT) if answer.final else 0)
        np.testing.assert_array_equal(
            answer.outputs["context_logits"], whole.outputs["context_logits"]
        )
    np.testing.assert_array_equal(np.stack(rows), whole.outputs["generation_logits"][0, 0])


@pytest.mark.parametrize("name", ["context_logits", "generation_logits"])
def test_logits_through_the_ensemble(server: Server, name: str) -> None:
    request = {"text_input": "To be", "max_tokens": 4, "end_id": -1}
    (answer,) = ask(server, "ensemble", **request, **{f"return_{name}": True})
    other = {"context_logits", "generation_logits"} - {name}
    assert name in answer.outputs and not other & set(answer.outputs)
    assert answer.outputs[name].ndim == (3 if name == "context_logits" else 4)


@pytest.mark.parametrize("normalize", [True, False])
def test_log_probs_of_what_is_drawn_from(server: Server, normalize: bool) -> None:
    """Of the two ids that top_k leaves, or, if the model is told so, of all."""
    request = llm_request(PROMPT, 12, runtime_top_k=2, temperature=1.0, seed=3, **ALONE, **WANTED)
    with overridden(server, "plain", parameters={"normalize_log_probs": str(normalize)}):
        (answer,) = ask(server, "plain", **request)
    logits = answer.outputs["generation_logits"][0, 0]
    if normalize:
        second = np.sort(logits, axis=-1)[:, -2:-1]
        logits = np.where(logits >= second, logits, -np.inf)
    chosen = log_softmax(logits)[range(12), answer.ids]
    np.testing.assert_allclose(answer.outputs["output_log_probs"][0, 0], chosen, atol=1e-4)


def test_logits_are_of_the_type_that_is_declared(server: Server) -> None:
    request = llm_request(PROMPT, 5, **WANTED)
    names = ("context_logits", "generation_logits")
    wide = unary(server, "plain", **request)
    outputs = json.loads(server.get("/v2/models/plain/config")[1])["output"]
    for output in outputs:
        if output["name"] in names:
            output["data_type"] = "TYPE_FP16"
    with overridden(server, "plain", output=outputs):
        told = unary(server, "plain", **request)
    for name in names:
        assert (wide[name].dtype, told[name].dtype) == (np.float32, np.float16)
        np.testing.assert_array_equal(told[name], wide[name].astype(np.float16))
    assert told["output_log_probs"].dtype == np.float32


def test_logits_beyond_their_limit_are_refused(server: Server) -> None:
    limit = 4 * 259 * (len(PROMPT) + 5)
    with overridden(server, "second", parameters={"max_logits_bytes": str(limit)}):
        (answer,) = ask(server, "second", **llm_request(PROMPT, 5, **WANTED))
        assert answer.outputs["context_logits"].shape[1] == len(PROMPT)
        with pytest.raises(grpc.InferenceServerException) as error:
            ask(server, "second", **llm_request(PROMPT, 6, **WANTED))
        assert f"{limit + 4 * 259} bytes; max_logits_bytes allows {limit}" in str(error.value)
