"""How `inflight serve` ends a server that does not end of itself."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from inflight.cli import serve

SERVER = """#!/bin/sh
trap 'echo told >> {log}' TERM INT
echo begun >> {log}
while :; do sleep 0.05; done
"""


def test_it_is_told_once_and_killed_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tritonserver locks up where a second signal comes while it prints of the first."""
    monkeypatch.setattr(serve, "_EXIT_SECONDS", 0.5)
    monkeypatch.setattr(serve, "_EXIT_PATIENCE", 0.5)
    log, binary = tmp_path / "log", tmp_path / "server"
    binary.write_text(SERVER.format(log=log))
    binary.chmod(0o755)
    installation = SimpleNamespace(binary=binary, environment=lambda _: dict(os.environ))

    def signals() -> None:
        while not log.exists():
            time.sleep(0.01)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    sender = threading.Thread(target=signals)
    sender.start()
    begin = time.monotonic()
    code = serve._run(installation, tmp_path, {"metrics-port": 9}, 9, "", None)
    sender.join()
    assert code == 0  # as was asked
    assert 0.9 < time.monotonic() - begin < 20
    assert log.read_text().split() == ["begun", "told"]


def test_a_signal_while_the_server_begins_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def begin(*_: object, **__: object) -> subprocess.Popen:
        server = popen(["sleep", "60"], start_new_session=True)
        begun.append(server)
        os.kill(os.getpid(), signal.SIGTERM)  # before anybody knows of it
        return server

    popen = subprocess.Popen
    monkeypatch.setattr(serve.subprocess, "Popen", begin)
    installation = SimpleNamespace(binary=Path("server"), environment=lambda _: {})
    try:
        assert serve._run(installation, tmp_path, {"metrics-port": 9}, 9, "", None) == 0
        assert begun[0].returncode == -signal.SIGTERM
    finally:
        begun[0].kill()


FAMILY = """#!/bin/sh
sleep 60 &
echo $! > {child}
exec sleep 60
"""


def test_nothing_of_a_server_that_dies_at_once_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal before it handles any kills it, and the processes of its Python models know nothing
    of it."""
    monkeypatch.setattr(serve, "_STUB_SECONDS", 0.5)
    child, binary = tmp_path / "child", tmp_path / "server"
    binary.write_text(FAMILY.format(child=child))
    binary.chmod(0o755)
    installation = SimpleNamespace(binary=binary, environment=lambda _: dict(os.environ))

    def signals() -> None:
        while not (child.exists() and child.read_text().strip()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=signals)
    sender.start()
    assert serve._run(installation, tmp_path, {"metrics-port": 9}, 9, "", None) == 0
    sender.join()
    deadline = time.monotonic() + 10
    while _lives(child.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _lives(number: str) -> bool:
    """One that nobody has waited for yet does not."""
    try:
        return Path("/proc", number, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_how_a_server_ended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    binary = tmp_path / "server"
    installation = SimpleNamespace(binary=binary, environment=lambda _: dict(os.environ))
    for how, code, exit_code in (("exit 7", 7, 7), ("kill -9 $$", -9, 137)):
        binary.write_text(f"#!/bin/sh\n{how}\n")
        binary.chmod(0o755)
        ran = serve._run(installation, tmp_path, {"metrics-port": 9}, 9, "", None)
        assert ran == exit_code
        assert f"the server ended with code {code}" in capsys.readouterr().err
