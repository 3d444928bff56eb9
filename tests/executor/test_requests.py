"""The life of requests: parts, endings, cancels, limits, statistics, many of them."""

import gc
import random
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_client import Client
from inflight import _core

PROMPT = [5, 17, 200, 33]


def test_streaming_and_not_give_the_same(client: Client) -> None:
    whole = client.generate(PROMPT, greedy=True, max_new_tokens=120)
    assert whole.num_parts == 1
    for _ in range(20):  # on a busy machine all tokens may be there before the first is sent
        streamed = client.generate(PROMPT, greedy=True, max_new_tokens=120, streaming=True)
        if streamed.num_parts > 1:
            break
    assert streamed.num_parts > 1
    assert streamed.token_ids == whole.token_ids
    assert len(whole.token_ids) == 120
    assert whole.finish_reason == streamed.finish_reason == "length"


def test_ends(client: Client) -> None:
    all_ids = client.generate(PROMPT, greedy=True, max_new_tokens=30).token_ids
    end = next(i for i in range(5, 30) if all_ids[i] not in all_ids[:i])
    ended = client.generate(PROMPT, greedy=True, max_new_tokens=30, end_ids=[all_ids[end]])
    assert (ended.token_ids, ended.finish_reason) == (all_ids[:end], "end_id")
    word = all_ids[end - 1 : end + 1]
    stopped = client.generate(PROMPT, greedy=True, max_new_tokens=30, stop_words=[word])
    assert (stopped.token_ids, stopped.finish_reason) == (all_ids[: end + 1], "stop_word")
    at_once = client.generate(
        PROMPT, greedy=True, max_new_tokens=30, end_ids=[all_ids[0]], streaming=True
    )
    assert (at_once.token_ids, at_once.finish_reason) == ([], "end_id")
    held = client.generate(
        PROMPT, greedy=True, max_new_tokens=30, end_ids=[all_ids[0]], min_new_tokens=4
    )
    assert len(held.token_ids) >= 4


def test_prompts_of_every_integer_type(client: Client) -> None:
    expected = client.generate(PROMPT, greedy=True).token_ids
    for dtype in (np.int32, np.int64, np.uint16):
        assert client.generate(np.array(PROMPT, dtype), greedy=True).token_ids == expected
    assert client.generate(tuple(PROMPT), greedy=True).token_ids == expected


