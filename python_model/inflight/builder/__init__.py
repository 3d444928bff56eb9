"""From a checkpoint to an engine directory."""

from inflight.builder.build import build_engine

__all__ = ["build_engine"]
