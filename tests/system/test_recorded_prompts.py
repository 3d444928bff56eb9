"""A short prompt alone: called, then recorded, then run from the recording, it is the same."""

from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from inflight.llm import KvCacheConfig

DEMO_MODEL = Path(__file__).parents[2] / "demo_model"
LENGTHS = (2, 31, 33, 100, 130, 300, 480)  # the last in two chunks


def prompts() -> list[list[int]]:
    return [[3 + (i * i + 7 * n) % 500 for i in range(n)] for n in LENGTHS]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_same_answer_each_time(
    dtype: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Both engines take the algorithms that the first one finds the fastest.
    monkeypatch.setenv("INFLIGHT_TACTICS", str(tmp_path / "tactics"))
    # What a prompt finds in the cache changes which rows run together, and so the last bits.
    cache = KvCacheConfig(enable_block_reuse=False)
    params = SamplingParams(max_tokens=4, ignore_eos=True, logprobs=2, detokenize=False)
    answers = []
    for cuda_graphs in (False, True):
        options = {"max_batch_size": 8, "max_num_tokens": 400, "max_seq_len": 512}
        engine = build_engine(DEMO_MODEL, tmp_path / f"{cuda_graphs}", dtype=dtype, **options)
        options = {"enable_cuda_graphs": cuda_graphs, "kv_cache_config": cache}
        with LLM(engine, device=device, **options) as llm:
            # In turns, so that a recording meets what another prompt has left in memory.
            for _ in range(4):
                answers.append([llm.generate(p, params).outputs[0] for p in prompts()])
    for later in answers[1:]:
        for a, b in zip(answers[0], later, strict=True):
            assert a.token_ids == b.token_ids
            assert a.logprobs == b.logprobs
