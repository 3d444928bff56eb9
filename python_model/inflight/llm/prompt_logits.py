"""The prompt's part of an answer: its logits and what they say of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inflight.llm.outputs import Logprob

_CHUNK = 64  # rows at a time: each is a vocabulary in float64


def prompt_logprobs(
    logits: np.ndarray, prompt_ids: Sequence[int], num_top: int
) -> list[dict[int, Logprob] | None]:
    """Of each token given those before it, and of the `num_top` likeliest there; None for the first.
    `logits` is [len(prompt_ids), vocabulary]; the softmax is of all ids at temperature 1."""
    entries: list[dict[int, Logprob] | None] = [None]
    for begin in range(1, len(prompt_ids), _CHUNK):
        ids = prompt_ids[begin : begin + _CHUNK]
        entries += _entries(logits[begin - 1 : begin - 1 + len(ids)], ids, num_top)
    return entries


def _entries(
    logits: np.ndarray, ids: Sequence[int], num_top: int
) -> list[dict[int, Logprob] | None]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    top = np.argsort(-wide, axis=1, kind="stable")[:, :num_top] if num_top else None
    entries: list[dict[int, Logprob] | None] = []
    for row, id in enumerate(ids):
        value = wide[row, id]
        rank = int((wide[row] > value).sum() + (wide[row, :id] == value).sum()) + 1
        entry = {int(id): Logprob(float(value), rank)}
        for other_rank, other in enumerate(() if top is None else top[row].tolist(), start=1):
            entry.setdefault(other, Logprob(float(wide[row, other]), other_rank))
        entries.append(entry)
    return entries
