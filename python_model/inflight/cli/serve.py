"""`inflight serve`: a model repository and a tritonserver on it, in the foreground."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import typer

from inflight.builder.cache import engine_dir_for
from inflight.cli import live_line
from inflight.cli.build import Dtype
from inflight.cli.endpoint_process import EndpointCommand, EndpointProcess
from inflight.cli.openai import EndpointOptions, api_keys
from inflight.cli.option_groups import with_groups
from inflight.cli.ports import MAX_PORT, check_ports
from inflight.cli.repository import ServingOptions, repository_settings
from inflight.config import ProblemsError
from inflight.serving.installation import Installation, find_installation, write_backends
from inflight.serving.repository import write_repository

_EXIT_SECONDS = 30
_EXIT_PATIENCE = 15  # seconds beyond them: the server unloads its models first
_STUB_SECONDS = 3  # for processes of the server's own to see that it is gone
_ANY_ADDRESS = "0.0.0.0"  # where the server listens


class ModelControlMode(str, Enum):
    none = "none"
    explicit = "explicit"
    poll = "poll"


@with_groups
def serve(
    model: Annotated[Path, typer.Argument(help="An engine directory or a checkpoint folder.")],
    http_port: Annotated[
        int,
        typer.Option(min=1, max=MAX_PORT, help="HTTP: generate, generate_stream, infer."),
    ] = 8000,
    grpc_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="gRPC: infer and streams.")
    ] = 8001,
    metrics_port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="Prometheus metrics.")
    ] = 8002,
    openai_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_PORT, help="OpenAI's HTTP interface; without it there is none."
        ),
    ] = None,
    model_repository: Annotated[
        Path | None, typer.Option(help="Keep the repository here; else it is temporary.")
    ] = None,
    tritonserver: Annotated[
        Path | None,
        typer.Option(help="Folder of an installation; else /opt/tritonserver or nvidia-pytriton."),
    ] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of an engine to be built from a checkpoint.")
    ] = Dtype.auto,
    *,
    options: ServingOptions,
    endpoint: EndpointOptions,
    model_control_mode: Annotated[
        ModelControlMode, typer.Option(help="explicit: models are loaded and unloaded on request.")
    ] = ModelControlMode.none,
    log_verbose: Annotated[int, typer.Option(min=0, help="Verbosity of the server's log.")] = 0,
) -> None:
    """Serve a model with tritonserver until SIGINT or SIGTERM."""
    try:
        installation = find_installation(tritonserver)
        engine_dir = engine_dir_for(model, dtype=dtype.value, load_format=options.load_format.value)
        settings = repository_settings(engine_dir, options)
        ports = [
            ("--http-port", _ANY_ADDRESS, http_port),
            ("--grpc-port", _ANY_ADDRESS, grpc_port),
            ("--metrics-port", _ANY_ADDRESS, metrics_port),
        ]
        if openai_port is not None:
            ports.append(("--openai-port", endpoint.openai_host, openai_port))
            api_keys(endpoint.api_key_file)
            if not settings.tokenizer_dir:
                raise ValueError(f"the OpenAI endpoint needs a tokenizer; {engine_dir} has none")
        check_ports(ports)
        if model_repository is not None:
            write_repository(model_repository, settings)
    except (OSError, ProblemsError, ValueError) as error:
        typer.echo(f"inflight serve: {error}", err=True)
        raise typer.Exit(1) from error
    with tempfile.TemporaryDirectory(prefix="inflight-") as scratch:
        repository = model_repository or write_repository(Path(scratch, "models"), settings)
        backends = write_backends(Path(scratch, "backends"), installation)
        arguments = {
            "model-repository": repository,
            "http-port": http_port,
            "grpc-port": grpc_port,
            "metrics-port": metrics_port,
            "model-control-mode": model_control_mode.value,
            "log-verbose": log_verbose,
            "exit-timeout-secs": _EXIT_SECONDS,
            "disable-auto-complete-config": "",
        }
        if model_control_mode is ModelControlMode.explicit:
            arguments["load-model"] = "*"
        usage = _how_to_call(http_port, grpc_port, has_text=bool(settings.tokenizer_dir))
        command = None
        if openai_port is not None:
            named = replace(endpoint, model_name=endpoint.model_name or model.resolve().name)
            command = EndpointCommand(engine_dir, openai_port, grpc_port, metrics_port, named)
            usage += _how_to_call_openai(openai_port, named.model_name)
        raise typer.Exit(_run(installation, backends, arguments, http_port, usage, command))


def _run(
    installation: Installation,
    backends: Path,
    arguments: dict[str, object],
    http_port: int,
    usage: str,
    openai: EndpointCommand | None,
) -> int:
    """Runs the server, and the OpenAI endpoint beside it, to its end and answers its exit code; 0
    when we were asked to end it. `usage` is printed once all is ready."""
    flags = [f"--{key}={value}" if value != "" else f"--{key}" for key, value in arguments.items()]
    asked_to_end = endpoint_failed = False
    endpoint: EndpointProcess | None = None
    # Whoever is first ends the server: it prints in its signal handler, and a second signal in this
    # moment locks it up. Of one that does not end in its time nothing more can come.
    ending = threading.Lock()
    last_resort = threading.Timer(_EXIT_SECONDS + _EXIT_PATIENCE, lambda: server.kill())
    last_resort.daemon = True

    server: subprocess.Popen | None = None

    def end_server() -> None:
        if server is not None and ending.acquire(blocking=False):
            server.terminate()
            last_resort.start()

    def end(*_: object) -> None:
        nonlocal asked_to_end
        asked_to_end = True
        if endpoint is not None:
            endpoint.end()
        end_server()

    def endpoint_died(code: int) -> None:
        nonlocal endpoint_failed
        endpoint_failed = True
        typer.echo(f"inflight serve: the OpenAI endpoint ended with code {code}", err=True)
        end_server()

    live = live_line.for_terminal(int(str(arguments["metrics-port"])))
    health = [f"http://localhost:{http_port}/v2/health/ready"]
    with _signals(end):
        # A session of its own, so that a terminal's Ctrl-C reaches the server once, through us.
        server = subprocess.Popen(
            [str(installation.binary), f"--backend-directory={backends}", *flags],
            env=installation.environment(backends),
            start_new_session=True,
            stderr=subprocess.PIPE if live else None,
        )
        try:
            if asked_to_end:  # before there was a server to tell
                end_server()
            if live and server.stderr:
                live.forward(server.stderr)
            if openai is not None:
                health.append(f"http://localhost:{openai.port}/health")
                endpoint = EndpointProcess(openai, endpoint_died)
            if all(_wait_until_ready(server, url) for url in health):
                typer.echo(usage, err=True)
            code = server.wait()
        finally:  # whatever ends us, nothing of ours is left running
            end_server()
            if endpoint is not None:
                endpoint.close(_EXIT_SECONDS)
            server.wait()
            last_resort.cancel()
            _end_group(server.pid)
            if live:
                live.close()
    if asked_to_end:
        return 0
    if not endpoint_failed:
        typer.echo(f"inflight serve: the server ended with code {code}", err=True)
    return code if code > 0 else 128 - code if code < 0 else int(endpoint is not None)


def _end_group(number: int) -> None:
    """The Python models' processes end when they see that their server is gone; one that was not
    yet set up never looks."""
    deadline = time.monotonic() + _STUB_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(number, 0)
            time.sleep(0.05)
        os.killpg(number, signal.SIGKILL)


@contextlib.contextmanager
def _signals(handler) -> Iterator[None]:
    """A terminal that goes away ends us, too, unless `nohup` said otherwise."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    earlier = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in earlier.items():
            signal.signal(number, old)


