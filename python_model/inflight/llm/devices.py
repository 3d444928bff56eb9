"""Where an engine of this machine and build would run."""


def runs_on_cpu(device: str) -> bool:
    """Of a `device` as `LLM` and the backend take it."""
    if device != "auto":
        return device == "cpu"
    from inflight import _core

    return "cuda" not in _core.op_devices()
