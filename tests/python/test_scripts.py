"""The scripts that no other test runs at least start: their imports hold."""

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
