"""What the documents say to type and to open is there: options, scripts, files."""

import re
from pathlib import Path

import pytest
import typer
from inflight.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "backend" / "README.md"])
COMMANDS = typer.main.get_command(app).commands
# In a line of a block, or alone between backquotes.
LINE = re.compile(r"(?:^|[`$] ?)inflight ([a-z]+)\b([^`#\n]*)", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
FOLDERS = "backend|deploy|docs|kernels|model_repository|python_model|requirements|scripts|tests"
PATH = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*\w)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
# In a comment: docs/x.md, "A heading"; in a document the same behind a link.
NAMED = re.compile(r"(docs/[\w/]+\.md)(?:,\s(?:\s*(?:#|///?|\*) )?\"([^\"]+)\")?")
HEADING_OF = re.compile(r"\]\(([\w./]+\.md)\),\s\"([^\"]+)\"")
SOURCES = sorted(
    path
    for folder in FOLDERS.split("|")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".cc", ".cu", ".cuh", ".h", ".py"} or path.parent == ROOT / "scripts"
    if path.is_file() and path != Path(__file__).resolve()
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def headings_of(document: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)


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


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_sections_named_in_documents(document: Path) -> None:
    for link, section in HEADING_OF.findall(document.read_text()):
        assert section in headings_of(document.parent / link), (link, section)


def test_documents_named_in_sources() -> None:
    for source in SOURCES:
        for document, section in NAMED.findall(source.read_text()):
            assert (ROOT / document).exists(), (source, document)
            assert not section or section in headings_of(ROOT / document), (source, section)


def test_the_checks_can_fail() -> None:
    assert LINE.findall("x\ninflight nosuch --a b\n`inflight serve --c`") == [
        ("nosuch", " --a b"), ("serve", " --c"),
    ]  # fmt: skip
    assert PATH.findall("`scripts/none.py` or [x](docs/none.md)") == [
        "scripts/none.py", "docs/none.md",
    ]  # fmt: skip
    assert {"--openai-port", "--device"} <= options_of("serve")
    assert NAMED.findall('/// (docs/x.md,\n  /// "A b")') == [("docs/x.md", "A b")]
    assert HEADING_OF.findall('[x](notes/x.md), "A b"') == [("notes/x.md", "A b")]