def _wait_until_ready(server: subprocess.Popen, url: str) -> bool:
    """False if the server ended first."""
    while server.poll() is None:
        # HTTPException: who answers there speaks something else, as a port that is taken may.
        with contextlib.suppress(OSError, HTTPException):
            with urllib.request.urlopen(url, timeout=2):
                return True
        time.sleep(0.1)
    return False


def _how_to_call(http_port: int, grpc_port: int, has_text: bool) -> str:
    if not has_text:
        return (
            f"\nReady: HTTP on port {http_port}, gRPC on port {grpc_port}. Without a tokenizer "
            "there is the model tensorrt_llm alone: token ids in, token ids out.\n"
        )
    body = json.dumps({"text_input": "Once upon a time", "max_tokens": 32})
    url = f"http://localhost:{http_port}/v2/models/ensemble"
    streamed = json.dumps({"text_input": "Once upon a time", "max_tokens": 32, "stream": True})
    return (
        f"\nReady: HTTP on port {http_port}, gRPC on port {grpc_port}. Try\n\n"
        f"  curl -d '{body}' {url}/generate\n"
        f"  curl -N -d '{streamed}' {url}/generate_stream\n"
    )


def _how_to_call_openai(port: int, model: str) -> str:
    body = json.dumps({"model": model, "prompt": "Once upon a time", "max_tokens": 32})
    return (
        f"OpenAI's interface on port {port}; the model is {model}. Try\n\n"
        f"  curl -H 'Content-Type: application/json' -d '{body}' "
        f"http://localhost:{port}/v1/completions\n"
        f"  or a browser: http://localhost:{port}/\n"
    )
