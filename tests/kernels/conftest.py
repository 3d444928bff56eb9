"""The device fixture: every case runs on each device that this machine and build have."""

from collections.abc import Callable
from functools import partial

import pytest
from inflight import _core


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def runner(device: str) -> "_core.OpRunner":
    """Runs ops on the device; skips where there is none."""
    if device not in _core.op_devices():
        pytest.skip(f"no {device} on this machine or in this build")
    return _core.OpRunner(device, num_threads=2)


@pytest.fixture
def new_sampler(device: str) -> Callable[..., "_core.decoding.Sampler"]:
    """Makes samplers on the device: (vocab_size, max_batch_size, num_threads = 1)."""
    if device not in _core.op_devices():
        pytest.skip(f"no {device} on this machine or in this build")
    return partial(_core.decoding.Sampler, device=device)
