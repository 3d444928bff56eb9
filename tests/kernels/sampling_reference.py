"""What the sampling ops mean, in float64 with full sorts: nothing shared with the kernels."""

from dataclasses import dataclass, field

import numpy as np

Z_999 = 3.0902  # the 0.999 quantile of the normal distribution


@dataclass(frozen=True)
class Case:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    prompt_ids: tuple[int, ...] = field(default=())
    generated_ids: tuple[int, ...] = field(default=())

    def __str__(self) -> str:
        shown = {k: v for k, v in vars(self).items() if v != getattr(Case(), k)}
        return ",".join(f"{k}={v}" for k, v in shown.items()) or "plain"


def penalised(logits: np.ndarray, case: Case) -> np.ndarray:
    x = logits.astype(np.float64)
    for token in set(case.prompt_ids) | set(case.generated_ids):
        r = case.repetition_penalty
        x[token] = x[token] / r if x[token] > 0 else x[token] * r
    for token in set(case.generated_ids):
        count = case.generated_ids.count(token)
        x[token] -= case.presence_penalty + case.frequency_penalty * count
    return x


def softmax(x: np.ndarray) -> np.ndarray:
    weights = np.exp(x - x.max())
    return weights / weights.sum()


def distribution(logits: np.ndarray, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities drawn from, and how far each token is from the edge of the top_p set."""
    x = penalised(logits, case) / np.float64(np.float32(case.temperature))
    order = np.lexsort((np.arange(len(x)), -x))  # likeliest first, ties by id
    if 0 < case.top_k < len(x):
        x[x < x[order[case.top_k - 1]]] = -np.inf
    margin = np.full(len(x), np.inf)
    if case.top_p < 1:
        top_p = np.float64(np.float32(case.top_p))
        sorted_probs = softmax(x)[order]
        before = np.cumsum(sorted_probs) - sorted_probs
        margin[order] = np.abs(before - top_p)
        margin[order[0]] = np.inf
        x[order[1:][before[1:] >= top_p]] = -np.inf
    if case.min_p > 0:
        probs = softmax(x)
        x[probs < np.float64(np.float32(case.min_p)) * probs.max()] = -np.inf
    return softmax(x), margin


def chi_square_fits(counts: np.ndarray, probs: np.ndarray) -> bool:
    """Pearson's test at alpha = 0.001; cells that expect under 5 are joined."""
    assert counts[probs == 0].sum() == 0, "a token of probability 0 was drawn"
    expected = probs * counts.sum()
    small = expected < 5
    counts = np.append(counts[~small], counts[small].sum())
    expected = np.append(expected[~small], expected[small].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(counts) - 1
    if freedom == 0:
        return True
    statistic = ((counts - expected) ** 2 / expected).sum()
    # Wilson and Hilferty's quantile of the chi-square distribution.
    spread = 2 / (9 * freedom)
    return bool(statistic < freedom * (1 - spread + Z_999 * np.sqrt(spread)) ** 3)
