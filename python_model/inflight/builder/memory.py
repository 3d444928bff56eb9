"""What an engine takes in memory, from engine.json alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inflight.builder.engine_file import EngineFile
from inflight.ir.reference import numpy_dtype


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of all ranks. `mapped_bytes` of the weights are read where the file is mapped: one whole
    tensor each, of the weight's own dtype as far as config.json tells."""

    weight_bytes: int
    mapped_bytes: int
    arena_bytes: int
    kv_bytes_per_token: int
    layer_windows: tuple[int, ...]  # of each layer; 0: it keeps all tokens

    def kv_bytes(self, num_tokens: int) -> int:
        """Of a sequence of so many tokens, blocks aside."""
        kept = sum(min(window, num_tokens) or num_tokens for window in self.layer_windows)
        return kept * self.kv_bytes_per_token // len(self.layer_windows)


def engine_memory(file: EngineFile) -> EngineMemory:
    weights = [weight for rank in file.ranks for weight in rank["weights"].values()]
    model, settings = file.model, file.settings
    entry = 2 * model.num_kv_heads * model.head_size * numpy_dtype(settings.dtype).itemsize
    return EngineMemory(
        weight_bytes=sum(_bytes(weight) for weight in weights),
        mapped_bytes=sum(_bytes(weight) for weight in weights if _is_mapped(file, weight)),
        arena_bytes=sum(rank["arena_bytes"] for rank in file.ranks),
        kv_bytes_per_token=entry * model.num_layers,
        layer_windows=tuple(model.window_of(layer) for layer in range(model.num_layers)),
    )


def _bytes(weight: Mapping[str, Any]) -> int:
    return math.prod(weight["shape"]) * numpy_dtype(weight["dtype"]).itemsize


def _is_mapped(file: EngineFile, weight: Mapping[str, Any]) -> bool:
    if not file.checkpoint_files:  # built from config.json alone
        return False
    stored = weight["dtype"] if file.settings.pack else file.model.dtype
    sources = weight["recipe"]["sources"]
    return len(sources) == 1 and "slice" not in sources[0] and stored == weight["dtype"]
