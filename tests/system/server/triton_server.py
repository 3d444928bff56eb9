"""A real tritonserver for the tests, and clients that speak to it."""

from __future__ import annotations

import json
import math
import queue
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from inflight.serving.installation import find_installation, write_backends
from inflight.text.tokenizer import Tokenizer

MAX_SEQ_LEN = 4096  # of the engines
TIGHT_BLOCKS = 12  # of the model `tight`, of 32 tokens each
# As steps_until_left counts them, through any of these models: two, and one more where a step ends
# between the last look at the gauges and the client's leaving.
STEPS_UNTIL_LEFT = 3
LEFT_MODELS = ("tensorrt_llm", "ensemble", "tensorrt_llm_bls")

TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "uint32": "UINT32",
    "int64": "INT64",
    "float16": "FP16",
    "uint64": "UINT64",
    "float32": "FP32",
    "object": "BYTES",
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


@dataclass
class Server:
    process: subprocess.Popen
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://localhost:{self.http_port}"

    def wait_until_ready(self, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended\n{self.log.read_text()[-6000:]}")
            with suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=2).close()
                self.gauges()  # the metrics are served last
                return
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready\n{self.log.read_text()[-6000:]}")

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics_page(self) -> str:
        with urllib.request.urlopen(
            f"http://localhost:{self.metrics_port}/metrics", timeout=10
        ) as page:
            return page.read().decode()

    def gauges(self, model: str = "tensorrt_llm") -> dict[str, float]:
        """By category ("active", "used", …), of one model."""
        values = {}
        for line in self.metrics_page().splitlines():
            if not line.startswith("nv_trt_llm_") or f'model="{model}"' not in line:
                continue
            labels, value = line.split("{")[1].split("} ")
            pairs = dict(pair.split("=") for pair in labels.split(","))
            category = next(v for k, v in pairs.items() if k not in ("model", "version"))
            values[category.strip('"')] = float(value)
        return values

    def wait_until_idle(self, model: str = "tensorrt_llm", seconds: float = 20) -> None:
        """Every block free, nothing active."""
        deadline = time.monotonic() + seconds
        while True:
            gauges = self.gauges(model)
            if gauges["active"] == 0 and gauges["used"] == 0:
                assert gauges["free"] == gauges["max"]
                return
            assert time.monotonic() < deadline, f"still busy: {gauges}"
            time.sleep(0.02)

    def resident_bytes(self) -> int:
        return resident_bytes(self.process.pid)

    def resident_bytes_of_processes(self) -> int:
        """Of those that the server started, its Python models', together."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
        return sum(map(resident_bytes, children))


@dataclass(frozen=True)
class Setup:
    """What the fixture of this name makes, once a device."""

    server: Server
    device: str
    repository: Path
    checkpoint: Path
    tokenizer: Tokenizer


@contextmanager
def running(
    repository: Path, scratch: Path, *options: str, exit_seconds: int = 20
) -> Iterator[Server]:
    """`exit_seconds`: how long the server may wait at its end for requests that it counts as in
    flight."""
    installation = find_installation()
    backends = write_backends(scratch / "backends", installation)
    http_port, grpc_port, metrics_port = free_ports(3)
    log = scratch / "server.log"
    arguments = [
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        "--disable-auto-complete-config",
        "--model-control-mode=explicit",
        f"--exit-timeout-secs={exit_seconds}",
        *options,
    ]
    with log.open("w") as sink:
        process = subprocess.Popen(
            [str(installation.binary), *arguments],
            env=installation.environment(backends),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    server = Server(process, http_port, grpc_port, metrics_port, log)
    try:
        server.wait_until_ready()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tensors(**values: Any) -> list[grpc.InferInput]:
    """Python values as a client sends them: [1, n] with the type of the name."""
    inputs = []
    for name, value in values.items():
        array = value if isinstance(value, np.ndarray) else as_array(name, value)
        tensor = grpc.InferInput(name, list(array.shape), TYPES[array.dtype.name])
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def as_array(name: str, value: Any) -> np.ndarray:
    items = value if isinstance(value, list) else [value]
    if isinstance(items[0], bool):
        return np.array([items], np.bool_)
    if isinstance(items[0], str):
        return np.array([[item.encode() for item in items]], object)
    if isinstance(items[0], float):
        return np.array([items], np.float32)
    unsigned = name in ("seed", "random_seed", "engine_request_id", "lora_task_id")
    return np.array([items], np.uint64 if unsigned else np.int32)


def llm_request(prompt: list[int], length: int, **others: Any) -> dict[str, Any]:
    return {
        "input_ids": prompt,
        "input_lengths": len(prompt),
        "request_output_len": length,
        **others,
    }


@dataclass
class Answer:
    """One response: its tensors by name, in order."""

    outputs: dict[str, np.ndarray]
    final: bool = False
    id: str = ""  # of the request that it came to

    @property
    def ids(self) -> list[int]:
        return self.outputs["output_ids"].reshape(-1).tolist()

    @property
    def text(self) -> str:
        return self.outputs["text_output"].reshape(-1)[0].decode()


@dataclass
class Stream:
    """A gRPC stream: requests in, answers out in the order they come."""

    server: Server
    model: str
    answers: queue.Queue = field(default_factory=queue.Queue)

    def __enter__(self) -> Stream:
        self.client = grpc.InferenceServerClient(f"localhost:{self.server.grpc_port}")
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_stream()
        self.client.close()

    def cancel(self) -> None:
        """Ends the call under the server's hands, as a client that goes away does."""
        self.client.stop_stream(cancel_requests=True)

    def send(
        self,
        request_id: str = "",
        outputs: list[str] | None = None,
        parameters: dict[str, Any] | None = None,
        **values: Any,
    ) -> None:
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
        self.client.async_stream_infer(
            self.model,
            tensors(**values),
            request_id=request_id,
            outputs=wanted,
            parameters=parameters,
        )

    def next(self, seconds: float = 60) -> Answer:
        result, error = self.answers.get(timeout=seconds)
        if error is not None:
            raise error
        response = result.get_response()
        final = response.parameters["triton_final_response"].bool_param
        outputs = {output.name: result.as_numpy(output.name) for output in response.outputs}
        return Answer(outputs, final, response.id)

    def run(self, **values: Any) -> list[Answer]:
        """Every answer to one request."""
        self.send(**values)
        answers = [self.next()]
        while not answers[-1].final:
            answers.append(self.next())
        return answers


