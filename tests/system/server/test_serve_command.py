"""`inflight serve` and `inflight repository` as a user runs them."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from triton_server import free_ports

ROOT = Path(__file__).resolve().parents[3]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "inflight.cli.main", *map(str, arguments)]


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "python_model"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
    }


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGHUP])
def test_serves_a_checkpoint_until_told_to_end(setup, tmp_path: Path, told: signal.Signals) -> None:
    """By Ctrl-C, or a terminal that goes away; by SIGTERM below."""
    http_port, grpc_port, metrics_port = free_ports(3)
    arguments = command(
        "serve",
        setup.checkpoint,
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--device={setup.device}",
        "--kv-cache-max-tokens=1024",
        "--exclude-input-in-output",
        f"--model-repository={tmp_path / 'models'}",
    )
    log = tmp_path / "log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            arguments, env=environment(tmp_path), stdout=sink, stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(told, signal.SIG_DFL),  # ignored under nohup
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while "Ready:" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.1)
        url = f"http://localhost:{http_port}/v2/models/ensemble/generate"
        assert url in log.read_text()
        body = json.dumps({"text_input": "abc", "max_tokens": 3}).encode()
        with urllib.request.urlopen(url, body, timeout=30) as answer:
            assert not json.loads(answer.read())["text_output"].startswith("abc")
    finally:
        process.send_signal(told)
        code = process.wait(60)
    assert code == 0, log.read_text()[-4000:]
    assert not list(tmp_path.glob("inflight-*"))
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{http_port}/v2/health/live", timeout=2)
    assert (tmp_path / "models" / "ensemble" / "config.pbtxt").is_file()


def test_writes_a_repository(setup, tmp_path: Path) -> None:
    output = tmp_path / "models"
    result = subprocess.run(
        command(
            "repository",
            setup.checkpoint,
            f"--output={output}",
            f"--device={setup.device}",
            "--no-decoupled",
        ),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    config = (output / "tensorrt_llm" / "config.pbtxt").read_text()
    assert "decoupled" not in config and "${" not in config
    assert (output / "postprocessing" / "1" / "model.py").is_file()
    # The engine's cores are the text's only where it has no GPU.
    config = (output / "postprocessing" / "config.pbtxt").read_text()
    niceness = re.search(r'"niceness"\s+value: { string_value: "(\d+)" }', config)
    assert niceness and (int(niceness[1]) > 0) == (setup.device == "cpu")


def test_a_port_that_is_taken_is_named_before_anything_starts(setup, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        ran = serve_and_fail(setup, tmp_path, f"--openai-port={port}")
    assert (
        ran.stderr == f"inflight serve: --openai-port {port} at 0.0.0.0: Address already in use\n"
    )


def test_an_endpoint_that_dies_leaves_nothing_running(setup, tmp_path: Path) -> None:
    template = tmp_path / "broken.jinja"
    template.write_text("{% if x %}")
    http_port, openai_port = free_ports(2)
    flags = (f"--http-port={http_port}", f"--openai-port={openai_port}")
    ran = serve_and_fail(setup, tmp_path, *flags, f"--chat-template={template}")
    assert "the OpenAI endpoint ended with code" in ran.stderr
    assert f"{template}, line 1" in ran.stderr
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://localhost:{http_port}/v2/health/live", timeout=2)


def serve_and_fail(setup, tmp_path: Path, *flags: str) -> subprocess.CompletedProcess:
    http_port, grpc_port, metrics_port = free_ports(3)
    ran = subprocess.run(
        command("serve", setup.checkpoint, f"--device={setup.device}",
                f"--http-port={http_port}", f"--grpc-port={grpc_port}",
                f"--metrics-port={metrics_port}", *flags),
        env=environment(tmp_path), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode != 0 and "Traceback" not in ran.stderr, ran.stderr[-4000:]
    return ran


def test_says_what_is_missing(tmp_path: Path) -> None:
    result = subprocess.run(
        command("serve", tmp_path), env=environment(tmp_path), capture_output=True, text=True
    )
    assert result.returncode == 1
    assert f"{tmp_path} is neither an engine directory" in result.stderr


def test_terminal_shows_a_live_line(setup, tmp_path: Path) -> None:
    http_port, grpc_port, metrics_port = free_ports(3)
    arguments = command(
        "serve",
        setup.checkpoint,
        f"--http-port={http_port}",
        f"--grpc-port={grpc_port}",
        f"--metrics-port={metrics_port}",
        f"--device={setup.device}",
        "--kv-cache-max-tokens=8192",
    )
    ours, theirs = pty.openpty()
    process = subprocess.Popen(arguments, env=environment(tmp_path), stderr=theirs)
    os.close(theirs)
    shown = b""

    def read_until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 90
        while text not in shown:
            assert time.monotonic() < deadline, shown[-4000:].decode(errors="replace")
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 65536)

    try:
        read_until(b"Ready:")
        read_until("running 0 · waiting 0 · 0 tokens/s".encode())
        body = json.dumps({"text_input": "abc", "max_tokens": 2000, "end_id": -1}).encode()
        url = f"http://localhost:{http_port}/v2/models/ensemble/generate"
        seen = threading.Event()

        def ask() -> None:
            while not seen.is_set():  # the line looks once a second
                urllib.request.urlopen(url, body, timeout=60).close()

        with ThreadPoolExecutor(1) as client:
            asking = client.submit(ask)
            try:
                read_until(b"running 1 ")
            finally:
                seen.set()
            asking.result()
        assert b"successfully loaded 'tensorrt_llm'" in shown  # the log is there, too
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # a terminal nobody writes to any more
            while process.poll() is None:  # who does not read keeps it from ending
                os.read(ours, 65536)
        assert process.wait(60) == 0
        assert not list(tmp_path.glob("inflight-*"))
    finally:
        process.kill()
        process.wait()
        os.close(ours)
