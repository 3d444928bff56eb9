"""Draws: their frequencies, what they depend on, and rows from which nothing can be drawn."""

import numpy as np
import pytest
from inflight import _core
from sampling_reference import Case, chi_square_fits, distribution

decoding = _core.decoding
NUM_DRAWS = 20_000
DISTRIBUTIONS = [
    Case(),
    Case(temperature=0.5),
    Case(temperature=2.0),
    Case(top_k=7),
    Case(top_p=0.8),
    Case(min_p=0.1),
    Case(repetition_penalty=1.5, prompt_ids=(0, 1, 2, 3, 4, 5, 6, 7)),
    Case(presence_penalty=1.0, generated_ids=(1, 1, 2)),
    Case(frequency_penalty=0.7, generated_ids=(1, 1, 2)),
    Case(temperature=0.8, top_k=20, top_p=0.9, min_p=0.02),
    Case(
        temperature=1.3,
        top_k=30,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        prompt_ids=(3, 4, 5),
        generated_ids=(9, 9, 4),
    ),
]


def row_of(index: int, case: Case, **more) -> "_core.decoding.SampleRow":
    fields = {k: v for k, v in vars(case).items() if not k.endswith("_ids")}
    return decoding.SampleRow(
        index,
        decoding.SamplingParams(**fields, **more),
        prompt_ids=list(case.prompt_ids),
        generated_ids=list(case.generated_ids),
    )


@pytest.mark.parametrize("vocab_size", [50, 1000])
@pytest.mark.parametrize("case", DISTRIBUTIONS, ids=str)
def test_frequencies_fit_the_exact_distribution(new_sampler, case: Case, vocab_size: int) -> None:
    logits = 2 * np.random.default_rng(vocab_size).normal(size=vocab_size).astype(np.float32)
    counts = np.zeros(vocab_size, np.int64)
    batch = 1000
    sampler = new_sampler(vocab_size, batch, 2)
    for first in range(0, NUM_DRAWS, batch):
        rows = [row_of(i, case, seed=1234 + first + i) for i in range(batch)]
        answers = sampler.sample(np.tile(logits, (batch, 1)), rows)
        np.add.at(counts, [token for token, *_ in answers], 1)
    assert chi_square_fits(counts, distribution(logits, case)[0])


def test_chi_square_can_fail() -> None:
    counts = np.random.default_rng(0).multinomial(NUM_DRAWS, np.full(20, 0.05))
    tilted = np.full(20, 0.05) + np.linspace(-0.005, 0.005, 20)
    assert chi_square_fits(counts, np.full(20, 0.05)) and not chi_square_fits(counts, tilted)


def test_positions_of_one_seed_are_independent_draws() -> None:
    uniforms = np.array([decoding.philox_uniform(99, i) for i in range(NUM_DRAWS)])
    assert 0 <= uniforms.min() and uniforms.max() < 1
    counts = np.bincount((uniforms * 64).astype(int), minlength=64)
    assert chi_square_fits(counts, np.full(64, 1 / 64))
    pairs = (uniforms[:-1:2] * 8).astype(int) * 8 + (uniforms[1::2] * 8).astype(int)
    assert chi_square_fits(np.bincount(pairs, minlength=64), np.full(64, 1 / 64))


