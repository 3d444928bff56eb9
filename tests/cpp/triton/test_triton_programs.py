"""Runs the C++ test programs of the Triton side: one for each tests/cpp/triton/<name>.cc."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUILD = Path(os.environ.get("INFLIGHT_BUILD_DIR", ROOT / "build"))
NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.cc") if not path.stem.startswith("fake_")
)


@pytest.mark.parametrize("name", NAMES)
def test_program(name: str) -> None:
    program = BUILD / "tests" / f"test_triton_{name}"
    if not program.exists():
        pytest.fail(f"{program} is not built: ninja -C {BUILD} test_triton_{name}")
    result = subprocess.run([program], capture_output=True, text=True, timeout=300)
    output = (result.stdout + result.stderr)[-8000:]
    assert result.returncode == 0, f"exit status {result.returncode}\n{output}"
