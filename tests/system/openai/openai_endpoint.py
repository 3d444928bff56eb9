"""`inflight serve` on the demo model with its OpenAI endpoint, as a user starts it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
MODEL = "demo_model"
KEY = "key-of-the-tests"
MAX_SEQ_LEN = 512
MAX_BODY_MIB = 1


@dataclass(frozen=True)
class Endpoint:
    process: subprocess.Popen
    port: int
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def post(self, path: str, body: Any, key: str | None = KEY) -> tuple[int, dict]:
        """Status and decoded body; `body` is bytes or what becomes JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def ensemble(self, **inputs: Any) -> str:
        """The answer of the models that the endpoint does not use, to compare with."""
        body = json.dumps({"exclude_input_in_output": True, **inputs}).encode()
        url = f"http://localhost:{self.http_port}/v2/models/ensemble/generate"
        with urllib.request.urlopen(url, body, timeout=60) as answer:
            return json.loads(answer.read())["text_output"]

    def num_active(self) -> float:
        """Requests in the engine."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        wanted = ("nv_trt_llm_request_metrics{", 'request_type="active"')
        return sum(float(line.split()[-1]) for line in lines if all(w in line for w in wanted))

    def wait_until_idle(self, seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while self.num_active():
            assert time.monotonic() < deadline, "requests go on in the engine"
            time.sleep(0.02)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def start(scratch: Path, *options: str, keys: str = KEY) -> Endpoint:
    openai_port, http_port, grpc_port, metrics_port = free_ports(4)
    (scratch / "keys").write_text(f"another\n{keys}\n")
    command = [sys.executable, "-m", "inflight.cli.main", "serve", str(ROOT / MODEL)]
    command += [
        f"--openai-port={openai_port}",
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--api-key-file={scratch / 'keys'}",
        f"--max-body-mib={MAX_BODY_MIB}",
        "--device=cpu",
        "--kv-cache-max-tokens=8192",
        "--num-threads=1",
        "--kv-cache-event-buffer-max-size=100",
        *options,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "python_model"),
        "XDG_CACHE_HOME": str(scratch / "cache"),
        "TMPDIR": str(scratch),
    }
    log = scratch / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=subprocess.STDOUT)
    return Endpoint(process, openai_port, http_port, grpc_port, metrics_port, log)


def wait_until_ready(endpoint: Endpoint, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert endpoint.process.poll() is None, endpoint.log.read_text()[-4000:]
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{endpoint.url}/health", timeout=2).close()
            urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=2).close()  # served last
            return
        time.sleep(0.1)
    raise AssertionError(f"not ready\n{endpoint.log.read_text()[-4000:]}")


def end(endpoint: Endpoint) -> int:
    endpoint.process.send_signal(signal.SIGTERM)
    try:
        return endpoint.process.wait(60)
    except subprocess.TimeoutExpired:
        endpoint.process.kill()
        raise
