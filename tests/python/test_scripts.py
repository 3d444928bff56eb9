"""The scripts that no other test runs at least start, and find what they name."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
NEEDS_MORE = {"plot_performance.py"}  # requirements/tools.txt
NAMES = sorted(path.name for path in SCRIPTS.glob("*.py") if path.name not in NEEDS_MORE)


@pytest.mark.parametrize("name", NAMES)
def test_help(name: str) -> None:
    command = [sys.executable, str(SCRIPTS / name), "--help"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_the_cases_for_the_sanitizer_are_there() -> None:
    root = SCRIPTS.parent
    lines = (root / "tests" / "sanitized.txt").read_text().splitlines()
    cases = [line for line in lines if line.startswith("tests/")]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run([*command, *cases], cwd=root, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr
