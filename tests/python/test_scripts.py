"""The scripts that no other test runs at least start, and find what they name."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NEEDS_MORE = {"plot_performance.py"}  # requirements/tools.txt
NAMES = sorted(path.name for path in SCRIPTS.glob("*.py") if path.name not in NEEDS_MORE)


def ask_for_help(name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / name), "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def helps(request: pytest.FixtureRequest) -> Iterator[dict[str, Future]]:
    """Of the scripts that are tested; a core is busy with each: most of it are imports."""
    wanted = [item.callspec.params["name"] for item in request.session.items
              if getattr(item, "function", None) is test_help]  # fmt: skip
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(ask_for_help, name) for name in wanted}


@pytest.mark.parametrize("name", NAMES)
def test_help(helps: dict[str, Future], name: str) -> None:
    ran = helps[name].result()
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_the_cases_for_the_sanitizer_are_there(request: pytest.FixtureRequest) -> None:
    root = SCRIPTS.parent
    lines = (root / "tests" / "sanitized.txt").read_text().splitlines()
    collected = {item.nodeid for item in request.session.items}
    cases = [line for line in lines if line.startswith("tests/") and line not in collected]
    if not cases:  # as in a run of all tests
        return
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run([*command, *cases], cwd=root, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


KERNEL = re.compile(
    r"__global__\s+(?:void\s+)?(?:__(?:launch_bounds|maxnreg)__\((?:[^()]|\([^()]*\))*\)\s*)*"
    r"(?:void\s+)?(\w+)\("
)


def test_the_sanitizer_is_told_of_every_kernel() -> None:
    root = SCRIPTS.parent
    lines = (root / "tests" / "sanitized.txt").read_text().splitlines()
    told = [line.removeprefix("# Kernels:").split() for line in lines if "# Kernels:" in line]
    defined = set()
    for path in sorted((root / "kernels").rglob("*.cu*")):
        text = path.read_text()
        names = KERNEL.findall(text)
        assert len(names) == text.count("__global__ "), path
        defined.update(names)
    assert defined
    assert {name for group in told for name in group} == defined
