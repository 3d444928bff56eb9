"""What a request says beside its sampling, as the engine is told."""

from datetime import timedelta
from typing import Any

import pytest
from inflight.llm.request_options import KvCacheRetentionConfig, RequestOptions, options_for

Range = KvCacheRetentionConfig.TokenRangeRetentionConfig


def test_one_value_is_for_all_prompts_and_a_list_for_each() -> None:
    retention = KvCacheRetentionConfig()
    options = options_for(
        2, priority=[3, -1], tenant="team", cache_salt=["a", None],
        kv_cache_retention_config=retention,
    )  # fmt: skip
    assert options == [
        RequestOptions(3, "team", "a", retention),
        RequestOptions(-1, "team", None, retention),
    ]
    assert options_for(1, tenant=["ab"]) == [RequestOptions(tenant="ab")]
    assert options_for(0) == []


@pytest.mark.parametrize("name", ["priority", "tenant", "cache_salt", "kv_cache_retention_config"])
def test_as_many_values_as_prompts(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has 3 values for 2 prompts"):
        options_for(2, **{name: [None] * 3})


def test_what_the_engine_is_told() -> None:
    retention = KvCacheRetentionConfig(
        [Range(0, 4, 100), Range(4, None, 20, timedelta(seconds=1.5)), Range(0, 9, 1, 7)],
        decode_retention_priority=60,
        decode_duration_ms=timedelta(microseconds=2900),
    )
    assert RequestOptions(5, "team", "salt", retention).engine_arguments() == {
        "priority": 5,
        "tenant": "team",
        "cache_salt": "salt",
        "kv_retention": {
            "ranges": [(0, 4, 100, None), (4, None, 20, 1500), (0, 9, 1, 7)],
            "decode_priority": 60,
            "decode_duration_ms": 2,
        },
    }
    assert RequestOptions().engine_arguments() == {
        "priority": 0, "tenant": "", "cache_salt": "", "kv_retention": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Range(-1, None, 1), "token_start is -1, expected at least 0"),
        (lambda: Range(4, 4, 1), "token_end is 4, expected more than token_start 4"),
        (lambda: Range(0, 4, 101), "priority is 101, expected 0 to 100"),
        (lambda: Range(0, 4, 1, -1), "duration_ms is -1 ms, expected 0 to 2147483647"),
        (lambda: Range(0, 4, 1, timedelta(days=30)), "duration_ms is 2592000000 ms"),
        (lambda: KvCacheRetentionConfig([], -1), "decode_retention_priority is -1"),
        (lambda: KvCacheRetentionConfig([], 5, -2), "decode_duration_ms is -2 ms"),
    ],
)
def test_what_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
