"""Text keeps its order and its row, also where several processes make it.

The server counts the responses of an ensemble's step: one that overtakes another would take its
place. Without preserve_ordering one stream of five and half of the batches here come out wrong.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from triton_server import Server, Setup, ask, running
from tritonclient.utils import InferenceServerException

INSTANCES = 4
LENGTHS = [20, 40, 80, 120]  # tokens
PROMPTS = ["abc", "To be, or not", "x", "é, è"]
OPTIONS = {"end_id": -1, "exclude_input_in_output": True}


def texts(server: Server, **request) -> dict[int, str]:
    """By row."""
    told: dict[int, str] = {}
    for answer in ask(server, "ensemble", **request):
        row = int(answer.outputs["batch_index"].item()) if "batch_index" in answer.outputs else 0
        told[row] = told.get(row, "") + answer.text
    return told


def batch(stream: bool) -> dict[str, np.ndarray]:
    def column(value, dtype) -> np.ndarray:
        return np.full((len(PROMPTS), 1), value, dtype)

    return {
        "text_input": np.array([[prompt.encode()] for prompt in PROMPTS], object),
        "max_tokens": column(12, np.int32),
        "end_id": column(-1, np.int32),
        "exclude_input_in_output": column(True, bool),
        "stream": column(stream, bool),
    }


def check_streams(server: Server, pool: ThreadPoolExecutor) -> None:
    expected = {
        length: texts(server, text_input="abc", max_tokens=length, **OPTIONS) for length in LENGTHS
    }
    assert len(expected[LENGTHS[-1]][0]) > LENGTHS[-1] / 2

    def stream(number: int) -> None:
        length = LENGTHS[number % len(LENGTHS)]
        told = texts(server, text_input="abc", max_tokens=length, stream=True, **OPTIONS)
        assert told == expected[length]

    list(pool.map(stream, range(12)))


def check_batches(server: Server, pool: ThreadPoolExecutor) -> None:
    rows = {
        row: texts(server, text_input=prompt, max_tokens=12, **OPTIONS)[0]
        for row, prompt in enumerate(PROMPTS)
    }
    assert len(set(rows.values())) == len(PROMPTS)

    def send(number: int) -> None:
        assert texts(server, **batch(stream=number % 2 == 0)) == rows

    list(pool.map(send, range(8)))


def test_several_postprocessing_instances(setup: Setup, tmp_path: Path) -> None:
    """With preserve_ordering they serve; without it they do not load."""
    repository = tmp_path / "repository"
    shutil.copytree(setup.repository, repository, symlinks=True)
    config = repository / "postprocessing" / "config.pbtxt"
    several = config.read_text().replace("count: 1", f"count: {INSTANCES}")
    config.write_text(several + "dynamic_batching { preserve_ordering: true }\n")
    with running(repository, tmp_path, "--load-model=ensemble") as server:
        with ThreadPoolExecutor(8) as pool:
            check_streams(server, pool)
            check_batches(server, pool)
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            loaded = client.get_model_config("postprocessing", as_json=True)["config"]
            del loaded["dynamic_batching"]
            with pytest.raises(InferenceServerException, match=f"{INSTANCES} instances without"):
                client.load_model("postprocessing", config=json.dumps(loaded))
    assert server.process.returncode >= 0, server.log.read_text()[-3000:]
