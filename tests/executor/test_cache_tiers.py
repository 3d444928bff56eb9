"""Blocks that move between the tiers of the cache, or from one engine to another, change no token."""

import json
import math
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_client import Answer, Client
from inflight import _core

RNG = random.Random(5)
PREFIXES = [[RNG.randrange(320) for _ in range(40)] for _ in range(4)]
# Turns of four conversations: each begins with all before it, others come between.
PROMPTS = [
    prefix[: 16 + 8 * turn + RNG.randrange(8)]
    + [RNG.randrange(320) for _ in range(RNG.randrange(6))]
    for turn in range(4)
    for prefix in PREFIXES
]
GREEDY: dict[str, Any] = {"greedy": True, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def plain(tiny_engine: Callable[[int], Any], device: str) -> dict[str, list[int]]:
    """Answers of an engine that keeps nothing."""
    client = Client(tiny_engine(8), device=device, enable_kv_cache_reuse=False)
    try:
        return {str(prompt): client.generate(prompt, **GREEDY).token_ids for prompt in PROMPTS}
    finally:
        client.close()


def ask(client: Client, prompts: list[list[int]]) -> list[Answer]:
    answers = [client.submit(prompt, **GREEDY)[1] for prompt in prompts]
    for answer in answers:
        assert answer.done.wait(60)
        assert answer.error is None
    return answers


@pytest.mark.parametrize("at_once", [1, 5])
@pytest.mark.parametrize("onboard", [True, False])
def test_a_tiny_pool_and_the_host_answer_alike(
    make_client: Callable[..., Client], plain: dict[str, list[int]], at_once: int, onboard: bool
) -> None:
    block_bytes = make_client(8).engine.info.block_bytes
    client = make_client(
        8,
        kv_cache_max_tokens=15 * 8,
        kv_cache_host_memory_bytes=20 * block_bytes,
        kv_cache_onboard_blocks=onboard,
    )
    assert client.engine.info.num_host_blocks == 20
    for first in range(0, len(PROMPTS), at_once):
        prompts = PROMPTS[first : first + at_once]
        for prompt, answer in zip(prompts, ask(client, prompts), strict=True):
            assert answer.token_ids == plain[str(prompt)]
    stats = client.engine.stats()
    assert stats.max_host_blocks == 20 and 0 < stats.cached_host_blocks <= 20
    assert stats.offloaded_blocks > 0
    assert stats.copied_to_host_bytes == stats.offloaded_blocks * block_bytes
    assert stats.copied_from_host_bytes == stats.onboarded_blocks * block_bytes
    assert (stats.onboarded_blocks > 0) == (stats.prefix_host_hit_tokens > 0) == onboard
    assert stats.free_blocks == stats.max_blocks == 15


def test_the_memory_plan_names_the_host_tier(make_client: Callable[..., Client]) -> None:
    block_bytes = make_client(8).engine.info.block_bytes
    client = make_client(8, kv_cache_host_memory_bytes=3 * block_bytes + 1)
    assert client.engine.info.num_host_blocks == 3
    assert client.engine.info.kv_cache_host_bytes == 3 * block_bytes
    assert "KV cache on host" in client.engine.memory_plan
    without_use = {"kv_cache_host_memory_bytes": 3 * block_bytes, "enable_kv_cache_reuse": False}
    assert make_client(8, **without_use).engine.info.num_host_blocks == 0
    with pytest.raises(ValueError, match="kv_cache_host_memory_bytes is 1, less than one block"):
        make_client(8, kv_cache_host_memory_bytes=1)
    with pytest.raises(ValueError, match="kv_cache_host_memory_bytes is -1, must be 0"):
        make_client(8, kv_cache_host_memory_bytes=-1)
    with pytest.raises(ValueError, match="bytes free"):
        make_client(8, kv_cache_host_memory_bytes=1 << 60)


def test_formats_without_kernels_are_refused(make_client: Callable[..., Client]) -> None:
    assert make_client(8, kv_cache_dtype="float32").engine.info.kv_cache_dtype == "float32"
    for dtype in ("fp8", "int8", "float16"):
        with pytest.raises(
            NotImplementedError, match=f"kv_cache_dtype is '{dtype}', not supported"
        ):
            make_client(8, kv_cache_dtype=dtype)
    with pytest.raises(ValueError, match="kv_cache_dtype is 'int3', must be"):
        make_client(8, kv_cache_dtype="int3")


@pytest.mark.parametrize(
    ("dtype", "error", "message"),
    [
        ("float8_e4m3fn", NotImplementedError, "no kernel of this version reads them"),
        ("int8", NotImplementedError, "no kernel of this version reads them"),
        ("int32", ValueError, "which is no format of the KV cache"),
    ],
)
def test_engines_whose_cache_no_kernel_reads_are_refused(
    tiny_engine: Callable[[int], Path],
    tmp_path: Path,
    dtype: str,
    error: type[Exception],
    message: str,
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny_engine(8), engine)
    document = json.loads((engine / "engine.json").read_text())
    document["kv_cache"]["dtype"] = dtype
    (engine / "engine.json").write_text(json.dumps(document))
    with pytest.raises(error, match=f"keeps keys and values as {dtype}, .*{message}"):
        _core.Engine(str(engine), device="cpu")


# --- from one engine to another


def test_one_engine_reads_the_prompt_and_another_answers(
    make_client: Callable[..., Client], plain: dict[str, list[int]]
) -> None:
    reader, writer = make_client(8), make_client(8)
    for prompt in PROMPTS:
        first = reader.generate(prompt, greedy=True, max_new_tokens=1).token_ids
        assert first == plain[str(prompt)][:1]
        exported = reader.engine.export_prefix(prompt + first)
        assert exported.token_ids == prompt  # all that the prompt's steps have computed
        # What travels is a string, ids and bytes.
        sent = _core.ExportedPrefix(
            exported.layout, exported.token_ids, np.frombuffer(exported.blocks.tobytes(), np.uint8)
        )
        writer.engine.import_prefix(sent)
        before = writer.engine.stats().prompt_tokens
        rest = writer.generate(prompt + first, greedy=True, max_new_tokens=11).token_ids
        assert first + rest == plain[str(prompt)]
        assert writer.engine.stats().prompt_tokens == before + 1  # the only token it computed
    reader.assert_all_free()
    writer.assert_all_free()


def test_what_is_in_the_host_tier_is_exported_too(
    make_client: Callable[..., Client], plain: dict[str, list[int]]
) -> None:
    block_bytes = make_client(8).engine.info.block_bytes
    reader = make_client(8, kv_cache_max_tokens=64, kv_cache_host_memory_bytes=20 * block_bytes)
    writer = make_client(8)
    prompt, other = PROMPTS[-1], PROMPTS[-2]
    reader.generate(prompt, **GREEDY)
    reader.generate(other, **GREEDY)
    assert reader.engine.stats().offloaded_blocks > 0
    exported = reader.engine.export_prefix(prompt)
    assert exported.token_ids == prompt[:-1]
    reader.generate([1, 2], greedy=True, max_new_tokens=1)  # statistics are as new as the last step
    assert reader.engine.stats().onboarded_blocks > 0
    writer.engine.import_prefix(exported)
    assert writer.generate(prompt, **GREEDY).token_ids == plain[str(prompt)]
    assert writer.engine.stats().prefix_hit_tokens == len(prompt) - 1


def test_scopes_are_kept_apart(make_client: Callable[..., Client]) -> None:
    reader, writer = make_client(8), make_client(8)
    prompt = PROMPTS[-1]
    reader.generate(prompt, **GREEDY)
    assert reader.engine.export_prefix(prompt, cache_salt="other").token_ids == []
    writer.engine.import_prefix(reader.engine.export_prefix(prompt), cache_salt="other")
    assert writer.engine.export_prefix(prompt).token_ids == []
    assert writer.engine.export_prefix(prompt, cache_salt="other").token_ids == prompt[:-1]


def test_blocks_that_do_not_fit_are_refused(make_client: Callable[..., Client]) -> None:
    reader, other = make_client(8), make_client(4)
    reader.generate(PROMPTS[-1], **GREEDY)
    exported = reader.engine.export_prefix(PROMPTS[-1])
    with pytest.raises(ValueError, match="blocks of 8 tokens.*this engine's are.*blocks of 4"):
        other.engine.import_prefix(exported)
    short = _core.ExportedPrefix(exported.layout, exported.token_ids, exported.blocks[1:])
    with pytest.raises(ValueError, match="got .* bytes"):
        reader.engine.import_prefix(short)
    strange = _core.ExportedPrefix(
        exported.layout, [320], exported.blocks[: len(exported.blocks) // 6]
    )
    with pytest.raises(ValueError, match="token id 320 is not of the vocabulary of 320"):
        reader.engine.import_prefix(strange)
    small = make_client(8, kv_cache_max_tokens=32)
    with pytest.raises(RuntimeError, match="4 blocks that nobody uses, 6 are needed"):
        small.engine.import_prefix(exported)
    small.assert_all_free()
    reader.engine.close()
    with pytest.raises(RuntimeError, match="closed"):
        reader.engine.export_prefix(PROMPTS[-1])


# --- events


class Follower:
    """What a router knows of an engine's cache: blocks by hash, as the events tell."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.blocks: dict[int, tuple[int | None, list[int], int]] = {}  # parent, tokens, level
        self.next_id = 0

    def follow(self) -> list[dict[str, Any]]:
        events = self.client.engine.kv_cache_events()
        for event in events:
            assert event["event_id"] == self.next_id
            self.next_id += 1
            data = event["data"]
            if data["type"] == "stored":
                parent = data["parent_hash"]
                for block in data["blocks"]:
                    assert block["block_hash"] not in self.blocks
                    assert parent is None or parent in self.blocks
                    ids = [token["token_id"] for token in block["tokens"]]
                    self.blocks[block["block_hash"]] = (parent, ids, block["cache_level"])
                    parent = block["block_hash"]
            elif data["type"] == "removed":
                for removed in data["block_hashes"]:
                    del self.blocks[removed]
            elif data["type"] == "updated":
                parent, ids, level = self.blocks[data["block_hash"]]
                assert level == data["cache_level"]["old_value"]
                self.blocks[data["block_hash"]] = (parent, ids, data["cache_level"]["new_value"])
        return events

    def tokens_up_to(self, block: int | None) -> list[int]:
        if block is None:
            return []
        parent, ids, _ = self.blocks[block]
        return self.tokens_up_to(parent) + ids

    def matched(self, prompt: list[int], most_level: int = 1) -> int:
        """Tokens of whole blocks that the engine would find up to a level: 0 device, 1 host."""
        blocks = [block for block, facts in self.blocks.items() if facts[2] <= most_level]
        known = {tuple(self.tokens_up_to(block)) for block in blocks}
        sizes = [size for size in range(8, len(prompt), 8) if tuple(prompt[:size]) in known]
        return max(sizes, default=0)


def test_events_tell_what_the_cache_holds(make_client: Callable[..., Client], device: str) -> None:
    block_bytes = make_client(8).engine.info.block_bytes
    client = make_client(
        8,
        kv_cache_max_tokens=15 * 8,
        kv_cache_host_memory_bytes=10 * block_bytes,
        kv_cache_event_buffer_max_size=10_000,
    )
    follower = Follower(client)
    [created] = follower.follow()
    assert created["data"] == {"type": "created", "num_blocks_per_cache_level": [15, 10]}
    kinds = set()
    for prompt in PROMPTS:
        expected = {follower.matched(prompt)}
        # Where computing is quicker than copying, what is in the host is computed again.
        if device != "cpu":
            expected.add(follower.matched(prompt, most_level=0))
        before = client.engine.stats()
        client.generate(prompt, **GREEDY)
        after = client.engine.stats()
        found = after.prefix_hit_tokens - before.prefix_hit_tokens
        assert found - found % 8 in expected
        kinds |= {event["data"]["type"] for event in follower.follow()}
        levels = [level for _, _, level in follower.blocks.values()]
        assert levels.count(1) <= after.cached_host_blocks
    assert kinds == {"stored", "removed", "updated"}


def test_a_slow_follower_learns_what_it_lost(make_client: Callable[..., Client]) -> None:
    client = make_client(8, kv_cache_max_tokens=15 * 8, kv_cache_event_buffer_max_size=3)
    for prompt in PROMPTS:
        client.generate(prompt, **GREEDY)
    lost, *events = client.engine.kv_cache_events()
    assert lost["data"]["type"] == "lost" and len(events) == 3
    assert events[0]["event_id"] == lost["data"]["num_events"]
    assert client.engine.kv_cache_events(timeout=0.01) == []


def test_events_must_be_asked_for(make_client: Callable[..., Client]) -> None:
    with pytest.raises(ValueError, match="kv_cache_event_buffer_max_size is 0: no events are kept"):
        make_client(8).engine.kv_cache_events()
    with pytest.raises(ValueError, match="kv_cache_event_buffer_max_size is -1"):
        make_client(8, kv_cache_event_buffer_max_size=-1)


def test_a_wait_for_ever_does_not_end_at_once(make_client: Callable[..., Client]) -> None:
    engine = make_client(8, kv_cache_event_buffer_max_size=8).engine
    engine.kv_cache_events()
    for wait in (engine.kv_cache_events, engine.next_responses):
        waiting = threading.Thread(target=wait, args=(math.inf,), daemon=True)
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
    engine.close()
