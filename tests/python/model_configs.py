"""Configuration files of models for tests."""

from collections.abc import Mapping
from typing import Any

from inflight.checkpoint.model_config import read_model_config
from inflight.config import ModelConfig, ProblemsError


def model_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
) -> ModelConfig:
    """Raises ProblemsError with every problem."""
    model, problems = read_model_config(config, generation_config)
    if problems:
        raise ProblemsError("config.json cannot be used", problems)
    return model
