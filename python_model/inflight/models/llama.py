"""Llama 1 to 3.x, and what calls itself LlamaForCausalLM."""

from inflight.checkpoint.mapping import CheckpointMapping
from inflight.config import ModelConfig
from inflight.models.decoder import build_decoder, unsupported
from inflight.models.family import ModelFamily

_ATTENTION = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
_MLP = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def _names() -> dict[str, str]:
    names = {
        "embedding.weight": "model.embed_tokens.weight",
        "final_norm.weight": "model.norm.weight",
        "lm_head.weight": "lm_head.weight",
        "layers.{i}.input_norm.weight": "model.layers.{i}.input_layernorm.weight",
        "layers.{i}.post_attention_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    }
    for part in ("weight", "bias"):
        for ours, theirs in _ATTENTION.items():
            names[f"layers.{{i}}.attention.{ours}.{part}"] = (
                f"model.layers.{{i}}.self_attn.{theirs}.{part}"
            )
        for ours, theirs in _MLP.items():
            names[f"layers.{{i}}.mlp.{ours}.{part}"] = f"model.layers.{{i}}.mlp.{theirs}.{part}"
    return names


def mapping(config: ModelConfig) -> CheckpointMapping:
    # older checkpoints store the frequencies, and tied ones at times both copies of the table
    unused = [r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq"]
    if config.tie_word_embeddings:
        unused.append(r"lm_head\.weight")
    return CheckpointMapping(_names(), tuple(unused))


FAMILY = ModelFamily(mapping=mapping, unsupported=unsupported, graph=build_decoder)
