"""The handle of a request, driven by hand as the engine's reader would drive it."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from inflight.llm import GenerationResult, SamplingParams
from inflight.llm.answer import Answer
from inflight.llm.prompt_logits import prompt_logprobs


@dataclass
class Part:
    token_ids: list[int]
    finish_reason: str = "none"
    error: Exception | None = None
    log_probs: list = field(default_factory=list)
    context_logits: np.ndarray | None = None
    generation_logits: np.ndarray | None = None

    @property
    def is_final(self) -> bool:
        return self.finish_reason != "none"


def handle(streaming: bool = True, cancelled: list | None = None, **params) -> GenerationResult:
    answer = Answer(SamplingParams(**params), [1], None)
    cancel = (lambda id: None) if cancelled is None else cancelled.append
    return GenerationResult(1, None, [1], answer, streaming, cancel)


def later(*steps) -> threading.Thread:
    def work() -> None:
        for step in steps:
            time.sleep(0.02)
            step()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def ids(output) -> list[int]:
    return output.outputs[0].token_ids


def test_why_it_ended():
    for reason, told in (
        ("end_id", "stop"),
        ("stop_word", "stop"),
        ("length", "length"),
        ("deadline", "deadline"),
        ("cancelled", "cancelled"),
    ):
        result = handle()
        result.deliver(Part([3], reason))
        assert result.result(timeout=0).outputs[0].finish_reason == told


def test_logits_of_a_stream():
    result = handle(return_generation_logits=True, return_context_logits=True, prompt_logprobs=1)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    context = np.array([[0, 0, 0, np.log(3)]], np.float32)
    result.deliver(Part([3], context_logits=context, generation_logits=rows[:1]))
    output = next(result)
    assert output.context_logits is context and output.prompt_logprobs == [None]
    np.testing.assert_array_equal(output.outputs[0].generation_logits, rows[:1])
    result.deliver(Part([1, 2], "length", generation_logits=rows[1:]))
    output = result.result()
    assert output.context_logits is context
    np.testing.assert_array_equal(output.outputs[0].generation_logits, rows)


def test_prompt_logprobs():
    rng = np.random.default_rng(0)
    logits, prompt = rng.standard_normal((150, 30), np.float32), rng.integers(0, 30, 150).tolist()
    exact = np.log(np.exp(logits.astype(np.float64)))
    exact -= np.log(np.exp(exact).sum(axis=1, keepdims=True))
    first, *others = prompt_logprobs(logits, prompt, 2)
    assert first is None and len(others) == 149
    for row, (token, entry) in enumerate(zip(prompt[1:], others, strict=True)):
        order = np.argsort(-exact[row])
        assert entry[token].logprob == pytest.approx(exact[row, token])
        assert entry[token].rank == order.tolist().index(token) + 1
        assert set(entry) == {token, *order[:2].tolist()}
        assert next(iter(entry)) == token
    assert all(
        set(entry) == {token}
        for token, entry in zip(prompt[1:], prompt_logprobs(logits, prompt, 0)[1:], strict=True)
    )
    assert prompt_logprobs(logits[:1], prompt[:1], 3) == [None]


def test_walking_a_stream():
    result = handle()
    thread = later(
        lambda: result.deliver(Part([3])),
        lambda: result.deliver(Part([4, 5])),
        lambda: result.deliver(Part([], "length")),
    )
    outputs = list(result)
    thread.join()
    assert [ids(output) for output in outputs] == [[3], [3, 4, 5], [3, 4, 5]]
    assert [output.outputs[0].token_ids_diff for output in outputs] == [[3], [4, 5], []]
    assert [output.finished for output in outputs] == [False, False, True]
    assert ids(result.result()) == [3, 4, 5]
    assert list(result) == []


def test_a_late_reader_gets_larger_parts():
    result = handle()
    result.deliver(Part([3]))
    result.deliver(Part([4]))
    assert ids(next(result)) == [3, 4]
    result.deliver(Part([5], "end_id"))
    last = next(result)
    assert last.finished and last.outputs[0].token_ids_diff == [5]
    assert last.outputs[0].finish_reason == "stop"


def test_without_streaming_there_is_one_item():
    result = handle(streaming=False)
    result.deliver(Part([3]))  # inside, a request with stop strings streams
    result.deliver(Part([4], "length"))
    assert [ids(output) for output in result] == [[3, 4]]


@pytest.mark.parametrize("streaming", [False, True])
def test_async_readers(streaming: bool):
    async def read() -> tuple:
        result = handle(streaming=streaming)
        thread = later(
            lambda: result.deliver(Part([3])), lambda: result.deliver(Part([4], "length"))
        )
        waits = asyncio.gather(result.aresult(), result.aresult())
        outputs = [output async for output in result]
        finals = await waits
        again = await result
        thread.join()
        return outputs, finals, again

    outputs, finals, again = asyncio.run(read())
    assert [ids(output) for output in outputs] == ([[3], [3, 4]] if streaming else [[3, 4]])
    assert [ids(output) for output in (*finals, again)] == [[3, 4]] * 3


def test_errors_reach_every_reader():
    result = handle()
    result.deliver(Part([3]))
    result.deliver(Part([], "error", ValueError("bad logits")))
    assert ids(next(result)) == [3]
    for read in (lambda: next(result), result.result, lambda: asyncio.run(result.aresult())):
        with pytest.raises(ValueError, match="bad logits"):
            read()


def test_time_out():
    with pytest.raises(TimeoutError, match="0.01"):
        handle().result(timeout=0.01)


def test_abort_before_and_after_the_engine_knows_it():
    cancelled: list[int] = []
    early, late = handle(cancelled=cancelled), handle(cancelled=cancelled)
    early.abort()
    assert cancelled == []
    early.submitted(7)
    late.submitted(8)
    late.abort()
    assert cancelled == [7, 8]
    late.deliver(Part([3], "cancelled"))
    assert late.result().outputs[0].finish_reason == "cancelled"
    late.abort()
    assert cancelled == [7, 8]


def test_a_stop_found_here_cancels_there():
    """The stop token id is known to the engine too; here the engine is late to say so."""
    for submitted_first in (True, False):
        cancelled: list[int] = []
        result = handle(cancelled=cancelled, stop_token_ids=[5])
        if submitted_first:
            result.submitted(7)
        result.deliver(Part([3, 5, 4]))
        assert result.done and ids(result.result()) == [3]
        if not submitted_first:
            result.submitted(7)
        assert cancelled == [7]
        result.deliver(Part([6], "cancelled"))
        output = result.result().outputs[0]
        assert (output.token_ids, output.finish_reason, output.stop_reason) == ([3], "stop", 5)


def test_our_own_failure_ends_the_request():
    cancelled: list[int] = []
    result = handle(cancelled=cancelled)
    result.submitted(7)
    result.fail(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        result.result()
    assert cancelled == [7]
