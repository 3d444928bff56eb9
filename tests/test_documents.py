"""What the documents say to type and to open is there: options, scripts, files."""

import re
from pathlib import Path

import pytest
import typer
from inflight.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "backend" / "README.md"])
COMMANDS = typer.main.get_command(app).commands
# In a line of a block, or alone between backquotes.
LINE = re.compile(r"(?:^|[`$] ?)inflight ([a-z]+)\b([^`#\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FOLDERS = "backend|deploy|docs|kernels|model_repository|python_model|requirements|scripts|tests"
PATH = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def options_of(command: str) -> set[str]:
    spellings = [
        spelling for param in COMMANDS[command].params
        for spelling in (*param.opts, *param.secondary_opts)
    ]  # fmt: skip
    return {"--help", *spellings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_and_options(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    for command, rest in LINE.findall(text):
        if command not in COMMANDS:
            # Prose, such as `inflight serves`, stands in no quotes of code.
            pytest.fail(f"{document.name}: no command `inflight {command}`")
        unknown = set(OPTION.findall(rest)) - options_of(command)
        assert not unknown, f"{document.name}: inflight {command} has no {unknown}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_paths_and_links(document: Path) -> None:
    text = document.read_text()
    for link in LINK.findall(text):
        assert (document.parent / link).exists(), link
    for path in PATH.findall(text):
        # Some are of the package, some name a file without its ending.
        places = (ROOT / path, ROOT / "python_model" / "inflight" / path)
        there = any(p.exists() or any(p.parent.glob(p.name + ".*")) for p in places)
        assert there or path.startswith("build/"), f"{document.name}: {path}"


def test_the_checks_can_fail() -> None:
    assert LINE.findall("x\ninflight nosuch --a b\n`inflight serve --c`") == [
        ("nosuch", " --a b"), ("serve", " --c"),
    ]  # fmt: skip
    assert PATH.findall("`scripts/none.py` or [x](docs/none.md)") == [
        "scripts/none.py", "docs/none.md",
    ]  # fmt: skip
    assert {"--openai-port", "--device"} <= options_of("serve")
