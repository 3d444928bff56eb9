"""The OpenAI endpoint as a process beside `inflight serve`'s server."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import inflight
from inflight.cli.openai import EndpointOptions


@dataclass(frozen=True)
class EndpointCommand:
    """What `inflight openai` is called with."""

    engine_dir: Path
    port: int
    grpc_port: int
    metrics_port: int
    options: EndpointOptions

    def arguments(self) -> list[str]:
        options = self.options
        given = {
            "port": self.port,
            "grpc-url": f"localhost:{self.grpc_port}",
            "metrics-url": f"http://localhost:{self.metrics_port}/metrics",
            "openai-host": options.openai_host,
            "model-name": options.model_name,
            "chat-template": options.chat_template,
            "api-key-file": options.api_key_file,
            "max-body-mib": options.max_body_mib,
            "max-answer-seconds": options.max_answer_seconds,
        }
        flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return [sys.executable, "-m", "inflight.cli.main", "openai", str(self.engine_dir), *flags]


class EndpointProcess:
    """Runs from here on; `died` is called, from another thread, if it ends before it was told to."""

    def __init__(self, command: EndpointCommand, died: Callable[[int], None]) -> None:
        package = str(Path(inflight.__file__).parent.parent)
        earlier = os.environ.get("PYTHONPATH", "")
        path = os.pathsep.join([package, *([earlier] if earlier else [])])
        # A session of its own: a terminal's Ctrl-C reaches it through `inflight serve`.
        self._process = subprocess.Popen(
            command.arguments(), env={**os.environ, "PYTHONPATH": path}, start_new_session=True
        )
        self._died = died
        self._told_to_end = False
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._told_to_end:
            self._died(code)

    def end(self) -> None:
        """Lets answers under way come to their ends, for some seconds."""
        self._told_to_end = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def close(self, seconds: float) -> None:
        """Returns when it is gone."""
        self.end()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
