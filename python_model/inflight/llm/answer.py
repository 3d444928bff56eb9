"""A growing answer: tokens come in; text, stops and log-probabilities come out. No engine here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from inflight.llm.outputs import CompletionOutput, Logprob
from inflight.llm.sampling_params import SamplingParams
from inflight.text.detokenizer import Detokenizer
from inflight.text.stop_strings import StopStrings
from inflight.text.tokenizer import Tokenizer


class TokenLogProbs(Protocol):
    """As in _core."""

    chosen: float
    top: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Cursor:
    """How much of an answer a reader has seen."""

    num_tokens: int = 0
    num_characters: int = 0


class Answer:
    """Not locked: its owner is. Tokens after the end (a stop found in the text) are ignored."""

    def __init__(
        self, params: SamplingParams, prompt_ids: Sequence[int], tokenizer: Tokenizer | None
    ) -> None:
        """Without a tokenizer there is no text."""
        self._params = params
        self._stop_ids = frozenset(params.stop_token_ids or ())
        self._stop_strings = StopStrings(params.stop_list, params.include_stop_str_in_output)
        self._detokenizer: Detokenizer | None = None
        self._text = ""
        self._token_ids: list[int] = []
        self._num_generated = 0
        self._logprobs: list[dict[int, Logprob]] = []
        self._logits: list[np.ndarray] = []  # [vocabulary] a token
        self._cumulative_logprob = 0.0
        self._stop_reason: str | int | None = None
        self.finish_reason: str | None = None
        detokenizes = params.detokenize and tokenizer is not None
        if params.exclude_input_from_output:
            if detokenizes:
                self._detokenizer = tokenizer.detokenizer(prompt_ids, params.skip_special_tokens)
        else:
            self._token_ids += prompt_ids
            if detokenizes:
                self._detokenizer = tokenizer.detokenizer((), params.skip_special_tokens)
                self._text = self._detokenizer.feed(prompt_ids)

    def add(
        self,
        token_ids: Iterable[int],
        log_probs: Sequence[TokenLogProbs] = (),
        logits: np.ndarray | None = None,
    ) -> None:
        """Take new tokens; `logits` is [tokens, vocabulary]. Afterwards `finish_reason` says whether one of them was the last."""
        for index, id in enumerate(token_ids):
            if self.finish_reason is not None:
                return
            self._num_generated += 1
            may_stop = self._num_generated >= self._params.min_tokens
            stops = may_stop and id in self._stop_ids
            if stops:
                self._stop_reason = id
            if not stops or self._params.include_stop_str_in_output:
                self._token_ids.append(id)
                if log_probs:
                    self._add_log_probs(id, log_probs[index])
                if logits is not None:
                    self._logits.append(logits[index])
                if self._detokenizer is not None:
                    self._add_text(self._detokenizer.feed((id,)), may_stop)
            if stops or self._stop_strings.matched is not None:
                self.finish("stop")

    def finish(self, reason: str) -> None:
        """No more tokens. The first reason stays."""
        if self.finish_reason is not None:
            return
        if self._detokenizer is not None:
            may_stop = self._num_generated >= self._params.min_tokens
            self._add_text(self._detokenizer.finish(), may_stop)
            self._text += self._stop_strings.finish()
        if self._stop_strings.matched is not None:
            reason, self._stop_reason = "stop", self._stop_strings.matched
        self.finish_reason = reason

    def _add_text(self, text: str, may_stop: bool) -> None:
        self._text += self._stop_strings.feed(text) if may_stop else text

    def _add_log_probs(self, id: int, log_probs: TokenLogProbs) -> None:
        ranks = {other: (rank, value) for rank, (other, value) in enumerate(log_probs.top, start=1)}
        entry = {id: Logprob(log_probs.chosen, ranks[id][0] if id in ranks else None)}
        for other, (rank, value) in ranks.items():
            entry.setdefault(other, Logprob(value, rank))
        self._logprobs.append(entry)
        self._cumulative_logprob += log_probs.chosen

    @property
    def params(self) -> SamplingParams:
        return self._params

    @property
    def cursor(self) -> Cursor:
        """The place of a reader who has seen everything."""
        return Cursor(len(self._token_ids), len(self._text))

    def snapshot(self, seen: Cursor) -> CompletionOutput:
        wants_logprobs = self._params.logprobs is not None
        return CompletionOutput(
            index=0,
            text=self._text,
            token_ids=list(self._token_ids),
            finish_reason=self.finish_reason,
            stop_reason=self._stop_reason,
            logprobs=list(self._logprobs) if wants_logprobs else None,
            cumulative_logprob=self._cumulative_logprob if wants_logprobs else None,
            generation_logits=np.stack(self._logits) if self._logits else None,
            text_diff=self._text[seen.num_characters :],
            token_ids_diff=self._token_ids[seen.num_tokens :],
        )
