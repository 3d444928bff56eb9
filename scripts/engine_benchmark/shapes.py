"""Shapes of models that are measured with dummy weights, and the figures they are held against.

`PEER` is vLLM 0.22.1 on one H200, bfloat16, dummy weights, FlashAttention 3, CUDA graphs,
asynchronous scheduling, no prefix cache. `FLOOR` is what memory and arithmetic of that GPU allow.
"""

from typing import Any

_LLAMA3: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
    "rope_theta": 500000.0,
}
_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

MODELS: dict[str, dict[str, Any]] = {
    "M8": {  # Llama-3.1-8B
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
        "rope_scaling": {**_ROPE, "factor": 8.0},
    },
    "M1": {  # Llama-3.2-1B
        **_LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_scaling": {**_ROPE, "factor": 32.0},
    },
    "tiny": {  # to try this script on anything
        **_LLAMA3,
        "vocab_size": 1024,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rope_scaling": {**_ROPE, "factor": 8.0},
    },
}

TTFT_LENGTHS = (128, 2048, 8000)
BATCHES = (8, 32, 64, 128, 256)
THROUGHPUT = (
    (128, 128),
    (1024, 128),
    (128, 1024),
    (2048, 128),
)  # tokens in and out of a request


def one_key() -> str:
    return "one request 128/256: ms per token"


def ttft_key(length: int) -> str:
    return f"first token, {length} in: ms"


def batch_key(batch: int) -> str:
    return f"batch {batch}, 128/128: ms per token"


def throughput_key(num_in: int, num_out: int) -> str:
    return f"1,000 at once, {num_in}/{num_out}: output tok/s"


START_KEY = "process start to first token: s"


def is_rate(key: str) -> bool:
    """Larger is better."""
    return key.endswith("tok/s")


def _figures(
    one: float | None,
    ttft: tuple[float | None, ...],
    batches: tuple[float, ...],
    throughput: tuple[float, ...],
    others: dict[str, float],
) -> dict[str, float]:
    values: dict[str, float | None] = {one_key(): one, **others}
    values |= {ttft_key(n): value for n, value in zip(TTFT_LENGTHS, ttft, strict=False)}
    values |= {batch_key(n): value for n, value in zip(BATCHES, batches, strict=False)}
    values |= {throughput_key(*n): v for n, v in zip(THROUGHPUT, throughput, strict=False)}
    return {key: value for key, value in values.items() if value is not None}


PEER = {
    "M8": _figures(
        4.97,
        (7.9, 51.1, 213.8),
        (5.08, 5.47, 5.95, 7.22, 10.9),
        (16294, 3943, 18130, 2034),
        {START_KEY: 35.0},
    ),
    "M1": _figures(
        1.235,
        (None, 10.7, 39.5),
        (1.27, 1.47, 1.85, 2.55, 3.84),
        (60925, 20948, 68639, 10849),
        {},
    ),
}
GOAL = {
    "M8": _figures(
        3.75,
        (5.5, 43, 190),
        (3.9, 4.3, 4.8, 6.0, 9.0),
        (20400, 4900, 22000, 2500),
        {START_KEY: 3.0},
    ),
    "M1": _figures(
        0.68,
        (None, 7.5, 32),
        (0.75, 0.95, 1.2, 1.8, 2.7),
        (98000, 29000, 105000, 14500),
        {},
    ),
}
FLOOR = {
    "M8": _figures(3.49, (3.5, 38, 174), (), (), {}),
    "M1": _figures(0.575, (), (), (), {}),
}
