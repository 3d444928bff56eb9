"""scripts/benchmark_neighbour.py runs in small. Nothing is timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "scripts" / "benchmark_neighbour.py")


def test_it_runs_in_small(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    sizes = ["--num-generating", "4", "--prompt-tokens", "600", "--repeats", "1"]
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--model", "tiny", "--device", "cpu", "--dtype", "float32", *sizes,
         "--bounds", "50", "--json", str(written)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python_model")},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(written.read_text())
    assert (facts["model"], facts["device"]) == ("tiny", "cpu")
    figures = facts["figures"]
    assert len(figures) == 2 * 3 + 1 and min(figures.values()) > 0
    ratio = figures["bound 50 ms: slowest over bound"]
    assert ratio == pytest.approx(figures["bound 50 ms: slowest token, ms"] / 50)
    assert ", goal at most 1.5: " in ran.stdout


def test_a_bound_is_above_0() -> None:
    command = [sys.executable, SCRIPT, "--bounds", "10,0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2 and "--bounds [10.0, 0.0]: above 0" in ran.stderr
