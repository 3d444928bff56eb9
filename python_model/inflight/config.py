"""What a model is, what an engine is built for, how it is spread: plain frozen facts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

DTYPES = ("float32", "float16", "bfloat16")
LOAD_FORMATS = ("auto", "dummy")  # of weights: from files, or random
DEFAULT_MAX_BATCH_SIZE = 64
DEFAULT_MAX_NUM_TOKENS = 2048
DEFAULT_TOKENS_PER_BLOCK = 32
FULL_ATTENTION, SLIDING_ATTENTION = "full_attention", "sliding_attention"  # in layer_types


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


_MOST = 2**31 - 1  # of every limit: what an engine counts with
_MOST_IN_A_BLOCK = 2**16 - 1  # tokens, likewise


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
            most = _MOST_IN_A_BLOCK if name == "tokens_per_block" else _MOST
            if value is not None and value > most:
                problems.append(f"{name} is {value}, the most is {most}")
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
