"""What a model family gives the builder."""

from collections.abc import Callable
from dataclasses import dataclass

from inflight.checkpoint.mapping import CheckpointMapping
from inflight.config import ModelConfig
from inflight.ir.graph import Graph


@dataclass(frozen=True)
class ModelFamily:
    """`mapping` names the tensors, `unsupported` lists settings that the family does not do,
    `graph(config, mapping, dtype, tokens_per_block)` writes the model."""

    mapping: Callable[[ModelConfig], CheckpointMapping]
    unsupported: Callable[[ModelConfig], list[str]]
    graph: Callable[[ModelConfig, CheckpointMapping, str, int], Graph]
