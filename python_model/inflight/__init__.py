"""inflight: large language models inside tritonserver."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["LLM", "SamplingParams", "build_engine"]

# Public name -> module. Resolved on first use: compiling never imports _core, running never
# imports the compiler before it is asked to build.
_EXPORTS = {
    "LLM": "inflight.llm",
    "SamplingParams": "inflight.llm",
    "build_engine": "inflight.builder",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
