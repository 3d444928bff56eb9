"""Where an engine of this machine and build would run."""

import re


def runs_on_cpu(device: str) -> bool:
    """Of a `device` as `LLM` and the backend take it. Raises ValueError of another word."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", device):
        raise ValueError(f"device is {device!r}, must be 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if device != "auto":
        return device == "cpu"
    from inflight import _core

    return "cuda" not in _core.op_devices()
