"""What a request changes in its logits, against the logits processors of transformers."""

import numpy as np
import pytest
import torch
from inflight import _core
from transformers import (
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

decoding = _core.decoding
VOCAB = 50
SHORT_ALPHABET = 6  # so that n-grams repeat


def random_logits(seed: int, rows: int = 1, vocab_size: int = VOCAB) -> np.ndarray:
    return 2 * np.random.default_rng(seed).standard_normal((rows, vocab_size), np.float32)


def edited(new_sampler, logits: np.ndarray, prompt, generated, stop=None, **params) -> np.ndarray:
    """The logits that the token is drawn from; each row alike."""
    changed = logits.copy()
    rows = [
        decoding.SampleRow(
            i,
            decoding.SamplingParams(greedy=True, **params),
            stop or decoding.StopParams(),
            list(prompt),
            list(generated),
        )
        for i in range(len(logits))
    ]
    answers = new_sampler(logits.shape[1], len(logits), 2).sample(changed, rows)
    for row, (token, status, *_) in zip(changed, answers, strict=True):
        if np.isneginf(row).all():
            assert status == decoding.SampleStatus.no_token
        else:
            assert token == row.argmax()
    return changed


def processed(processor, logits: np.ndarray, ids) -> np.ndarray:
    with torch.no_grad():
        input_ids = torch.tensor([list(ids)] * len(logits), dtype=torch.long)
        return processor(input_ids, torch.tensor(logits)).numpy()


@pytest.mark.parametrize("prompt_len", [0, 1, 40])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_no_repeat_ngram_is_that_of_transformers(new_sampler, size: int, prompt_len: int) -> None:
    rng = np.random.default_rng([size, prompt_len])
    num_banned = 0
    for num_generated in (0, 1, 2, 7, 3000):
        prompt = rng.integers(0, SHORT_ALPHABET, prompt_len).tolist()
        generated = rng.integers(0, SHORT_ALPHABET, num_generated).tolist()
        logits = random_logits(num_generated, rows=3)
        ours = edited(new_sampler, logits, prompt, generated, no_repeat_ngram_size=size)
        theirs = logits
        if prompt or generated:
            theirs = processed(NoRepeatNGramLogitsProcessor(size), logits, prompt + generated)
        np.testing.assert_array_equal(ours, theirs)
        num_banned += np.isneginf(ours).sum()
    assert num_banned > 0 or size == 30


def test_a_repeated_ngram_reaches_across_the_prompts_end(new_sampler) -> None:
    ours = edited(new_sampler, random_logits(0), [7, 8, 9, 7], [8], no_repeat_ngram_size=3)
    assert np.flatnonzero(np.isneginf(ours[0])).tolist() == [9]


@pytest.mark.parametrize("ignored", [0, 3, 9, 100])
def test_prompt_ignore_length_keeps_the_prompts_first_ids_out(new_sampler, ignored: int) -> None:
    prompt, generated = [1, 2, 3, 4, 5, 6, 7, 8, 9], [20, 21, 21]
    logits = random_logits(1)
    ours = edited(
        new_sampler, logits, prompt, generated, repetition_penalty=1.7, prompt_ignore_length=ignored
    )
    processor = RepetitionPenaltyLogitsProcessor(1.7)
    theirs = processed(processor, logits, prompt[ignored:] + generated)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_prompt_ignore_length_says_nothing_to_ngrams(new_sampler) -> None:
    ours = edited(
        new_sampler, random_logits(2), [4, 5], [4], no_repeat_ngram_size=2, prompt_ignore_length=2
    )
    assert np.flatnonzero(np.isneginf(ours[0])).tolist() == [5]


def test_biases_are_those_of_transformers(new_sampler) -> None:
    logits = random_logits(3, rows=4)
    biases = {0: 3.5, 7: -2.25, VOCAB - 1: -np.inf, 12: 100.0}
    ours = edited(new_sampler, logits, [1], [2], logit_bias=list(biases.items()))
    processor = SequenceBiasLogitsProcessor({(token,): bias for token, bias in biases.items()})
    np.testing.assert_array_equal(ours, processed(processor, logits, [1, 2]))


def test_a_dense_and_a_sparse_bias_add_up(new_sampler) -> None:
    logits = random_logits(4)
    dense = random_logits(5)[0]
    dense[::3] = 0
    ours = edited(new_sampler, logits, [], [], embedding_bias=dense, logit_bias=[(3, 1.5), (4, -2)])
    dense[3] += 1.5
    dense[4] -= 2
    np.testing.assert_array_equal(ours, logits + dense)


def test_biases_come_before_penalties_and_bans_last(new_sampler) -> None:
    logits = np.full((1, VOCAB), -1, np.float32)
    ours = edited(
        new_sampler,
        logits,
        [5],
        [],
        decoding.StopParams(bad_words=[[6]]),
        logit_bias=[(5, 5.0), (6, 50.0)],
        repetition_penalty=2.0,
    )
    assert ours[0, 5] == 2.0 and np.isneginf(ours[0, 6])


@pytest.mark.parametrize("generated", [[], [1], [1, 2], [2, 1, 2], [3, 3, 3], [9, 1, 2, 3]])
def test_bad_words_are_those_of_transformers(new_sampler, generated: list[int]) -> None:
    words = [[4], [1, 2], [1, 2, 3], [3, 3, 3, 3], [9, 1, 2, 3, 4, 5]]
    logits = random_logits(6)
    ours = edited(new_sampler, logits, [0], generated, decoding.StopParams(bad_words=words))
    theirs = processed(NoBadWordsLogitsProcessor(words, eos_token_id=[]), logits, [0, *generated])
    np.testing.assert_array_equal(ours, theirs)
    assert np.isneginf(ours[0, 4])


def test_an_id_in_flight_counts_as_one_that_is_known(new_sampler) -> None:
    """The newest id of each row is what the step before drew in another row."""
    prompt = [10, 11, 12, 10, 11]
    logits = random_logits(7, rows=3)
    first = np.full((3, VOCAB), -1, np.float32)
    drawn = [12, 10, 11]
    first[range(3), drawn] = 1
    ways = [
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 1, "repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 3, "logit_bias": [(1, 2.0)]},
    ]
    sampler = new_sampler(VOCAB, 3, 1)
    greedy = decoding.SamplingParams(greedy=True)
    tokens = sampler.sample(first, [decoding.SampleRow(i, greedy) for i in range(3)])
    assert [token for token, *_ in tokens] == drawn
    ours = logits.copy()
    newest = [2, 1, 0]  # rows of the step before
    rows = [
        decoding.SampleRow(
            i,
            decoding.SamplingParams(greedy=True, **way),
            prompt_ids=prompt,
            in_flight_token=newest[i],
        )
        for i, way in enumerate(ways)
    ]
    sampler.sample(ours, rows)
    for i, way in enumerate(ways):
        known = edited(new_sampler, logits[i : i + 1], prompt, [drawn[newest[i]]], **way)
        np.testing.assert_array_equal(ours[i : i + 1], known)
        assert np.isneginf(known).any()


@pytest.mark.parametrize(("vocab_size", "batch"), [(1, 2), (33, 9), (4097, 65), (128256, 30)])
def test_cuda_edits_as_the_cpu_does(vocab_size: int, batch: int) -> None:
    if "cuda" not in _core.op_devices():
        pytest.skip("no cuda on this machine or in this build")
    rng = np.random.default_rng([vocab_size, batch])
    logits = random_logits(8, batch, vocab_size)
    rows = []
    for i in range(batch):
        size = min(vocab_size, [3, 200, vocab_size][i % 3])
        biased = rng.permutation(vocab_size)[:size].tolist()
        params = decoding.SamplingParams(
            greedy=True,
            no_repeat_ngram_size=i % 5,
            repetition_penalty=[1.0, 1.3][i % 2],
            prompt_ignore_length=int(rng.integers(100)),
            logit_bias=list(zip(biased, rng.standard_normal(size).tolist(), strict=True))
            if i % 4
            else [],
        )
        history = rng.integers(0, min(vocab_size, 40), rng.integers(0, 5000)).tolist()
        half = len(history) // 2
        rows.append(
            decoding.SampleRow(i, params, prompt_ids=history[:half], generated_ids=history[half:])
        )
    changed = {device: logits.copy() for device in ("cpu", "cuda")}
    answers = {
        device: decoding.Sampler(vocab_size, batch, 2, device).sample(changed[device], rows)
        for device in changed
    }
    np.testing.assert_allclose(changed["cuda"], changed["cpu"], rtol=1e-6)
    assert [a[:2] for a in answers["cuda"]] == [a[:2] for a in answers["cpu"]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"embedding_bias": [0.0] * 51}, "embedding_bias has 51 values; it must have at most 50"),
        ({"embedding_bias": [float("nan")] + [0.0] * 49}, "embedding_bias of token id 0 is nan"),
        ({"logit_bias": [(3, float("inf"))]}, "logit_bias of token id 3 is inf"),
        ({"logit_bias": [(50, 1.0)]}, "logit_bias holds token id 50"),
        ({"logit_bias": [(-1, 1.0)]}, "logit_bias holds token id -1"),
        ({"logit_bias": [(4, 1.0), (2, 1.0), (4, 0.0)]}, "logit_bias names token id 4 twice"),
        ({"top_p_decay": 0.0}, "top_p_decay is 0; it must be greater than 0 and at most 1"),
        ({"top_p_decay": 1.01}, "top_p_decay is 1.01"),
        ({"top_p_min": -0.1}, "top_p_min is -0.1; it must be at least 0 and at most 1"),
        ({"top_p_min": float("nan")}, "top_p_min is nan"),
        ({"top_p_reset_id": 50}, "top_p_reset_ids is 50; it must be -1 \\(none\\) or in \\[0, 50"),
        ({"top_p_reset_id": -2}, "top_p_reset_ids is -2"),
        ({"prompt_ignore_length": -1}, "prompt_ignore_length is -1; it must be at least 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1; it must be at least 0"),
    ],
)
def test_what_is_refused(params: dict, message: str) -> None:
    with pytest.raises(_core.InvalidArgumentError, match=message):
        decoding.SamplingParams(**params).validate(VOCAB)


def test_the_ends_of_what_is_allowed() -> None:
    decoding.SamplingParams(
        embedding_bias=[-np.inf] * VOCAB,
        logit_bias=[(0, -np.inf), (49, 3e38)],
        top_p_decay=1e-6,
        top_p_min=1.0,
        top_p_reset_id=49,
        prompt_ignore_length=2**31 - 1,
        no_repeat_ngram_size=2**31 - 1,
    ).validate(VOCAB)
