"""What a request answers does not depend on what else runs, nor on how the work is cut."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from engine_client import TINY, Answer, Client
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Job:
    input_ids: tuple[int, ...]
    parameters: tuple[tuple[str, Any], ...]

    def submit(self, client: Client) -> Answer:
        return client.submit(list(self.input_ids), **dict(self.parameters))[1]


def random_job(source: random.Random) -> Job:
    length = source.choice([1, 2, 7, 8, 9, 16, 31, 64, 90])
    parameters: dict[str, Any] = {
        "max_new_tokens": source.randint(1, 24),
        "streaming": source.random() < 0.5,
        "priority": source.randint(0, 2),
    }
    if source.random() < 0.5:
        parameters |= {"greedy": True, "end_ids": [source.randrange(TINY["vocab_size"])]}
    else:
        parameters |= {
            "temperature": source.choice([0.5, 1.0, 1.5]),
            "top_k": source.choice([0, 5, 50]),
            "top_p": source.choice([0.8, 1.0]),
            "seed": source.getrandbits(64),
            "repetition_penalty": source.choice([1.0, 1.3]),
            "frequency_penalty": source.choice([0.0, 0.5]),
            "bad_words": [[source.randrange(TINY["vocab_size"])]],
        }
    input_ids = tuple(source.randrange(TINY["vocab_size"]) for _ in range(length))
    return Job(input_ids, tuple(parameters.items()))


JOBS = [random_job(random.Random(seed)) for seed in range(40)]


@pytest.fixture(scope="module")
def alone(client: Client) -> list[tuple[list[int], str]]:
    """Each job's answer when nothing else runs and its prompt is read in one step."""
    answers = []
    for job in JOBS:
        answer = job.submit(client)
        assert answer.done.wait(60)
        answers.append((answer.token_ids, answer.finish_reason))
    assert len({tuple(tokens) for tokens, _ in answers}) > 30  # the jobs tell engines apart
    return answers


def run_all(client: Client, jobs: list[Job]) -> list[tuple[list[int], str]]:
    answers = [job.submit(client) for job in jobs]
    for answer in answers:
        assert answer.done.wait(60)
        assert answer.error is None
        assert answer.num_finals == 1
    client.assert_all_free()
    return [(answer.token_ids, answer.finish_reason) for answer in answers]


def test_a_random_batch_equals_each_alone(
    client: Client, alone: list[tuple[list[int], str]]
) -> None:
    for seed in range(3):
        order = list(range(len(JOBS)))
        random.Random(seed).shuffle(order)
        assert run_all(client, [JOBS[i] for i in order]) == [alone[i] for i in order]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    tokens_per_block=st.sampled_from([1, 3, 8, 32]),
    max_batch_size=st.integers(1, 16),
    max_num_tokens=st.integers(1, 256),
    kv_cache_max_tokens=st.one_of(st.none(), st.integers(128, 512)),
    num_threads=st.integers(1, 2),
    start=st.integers(0, len(JOBS) - 12),
)
def test_every_way_to_cut_the_work(
    tiny_engine: Callable[[int], Path],
    device: str,
    alone: list[tuple[list[int], str]],
    tokens_per_block: int,
    max_batch_size: int,
    max_num_tokens: int,
    kv_cache_max_tokens: int | None,
    num_threads: int,
    start: int,
) -> None:
    client = Client(
        tiny_engine(tokens_per_block),
        device=device,
        max_batch_size=max_batch_size,
        max_num_tokens=max_num_tokens,
        kv_cache_max_tokens=kv_cache_max_tokens,
        num_threads=num_threads,
    )
    try:
        assert run_all(client, JOBS[start : start + 12]) == alone[start : start + 12]
    finally:
        client.close()


def test_whole_prompts_equal_chunks(
    make_client: Callable[..., Client], alone: list[tuple[list[int], str]]
) -> None:
    client = make_client(enable_chunked_context=False, max_num_tokens=100)
    assert client.engine.info.max_prompt_len == 100
    assert run_all(client, JOBS) == alone


def test_log_probabilities_do_not_depend_on_the_batch(client: Client) -> None:
    jobs = [random_job(random.Random(seed)) for seed in range(100, 116)]
    jobs = [Job(job.input_ids, (*job.parameters, ("num_logprobs", 2))) for job in jobs]
    separately = []
    for job in jobs:
        answer = job.submit(client)
        assert answer.done.wait(60)
        separately.append(answer)
    together = [job.submit(client) for job in jobs]
    for one, other in zip(separately, together, strict=True):
        assert other.done.wait(60)
        assert len(one.log_probs) == len(one.token_ids)
        assert other.log_probs == pytest.approx(one.log_probs, abs=1e-5)
