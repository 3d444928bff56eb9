"""What cannot be done is said in a line, before anything was started or sent."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from inflight.cli import main, serve
from inflight.serving.installation import Installation
from typer.testing import CliRunner


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Serve would find a server, and must not come to start it."""
    installation = Installation(Path("tritonserver"), (), None, ())
    monkeypatch.setattr(serve, "find_installation", lambda _: installation)
    return lambda *arguments: CliRunner().invoke(main.app, [str(each) for each in arguments])


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen(1)
        yield listener.getsockname()[1]


@pytest.fixture
def free() -> int:
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        return listener.getsockname()[1]


def said(answer) -> str:
    """Of a command that failed without a traceback."""
    assert isinstance(answer.exception, SystemExit) and answer.exit_code in (1, 2), answer.exception
    return answer.output


PORTS = ("--http-port", "--grpc-port", "--metrics-port", "--openai-port")


@pytest.mark.parametrize("option", PORTS)
@pytest.mark.parametrize("port", [0, -1, 65536, 99999])
def test_a_port_that_there_is_not(run: Callable, tiny_engine: Path, option: str, port: int) -> None:
    text = said(run("serve", tiny_engine, f"{option}={port}"))
    assert f"'{option}'" in text and ("65535" in text or " 1" in text)
    assert "--port" in said(run("openai", tiny_engine, f"--port={port}"))


@pytest.mark.parametrize("option", PORTS[:3])
def test_a_port_that_is_taken(
    run: Callable, tiny_engine: Path, taken: int, free: int, option: str
) -> None:
    ports = {name: free + 1 + at for at, name in enumerate(PORTS[:3])} | {option: taken}
    flags = [f"{name}={port}" for name, port in ports.items()]
    assert f"{option} {taken} at 0.0.0.0: Address already in use" in said(
        run("serve", tiny_engine, *flags)
    )
    both = [f"{name}={free}" for name in PORTS[:2]]
    assert f"--http-port and --grpc-port are both {free}" in said(run("serve", tiny_engine, *both))


def test_what_cannot_be_written(
    run: Callable, tiny_engine: Path, tmp_path: Path, free: int
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert str(file) in said(run("repository", tiny_engine, f"--output={file}"))
    ports = [f"{name}={free + at}" for at, name in enumerate(PORTS[:3])]
    assert str(file) in said(run("serve", tiny_engine, f"--model-repository={file}", *ports))
    for option in ("--json", "--plot"):
        for path in (tmp_path, tmp_path / "nowhere" / "file"):
            text = said(run("bench", "--url=localhost:9", f"{option}={path}"))
            assert f"{option} {path} cannot be written" in text


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1}'])
def test_an_engine_that_cannot_be_read(run: Callable, tmp_path: Path, content: str) -> None:
    (tmp_path / "engine.json").write_text(content)
    for command in (
        ["serve", tmp_path],
        ["repository", tmp_path, f"--output={tmp_path / 'out'}"],
        ["openai", tmp_path],
        ["inspect", tmp_path],
    ):
        assert "engine.json" in said(run(*command))


@pytest.mark.parametrize(
    "option", ["max-queue-size", "kv-cache-max-tokens", "request-timeout-ms", "num-threads"]
)
def test_a_number_that_the_server_would_take_its_default_for(
    run: Callable, tiny_engine: Path, tmp_path: Path, option: str
) -> None:
    text = said(run("repository", tiny_engine, f"--output={tmp_path}", f"--{option}={10**20}"))
    assert f"'--{option}'" in text and "less than or equal to" in text


@pytest.mark.parametrize("device", ["bogus", "cuda:", "cuda:-1", "CPU"])
def test_a_device_that_is_none(
    run: Callable, tiny_engine: Path, tmp_path: Path, device: str
) -> None:
    output = tmp_path / "models"
    text = said(run("repository", tiny_engine, f"--output={output}", f"--device={device}"))
    assert f"device is '{device}', must be 'auto', 'cpu', 'cuda' or 'cuda:N'" in text
    assert not output.exists()


def test_limits_that_no_engine_has(run: Callable, tiny_checkpoint: Path, tmp_path: Path) -> None:
    most = {"max-batch-size": 2**31 - 1, "max-num-tokens": 2**31 - 1, "tokens-per-block": 2**16 - 1}
    flags = [f"--{name}={2**31}" for name in most]
    text = said(run("build", tiny_checkpoint, f"--output={tmp_path / 'engine'}", *flags))
    for name, limit in most.items():
        assert f"{name.replace('-', '_')} is {2**31}, the most is {limit}" in text
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    "lengths", ["99999999999", "normal:1e300:1", "lognormal:200:1e9", "uniform:1:1e12"]
)
def test_lengths_that_no_model_has(run: Callable, lengths: str) -> None:
    assert "at most 16777216 tokens" in said(run("bench", f"--input-tokens={lengths}"))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError()])
def test_what_the_machine_has_no_room_for_is_a_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(main, "app", fail)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err in (
        "inflight: [Errno 28] No space left on device\n",
        "inflight: out of memory\n",
    )


def test_a_template_that_is_none(run: Callable, tmp_path: Path) -> None:
    file = tmp_path / "broken.jinja"
    file.write_text("line\n{% if x %}")
    model = Path(__file__).resolve().parents[3] / "demo_model"
    assert f"{file}, line 2: " in said(run("openai", model, f"--chat-template={file}"))
