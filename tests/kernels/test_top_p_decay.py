"""Factual nucleus sampling, and log-probabilities of what is drawn and of what might have been."""

import numpy as np
import pytest
from inflight import _core
from sampling_reference import Case, distribution, softmax

decoding = _core.decoding
VOCAB = 40
FULL_STOP = 13


def nucleus_sizes(top_p: float, decay: float, least: float, reset: int, ids: list[int]) -> list:
    """top_p of each token as the paper's recurrence walks over the ids."""
    sizes, current = [top_p], top_p
    for token in ids:
        current = top_p if token == reset else max(current * decay, least)
        sizes.append(current)
    return sizes


@pytest.mark.parametrize(
    ("top_p", "decay", "least", "reset"),
    [(0.9, 0.9, 0.3, FULL_STOP), (1.0, 0.5, 0.0, -1), (0.4, 0.99, 0.6, 2), (0.7, 1.0, 0.2, 1)],
)
def test_top_p_of_each_token(top_p: float, decay: float, least: float, reset: int) -> None:
    ids = np.random.default_rng(0).integers(0, 16, 60).tolist()
    params = decoding.SamplingParams(
        top_p=top_p, top_p_decay=decay, top_p_min=least, top_p_reset_id=reset
    )
    if decay == 1.0:
        least = 0.0  # without a decay nothing brings top_p down to it
    sizes = nucleus_sizes(top_p, decay, least, reset if decay != 1.0 else -1, ids)
    ours = [decoding.top_p_after(params, ids[:i]) for i in range(len(ids) + 1)]
    np.testing.assert_allclose(ours, [max(size, 1e-30) for size in sizes], rtol=1e-5)


def test_an_unknown_id_is_taken_for_none_that_resets() -> None:
    params = decoding.SamplingParams(top_p=0.8, top_p_decay=0.5, top_p_reset_id=FULL_STOP)
    assert decoding.top_p_after(params, [], 1) == np.float32(0.4)
    assert decoding.top_p_after(params, [1, FULL_STOP], 1) == np.float32(0.4)


def ladder() -> np.ndarray:
    """Logits of probabilities that halve from id to id: top_p says how many ids are kept."""
    return np.float32(np.log(2.0)) * -np.arange(VOCAB, dtype=np.float32)


def kept(new_sampler, generated: list[int], newest: int | None, **params) -> int:
    """How many ids the next token is drawn from: they all come up in a thousand draws."""
    batch = 1000
    sampler = new_sampler(VOCAB, batch, 2)
    in_flight = -1
    if newest is not None:  # the step before draws it, in its last row
        before = np.zeros((batch, VOCAB), np.float32)
        before[:, newest] = 9
        before[:-1, newest] = -9
        greedy = decoding.SamplingParams(greedy=True)
        sampler.sample(before, [decoding.SampleRow(i, greedy) for i in range(batch)])
        in_flight = batch - 1
    rows = [
        decoding.SampleRow(
            i,
            decoding.SamplingParams(seed=i, num_logprobs=VOCAB, **params),
            generated_ids=generated,
            in_flight_token=in_flight,
        )
        for i in range(batch)
    ]
    answers = sampler.sample(np.tile(ladder(), (batch, 1)), rows)
    [count] = {len(top) for *_, top in answers}
    assert {token for token, *_ in answers} <= set(range(count))
    return count


def test_the_nucleus_shrinks_and_starts_anew(new_sampler) -> None:
    way = {"top_p": 0.96, "top_p_decay": 0.8, "top_p_min": 0.3, "top_p_reset_id": FULL_STOP}
    # Kept probabilities are 1/2, 3/4, 7/8, 15/16, 31/32 ...
    assert kept(new_sampler, [], None, **way) == 5  # 0.96
    assert kept(new_sampler, [1], None, **way) == 3  # 0.768
    assert kept(new_sampler, [1, 2, 3], None, **way) == 1  # 0.4915
    assert kept(new_sampler, [1, 2, 3, FULL_STOP], None, **way) == 5
    assert kept(new_sampler, [1, 2, FULL_STOP, 3], None, **way) == 3


@pytest.mark.parametrize(("newest", "count"), [(FULL_STOP, 5), (7, 2)])
def test_an_id_in_flight_may_start_it_anew(new_sampler, newest: int, count: int) -> None:
    way = {"top_p": 0.96, "top_p_decay": 0.8, "top_p_reset_id": FULL_STOP}
    assert kept(new_sampler, [1], newest, **way) == count  # 0.96, or 0.6144
    assert kept(new_sampler, [1, newest], None, **way) == count


@pytest.mark.parametrize("vocab_size", [50, 5000, 128256])
@pytest.mark.parametrize(
    "case",
    [
        Case(top_k=5, temperature=0.7),
        Case(top_p=0.6),
        Case(top_k=40, top_p=0.8, min_p=0.05, temperature=1.4),
        Case(temperature=0.5),
    ],
    ids=str,
)
def test_log_probs_of_all_ids(new_sampler, case: Case, vocab_size: int) -> None:
    """normalize_log_probs: of what the filters keep; without it: as if there were none."""
    logits = 2 * np.random.default_rng(vocab_size).standard_normal((2, vocab_size), np.float32)
    fields = {k: v for k, v in vars(case).items() if not k.endswith("_ids")}
    rows = [
        decoding.SampleRow(
            i,
            decoding.SamplingParams(
                **fields, seed=5, num_logprobs=8, normalize_log_probs=normalize
            ),
        )
        for i, normalize in enumerate((True, False))
    ]
    answers = new_sampler(vocab_size, 2, 2).sample(logits.copy(), rows)
    expected = [
        distribution(logits[0], case)[0],
        softmax(logits[1].astype(np.float64) / np.float64(np.float32(case.temperature))),
    ]
    for (token, _, log_prob, top), probs in zip(answers, expected, strict=True):
        assert abs(log_prob - np.log(probs[token])) < 2e-5
        likeliest = [id for id in np.argsort(-probs, kind="stable")[:8] if probs[id] > 0]
        assert [id for id, _ in top] == likeliest
        np.testing.assert_allclose([p for _, p in top], np.log(probs[likeliest]), atol=2e-5)
    if case.top_k == 5:
        assert len(answers[0][3]) == 5 and len(answers[1][3]) == 8


def test_log_probs_of_greedy_rows_are_of_all_ids_in_any_case(new_sampler) -> None:
    logits = np.random.default_rng(1).standard_normal((2, VOCAB), np.float32)
    logits[1] = logits[0]
    rows = [
        decoding.SampleRow(
            i, decoding.SamplingParams(top_k=1, num_logprobs=0, normalize_log_probs=bool(i))
        )
        for i in range(2)
    ]
    (a, _, log_prob, _), (b, _, other, _) = new_sampler(VOCAB, 2, 1).sample(logits.copy(), rows)
    assert a == b == logits[0].argmax() and log_prob == other
    assert abs(log_prob - np.log(softmax(logits[0].astype(np.float64)))[a]) < 1e-6
