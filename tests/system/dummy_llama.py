"""Small Llamas with dummy weights on CUDA, for what only a GPU does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams, _core
from inflight.llm import KvCacheConfig, Logprob

VOCABULARY = 4096
CLOSE = 0.1  # of log-probabilities in bfloat16
Answer = tuple[list[int], list[dict[int, Logprob]]]
ON_CUDA = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]


def write_model(
    folder: Path, *, hidden: int, inner: int, layers: int, heads: int, kv_heads: int
) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(model: Path, cache_tokens: int, dtype: str = "bfloat16", **options: int) -> LLM:
    """Without reuse: what a prompt finds in the cache changes which rows run together."""
    return LLM(
        model,
        device="cuda",
        dtype=dtype,
        load_format="dummy",
        kv_cache_config=KvCacheConfig(max_tokens=cache_tokens, enable_block_reuse=False),
        **options,
    )


def answers(llm: LLM, prompts: list[list[int]], params: SamplingParams) -> list[Answer]:
    """`params` ask for log-probabilities."""
    outputs = llm.generate(prompts, [params] * len(prompts))
    return [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs]


def check_alike(got: list[Answer], want: list[Answer]) -> None:
    """Greedy answers of kernels that add up in different orders."""
    num_equal = 0
    for (tokens, logprobs), (their_tokens, their_logprobs) in zip(got, want, strict=True):
        for token, its, other, theirs in zip(
            tokens, logprobs, their_tokens, their_logprobs, strict=True
        ):
            assert its[token].logprob == pytest.approx(theirs[other].logprob, abs=CLOSE)
            if token != other:  # as likely as each other; what follows is another text
                assert theirs[other].logprob - theirs[token].logprob < CLOSE
                break
            num_equal += 1
    assert num_equal > len(got)  # two ids may be as likely from an answer's first token on
