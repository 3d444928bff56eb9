"""Greedy tokens in float32 are the same whoever had to give its blocks up, and whatever of it was
found again, in the pool or in host memory: pools of a few blocks under max_utilization, static
batches, and the plain run."""

from __future__ import annotations

from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from inflight.llm import KvCacheConfig, SchedulerConfig
from random_llamas import Case, make_case, make_model

CASES = [make_case(seed, num_prompts=12) for seed in range(5)]  # one of each rope type
LIMITS = {
    "max_batch_size": 6,
    "max_num_tokens": 48,
    "max_seq_len": 160,
    "tokens_per_block": 8,
}


def answers(engine: Path, device: str, prompts: list[list[int]], **settings) -> tuple:
    params = SamplingParams(max_tokens=48, ignore_eos=True)
    with LLM(engine, device=device, skip_tokenizer_init=True, **settings) as llm:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs], llm.get_stats()


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_tiny_pools_change_no_token(case: Case, tmp_path: Path, device: str):
    make_model(case).save_pretrained(tmp_path / "checkpoint")
    engine = build_engine(tmp_path / "checkpoint", tmp_path / "engine", dtype="float32", **LIMITS)
    # Some begin alike, so that there is something to share.
    prompts = [
        list(case.prompts[i % 4][:40]) + list(prompt)[: 5 + 6 * i]
        for i, prompt in enumerate(case.prompts)
    ]
    plain, stats = answers(engine, device, prompts, kv_cache_config=KvCacheConfig(max_tokens=8192))
    assert stats.preemptions == 0 and {len(tokens) for tokens in plain} == {48}
    for reuse, host_bytes in ((False, 0), (True, 0), (True, 1 << 20)):
        small = KvCacheConfig(max_tokens=192, enable_block_reuse=reuse, host_cache_size=host_bytes)
        tokens, stats = answers(
            engine,
            device,
            prompts,
            kv_cache_config=small,
            scheduler_config=SchedulerConfig("max_utilization"),
        )
        assert tokens == plain
        assert stats.preemptions > 0 and stats.paused_requests == 0
        assert stats.generated_tokens == 12 * 48
        comes_back = host_bytes > 0 and "dynamic" not in str(case)  # which reuses nothing
        assert (stats.offloaded_blocks > 0) == (stats.onboarded_blocks > 0) == comes_back
    tokens, stats = answers(
        engine, device, prompts, scheduler_config=SchedulerConfig("static_batch")
    )
    assert tokens == plain and stats.preemptions == 0


def test_settings_that_mean_nothing_are_refused(tmp_path: Path):
    make_model(CASES[0]).save_pretrained(tmp_path / "checkpoint")
    engine = build_engine(tmp_path / "checkpoint", tmp_path / "engine", **LIMITS)
    for config, message in (
        (SchedulerConfig("first_come"), "batch_scheduler_policy is 'first_come', must be"),
        (SchedulerConfig(max_time_per_output_token_ms=-3), "max_time_per_output_token_ms -3 < 0"),
    ):
        with pytest.raises(ValueError, match=message):
            LLM(engine, device="cpu", skip_tokenizer_init=True, scheduler_config=config)
    with pytest.raises(ValueError, match="needs enable_chunked_context"):
        LLM(
            engine,
            device="cpu",
            skip_tokenizer_init=True,
            enable_chunked_prefill=False,
            scheduler_config=SchedulerConfig(max_time_per_output_token_ms=5),
        )
