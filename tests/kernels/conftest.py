"""The device fixture: every case runs on each device that this machine and build have."""

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
