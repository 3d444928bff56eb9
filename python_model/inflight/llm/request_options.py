"""What a request may say beside its sampling: when it runs, and what the KV cache makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from operator import index
from typing import Any, ClassVar, TypeVar

Duration = timedelta | int | None
"""A timedelta or milliseconds; None: for good."""

_MAX_PRIORITY = 100
_MAX_MILLISECONDS = 2**31 - 1

T = TypeVar("T")


@dataclass(frozen=True)
class TokenRangeRetentionConfig:
    """How long to keep the blocks that begin at tokens [token_start, token_end) of the prompt."""

    token_start: int
    token_end: int | None
    """None: the prompt's end."""
    priority: int
    """Of 0 (evicted first) to 100 (last); blocks of no range have 35."""
    duration_ms: Duration = None
    """After it the blocks have the default priority again."""

    def __post_init__(self) -> None:
        if self.token_start < 0:
            raise ValueError(f"token_start is {self.token_start}, expected at least 0")
        if self.token_end is not None and self.token_end <= self.token_start:
            raise ValueError(
                f"token_end is {self.token_end}, expected more than token_start {self.token_start}"
            )
        _check_priority("priority", self.priority)
        _milliseconds("duration_ms", self.duration_ms)


@dataclass(frozen=True)
class KvCacheRetentionConfig:
    """A wish of a request for its blocks: blocks that are needed go, those of small priority first."""

    TokenRangeRetentionConfig: ClassVar = TokenRangeRetentionConfig

    token_range_retention_configs: Sequence[TokenRangeRetentionConfig] = field(default_factory=list)
    """Of several that a block is in the first counts."""
    decode_retention_priority: int = 35
    """Of generated tokens' blocks."""
    decode_duration_ms: Duration = None

    def __post_init__(self) -> None:
        _check_priority("decode_retention_priority", self.decode_retention_priority)
        _milliseconds("decode_duration_ms", self.decode_duration_ms)

    def as_engine_argument(self) -> dict[str, Any]:
        """`kv_retention` of `_core.Engine.submit`."""
        return {
            "ranges": [
                (
                    index(one.token_start),
                    None if one.token_end is None else index(one.token_end),
                    index(one.priority),
                    _milliseconds("duration_ms", one.duration_ms),
                )
                for one in self.token_range_retention_configs
            ],
            "decode_priority": index(self.decode_retention_priority),
            "decode_duration_ms": _milliseconds("decode_duration_ms", self.decode_duration_ms),
        }


@dataclass(frozen=True)
class RequestOptions:
    """Of one request; the arguments of these names of `LLM.generate_async`."""

    priority: int = 0
    tenant: str = ""
    cache_salt: str | None = None
    kv_cache_retention_config: KvCacheRetentionConfig | None = None

    def engine_arguments(self) -> dict[str, Any]:
        """As `_core.Engine.submit` wants them."""
        retention = self.kv_cache_retention_config
        return {
            "priority": self.priority,
            "tenant": self.tenant,
            "cache_salt": self.cache_salt or "",
            "kv_retention": None if retention is None else retention.as_engine_argument(),
        }


def options_for(
    num_prompts: int,
    priority: int | Sequence[int] = 0,
    tenant: str | Sequence[str] = "",
    cache_salt: str | Sequence[str | None] | None = None,
    kv_cache_retention_config: (
        KvCacheRetentionConfig | Sequence[KvCacheRetentionConfig | None] | None
    ) = None,
) -> list[RequestOptions]:
    """Each argument is one value for all prompts or a sequence of one a prompt. Raises ValueError naming
    the one whose length is another."""
    rows = zip(
        _one_each("priority", priority, num_prompts),
        _one_each("tenant", tenant, num_prompts),
        _one_each("cache_salt", cache_salt, num_prompts),
        _one_each("kv_cache_retention_config", kv_cache_retention_config, num_prompts),
        strict=True,
    )
    return [RequestOptions(*row) for row in rows]


def _one_each(name: str, given: T | Sequence[T], count: int) -> list[T]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} values for {count} prompts")
    return list(given)


def _check_priority(name: str, priority: int) -> None:
    if not 0 <= priority <= _MAX_PRIORITY:
        raise ValueError(f"{name} is {priority}, expected 0 to {_MAX_PRIORITY}")


def _milliseconds(name: str, duration: Duration) -> int | None:
    if duration is None:
        return None
    if isinstance(duration, timedelta):
        duration = duration // timedelta(milliseconds=1)
    if not 0 <= duration <= _MAX_MILLISECONDS:
        raise ValueError(f"{name} is {duration} ms, expected 0 to {_MAX_MILLISECONDS}")
    return index(duration)
