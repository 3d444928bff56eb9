"""Greedy tokens in float32 are the same whether prompts find what others left in the KV cache or not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from inflight.llm import KvCacheConfig, KvCacheRetentionConfig
from random_llamas import make_case, make_model


def growing_chats(vocab_size: int) -> list[list[list[int]]]:
    """Rounds of prompts: a shared beginning, chats that grow, some the same, some parting midway."""
    draw = random.Random(5)

    def ids(count: int) -> list[int]:
        return [draw.randrange(vocab_size) for _ in range(count)]

    system = ids(37)
    chats = [system + ids(draw.randrange(1, 30)) for _ in range(6)]
    chats += [chats[0], chats[1][:41] + ids(5), ids(50)]
    rounds = []
    for _ in range(3):
        rounds.append([list(chat) for chat in chats])
        chats = [chat + ids(draw.randrange(1, 9)) for chat in chats]
    return rounds


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reuse")
    case = make_case(seed=3, num_prompts=1)
    make_model(case).save_pretrained(folder / "checkpoint")
    return build_engine(
        folder / "checkpoint",
        folder / "engine",
        max_batch_size=4,
        max_num_tokens=48,
        max_seq_len=160,
        tokens_per_block=8,
    )


def answers(llm: LLM, rounds: list[list[list[int]]]) -> list[list[list[int]]]:
    params = SamplingParams(max_tokens=7, ignore_eos=True)
    return [
        [output.outputs[0].token_ids for output in llm.generate(prompts, params, use_tqdm=False)]
        for prompts in rounds
    ]


@pytest.mark.usefixtures("one_torch_thread")
def test_reuse_changes_no_token(engine: Path, device: str):
    def load(reuse: bool, max_tokens: int) -> LLM:
        return LLM(
            engine,
            device=device,
            skip_tokenizer_init=True,
            kv_cache_config=KvCacheConfig(enable_block_reuse=reuse, max_tokens=max_tokens),
        )

    with load(reuse=False, max_tokens=4096) as llm:
        rounds = growing_chats(llm.info.vocab_size)
        expected = answers(llm, rounds)
        stats = llm.get_stats()
        assert not llm.info.enable_kv_cache_reuse
        assert (stats.prefix_hit_tokens, stats.cached_blocks) == (0, 0)
    for max_tokens in (4096, 240):  # room for all, and hardly for two at once
        with load(reuse=True, max_tokens=max_tokens) as llm:
            assert answers(llm, rounds) == expected
            stats = llm.get_stats()
            assert stats.prefix_hit_tokens > 400 and stats.copied_blocks > 0
            assert (stats.evicted_blocks > 0) == (max_tokens == 240)
            assert stats.used_blocks == 0


@pytest.mark.usefixtures("one_torch_thread")
def test_salts_do_not_share(engine: Path, device: str):
    prompt = list(range(40))
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        hits = [0]
        for salt in (None, "a", "a", "b", None):
            llm.generate_async(prompt, params, cache_salt=salt).result()
            hits.append(llm.get_stats().prefix_hit_tokens)
        gained = [after - before for before, after in zip(hits, hits[1:], strict=False)]
        assert gained == [0, 0, 39, 0, 39]


@pytest.mark.usefixtures("one_torch_thread")
def test_a_salt_for_each_prompt(engine: Path, device: str):
    prompt = list(range(40))
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        llm.generate([prompt, prompt], params, cache_salt=["a", "b"], use_tqdm=False)
        assert llm.get_stats().prefix_hit_tokens == 0
        llm.generate([prompt, prompt], params, cache_salt=["b", "c"], use_tqdm=False)
        assert llm.get_stats().prefix_hit_tokens == 39
        llm.generate(prompt, params, cache_salt="c")
        assert llm.get_stats().prefix_hit_tokens == 78
        with pytest.raises(ValueError, match="cache_salt has 1 values for 2 prompts"):
            llm.generate([prompt, prompt], params, cache_salt=["a"])
        with pytest.raises(
            ValueError, match="cache_salt has 1025 bytes; at most 1024 are possible"
        ):
            llm.generate(prompt, params, cache_salt="x" * 1025)
        with pytest.raises(ValueError, match="tenant has 257 bytes; at most 256 are possible"):
            llm.generate(prompt, params, tenant="x" * 257)


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(("kept", "expected"), [(False, 0), (True, 39)])
def test_a_prompt_is_kept_that_asks_for_it(engine: Path, device: str, kept: bool, expected: int):
    """With room for six prompts, one is asked for again after seven others."""
    first, *others = [[start + i for i in range(40)] for start in range(0, 8 * 11, 11)]
    params = SamplingParams(max_tokens=1, ignore_eos=True)
    span = KvCacheRetentionConfig.TokenRangeRetentionConfig(0, None, 90)
    retention = KvCacheRetentionConfig([span]) if kept else None
    config = KvCacheConfig(max_tokens=240)
    with LLM(engine, device=device, skip_tokenizer_init=True, kv_cache_config=config) as llm:
        llm.generate(first, params, kv_cache_retention_config=retention)
        for prompt in others:
            llm.generate(prompt, params)
        assert llm.get_stats().prefix_hit_tokens == 0
        llm.generate_async(first, params, kv_cache_retention_config=retention).result()
        assert llm.get_stats().prefix_hit_tokens == expected
