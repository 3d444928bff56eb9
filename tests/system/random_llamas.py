"""Random tiny Llamas for comparisons with transformers: configurations, prompts, checkpoints."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")
LONGEST_PROMPT = 300
NUM_GENERATED = 64


@dataclass(frozen=True)
class Case:
    """A model, the limits of its engine, and prompts."""

    seed: int
    config: dict[str, Any]
    build: dict[str, int]
    prompts: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        config = self.config
        heads = f"{config['num_attention_heads']}to{config['num_key_value_heads']}"
        return f"{self.seed}-{config['rope_parameters']['rope_type']}-{heads}"


def make_case(seed: int, num_prompts: int) -> Case:
    """Case `seed` of the endless list: rope types take turns, all else is drawn."""
    draw = random.Random(seed)
    rope_type = ROPE_TYPES[seed % len(ROPE_TYPES)]
    ratio = 1 + (seed * 3 + seed // 8) % 8  # every ratio from 1 to 8 comes with every rope type
    num_kv_heads = draw.choice((1, 2, 3) if ratio < 5 else (1, 2))
    num_heads = ratio * num_kv_heads
    config = {
        "vocab_size": draw.choice((211, 256, 307)),
        "hidden_size": num_heads * draw.choice((5, 8, 11)),
        "head_dim": draw.choice((6, 8, 16, 22)),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "num_hidden_layers": draw.choice((1, 2, 3)),
        "intermediate_size": draw.choice((33, 64, 101)),
        "rms_norm_eps": draw.choice((1e-5, 1e-6)),
        "tie_word_embeddings": draw.random() < 0.4,
        "attention_bias": draw.random() < 0.4,
        "mlp_bias": draw.random() < 0.4,
        "max_position_embeddings": 128 if rope_type == "dynamic" else 512,
        "rope_parameters": _rope_parameters(rope_type, draw),
        "bos_token_id": 1,
        "eos_token_id": 2,
        # The usual 0.02 would make every next token much the same.
        "initializer_range": draw.choice((0.15, 0.25)),
    }
    build = {
        "max_batch_size": draw.choice((1, 3, 7, 16)),
        "max_num_tokens": draw.choice((17, 64, 512)),
        "tokens_per_block": draw.choice((1, 5, 16, 32)),
        "max_seq_len": LONGEST_PROMPT + NUM_GENERATED,
    }
    build["max_num_tokens"] = max(build["max_num_tokens"], build["max_batch_size"])
    lengths = [draw.randint(1, LONGEST_PROMPT) for _ in range(num_prompts)]
    lengths[:2] = [1, LONGEST_PROMPT]
    draw.shuffle(lengths)
    prompts = tuple(
        tuple(draw.randrange(config["vocab_size"]) for _ in range(length)) for length in lengths
    )
    return Case(seed, config, build, prompts)


def _rope_parameters(rope_type: str, draw: random.Random) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "rope_type": rope_type,
        "rope_theta": draw.choice((100.0, 10000.0, 500000.0)),
    }
    if rope_type == "linear":
        parameters["factor"] = draw.choice((2.0, 3.5))
    elif rope_type == "dynamic":  # prompts and answers cross the 128 positions of the model
        parameters["factor"] = draw.choice((3.0, 4.0))
    elif rope_type == "llama3":
        parameters |= {
            "factor": draw.choice((4.0, 8.0)),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    elif rope_type == "yarn":
        parameters |= {"factor": draw.choice((4.0, 8.0)), "original_max_position_embeddings": 64}
    return parameters


def make_model(case: Case, dtype: str = "float32", family: str = "Llama"):
    """The <family>ForCausalLM of a case, with biases and norms that matter."""
    import torch
    import transformers

    torch.manual_seed(case.seed)
    config = getattr(transformers, f"{family}Config")(**case.config)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.to(getattr(torch, dtype)).eval()


def greedy_of_transformers(model, prompt: tuple[int, ...], num_tokens: int) -> list[int]:
    """One request with its KV cache, as `generate(do_sample=False)` runs it, without its overhead."""
    import torch
    from transformers import DynamicCache

    # Dynamic scaling keeps the longest length it has met: each request starts afresh.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    cache = (
        DynamicCache()
    )  # that of a configuration with a window of 1 forgets nothing, nor masks it
    ids, tokens = torch.tensor([prompt]), []
    with torch.inference_mode():
        for _ in range(num_tokens):
            logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            tokens.append(int(logits[0, -1].argmax()))
            ids = torch.tensor([tokens[-1:]])
    return tokens