def philox(counter: list[int], key: list[int]) -> list[int]:
    """The paper's figure 2 with Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_philox_known_answers() -> None:
    # kat_vectors of the authors' Random123 1.14.0, philox 4x32-10.
    known = [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, answer in known:
        assert decoding.philox4x32_10(counter, key) == answer == philox(counter, key)
    for words in np.random.default_rng(0).integers(0, 2**32, (100, 6)).tolist():
        assert decoding.philox4x32_10(words[:4], words[4:]) == philox(words[:4], words[4:])


def test_uniforms_use_every_bit_of_seed_and_position() -> None:
    for seed in (0, 5, 2**32, 2**64 - 1):
        for position in (0, 7, 2**32 - 1, 2**32, 2**63 + 1):
            counter = [position % 2**32, position >> 32, 0, 0]
            words = philox(counter, [seed % 2**32, seed >> 32])
            expected = ((words[1] << 32 | words[0]) >> 11) / 2**53
            assert decoding.philox_uniform(seed, position) == expected


def test_the_draw_is_the_inverse_of_the_cumulative_distribution(new_sampler) -> None:
    rng = np.random.default_rng(5)
    for vocab_size in (1, 17, 300, 50257):
        logits = rng.normal(size=vocab_size).astype(np.float32)
        sampler = new_sampler(vocab_size, 1)
        for case in (Case(), Case(top_k=10), Case(top_p=0.7), Case(temperature=0.2, min_p=0.01)):
            cumulative = np.cumsum(distribution(logits, case)[0])
            for seed in (0, 1, 2**32, 2**64 - 1):
                uniform = decoding.philox_uniform(seed, 0)
                [(token, *_)] = sampler.sample(logits[None].copy(), [row_of(0, case, seed=seed)])
                low = cumulative[token - 1] if token else 0.0
                assert low - 1e-5 <= uniform <= cumulative[token] + 1e-5


def test_a_token_does_not_depend_on_the_batch(new_sampler) -> None:
    rng = np.random.default_rng(11)
    vocab_size, count = 1031, 24
    logits = (3 * rng.normal(size=(count, vocab_size))).astype(np.float32)
    cases = [
        Case(**{**vars(DISTRIBUTIONS[i % len(DISTRIBUTIONS)]), "generated_ids": (5,) * (i % 7)})
        for i in range(count)
    ]
    alone = []
    for i, case in enumerate(cases):
        sampler = new_sampler(vocab_size, 1)
        [answer] = sampler.sample(
            logits[i : i + 1].copy(), [row_of(0, case, seed=i, num_logprobs=3)]
        )
        alone.append(answer)
    for num_threads in (1, 2, 3):
        sampler = new_sampler(vocab_size, count, num_threads)
        for _ in range(3):
            order = rng.permutation(count)
            places = rng.permutation(count)  # row of logits at which each sits
            shuffled = np.empty_like(logits)
            shuffled[places] = logits
            rows = [row_of(int(places[i]), cases[i], seed=int(i), num_logprobs=3) for i in order]
            answers = sampler.sample(shuffled, rows)
            assert answers == [alone[i] for i in order]


def test_seed_and_position_change_the_draw(new_sampler) -> None:
    logits = np.zeros((1, 50257), np.float32)
    sampler = new_sampler(50257, 1)

    def token(seed: int, position: int) -> int:
        row = decoding.SampleRow(
            0, decoding.SamplingParams(seed=seed), generated_ids=[0] * position
        )
        return sampler.sample(logits, [row])[0][0]

    drawn = [token(seed, position) for seed in (0, 1, 2**33) for position in range(20)]
    assert len(set(drawn)) > 55
    assert drawn == [token(seed, position) for seed in (0, 1, 2**33) for position in range(20)]


@pytest.mark.parametrize("vocab_size", [1, 2, 127, 128, 129, 50257])
def test_greedy_takes_the_first_maximum(new_sampler, vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    logits = np.round(rng.normal(size=(40, vocab_size)), 1).astype(np.float32)
    logits[0] = -1e30
    logits[1] = np.finfo(np.float32).min
    ways = [
        decoding.SamplingParams(greedy=True),
        decoding.SamplingParams(temperature=0.0),
        decoding.SamplingParams(top_k=1, temperature=0.4, top_p=0.3, seed=8),
        decoding.SamplingParams(greedy=True, num_logprobs=0),
    ]
    sampler = new_sampler(vocab_size, 40, 2)
    for params in ways:
        answers = sampler.sample(logits, [decoding.SampleRow(i, params) for i in range(40)])
        assert [token for token, *_ in answers] == logits.argmax(axis=1).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("vocab_size", [1, 17, 50257])
def test_bad_logits_fail_their_row_only(new_sampler, bad: float, vocab_size: int) -> None:
    for params in (
        decoding.SamplingParams(greedy=True),
        decoding.SamplingParams(greedy=True, num_logprobs=1),
        decoding.SamplingParams(top_k=5, top_p=0.5, num_logprobs=1),
        decoding.SamplingParams(min_p=0.5),
    ):
        for place in {0, vocab_size // 2, vocab_size - 1}:
            logits = np.zeros((3, vocab_size), np.float32)
            logits[1, place] = bad
            rows = [decoding.SampleRow(i, params) for i in range(3)]
            answers = new_sampler(vocab_size, 3).sample(logits, rows)
            statuses = [status for _, status, *_ in answers]
            ok, nan_logits = decoding.SampleStatus.ok, decoding.SampleStatus.nan_logits
            assert statuses == [ok, nan_logits, ok]
            assert answers[1][0] == -1
    assert "NaN or infinity" in decoding.message_of(nan_logits)


def test_everything_banned_is_an_answer_of_its_own(new_sampler) -> None:
    stop = decoding.StopParams(bad_words=[[0], [1], [2]])
    for params in (decoding.SamplingParams(greedy=True), decoding.SamplingParams(top_p=0.5)):
        [(token, status, *_)] = new_sampler(3, 1).sample(
            np.zeros((1, 3), np.float32), [decoding.SampleRow(0, params, stop)]
        )
        assert (token, status) == (-1, decoding.SampleStatus.no_token)
    assert "banned" in decoding.message_of(status)


def test_bans_reach_greedy_and_sampled_rows(new_sampler) -> None:
    stop = decoding.StopParams(min_new_tokens=2, end_ids=[3], bad_words=[[2], [7, 1]])
    logits = np.array([0, 4, 5, 6, 3.5, 0, 0, 0], np.float32)
    sampler = new_sampler(8, 1)
    for generated, best in (([], 1), ([7], 4), ([7, 7], 3), ([0, 0], 3)):
        row = decoding.SampleRow(
            0, decoding.SamplingParams(temperature=0.0), stop, generated_ids=generated
        )
        assert sampler.sample(logits[None].copy(), [row])[0][0] == best
        params = decoding.SamplingParams(num_logprobs=8, top_p=0.99)
        row = decoding.SampleRow(0, params, stop, generated_ids=generated)
        kept = {i for i, _ in sampler.sample(logits[None].copy(), [row])[0][3]}
        assert best in kept and 2 not in kept and (1 in kept) == (generated[-1:] != [7])


def test_temperatures_at_the_ends_of_their_range(new_sampler) -> None:
    logits = np.random.default_rng(3).normal(size=(1, 999)).astype(np.float32)
    sampler = new_sampler(999, 1)
    tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
    for case in (Case(), Case(top_p=0.9), Case(top_k=3, min_p=0.1), Case(top_p=0.9, min_p=0.5)):
        for smallest in (1e-45, tiny, 1e-6):
            row = row_of(0, Case(**{**vars(case), "temperature": smallest}), num_logprobs=2)
            [(token, status, log_prob, _)] = sampler.sample(logits.copy(), [row])
            assert (token, log_prob) == (logits.argmax(), 0.0)
        row = row_of(0, Case(**{**vars(case), "temperature": float(huge)}), num_logprobs=0)
        [(token, status, log_prob, _)] = sampler.sample(logits.copy(), [row])
        assert status == decoding.SampleStatus.ok and np.isfinite(log_prob)


def test_a_token_the_host_does_not_know_counts_like_one_it_knows(new_sampler) -> None:
    logits = np.random.default_rng(1).normal(size=(2, 300)).astype(np.float32)
    case = Case(repetition_penalty=1.7, frequency_penalty=0.6)
    sampler = new_sampler(300, 2)
    first = [row_of(1, Case(), seed=5), row_of(0, Case(), seed=6)]
    tokens = [token for token, *_ in sampler.sample(logits.copy(), first)]
    stop = decoding.StopParams(min_new_tokens=2, end_ids=[3])
    changed, expected = logits.copy(), logits.copy()
    fields = {k: v for k, v in vars(case).items() if not k.endswith("_ids")}
    params = decoding.SamplingParams(**fields, seed=9, num_logprobs=2)
    known = [
        decoding.SampleRow(i, params, stop, generated_ids=[7, tokens[1 - i]]) for i in range(2)
    ]
    unknown = [
        decoding.SampleRow(i, params, stop, generated_ids=[7], in_flight_token=i) for i in range(2)
    ]
    answers = sampler.sample(changed, unknown)
    assert answers == new_sampler(300, 2).sample(expected, known)
    np.testing.assert_array_equal(changed, expected)
