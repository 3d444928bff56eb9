"""The scripts that no other test runs at least start, and find what they name."""

import re
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


KERNEL = re.compile(
    r"__global__\s+(?:void\s+)?(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s*)?(?:void\s+)?(\w+)\("
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
