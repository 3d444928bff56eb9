"""Whole ways through the engine, next to transformers."""

from collections.abc import Iterator

import pytest
from inflight import _core


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine and build have."""
    if request.param not in _core.op_devices():
        pytest.skip(f"no {request.param} on this machine or in this build")
    return request.param


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Tiny models are many times faster so."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
