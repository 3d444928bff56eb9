"""Small Llamas with dummy weights on CUDA, for what only a GPU does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from inflight import LLM, _core
from inflight.llm import KvCacheConfig

VOCABULARY = 4096
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
