"""`inflight generate` from the command line, with the demo model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from inflight.cli.main import app
from typer.testing import CliRunner, Result

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo_model"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def run(*arguments: str, model: Path = DEMO_MODEL, text_in: str | None = None) -> Result:
    return CliRunner().invoke(app, ["generate", str(model), *arguments], input=text_in)


def test_streamed_and_whole_answers_agree():
    arguments = ("--prompt", "ROMEO:\n", "--max-tokens", "40")
    whole, streamed = run(*arguments), run(*arguments, "--stream")
    assert whole.exit_code == streamed.exit_code == 0, whole.output
    assert whole.stdout == streamed.stdout and len(whole.stdout) > 40
    assert "40 tokens in" in whole.stderr


def test_prompt_from_standard_input_and_stop():
    whole = run("--prompt", "-", "--max-tokens", "40", text_in="ROMEO:\n")
    assert whole.stdout == run("--prompt", "ROMEO:\n", "--max-tokens", "40").stdout
    stop = whole.stdout[10:14]
    cut = run("--prompt", "ROMEO:\n", "--max-tokens", "40", "--stop", stop)
    assert cut.stdout == whole.stdout[: whole.stdout.find(stop)] + "\n"


def test_several_prompts_and_seeds():
    arguments = ("--prompt", "ROMEO:\n", "--prompt", "JULIET:\n", "--temperature", "0.9")
    first = run(*arguments, "--seed", "4", "--max-tokens", "20")
    assert first.stdout == run(*arguments, "--seed", "4", "--max-tokens", "20").stdout
    assert first.stdout != run(*arguments, "--seed", "5", "--max-tokens", "20").stdout
    assert "--- answer 2 of 2" in first.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "a", "--top-p", "3"), "top_p=3"),
        (("--prompt", "a", "--device", "tpu"), "tpu"),
        (("--prompt", "a", "--max-seq-len", "100000"), "100000"),
    ],
)
def test_errors(arguments: tuple[str, ...], message: str):
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr
    assert result.stderr.startswith("error: ") and "Traceback" not in result.output


def test_a_folder_that_is_no_model(tmp_path: Path):
    result = run("--prompt", "a", model=tmp_path)
    assert result.exit_code == 1 and "neither an engine" in result.stderr


def test_no_chat_template(tmp_path: Path):
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model, ignore=shutil.ignore_patterns("chat_template.jinja"))
    result = run("--prompt", "a", "--chat", model=model)
    assert result.exit_code == 1 and "no chat template" in result.stderr
