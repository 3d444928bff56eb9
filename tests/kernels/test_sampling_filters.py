"""The distribution that each filter leaves, against float64 sorts and against transformers."""

import numpy as np
import pytest
import torch
from inflight import _core
from sampling_reference import Case, distribution, penalised
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

decoding = _core.decoding
VOCAB_SIZES = [1, 2, 17, 127, 128, 129, 4097, 50257]
FILTERS = [
    Case(),
    Case(temperature=0.3),
    Case(temperature=4.0),
    Case(top_k=2),
    Case(top_k=40),
    Case(top_k=3000),
    Case(top_p=0.001),
    Case(top_p=0.5),
    Case(top_p=0.95),
    Case(top_p=0.999999),
    Case(min_p=0.05),
    Case(min_p=1.0),
    Case(top_k=50, top_p=0.9),
    Case(top_p=0.9, min_p=0.1),
    Case(temperature=0.7, top_k=100, top_p=0.8, min_p=0.02),
    Case(temperature=1.7, top_k=5000, top_p=0.95, min_p=0.001),
]
KINDS = ["flat", "peaked", "ties", "equal", "banned", "large", "extreme"]


def make_logits(kind: str, vocab_size: int) -> np.ndarray:
    rng = np.random.default_rng([vocab_size, KINDS.index(kind)])
    x = rng.normal(size=vocab_size)
    if kind == "peaked":
        x *= 6
    if kind == "ties":
        x = np.round(2 * x) / 2
    if kind == "equal":
        x[:] = 1.25
    if kind == "banned" and vocab_size > 1:
        x[rng.permutation(vocab_size)[: vocab_size // 2]] = -np.inf
    if kind == "large":
        x = 1e4 + 3 * x
    if kind == "extreme":
        x[::3] = np.finfo(np.float32).min
        x[-1] = np.finfo(np.float32).max
    return x.astype(np.float32)


def sampling_params(case: Case, **more) -> "_core.decoding.SamplingParams":
    fields = {k: v for k, v in vars(case).items() if not k.endswith("_ids")}
    return decoding.SamplingParams(**fields, **more)


def sampled_distribution(new_sampler, logits: np.ndarray, case: Case) -> np.ndarray:
    """The probabilities that the sampler reports when asked for all of them."""
    vocab_size = len(logits)
    sampler = new_sampler(vocab_size, 1)
    row = decoding.SampleRow(
        0,
        sampling_params(case, num_logprobs=vocab_size, seed=7),
        prompt_ids=list(case.prompt_ids),
        generated_ids=list(case.generated_ids),
    )
    [(token, status, log_prob, top)] = sampler.sample(logits[None].copy(), [row])
    assert status == decoding.SampleStatus.ok
    probs = np.zeros(vocab_size)
    for i, p in top:
        probs[i] = np.exp(p)
    assert (token, log_prob) in top
    order = [(-logits[i], i) for i, _ in top]
    assert case.generated_ids or case.prompt_ids or order == sorted(order)
    return probs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_filters_leave_the_distribution_of_the_reference(
    new_sampler, kind: str, vocab_size: int
) -> None:
    logits = make_logits(kind, vocab_size)
    for case in FILTERS:
        expected, margin = distribution(logits, case)
        actual = sampled_distribution(new_sampler, logits, case)
        # Tokens within rounding of the edge of top_p, and underflown ones, may go either way.
        sure = (margin > 2e-6) & ((expected > 1e-30) | (expected == 0))
        wrong = np.flatnonzero(((actual > 1e-30) != (expected > 0)) & sure)
        assert wrong.size == 0, f"{case}: kept differs at ids {wrong[:10]}"
        np.testing.assert_allclose(
            actual, expected, rtol=2e-4, atol=2e-6, err_msg=f"{case}", verbose=False
        )


@pytest.mark.parametrize("kind", ["flat", "peaked", "banned"])
@pytest.mark.parametrize("vocab_size", [17, 1000, 50257])
def test_filters_keep_what_transformers_keeps(new_sampler, kind: str, vocab_size: int) -> None:
    logits = make_logits(kind, vocab_size)
    for case in FILTERS:
        processors = LogitsProcessorList([TemperatureLogitsWarper(case.temperature)])
        if case.top_k:
            processors.append(TopKLogitsWarper(case.top_k))
        if case.top_p < 1:
            processors.append(TopPLogitsWarper(case.top_p))
        if case.min_p:
            processors.append(MinPLogitsWarper(case.min_p))
        scores = processors(
            torch.zeros(1, 1, dtype=torch.long), torch.tensor(logits[None]).double()
        )
        expected = torch.softmax(scores, dim=-1)[0].numpy()
        margin = distribution(logits, case)[1]
        actual = sampled_distribution(new_sampler, logits, case)
        sure = (margin > 2e-6) & ((expected > 1e-30) | (expected == 0))
        assert not (((actual > 1e-30) != (expected > 0)) & sure).any(), str(case)
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=2e-6, err_msg=f"{case}")


def test_top_k_keeps_all_that_tie_as_transformers_does(new_sampler) -> None:
    logits = np.array([3, 1, 2, 2, 2, 0], np.float32)
    scores = TopKLogitsWarper(2)(torch.zeros(1, 1), torch.tensor(logits[None]))
    assert (sampled_distribution(new_sampler, logits, Case(top_k=2)) > 0).tolist() == (
        torch.isfinite(scores)[0].tolist()
    )


def test_top_p_cuts_ties_at_its_edge_by_id(new_sampler) -> None:
    for vocab_size in (10, 1000, 20000):
        kept = (
            sampled_distribution(new_sampler, np.zeros(vocab_size, np.float32), Case(top_p=0.35))
            > 0
        )
        count = int(kept.sum())
        assert abs(count - 0.35 * vocab_size) <= 1
        assert kept[:count].all()


PENALTIES = [
    Case(repetition_penalty=1.3),
    Case(repetition_penalty=0.7),
    Case(presence_penalty=0.8),
    Case(frequency_penalty=0.4),
    Case(presence_penalty=-0.5, frequency_penalty=-0.1),
    Case(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2),
]


@pytest.mark.parametrize("case", PENALTIES, ids=str)
@pytest.mark.parametrize("vocab_size", [1, 17, 50257])
def test_penalties(new_sampler, case: Case, vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    prompt = rng.integers(0, min(vocab_size, 40), 60)
    generated = rng.integers(0, min(vocab_size, 50), 30)
    case = Case(
        **{**vars(case), "prompt_ids": tuple(prompt.tolist()), "generated_ids": tuple(generated)}
    )
    logits = rng.normal(size=(3, vocab_size)).astype(np.float32)
    logits[:, 0] = 0
    changed = logits.copy()
    row = decoding.SampleRow(1, sampling_params(case), prompt_ids=prompt, generated_ids=generated)
    new_sampler(vocab_size, 3).sample(changed, [row])
    np.testing.assert_array_equal(changed[[0, 2]], logits[[0, 2]])
    np.testing.assert_allclose(changed[1], penalised(logits[1], case), rtol=1e-6, atol=1e-6)
    if case.presence_penalty == case.frequency_penalty == 0:
        ids = torch.tensor(np.concatenate([prompt, generated])[None])
        scores = RepetitionPenaltyLogitsProcessor(case.repetition_penalty)(
            ids, torch.tensor(logits[1:2])
        )
        np.testing.assert_allclose(changed[1], scores[0].numpy(), rtol=1e-6)


@pytest.mark.parametrize("length", [6_145, 12_288, 12_289, 60_000])
def test_penalties_of_a_long_history(new_sampler, length: int) -> None:
    rng = np.random.default_rng(length)
    logits = rng.normal(size=(1, 50257)).astype(np.float32)
    history = rng.integers(0, 50257, length)
    generated = history[length // 3 :]
    case = Case(repetition_penalty=1.3, presence_penalty=0.3, frequency_penalty=0.2)
    counts = np.bincount(generated, minlength=50257)
    expected = logits[0].astype(np.float64)
    seen = np.bincount(history, minlength=50257) > 0
    expected[seen] = np.where(expected > 0, expected / 1.3, expected * 1.3)[seen]
    expected -= np.where(counts > 0, 0.3 + 0.2 * counts, 0)
    row = decoding.SampleRow(
        0, sampling_params(case), prompt_ids=history[: length // 3], generated_ids=generated
    )
    new_sampler(50257, 1).sample(logits, [row])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-6, atol=1e-6)


def test_history_ids_outside_the_vocabulary_count_for_nothing(new_sampler) -> None:
    logits = np.ones((1, 4), np.float32)
    row = decoding.SampleRow(
        0,
        decoding.SamplingParams(repetition_penalty=2.0, frequency_penalty=1.0),
        prompt_ids=[4, 100000, -1],
        generated_ids=[2, 7],
    )
    new_sampler(4, 1).sample(logits, [row])
    assert logits[0].tolist() == [1, 1, -0.5, 1]


def test_greedy_log_probs_are_the_softmax_of_the_penalised_logits(new_sampler) -> None:
    for vocab_size in VOCAB_SIZES:
        logits = make_logits("flat", vocab_size)
        generated = list(range(min(vocab_size, 5)))
        case = Case(frequency_penalty=0.5, generated_ids=tuple(generated))
        log_softmax = np.log(distribution(logits, case)[0])
        params = sampling_params(case, greedy=True, num_logprobs=min(3, vocab_size))
        [(token, _, log_prob, top)] = new_sampler(vocab_size, 1).sample(
            logits[None].copy(), [decoding.SampleRow(0, params, generated_ids=generated)]
        )
        best = np.argsort(-log_softmax, kind="stable")[:3]
        assert token == best[0] and [i for i, _ in top] == best.tolist()
        np.testing.assert_allclose([p for _, p in top], log_softmax[best], atol=2e-5)
        assert log_prob == top[0][1]
