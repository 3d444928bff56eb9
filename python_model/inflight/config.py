"""What a model is, what an engine is built for, how it is spread: plain frozen facts.

Knows the spellings of HuggingFace configuration files and nothing else of ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

DTYPES = ("float32", "float16", "bfloat16")
LOAD_FORMATS = ("auto", "dummy")  # of weights: from files, or random
DEFAULT_MAX_BATCH_SIZE = 64
DEFAULT_MAX_NUM_TOKENS = 2048
DEFAULT_TOKENS_PER_BLOCK = 32
FULL_ATTENTION, SLIDING_ATTENTION = "full_attention", "sliding_attention"  # in layer_types
# Of model types whose configuration may leave the key out, as transformers has it.
_DEFAULT_WINDOWS = {"mistral": 4096, "ministral": 4096}


class ProblemsError(ValueError):
    """Everything that is wrong with one thing, in one error."""

    def __init__(self, subject: str, problems: Sequence[str]):
        self.subject = subject
        self.problems = tuple(problems)
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{subject}:{lines}")


@dataclass(frozen=True)
class RopeConfig:
    """Rotary embedding as transformers 5 writes it in `rope_parameters`; None is 'not given'."""

    rope_type: str = "default"
    theta: float = 10000.0
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    partial_rotary_factor: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The facts of a decoder-only model, the same whoever wrote its config.json."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_epsilon: float = 1e-6
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    rope: RopeConfig = field(default_factory=RopeConfig)
    dtype: str | None = None  # of the checkpoint, where config.json names it
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    sliding_window: int | None = None  # tokens that a token sees, itself included
    layer_types: tuple[str, ...] = ()  # by layer; without: all have the window, if there is one
    quantization_method: str | None = None

    @staticmethod
    def from_hf(
        config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
    ) -> "ModelConfig":
        """Reads config.json and generation_config.json as transformers 4 and 5 write them.

        Raises ProblemsError with every missing, wrongly typed and inconsistent key.
        """
        model, problems = ModelConfig.read_hf(config, generation_config)
        if problems:
            raise ProblemsError("config.json cannot be used", problems)
        return model

    @staticmethod
    def read_hf(
        config: Mapping[str, Any], generation_config: Mapping[str, Any] | None = None
    ) -> tuple["ModelConfig", list[str]]:
        """The same for those who have other problems to add: stand-ins where a key is wrong."""
        reader = _HfReader(config, generation_config or {})
        return reader.read(), reader.problems

    def window_of(self, layer: int) -> int:
        """Tokens that a token sees in `layer`, itself included; 0: all before it."""
        if self.layer_types and self.layer_types[layer] != SLIDING_ATTENTION:
            return 0
        return self.sliding_window or 0

    @property
    def layer_windows(self) -> tuple[int, ...]:
        """What layers see, each of them once, in the order in which layers first do: the layers of
        one have a block table and a pool of their own."""
        return tuple(dict.fromkeys(map(self.window_of, range(self.num_layers))))

    @property
    def longest_sequence(self) -> int:
        """The longest sequence that an engine takes if the build does not say."""
        if self.rope.rope_type == "dynamic":
            return int(self.max_position_embeddings * (self.rope.factor or 1.0))
        return self.max_position_embeddings

    @property
    def rope_limit(self) -> int:
        """The longest sequence that the rotary embedding is made for."""
        factor = max(self.rope.factor or 1.0, 1.0)
        if self.rope.rope_type in ("linear", "dynamic"):
            return int(self.max_position_embeddings * factor)
        original = self.rope.original_max_position_embeddings
        if self.rope.rope_type in ("llama3", "yarn") and original is not None:
            return max(self.max_position_embeddings, int(original * factor))
        return self.max_position_embeddings

    def to_json(self) -> dict[str, Any]:
        facts = asdict(self)
        facts["eos_token_ids"] = list(self.eos_token_ids)
        facts["layer_types"] = list(self.layer_types)
        return facts

    @staticmethod
    def from_json(facts: Mapping[str, Any]) -> "ModelConfig":
        values = dict(facts)
        values["rope"] = RopeConfig(**values["rope"])
        values["eos_token_ids"] = tuple(values["eos_token_ids"])
        values["layer_types"] = tuple(values["layer_types"])
        return ModelConfig(**values)


@dataclass(frozen=True)
class ParallelConfig:
    """How many ranks share a model, and along what."""

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1

    def to_json(self) -> dict[str, int]:
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, int]) -> "ParallelConfig":
        return ParallelConfig(**values)


@dataclass(frozen=True)
class BuildConfig:
    """What the user asks of a build; None is 'choose for me', settled by `resolve`."""

    dtype: str = "auto"
    max_batch_size: int | None = None
    max_seq_len: int | None = None
    max_num_tokens: int | None = None
    max_beam_width: int = 1
    tokens_per_block: int = DEFAULT_TOKENS_PER_BLOCK
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    pack: bool = False

    def resolve(self, model: ModelConfig, stored_dtype: str) -> "BuildConfig":
        """The same with every choice made; `stored_dtype` is that of the checkpoint's tensors.

        Raises ProblemsError with every limit that does not fit.
        """
        problems = []
        dtype = (model.dtype or stored_dtype) if self.dtype == "auto" else self.dtype
        if dtype not in DTYPES:
            problems.append(f"dtype is {dtype!r}, supported are {', '.join(DTYPES)}")
        for name in ("max_batch_size", "max_seq_len", "max_num_tokens", "tokens_per_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}, the least is 1")
        if self.max_beam_width != 1:
            problems.append(f"max_beam_width is {self.max_beam_width}, only 1 is supported")
        if self.parallel != ParallelConfig():
            problems.append(f"parallel is {self.parallel.to_json()}, only one rank is supported")
        if self.max_seq_len is not None and self.max_seq_len > model.rope_limit:
            problems.append(
                f"max_seq_len is {self.max_seq_len}, the model's positions end at "
                f"{model.rope_limit}"
            )
        batch = self.max_batch_size
        if batch is None:
            batch = min(DEFAULT_MAX_BATCH_SIZE, self.max_num_tokens or DEFAULT_MAX_BATCH_SIZE)
        tokens = self.max_num_tokens
        if tokens is None:
            tokens = max(DEFAULT_MAX_NUM_TOKENS, batch)
        if tokens < batch:
            problems.append(
                f"max_num_tokens is {tokens}, at least max_batch_size ({batch}) is needed: "
                "a step runs one token of each sequence"
            )
        if problems:
            raise ProblemsError("the build limits do not fit", problems)
        return replace(
            self,
            dtype=dtype,
            max_batch_size=batch,
            max_num_tokens=tokens,
            max_seq_len=self.max_seq_len or model.longest_sequence,
        )

    def limits_json(self) -> dict[str, int]:
        names = ("max_batch_size", "max_num_tokens", "max_seq_len", "max_beam_width")
        return {name: getattr(self, name) for name in names}


class _HfReader:
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
