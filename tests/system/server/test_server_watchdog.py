"""A model whose engine does not come back from a step: here a prompt that takes longer than the model
is told to wait."""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import tritonclient.grpc as grpc
from inflight.serving.metrics_page import parse
from triton_server import Server, Setup, Stream, ask, llm_request, running

MODELS = ["preprocessing", "tensorrt_llm", "relay", "postprocessing", "ensemble"]
PROMPT = [5 + i % 200 for i in range(256)]  # a step of at least ten milliseconds


def set_step_timeout(repository: Path, milliseconds: int) -> None:
    config = repository / "tensorrt_llm" / "config.pbtxt"
    lines = [line for line in config.read_text().splitlines() if "step_timeout_ms" not in line]
    value = f'value {{ string_value: "{milliseconds}" }}'
    lines.append(f'parameters {{ key: "step_timeout_ms" {value} }}')
    config.write_text("\n".join(lines) + "\n")


@pytest.fixture
def repository(setup: Setup, tmp_path: Path) -> Path:
    if setup.device != "cpu":
        pytest.skip("on a GPU a step ends before it could be too long")
    for model in MODELS:
        shutil.copytree(setup.repository / model, tmp_path / "models" / model)
    set_step_timeout(tmp_path / "models", 2)
    return tmp_path / "models"


def wait_until_ready_is(client: grpc.InferenceServerClient, model: str, expected: bool) -> None:
    deadline = time.monotonic() + 60
    while client.is_model_ready(model) is not expected:
        assert time.monotonic() < deadline, f"{model} ready: {not expected}"
        time.sleep(0.02)


def healthy(server: Server) -> list[float]:
    return [s.value for s in parse(server.metrics_page()) if s.name == "nv_llm_engine_metrics"]


def end_of(stream: Stream) -> str:
    """The error, or nothing if the last response has none."""
    while True:
        result, error = stream.answers.get(timeout=60)
        if error is not None:
            return str(error)
        if result.get_response().parameters["triton_final_response"].bool_param:
            return ""


def test_hang_and_recovery(repository: Path, tmp_path: Path) -> None:
    with (
        running(repository, tmp_path, "--load-model=*") as server,
        grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client,
    ):
        assert healthy(server) == [1]
        # A stream each: the server (2.51) dies when two threads answer on one, as the core's and
        # the watchdog's do here ("ASSERTION FAILED: !byte_buffer->Valid()").
        with ExitStack() as stack:
            streams = [stack.enter_context(Stream(server, "tensorrt_llm")) for _ in range(6)]
            for number, stream in enumerate(streams):
                stream.send(f"r{number}", **llm_request(PROMPT, 50, streaming=number % 2 == 0))
            ends = [end_of(stream) for stream in streams]
            time.sleep(0.5)
            assert all(stream.answers.empty() for stream in streams)  # one end each
        # Who comes when the engine or the model is gone is told so; the others, what happened.
        assert all(ends), ends
        assert any("the engine hangs" in end and "step_timeout_ms is 2" in end for end in ends)
        assert any(end.startswith("Executor failed process requestId ") for end in ends), ends

        wait_until_ready_is(client, "tensorrt_llm", False)
        wait_until_ready_is(client, "ensemble", False)
        log = server.log.read_text()
        assert "the engine hangs: a step has taken" in log
        assert "running: prompt of 256" in log
        assert "was unloaded since its engine has died" in log

        set_step_timeout(repository, 0)
        client.load_model("tensorrt_llm")
        client.load_model("ensemble")
        wait_until_ready_is(client, "ensemble", True)
        assert healthy(server) == [1]
        (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 5))
        assert len(answer.ids) == len(PROMPT) + 5
        (text,) = ask(server, "ensemble", text_input="abc", max_tokens=5, end_id=-1)
        assert text.text
        server.wait_until_idle()
