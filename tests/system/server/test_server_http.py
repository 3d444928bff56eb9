"""generate and generate_stream, by JSON: what becomes a tensor, what comes back, how errors come; and
models loaded with another configuration than lies in the repository."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from triton_server import (
    Server,
    Setup,
    as_array,
    ask,
    ask_text,
    llm_request,
    overridden,
    running,
    tensors,
    unary,
)
from tritonclient.utils import InferenceServerException

MODELS = ["ensemble", "tensorrt_llm_bls"]
BODY = {"text_input": "To be", "max_tokens": 12, "end_id": -1}


def generate(server: Server, body: dict[str, Any], model: str = "ensemble") -> dict[str, Any]:
    status, page = server.post(f"/v2/models/{model}/generate", body)
    assert status == 200, page
    return json.loads(page)


def events(server: Server, body: dict[str, Any], model: str) -> list[dict[str, Any]]:
    status, page = server.post(f"/v2/models/{model}/generate_stream", body)
    assert status == 200, page
    lines = [line for line in page.splitlines() if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("model", MODELS)
def test_what_comes_back(server: Server, model: str) -> None:
    """One element is a value, several are a flat list; the names of the model and its version."""
    answer = generate(server, {**BODY, "id": "a-7"}, model)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == (model, "1", "a-7")
    assert answer["text_output"] == ask_text(server, "To be", 12, end_id=-1)
    flags = ("return_log_probs", "return_perf_metrics", "return_num_output_tokens")
    answer = generate(server, {**BODY, **dict.fromkeys(flags, True)}, model)
    assert len(answer["output_log_probs"]) == 12 and isinstance(answer["cum_log_probs"], float)
    assert answer["cum_log_probs"] == pytest.approx(sum(answer["output_log_probs"]), rel=1e-4)
    assert answer["num_output_tokens"] == 17
    assert answer["kv_cache_alloc_new_blocks"] == 1 and answer["acceptance_rate"] == 0.0
    assert answer["arrival_time_ns"] <= answer["last_token_time_ns"]
    assert "sequence_index" not in answer and "context_logits" not in answer


@pytest.mark.parametrize("model", MODELS)
def test_how_tensors_are_written(server: Server, model: str) -> None:
    """Scalars and flat lists, beside each other or under "parameters"; what is empty is left out, what
    is no tensor is no error."""
    plain = ask_text(server, "To be", 12, end_id=-1)
    none = {"bad_words": "", "stop_words": "", "embedding_bias_words": []}
    assert generate(server, {**BODY, **none}, model)["text_output"] == plain
    inner = {"parameters": {"max_tokens": 12, "end_id": -1, "nonsense": "x", "number": 3}}
    assert generate(server, {"text_input": "To be", **inner}, model)["text_output"] == plain
    assert generate(server, {**BODY, "nonsense": True}, model)["text_output"] == plain
    words = {"embedding_bias_words": ["z", "Q"], "embedding_bias_weights": [1e4, -1e4]}
    said = generate(server, {**BODY, **words, "exclude_input_in_output": True}, model)
    assert said["text_output"] == "z" * 12
    hot = {"temperature": 3.0, "top_k": 50, "seed": 9}
    expected = ask_text(server, "To be", 12, end_id=-1, **hot)
    assert generate(server, {**BODY, **hot}, model)["text_output"] == expected != plain


def infer(server: Server, model: str, is_binary: bool, **values: Any) -> dict[str, np.ndarray]:
    inputs = []
    for tensor in tensors(**values):
        inputs.append(http.InferInput(tensor.name(), list(tensor.shape()), tensor.datatype()))
        array = values[tensor.name()]
        inputs[-1].set_data_from_numpy(array, binary_data=is_binary)
    outputs = None
    if not is_binary:
        names = ("output_ids", "sequence_length", "output_log_probs", "cum_log_probs")
        if model == "preprocessing":
            names = (
                "INPUT_ID",
                "REQUEST_INPUT_LEN",
                "STOP_WORDS_IDS",
                "EMBEDDING_BIAS",
                "OUT_END_ID",
            )
        outputs = [http.InferRequestedOutput(name, binary_data=False) for name in names]
    with http.InferenceServerClient(f"localhost:{server.http_port}") as client:
        result = client.infer(model, inputs, outputs=outputs)
    return {o["name"]: result.as_numpy(o["name"]) for o in result.get_response()["outputs"]}


def test_tensors_in_json_are_those_in_bytes(server: Server) -> None:
    """Of every type: strings with escapes, numbers of 64 bits, truth values, fractions."""
    request = llm_request([5, 17, 200], 6, runtime_top_k=50, temperature=2.5)
    request |= {"seed": 2**64 - 1, "return_log_probs": True, "embedding_bias": [0.25] * 259}
    arrays = {name: as_array(name, value) for name, value in request.items()}
    by_json, by_bytes = (infer(server, "plain", way, **arrays) for way in (False, True))
    assert by_json.keys() == by_bytes.keys()
    for name, array in by_json.items():
        np.testing.assert_allclose(array, by_bytes[name], rtol=1e-6)
    (by_grpc,) = ask(server, "tensorrt_llm", **request)
    assert by_json["output_ids"].reshape(-1).tolist() == by_grpc.ids

    texts = ['"To be"\\\n\t', "é\u2028😀"]
    strings = {"QUERY": texts, "STOP_WORDS_DICT": ["\\n", "é"], "EMBEDDING_BIAS_WORDS": ["z", '"']}
    arrays = {
        name: np.array([[text.encode()] for text in rows], object).reshape(2, -1)
        for name, rows in strings.items()
    }
    arrays["REQUEST_OUTPUT_LEN"] = np.array([[3], [4]], np.int32)
    arrays["EMBEDDING_BIAS_WEIGHTS"] = np.array([[1.5], [-2.25]], np.float32)
    by_json, by_bytes = (infer(server, "preprocessing", way, **arrays) for way in (False, True))
    for name, array in by_json.items():
        assert array.tolist() == by_bytes[name].tolist()
    lengths = by_json["REQUEST_INPUT_LEN"].reshape(-1)
    assert lengths.tolist() == [len(text.encode()) for text in texts]  # bytes are tokens here


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(server: Server, model: str) -> None:
    told = events(server, {**BODY, "stream": True, "id": "s"}, model)
    assert {(event["model_name"], event["id"]) for event in told} == {(model, "s")}
    expected = ask_text(server, "To be", 12, end_id=-1, exclude_input_in_output=True)
    assert "".join(event["text_output"] for event in told) == expected
    (whole,) = events(server, BODY, model)  # not streamed: one event
    assert whole["text_output"] == ask_text(server, "To be", 12, end_id=-1)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", ["generate", "generate_stream"])
def test_errors(server: Server, model: str, way: str) -> None:
    """A status of the first response, and {"error": text}."""
    for change, part in (
        ({"max_tokens": 0}, "0"),
        ({"temperature": -1.0}, "temperature"),
        ({"beam_width": 2}, "beam_width is not supported yet"),
        ({"guided_decoding_guide_type": "json"}, "guided_decoding_guide_type is not supported"),
        ({"max_tokens": "many"}, "integer"),
    ):
        status, page = server.post(f"/v2/models/{model}/{way}", {**BODY, **change})
        assert status >= 400, (change, page)
        text = page.removeprefix("data: ")
        assert part in json.loads(text)["error"], page
    status, page = server.post(f"/v2/models/{model}/{way}", {"text_input": "a"})
    assert status == 400 and "max_tokens" in json.loads(page)["error"]
    status, page = server.post(f"/v2/models/no_such_model/{way}", BODY)
    assert status >= 400 and "no_such_model" in json.loads(page)["error"]


def test_generate_is_for_one_response(server: Server) -> None:
    many = {**BODY, "max_tokens": 200, "stream": True}
    _, page = server.post("/v2/models/tensorrt_llm_bls/generate", many)
    assert "exactly 1 response" in json.loads(page)["error"]  # the status is of the first one, 200
    server.wait_until_idle()
    assert generate(server, BODY, "tensorrt_llm_bls")["text_output"]


def test_a_version_by_its_number(server: Server) -> None:
    status, page = server.post("/v2/models/ensemble/versions/1/generate", BODY)
    assert status == 200 and json.loads(page)["model_version"] == "1"
    assert server.post("/v2/models/ensemble/versions/2/generate", BODY)[0] >= 400


def test_infer_on_a_decoupled_model(server: Server) -> None:
    with (
        grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client,
        pytest.raises(InferenceServerException, match="decoupled"),
    ):
        client.infer("tensorrt_llm", tensors(**llm_request([5, 17], 2)))


def is_ready(server: Server, version: int) -> bool:
    return server.get(f"/v2/models/versions/versions/{version}/ready")[0] == 200


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ({"latest": {"num_versions": 1}}, (False, True)),
        ({"all": {}}, (True, True)),
        ({"specific": {"versions": [1]}}, (True, False)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_version_policies(server: Server, policy: dict, ready: tuple[bool, bool]) -> None:
    with overridden(server, "versions", version_policy=policy):
        assert (is_ready(server, 1), is_ready(server, 2)) == ready
    assert is_ready(server, 1) and is_ready(server, 2)


def test_a_configuration_given_with_the_load(server: Server) -> None:
    request = llm_request([5, 17, 200], 6)
    (plain,) = ask(server, "plain", **request)
    with overridden(server, "plain", parameters={"exclude_input_in_output": "true"}):
        (alone,) = ask(server, "plain", **request)
        assert plain.ids == [5, 17, 200, *alone.ids]
    assert ask(server, "plain", **request)[0].ids == plain.ids


def test_a_configuration_that_cannot_be(server: Server) -> None:
    """The load fails and says why; the model that was there serves on."""
    status, page = server.get("/v2/models/plain/config")
    config = json.loads(page)
    config["parameters"]["gpt_model_type"] = {"string_value": "no_such_type"}
    load = "/v2/repository/models/plain/load"
    status, page = server.post(load, {"parameters": {"config": json.dumps(config)}})
    assert status >= 400 and "Invalid gpt_model_type" in json.loads(page)["error"]
    (answer,) = ask(server, "plain", **llm_request([5, 17, 200], 6))
    assert np.size(answer.outputs["output_ids"]) == 9


def test_a_server_that_polls(setup: Setup, tmp_path: Path) -> None:
    """A configuration that is changed serves without a word to the server; a folder that is gone is
    unloaded, one that comes is loaded."""
    repository = tmp_path / "repository"
    shutil.copytree(setup.repository / "plain", repository / "plain")
    request = llm_request([5, 17, 200], 6)

    def wait_until(is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not is_so():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    polling = ("--model-control-mode=poll", "--repository-poll-secs=1")
    with running(repository, tmp_path, *polling) as server:
        whole = unary(server, "plain", **request)["output_ids"].reshape(-1).tolist()
        config = repository / "plain" / "config.pbtxt"
        alone = 'parameters { key: "exclude_input_in_output" value { string_value: "true" } }'
        config.write_text(f"{config.read_text()}\n{alone}\n")
        told: list[list[int]] = []

        def leaves_the_prompt_out() -> bool:
            told.append(unary(server, "plain", **request)["output_ids"].reshape(-1).tolist())
            return told[-1] != whole

        wait_until(leaves_the_prompt_out)  # and each of those requests was answered
        assert told[-1] == whole[3:]

        def is_ready(model: str) -> bool:
            return server.get(f"/v2/models/{model}/ready")[0] == 200

        shutil.copytree(setup.repository / "second", repository / "second")
        wait_until(lambda: is_ready("second"))
        (answer,) = ask(server, "second", **request)
        assert answer.ids[:3] == [5, 17, 200]
        shutil.rmtree(repository / "plain")
        wait_until(lambda: not is_ready("plain"))
        assert ask(server, "second", **request)[0].ids == answer.ids