@pytest.mark.parametrize(
    ("input_ids", "parameters", "message"),
    [
        ([], {}, "prompt is empty"),
        ([1] * 128, {}, r"Prompt length \(128\) exceeds maximum input length \(127\)"),
        ([1, 320], {}, r"input_ids\[1\] is 320, outside the vocabulary \[0, 320\)"),
        ([-1], {}, r"input_ids\[0\] is -1"),
        ([1, 2**40], {}, rf"input_ids\[1\] is {2**40}"),
        ([[1, 2]], {}, "integer"),
        (np.zeros((2, 2), np.int32), {}, "2 dimensions"),
        (np.zeros(2, np.float32), {}, "float32"),
        ([1.5], {}, "integer"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([1], {"max_new_tokens": -3}, "max_new_tokens is -3"),
        ([1], {"temperature": -1.0}, "temperature is -1"),
        ([1], {"temperature": float("nan")}, "temperature is nan"),
        ([1], {"top_p": 0.0}, "top_p is 0"),
        ([1], {"top_p": float("inf")}, "top_p is inf"),
        ([1], {"top_k": -1}, "top_k is -1"),
        ([1], {"min_p": 1.5}, "min_p is 1.5"),
        ([1], {"repetition_penalty": 0.0}, "repetition_penalty is 0"),
        ([1], {"seed": -1}, "seed is -1"),
        ([1], {"seed": 2**64}, rf"seed is {2**64}"),
        ([1], {"end_ids": [320]}, "320"),
        ([1], {"stop_words": [[1, 400]]}, "400"),
        ([1], {"bad_words": [[]]}, "bad_words"),
    ],
)
def test_bad_input_is_refused_and_nothing_else_notices(
    client: Client, input_ids: Any, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        client.submit(input_ids, **parameters)
    assert client.generate(PROMPT, greedy=True, max_new_tokens=2).finish_reason == "length"


def test_too_long_an_output_is_shortened(client: Client) -> None:
    answer = client.generate([7] * 120, greedy=True, max_new_tokens=2**31 - 1)
    assert (len(answer.token_ids), answer.finish_reason) == (8, "length")


def test_what_never_fits_the_pool_is_refused(make_client: Callable[..., Client]) -> None:
    client = make_client(kv_cache_max_tokens=64)
    assert client.engine.info.num_blocks == 8
    message = "66 tokens need 9 KV cache blocks of 8 tokens, the cache has 8"
    with pytest.raises(_core.InvalidArgumentError, match=message):
        client.submit([1] * 60, max_new_tokens=6)
    assert len(client.generate([1] * 60, greedy=True, max_new_tokens=5).token_ids) == 5


def test_queue_full(make_client: Callable[..., Client]) -> None:
    client = make_client(max_batch_size=1, max_queue_size=3)
    answers = []
    with pytest.raises(_core.ResourceExhaustedError) as caught:
        for _ in range(50):
            answers.append(client.submit(PROMPT, greedy=True, max_new_tokens=100)[1])
    assert "Maximum queue size of 3" in str(caught.value)
    assert "Exceeds maximum queue size" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    assert len(answers) >= 3
    for answer in answers:
        assert answer.done.wait(60)
        assert answer.finish_reason == "length"


def test_cancel_in_the_middle(client: Client) -> None:
    alone = client.generate(PROMPT, greedy=True, max_new_tokens=120).token_ids
    before = client.engine.stats()
    jobs = [
        client.submit(PROMPT, greedy=True, max_new_tokens=120, streaming=True) for _ in range(12)
    ]
    for request_id, answer in jobs[::2]:
        assert answer.first_token.wait(60)
        client.engine.cancel(request_id)
    for _, answer in jobs:
        assert answer.done.wait(60)
        assert answer.num_finals == 1
        assert answer.token_ids == alone[: len(answer.token_ids)]
    for _, answer in jobs[1::2]:
        assert answer.token_ids == alone
    num_cancelled = sum(answer.finish_reason == "cancelled" for _, answer in jobs)
    assert num_cancelled >= 1
    client.assert_all_free()
    stats = client.engine.stats()
    assert stats.cancelled_requests - before.cancelled_requests == num_cancelled
    assert stats.finished_requests - before.finished_requests == 12 - num_cancelled
    generated = sum(len(answer.token_ids) for _, answer in jobs)
    assert stats.generated_tokens - before.generated_tokens == generated


def test_random_cancels_from_several_threads(make_client: Callable[..., Client]) -> None:
    client = make_client(max_batch_size=6, kv_cache_max_tokens=256)
    jobs: list[Any] = []

    def work(seed: int) -> None:
        source = random.Random(seed)
        mine = []
        for _ in range(60):
            mine.append(
                client.submit(
                    [source.randrange(320)] * source.randint(1, 40),
                    max_new_tokens=source.randint(1, 20),
                    streaming=source.random() < 0.5,
                )
            )
            if source.random() < 0.5:
                client.engine.cancel(source.choice(mine)[0])
        jobs.extend(mine)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(jobs) == 240
    for _, answer in jobs:
        assert answer.done.wait(60)
        assert answer.finish_reason in ("length", "cancelled")
    client.assert_all_free()
    client.close()
    assert all(answer.num_finals == 1 for _, answer in jobs)


def test_closing_ends_everything(make_client: Callable[..., Client]) -> None:
    client = make_client(max_batch_size=2)
    jobs = [client.submit(PROMPT, greedy=True, max_new_tokens=120) for _ in range(8)]
    client.close()
    assert {answer.finish_reason for _, answer in jobs} <= {"cancelled", "length"}
    assert all(answer.num_finals == 1 for _, answer in jobs)
    assert jobs[-1][1].finish_reason == "cancelled"
    with pytest.raises(_core.InflightError, match="closed"):
        client.submit(PROMPT)
    client.engine.cancel(jobs[0][0])
    assert client.engine.next_responses() is None
    assert client.engine.stats().used_blocks == 0


def test_an_engine_dropped_while_it_runs(tiny_engine: Callable[[int], Path]) -> None:
    for _ in range(3):
        engine = _core.Engine(str(tiny_engine(8)), num_threads=1)
        for _ in range(4):
            engine.submit(PROMPT, max_new_tokens=100)
        del engine
        gc.collect()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_batch_size": 17}, "max_batch_size is 17.*at most 16"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_seq_len": 129}, "max_seq_len is 129.*at most 128"),
        ({"max_num_tokens": 257}, "max_num_tokens is 257.*at most 256"),
        ({"max_seq_len": 1}, "max_seq_len is 1"),
        ({"max_queue_size": -1}, "max_queue_size is -1"),
        ({"num_threads": -2}, "num_threads is -2"),
        ({"kv_cache_max_tokens": 7}, "kv_cache_max_tokens is 7, less than one block of 8"),
        ({"kv_cache_max_bytes": 100}, "kv_cache_max_bytes is 100, less than one block of"),
        ({"kv_cache_free_memory_fraction": 0.0}, "kv_cache_free_memory_fraction is 0"),
        ({"kv_cache_free_memory_fraction": 1.5}, "kv_cache_free_memory_fraction is 1.5"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"device": "cuda:"}, "device is 'cuda:', must be"),
        ({"device": "cuda:1x"}, "device is 'cuda:1x', must be"),
        ({"load_format": "random"}, "load_format is 'random'"),
    ],
)
def test_bad_settings_are_refused(
    tiny_engine: Callable[[int], Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(_core.InvalidArgumentError, match=message):
        _core.Engine(str(tiny_engine(8)), **settings)


def test_pool_size_follows_the_caps(make_client: Callable[..., Client]) -> None:
    largest = 16 * 16  # 16 sequences of 127 cached tokens
    assert make_client().engine.info.num_blocks == largest
    by_tokens = make_client(kv_cache_max_tokens=1000).engine.info
    assert by_tokens.num_blocks == 125
    bytes_per_block = by_tokens.kv_cache_bytes // by_tokens.num_blocks
    assert bytes_per_block == 2 * 2 * 2 * 8 * 8 * 4  # layers, k and v, heads, tokens, size, float
    by_both = make_client(kv_cache_max_tokens=1000, kv_cache_max_bytes=100 * bytes_per_block + 1)
    assert by_both.engine.info.num_blocks == 100
    assert make_client(kv_cache_max_tokens=10**9).engine.info.num_blocks == largest
    assert "100 blocks of 8 tokens = 800 tokens" in by_both.engine.memory_plan


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def test_ten_thousand_requests_leave_memory_flat(make_client: Callable[..., Client]) -> None:
    client = make_client(check_invariants=False)
    source = random.Random(0)

    def run(count: int) -> None:
        for _ in range(count // 100):
            answers = [
                client.submit(
                    [source.randrange(320)] * source.randint(1, 6),
                    max_new_tokens=source.randint(1, 4),
                    streaming=source.random() < 0.5,
                )[1]
                for _ in range(100)
            ]
            assert all(answer.done.wait(60) for answer in answers)
            client.forget()

    run(2000)  # tables grow to their size
    growths = []
    for _ in range(3):
        gc.collect()
        before = resident_bytes()
        run(5000)
        gc.collect()
        growths.append(resident_bytes() - before)
    # What leaks grows each time; allocators once, by some 4 MB, when more waits at once than before.
    assert min(growths) < 1 << 20, growths
    client.assert_all_free()
    assert client.engine.stats().finished_requests == 17_000


def test_waiting_readers_use_no_processor(client: Client) -> None:
    client.generate(PROMPT, greedy=True, max_new_tokens=3)
    time.sleep(0.1)
    before = time.process_time()
    assert client.engine.next_responses(timeout=0.3) == []
    assert time.process_time() - before < 0.02


def times_slept(work: Callable[[], Any]) -> int:
    """How often this thread gave up its processor to wait for something."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    work()
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before


def test_a_reader_may_stay_awake_for_a_while(client: Client) -> None:
    def wait(timeout: float, spin: float) -> None:
        started = time.monotonic()
        assert client.engine.next_responses(timeout=timeout, spin=spin) == []
        assert time.monotonic() - started >= 0.2

    # Not its processor time: a busy machine gives one that yields next to none.
    assert times_slept(lambda: wait(0.2, 0.0)) > 0
    # Back from its wait a thread may have to wait for Python's lock.
    assert min(times_slept(lambda: wait(0.0, 0.2)) for _ in range(5)) == 0
