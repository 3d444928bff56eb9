"""What one prompt's answer shall be like. Names as in TensorRT-LLM's LLM API and vLLM."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SamplingParams:
    """Without temperature, top_k and top_p the answer is greedy: the likeliest token each time, as
    in TensorRT-LLM. Setting one of them samples, the other two then leave the distribution as it
    is. temperature=0, top_k=1 and top_p=0 are greedy too.

    A value that can be judged without the model is judged here (ValueError); the vocabulary and
    the engine's limits are the engine's affair.
    """

    max_tokens: int | None = 32
    """Most tokens to generate; None = as many as the engine's max_seq_len leaves room for."""
    temperature: float | None = None
    top_k: int | None = None
    """Only the k likeliest tokens; 0 = all."""
    top_p: float | None = None
    """Only the likeliest tokens that together reach probability p; 1 = all."""
    min_p: float | None = None
    """Only tokens of at least min_p times the likeliest token's probability; 0 = all."""
    top_p_decay: float | None = None
    """top_p shrinks by this factor with each token (factual nucleus sampling); 1 = not."""
    top_p_min: float | None = None
    """But not below this."""
    top_p_reset_ids: int | None = None
    """After this token top_p is the first one again; -1 = none."""
    repetition_penalty: float | None = None
    """Over prompt and answer; 1 = none."""
    presence_penalty: float | None = None
    """Over the answer; 0 = none."""
    frequency_penalty: float | None = None
    """Over the answer; 0 = none."""
    prompt_ignore_length: int | None = None
    """So many first tokens of the prompt count for no penalty."""
    no_repeat_ngram_size: int | None = None
    """No sequence of so many tokens comes twice in prompt and answer; 0 = off."""
    embedding_bias: Any = field(default=None, compare=False)
    """Numbers, one for each id of the vocabulary, added to the logits of every step."""
    logit_bias: dict[int, float] | None = None
    """The same for some ids; -inf bans an id. Both add up."""
    seed: int | None = None
    """The same seed gives the same tokens, whatever else runs. None: a fresh one each request."""

    stop: str | list[str] | None = None
    """Texts that end the answer; found in the text, wherever the tokens' borders are."""
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    """Keep the stop text (or token) at the end of the answer."""
    bad: str | list[str] | None = None
    """Texts whose tokens are barred, as the tokenizer cuts them with and without a blank before."""
    bad_token_ids: list[int] | None = None
    end_id: int | None = None
    """Instead of the model's own end ids; -1 = none."""
    end_ids: list[int] | None = None
    """The same for any number of them; [] = none."""
    pad_id: int | None = None
    """Accepted for its name: batches are packed, nothing is ever padded."""
    ignore_eos: bool = False
    """Go on after the model's end ids."""
    min_tokens: int = 0
    """No end id and no stop before so many tokens."""

    timeout_ms: int | None = None
    """After so many milliseconds the answer ends with what it has, finish_reason "deadline"; one that
    has no token yet ends with an error. None: no limit."""

    logprobs: int | None = None
    """0: log-probabilities of the chosen tokens; n: and of the n likeliest; None: none."""
    normalize_log_probs: bool = True
    """Log-probabilities of the distribution drawn from; False: of all ids, as if top_k, top_p and
    min_p were off. A greedy answer has the latter in both cases."""
    prompt_logprobs: int | None = None
    """Likewise of the prompt's tokens, each given those before it: 0, n, or None."""
    return_context_logits: bool = False
    """The prompt's logits, as the model made them: RequestOutput.context_logits."""
    return_generation_logits: bool = False
    """Those that the answer's tokens were chosen from: CompletionOutput.generation_logits."""
    n: int = 1
    """Answers for a prompt. Only 1 is supported."""

    detokenize: bool = True
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    add_special_tokens: bool = True
    """Let the tokenizer put its begin (and end) tokens around a text prompt."""
    exclude_input_from_output: bool = True
    """False: text and token_ids begin with the prompt's."""

    def __post_init__(self) -> None:
        _require(self.n == 1, f"n={self.n}: only one answer a prompt is supported (n=1)")
        if self.max_tokens is not None:
            _require(self.max_tokens >= 1, f"max_tokens={self.max_tokens} must be at least 1")
        _require(self.min_tokens >= 0, f"min_tokens={self.min_tokens} must be at least 0")
        if self.max_tokens is not None:
            _require(
                self.min_tokens <= self.max_tokens,
                f"min_tokens={self.min_tokens} must be at most max_tokens={self.max_tokens}",
            )
        if self.timeout_ms is not None:
            _require(self.timeout_ms >= 1, f"timeout_ms={self.timeout_ms} must be at least 1")
        self._check_range("temperature", self.temperature, 0.0, math.inf)
        self._check_range("top_p", self.top_p, 0.0, 1.0)
        self._check_range("min_p", self.min_p, 0.0, 1.0)
        self._check_range("top_p_decay", self.top_p_decay, 0.0, 1.0)
        _require(self.top_p_decay != 0, "top_p_decay=0 must be greater than 0")
        self._check_range("top_p_min", self.top_p_min, 0.0, 1.0)
        for name, least in (
            ("top_p_reset_ids", -1),
            ("prompt_ignore_length", 0),
            ("no_repeat_ngram_size", 0),
        ):
            value = getattr(self, name)
            _require(value is None or value >= least, f"{name}={value} must be at least {least}")
        for id, bias in (self.logit_bias or {}).items():
            _require(
                not math.isnan(bias) and bias != math.inf,
                f"logit_bias[{id}]={bias} must be a finite number or -inf",
            )
        _require(
            self.end_id is None or self.end_ids is None,
            f"end_id={self.end_id} and end_ids={self.end_ids}: give one of them",
        )
        self._check_range("presence_penalty", self.presence_penalty, -math.inf, math.inf)
        self._check_range("frequency_penalty", self.frequency_penalty, -math.inf, math.inf)
        self._check_range("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        if self.repetition_penalty is not None:
            _require(self.repetition_penalty > 0, "repetition_penalty=0 must be greater than 0")
        if self.top_k is not None:
            _require(self.top_k >= 0, f"top_k={self.top_k} must be at least 0")
        if self.seed is not None:
            _require(0 <= self.seed < 2**64, f"seed={self.seed} must be in [0, 2^64)")
        for name in ("logprobs", "prompt_logprobs"):
            value = getattr(self, name)
            _require(value is None or value >= 0, f"{name}={value} must be at least 0")
        for name, texts in (("stop", self.stop_list), ("bad", self.bad_list)):
            _require(
                all(isinstance(text, str) and text for text in texts),
                f"{name}={getattr(self, name)!r} must hold non-empty texts",
            )
        _require(
            self.detokenize or not self.stop_list,
            f"stop={self.stop!r} is found in the text, but detokenize=False asks for none",
        )

    def _check_range(self, name: str, value: float | None, low: float, high: float) -> None:
        if value is not None:
            _require(
                math.isfinite(value) and low <= value <= high,
                f"{name}={value} must be a finite number in [{low:g}, {high:g}]",
            )

    @property
    def is_greedy(self) -> bool:
        unset = self.temperature is None and self.top_k is None and self.top_p is None
        return unset or self.temperature == 0 or self.top_k == 1 or self.top_p == 0

    @property
    def stop_list(self) -> list[str]:
        return _as_list(self.stop)

    @property
    def bad_list(self) -> list[str]:
        return _as_list(self.bad)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _as_list(texts: str | Iterable[str] | None) -> list[str]:
    if texts is None:
        return []
    return [texts] if isinstance(texts, str) else list(texts)
