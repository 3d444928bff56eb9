"""Whole ways through the engine, next to transformers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from inflight import _core


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine and build have."""
    if request.param not in _core.op_devices():
        pytest.skip(f"no {request.param} on this machine or in this build")
    return request.param


@pytest.fixture
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's engines, and no others, keep the lease of a GPU."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Tiny models are many times faster so."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
