"""The CUDA sampler against its CPU twin: the same tokens and probabilities from the same rows."""

import numpy as np
import pytest
from inflight import _core
from sampling_reference import Case, distribution

decoding = _core.decoding
WAYS = [
    {"greedy": True},
    {"greedy": True, "num_logprobs": 5},
    {"temperature": 0.7},
    {"top_k": 50, "top_p": 0.9},
    {"top_k": 50, "top_p": 0.9, "temperature": 0.6, "num_logprobs": 3},
    {"top_k": 700},
    {"top_k": 9000, "top_p": 0.99, "min_p": 1e-4},
    {"top_p": 0.9},
    {"top_p": 0.9999, "temperature": 2.5},
    {"top_p": 0.5, "temperature": 0.2, "num_logprobs": 20},
    {"min_p": 0.05, "num_logprobs": 0},
    {"min_p": 1e-6},
    {"top_k": 40, "repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.4},
    {"greedy": True, "repetition_penalty": 0.8},
]


def fits(cpu: tuple, cuda: tuple) -> bool:
    """The same token, likeliest tokens and, up to rounding, log-probabilities."""
    log_probs = [[answer[2], *(p for _, p in answer[3])] for answer in (cpu, cuda)]
    return (
        cpu[0] == cuda[0]
        and [token for token, _ in cpu[3]] == [token for token, _ in cuda[3]]
        and np.allclose(*log_probs, atol=2e-5, rtol=2e-6)
    )


@pytest.mark.parametrize("kind", ["flat", "peaked", "ties", "sorted", "narrow"])
@pytest.mark.parametrize(
    ("vocab_size", "batch"),
    [(1, 3), (2, 300), (33, 40), (513, 17), (4097, 9), (50257, 65), (128256, 1), (128256, 150)],
)
def test_cuda_draws_what_the_cpu_draws(kind: str, vocab_size: int, batch: int) -> None:
    if "cuda" not in _core.op_devices():
        pytest.skip("no cuda on this machine or in this build")
    rng = np.random.default_rng([vocab_size, batch, len(kind)])
    logits = rng.standard_normal((batch, vocab_size), np.float32)
    if kind == "peaked":
        logits *= 4
    if kind == "ties":
        logits = np.round(logits * 4) / 4
    if kind == "sorted":
        logits.sort(axis=1)
    if kind == "narrow":
        logits = np.float32(5) + logits * np.float32(1e-6)
    for row in range(batch):
        if row % 7 == 3:
            logits[row, rng.random(vocab_size) < 0.9] = -np.inf
        if row % 31 == 13:
            logits[row] = -np.inf
        if row % 31 == 17:
            logits[row, rng.integers(vocab_size)] = [np.nan, np.inf][row % 2]
    ways = [dict(WAYS[i % len(WAYS)], seed=i) for i in range(batch)]
    for way in ways:
        way["num_logprobs"] = min(way.get("num_logprobs", -1), vocab_size)
    prompts = [rng.integers(0, vocab_size, rng.integers(0, 3000)).tolist() for _ in ways]
    generated = [prompt[: len(prompt) // 3] + [0] for prompt in prompts]
    order = rng.permutation(batch)
    rows = [
        decoding.SampleRow(
            int(order[i]),
            decoding.SamplingParams(**ways[i]),
            decoding.StopParams(
                bad_words=[[vocab_size - 1]] if i % 5 == 0 and vocab_size > 2 else []
            ),
            prompts[i],
            generated[i],
        )
        for i in range(batch)
    ]
    changed = {device: logits.copy() for device in ("cpu", "cuda")}
    answers = {
        device: decoding.Sampler(vocab_size, batch, 2, device).sample(changed[device], rows)
        for device in changed
    }
    np.testing.assert_allclose(changed["cuda"], changed["cpu"], rtol=1e-6)
    different = 0
    for i, (cpu, cuda) in enumerate(zip(answers["cpu"], answers["cuda"], strict=True)):
        what = f"row {i}, {ways[i]}: {cpu} and {cuda}"
        assert cpu[1] == cuda[1], what
        if fits(cpu, cuda):
            continue
        # Rounding may move an edge: of the set that top_p keeps, or between two tokens' intervals.
        assert not ways[i].get("greedy"), what
        known = Case.__dataclass_fields__
        case = Case(**{k: v for k, v in ways[i].items() if k in known and "penalty" not in k})
        probs, margin = distribution(changed["cpu"][order[i]], case)
        if margin.min() < 2e-6:
            continue
        uniform = decoding.philox_uniform(i, len(generated[i]))
        end = np.cumsum(probs)[cuda[0]]
        assert cpu[0] != cuda[0] and end - probs[cuda[0]] - 2e-5 <= uniform <= end + 2e-5, what
        different += 1
    assert different <= 1 + batch // 50
