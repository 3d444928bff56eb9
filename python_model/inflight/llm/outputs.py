"""What a request gave. Names as in TensorRT-LLM's LLM API and vLLM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Logprob:
    """Natural logarithm of a token's probability in the distribution it was drawn from: after
    penalties, temperature and filters; of a greedy answer: after penalties. With
    normalize_log_probs=False: after penalties and temperature alone.
    """

    logprob: float
    rank: int | None = None
    """1 = the likeliest; None where it is not known (the chosen token outside the top asked)."""


@dataclass(frozen=True)
class CompletionOutput:
    """One answer, or as much of it as there is."""

    index: int
    text: str
    """The continuation of the prompt: prompt + text reads on, blanks included."""
    token_ids: list[int]
    finish_reason: str | None = None
    """"stop", "length", "cancelled"; None while it goes on."""
    stop_reason: str | int | None = None
    """The stop text or stop token id that ended it; None after an end id of the model."""
    logprobs: list[dict[int, Logprob]] | None = None
    """A dict a token, chosen token first; None when not asked for."""
    cumulative_logprob: float | None = None
    """Sum over the chosen tokens; None when log-probabilities were not asked for."""
    generation_logits: np.ndarray | None = None
    """float32 [len(token_ids), vocabulary] that the tokens were chosen from, before biases, penalties
    and temperature; None when not asked for."""
    text_diff: str = ""
    """What is new in `text` since the stream's last item; everything if it is not a stream."""
    token_ids_diff: list[int] | None = None
    """What is new in `token_ids` since then."""


@dataclass(frozen=True)
class RequestOutput:
    """A request and what has come of it so far. A snapshot: it does not change."""

    request_id: int
    prompt: str | None
    """None when the prompt was given as ids."""
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    context_logits: np.ndarray | None = None
    """float32 [len(prompt_token_ids), vocabulary]: row i is what comes after token i. None when not
    asked for, or not there yet."""
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """A dict a token of the prompt, None for the first, which follows nothing."""
