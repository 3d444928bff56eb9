"""Shapes of decoders, as far as their cost goes: weights, operations, bytes of cache a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from inflight.checkpoint.model_config import read_model_config
from inflight.config import ProblemsError


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder of the Llama kind: gated MLP, grouped-query attention, untied or tied head."""

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    ties_embeddings: bool = False

    @property
    def layer_params(self) -> int:
        """Weights of the linears of all layers."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (q + 2 * kv) + q * self.hidden_size
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head_params(self) -> int:
        return self.vocab_size * self.hidden_size

    @property
    def num_params(self) -> int:
        """All that is kept in memory, norms aside."""
        return self.layer_params + self.head_params * (1 if self.ties_embeddings else 2)

    def kv_bytes_per_token(self, bytes_per_value: float = 2) -> float:
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


# name: layers, hidden, intermediate, heads, kv heads, head size, vocabulary, tied; by the
# config.json of the models named.
_SHAPES = {
    "1B": (16, 2048, 8192, 32, 8, 64, 128256, True),  # Llama-3.2-1B
    "3B": (28, 3072, 8192, 24, 8, 128, 128256, True),  # Llama-3.2-3B
    "8B": (32, 4096, 14336, 32, 8, 128, 128256, False),  # Llama-3.1-8B
    "14B": (48, 5120, 13824, 40, 8, 128, 152064, False),  # Qwen2.5-14B
    "32B": (64, 5120, 27648, 40, 8, 128, 152064, False),  # Qwen2.5-32B
    "70B": (80, 8192, 28672, 64, 8, 128, 128256, False),  # Llama-3.1-70B
}
MODELS = {name: ModelShape(name, *shape) for name, shape in _SHAPES.items()}


def model_named(name: str) -> ModelShape:
    """One of MODELS, or the shape that a config.json (or its folder) describes. Raises ValueError
    that says what is known, missing or wrong."""
    if name in MODELS:
        return MODELS[name]
    path = Path(name)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no model {name!r}: expected {', '.join(MODELS)} or a config.json")
    model, problems = read_model_config(json.loads(path.read_text()))
    if problems:
        raise ProblemsError(f"{path} cannot be simulated", problems)
    return ModelShape(
        name=path.parent.name or str(path),
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_heads=model.num_heads,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_size,
        vocab_size=model.vocab_size,
        ties_embeddings=model.tie_word_embeddings,
    )