def ask(server: Server, model: str, **values: Any) -> list[Answer]:
    with Stream(server, model) as stream:
        return stream.run(**values)


def ask_text(server: Server, prompt: str, length: int, **others: Any) -> str:
    """The ensemble's whole answer."""
    answers = ask(server, "ensemble", text_input=prompt, max_tokens=length, **others)
    return "".join(answer.text for answer in answers)


def steps_until_left(server: Server, leave: Callable[[], None], name: str) -> float:
    """How many steps the engine still takes with the one long request that it has or will have, after
    `leave`. They take 10 ms and more, those of another's prompt, drawn by `name` so that nothing of it
    is in the cache. Counted are one that may end before the client leaves, the one that runs then, and
    the first without it, at whose end the gauges show that. Infinity where a busy machine came too late
    to see any of it."""
    chunk, num_chunks = 256, 14
    draw = random.Random(name)
    prompt = [draw.randrange(5, 250) for _ in range(chunk * num_chunks)]
    deadline = time.monotonic() + 30

    def gauges() -> dict[str, float]:
        values = server.gauges()
        assert time.monotonic() < deadline, values
        return values

    with Stream(server, "tensorrt_llm") as staying:
        while (seen := gauges())["active"] == 0:
            time.sleep(0.01)
        started = seen["iteration_counter"]
        staying.send(**llm_request(prompt, 1))
        while seen["active"] == 1 or seen["iteration_counter"] < started + 2:
            seen = gauges()
        taken = math.inf
        if seen["active"] == 2:  # else the one that is to be left has ended by now
            before = seen["iteration_counter"]
            leave()
            while seen["active"] == 2:
                seen = gauges()
            taken = seen["iteration_counter"] - before
            assert len(staying.next().ids) == len(prompt) + 1  # it was there all the time
    server.wait_until_idle()
    return taken


def unary(server: Server, model: str, version: str = "", **values: Any) -> dict[str, np.ndarray]:
    """The one answer of a model that is not decoupled, by a plain call."""
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        result = client.infer(model, tensors(**values), model_version=version)
    return {o.name: result.as_numpy(o.name) for o in result.get_response().outputs}


@contextmanager
def overridden(server: Server, model: str, **changes: Any) -> Iterator[None]:
    """The model loaded with another configuration than lies there: its fields, and `parameters` by
    key. Afterwards it is as it was."""
    status, page = server.get(f"/v2/models/{model}/config")
    assert status == 200, page
    original, config = page, json.loads(page)
    for key, value in changes.pop("parameters", {}).items():
        config["parameters"][key] = {"string_value": value}
    config.update(changes)
    load = f"/v2/repository/models/{model}/load"
    status, page = server.post(load, {"parameters": {"config": json.dumps(config)}})
    assert status == 200, page
    try:
        yield
    finally:  # a load without a configuration changes nothing as long as the file is the same
        status, page = server.post(load, {"parameters": {"config": original}})
        assert status == 200, page
