"""The stop rules and bans against a naive model of strings of ids."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from inflight import _core

decoding = _core.decoding
ids = st.integers(0, 3)  # few, so that words match often
words = st.lists(st.lists(ids, min_size=1, max_size=4), max_size=4)


def text(tokens: list[int]) -> str:
    return "".join(f"<{token}>" for token in tokens)


def naive_stop(
    generated: list[int],
    end_ids: list[int],
    stop_words: list[list[int]],
    min_new_tokens: int,
    max_new_tokens: int,
) -> str:
    if not generated:
        return "none"
    output = generated[:-1]  # what is left if the newest is an end id
    if generated[-1] in end_ids and not len(output) < min_new_tokens:
        return "end_id"
    matches = [word for word in stop_words if text(generated).endswith(text(word))]
    if matches and not len(generated) < min_new_tokens:
        return "stop_word"
    return "length" if len(generated) >= max_new_tokens else "none"


@given(
    generated=st.lists(ids, max_size=8),
    end_ids=st.lists(ids, max_size=2),
    stop_words=words,
    min_new_tokens=st.integers(0, 6),
    max_new_tokens=st.integers(1, 9),
)
@example(generated=[1], end_ids=[1], stop_words=[[1]], min_new_tokens=0, max_new_tokens=1)
@example(generated=[1], end_ids=[1], stop_words=[], min_new_tokens=1, max_new_tokens=1)
def test_stop_after(generated, end_ids, stop_words, min_new_tokens, max_new_tokens) -> None:
    params = decoding.StopParams(
        min_new_tokens=min_new_tokens, end_ids=end_ids, stop_words=stop_words
    )
    reason = decoding.stop_after(params, generated, max_new_tokens)
    assert reason.name == naive_stop(generated, end_ids, stop_words, min_new_tokens, max_new_tokens)


@given(
    generated=st.lists(ids, max_size=6),
    bad_words=words,
    end_ids=st.lists(ids, max_size=2),
    min_new_tokens=st.integers(0, 5),
)
def test_banned_ids(generated, bad_words, end_ids, min_new_tokens) -> None:
    params = decoding.StopParams(
        min_new_tokens=min_new_tokens, end_ids=end_ids, bad_words=bad_words
    )
    expected = {
        token
        for token in range(4)
        if any(text(generated + [token]).endswith(text(word)) for word in bad_words)
        or (token in end_ids and len(generated) < min_new_tokens)
    }
    assert set(decoding.banned_ids(params, generated)) == expected


@given(bad_words=words, seed=st.integers(0, 2**64 - 1), min_new_tokens=st.integers(0, 6))
def test_no_output_holds_a_bad_word_or_ends_too_early(bad_words, seed, min_new_tokens) -> None:
    params = decoding.StopParams(
        min_new_tokens=min_new_tokens,
        end_ids=[5],
        stop_words=[[4, 4]],
        bad_words=bad_words,
    )
    sampler = decoding.Sampler(6, 1)
    sampling = decoding.SamplingParams(seed=seed)
    generated: list[int] = []
    reason = decoding.StopReason.none
    while reason == decoding.StopReason.none:
        row = decoding.SampleRow(0, sampling, params, generated_ids=generated)
        [(token, status, *_)] = sampler.sample(np.zeros((1, 6), np.float32), [row])
        assert status == decoding.SampleStatus.ok
        generated.append(token)
        reason = decoding.stop_after(params, generated, 12)
    if reason == decoding.StopReason.end_id:
        generated.pop()
    assert len(generated) >= min_new_tokens and len(generated) <= 12
    assert not any(text(word) in text(generated) for word in bad_words)
