"""The Python face of the engine; names follow TensorRT-LLM's LLM API. Resolved on first use, so
that parameters and outputs can be had without the compiled core.
"""

import importlib
from typing import Any

__all__ = [
    "LLM",
    "CompletionOutput",
    "GenerationResult",
    "KvCacheConfig",
    "KvCacheRetentionConfig",
    "Logprob",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
]

_EXPORTS = {
    "LLM": "inflight.llm.llm",
    "CompletionOutput": "inflight.llm.outputs",
    "GenerationResult": "inflight.llm.generation",
    "KvCacheConfig": "inflight.llm.llm",
    "KvCacheRetentionConfig": "inflight.llm.request_options",
    "Logprob": "inflight.llm.outputs",
    "RequestOutput": "inflight.llm.outputs",
    "SamplingParams": "inflight.llm.sampling_params",
    "SchedulerConfig": "inflight.llm.llm",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
