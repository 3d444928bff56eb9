"""A model's facts from the files that HuggingFace writes beside its weights, in all their spellings."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from inflight.config import SLIDING_ATTENTION, ModelConfig, RopeConfig

# Of model types whose configuration may leave the key out, as transformers has it.
_DEFAULT_WINDOWS = {"mistral": 4096, "ministral": 4096}


def read_model_config(
    config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
) -> tuple[ModelConfig, list[str]]:
    """Of config.json and generation_config.json as transformers 4 and 5 write them; with every
    missing, wrongly typed and inconsistent key, in whose place the facts have stand-ins."""
    reader = _Reader(config, generation_config or {})
    return reader.read(), reader.problems


class _Reader:
    """Collects the problems of a config.json while reading it."""

    def __init__(self, config: Mapping[str, Any], generation_config: Mapping[str, Any]):
        self._config = config
        self._generation = generation_config
        self.problems: list[str] = []

    def read(self) -> ModelConfig:
        architectures = self._config.get("architectures") or [""]
        hidden_size = self._count("hidden_size")
        num_heads = self._count("num_attention_heads")
        num_kv_heads = self._count("num_key_value_heads", num_heads)
        head_size = self._count("head_dim", max(hidden_size // max(num_heads, 1), 1))
        if num_heads % max(num_kv_heads, 1) != 0:
            self._problem(
                "num_key_value_heads", f"{num_kv_heads} does not divide {num_heads} heads"
            )
        if head_size % 2 != 0:
            self._problem("head_dim", f"the head size {head_size} is odd, rope rotates halves")
        max_positions = self._count("max_position_embeddings", 2048)
        return ModelConfig(
            architecture=str(architectures[0]),
            vocab_size=self._count("vocab_size"),
            hidden_size=hidden_size,
            num_layers=self._count("num_hidden_layers"),
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            head_size=head_size,
            intermediate_size=self._count("intermediate_size"),
            max_position_embeddings=max_positions,
            rms_norm_epsilon=self._number(self._config, "rms_norm_eps", 1e-6),
            hidden_act=str(self._config.get("hidden_act") or "silu"),
            attention_bias=self._flag("attention_bias"),
            mlp_bias=self._flag("mlp_bias"),
            tie_word_embeddings=self._flag("tie_word_embeddings"),
            rope=self._rope(max_positions),
            dtype=self._dtype(),
            bos_token_id=self._token_id("bos_token_id"),
            eos_token_ids=self._token_ids("eos_token_id"),
            pad_token_id=self._token_id("pad_token_id"),
            sliding_window=self._sliding_window(),
            layer_types=self._layer_types(),
            quantization_method=self._quantization(),
        )

    def _problem(self, key: str, text: str) -> None:
        self.problems.append(f"config.json: {key}: {text}")

    def _count(self, key: str, default: int | None = None) -> int:
        value = self._config.get(key)
        if value is None:
            if default is None:
                self._problem(key, "missing")
                return 1
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self._problem(key, f"expected a positive integer, got {value!r}")
            return 1
        return value

    def _number(self, values: Mapping[str, Any], key: str, default: Any) -> Any:
        value = values.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self._problem(key, f"expected a number, got {value!r}")
            return default
        if not math.isfinite(value) or value <= 0:
            self._problem(key, f"expected a positive finite number, got {value!r}")
            return default
        return float(value)

    def _flag(self, key: str) -> bool:
        value = self._config.get(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            self._problem(key, f"expected true or false, got {value!r}")
        return bool(value)

    def _dtype(self) -> str | None:
        value = self._config.get("dtype") or self._config.get("torch_dtype")
        return str(value).removeprefix("torch.") if value is not None else None

    def _token_ids(self, key: str) -> tuple[int, ...]:
        # generate() of transformers takes generation_config.json first.
        value = self._generation.get(key)
        if value is None:
            value = self._config.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
            self._problem(key, f"expected token ids, got {value!r}")
            return ()
        return tuple(i for i in ids if i >= 0)  # older checkpoints write -1 for 'none'

    def _token_id(self, key: str) -> int | None:
        ids = self._token_ids(key)
        return ids[0] if ids else None

    def _sliding_window(self) -> int | None:
        default = _DEFAULT_WINDOWS.get(str(self._config.get("model_type")))
        window = self._config.get("sliding_window", default)
        if window is None or not self._config.get("use_sliding_window", True):
            return None
        return self._count("sliding_window", default)

    def _layer_types(self) -> tuple[str, ...]:
        types = tuple(map(str, self._config.get("layer_types") or ()))
        num_layers = self._config.get("num_hidden_layers")
        if types and len(types) != num_layers:
            self._problem("layer_types", f"{len(types)} types of {num_layers} layers")
        if SLIDING_ATTENTION in types and self._sliding_window() is None:
            self._problem("sliding_window", f"missing, layers of {SLIDING_ATTENTION} need it")
        return types

    def _quantization(self) -> str | None:
        settings = self._config.get("quantization_config") or self._config.get("compression_config")
        if not settings:
            return None
        return str(settings.get("quant_method", "of unknown method"))

    def _rope(self, max_positions: int) -> RopeConfig:
        values = self._config.get("rope_scaling") or self._config.get("rope_parameters") or {}
        if not isinstance(values, Mapping):
            self._problem("rope_parameters", f"expected an object, got {values!r}")
            values = {}
        if any(isinstance(value, Mapping) for value in values.values()):
            values = {"rope_type": "different by layer type"}
        rope_type = str(values.get("rope_type") or values.get("type") or "default")
        required = {
            "linear": ("factor",),
            "dynamic": ("factor",),
            "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
        }
        for key in required.get(rope_type, ()):
            if values.get(key) is None:
                self._problem(key, f"missing, rope type {rope_type!r} needs it")
        names = [f.name for f in fields(RopeConfig) if f.type == float | None]
        numbers = {name: self._number(values, name, None) for name in names}
        if numbers["partial_rotary_factor"] is None:
            numbers["partial_rotary_factor"] = self._number(
                self._config, "partial_rotary_factor", None
            )
        original = None
        if rope_type in ("llama3", "yarn"):
            # transformers gives the key beside the rope values priority over the one within
            original = self._number(self._config, "original_max_position_embeddings", None)
            if original is None:
                original = self._number(
                    values, "original_max_position_embeddings", float(max_positions)
                )
            original = int(original)
        if rope_type == "yarn" and numbers["factor"] is None and original:
            numbers["factor"] = max_positions / original
        theta = self._number(values, "rope_theta", None)
        if theta is None:
            theta = self._number(self._config, "rope_theta", 10000.0)
        if theta <= 1:
            self._problem("rope_theta", f"expected more than 1, got {theta}")
        low, high = numbers["low_freq_factor"], numbers["high_freq_factor"]
        if rope_type == "llama3" and low and high and low >= high:
            self._problem("high_freq_factor", f"expected more than low_freq_factor {low}: {high}")
        truncate = values.get("truncate")
        return RopeConfig(
            rope_type=rope_type,
            theta=theta,
            original_max_position_embeddings=original,
            truncate=True if truncate is None else bool(truncate),
            **numbers,
        )
