"""Steps of few rows run all layers in one launch where the engine holds the GPU's lease: they answer
what another engine's steps, which go op by op, answer."""

import json
import random
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams, _core
from inflight.llm import KvCacheConfig, Logprob

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
CLOSE = 0.1  # of log-probabilities in bfloat16
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=2, detokenize=False)


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One that holds the lease and one that does not."""
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    cache = KvCacheConfig(max_tokens=8192, enable_block_reuse=False)
    options = {"device": "cuda", "dtype": "bfloat16", "load_format": "dummy"}
    with LLM(model, kv_cache_config=cache, **options) as first:
        first.generate([1, 2, 3], PARAMS)
        if not list(runtime.iterdir()):
            pytest.skip("no engine of this GPU has such grids")
        with LLM(model, kv_cache_config=cache, **options) as second:
            yield first, second


def answers(llm: LLM, prompts: list[list[int]]) -> list[tuple[list[int], list[dict[int, Logprob]]]]:
    outputs = llm.generate(prompts, [PARAMS] * len(prompts))
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


@pytest.mark.parametrize("lengths", [(7,), (700,), (40, 1300), (3, 17, 600)], ids=str)
def test_it_answers_what_the_ops_answer(engines: tuple[LLM, LLM], lengths: tuple[int, ...]):
    draw = random.Random(len(lengths))
    prompts = [draw.choices(range(CONFIG["vocab_size"]), k=length) for length in lengths]
    for _ in range(3):  # called, recorded and run from the recording
        got = answers(engines[0], prompts)
    want = answers(engines[1], prompts)
    for (tokens, logprobs), (their_tokens, their_logprobs) in zip(got, want, strict=True):
        num_equal = 0
        for token, its, other, theirs in zip(
            tokens, logprobs, their_tokens, their_logprobs, strict=True
        ):
            assert its[token].logprob == pytest.approx(theirs[other].logprob, abs=CLOSE)
            if token != other:  # as likely as each other; what follows is another text
                assert theirs[other].logprob - theirs[token].logprob < CLOSE
                break
            num_equal += 1
        assert num_equal > 0
