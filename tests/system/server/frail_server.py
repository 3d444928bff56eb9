"""A tritonserver for tests that may cost it its life. One before 2.57 can lose its front-end to a
cancelled gRPC stream of a decoupled model, whatever the backend (docs/server_faults.md): a segmentation
fault in the server's executable, and no other death, earns a test that cancels such streams a second
and a third server. A server that survives must not die of a signal at its end.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import tritonclient.grpc as grpc
from triton_server import Server, running

Scenario = Callable[[Server], None]
SERVERS = 3  # to try, if the front-end dies of its own fault
MODELS_IN_USE = ("tensorrt_llm", "plain", "second")


class FrailServer:
    """One for all tests, started when the first asks; after a death the next test gets another."""

    def __init__(self, repository: Path, scratch: pytest.TempPathFactory) -> None:
        self._repository = repository
        self._scratch = scratch
        self._server: Server | None = None
        self._stack = ExitStack()

    def __enter__(self) -> FrailServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, scenario: Scenario, servers: int = 1) -> None:
        for attempt in range(servers):
            server = self._started()
            frail = has_frail_front_end(server)
            try:
                self._wait_until_idle(server)
                scenario(server)
                self._wait_until_idle(server)
                assert server.process.poll() is None, server.log.read_text()[-3000:]
            except Exception:
                time.sleep(2)  # a dying server still writes its trace
                last = attempt == servers - 1
                front_end_died = frail and died_of_its_front_end(server)
                self._drop()
                if last or not front_end_died:
                    raise
                continue
            return

    def _started(self) -> Server:
        if self._server is None:
            folder = self._scratch.mktemp("frail")
            self._server = self._stack.enter_context(
                # A model that a cancelled stream holds (docs/server_faults.md) is waited for in vain.
                running(self._repository, folder, "--load-model=*", exit_seconds=2)
            )
        return self._server

    @staticmethod
    def _wait_until_idle(server: Server) -> None:
        for model in MODELS_IN_USE:
            server.wait_until_idle(model)

    def _drop(self) -> None:
        """What is left of one that failed a test, or died."""
        self._server = None
        self._stack.close()

    def _end(self) -> None:
        server = self._server
        self._drop()
        if server is not None:
            assert server.process.returncode >= 0, server.log.read_text()[-3000:]


def died_of_its_front_end(server: Server) -> bool:
    """By a segmentation fault whose first frame, below the handler and libc, is in the server's
    executable: the gRPC and HTTP front-ends. Core, backends and we live in shared libraries.
    """
    if server.process.poll() != -signal.SIGSEGV:
        return False
    frames = re.findall(r"^ *\d+# .* in (\S+)$", server.log.read_text(), re.MULTILINE)
    below = [frame for frame in frames[1:] if not Path(frame).name.startswith("libc.")]
    return bool(below) and Path(below[0]).name == "tritonserver"


def has_frail_front_end(server: Server) -> bool:
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        version = client.get_server_metadata().version
    return tuple(map(int, version.split("."))) < (2, 57)
