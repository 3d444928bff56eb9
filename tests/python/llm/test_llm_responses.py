"""Who reads the engine's responses, over an engine that answers when told."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

from inflight.llm import SamplingParams
from inflight.llm.answer import Answer
from inflight.llm.generation import GenerationResult
from inflight.llm.responses import Responses


@dataclass
class Part:
    tag: int
    token_ids: list[int]
    finish_reason: str = "length"
    error: Exception | None = None
    log_probs: list = field(default_factory=list)
    context_logits: None = None
    generation_logits: None = None
    is_final = True


class Engine:
    info = SimpleNamespace(device="cuda:0")

    def __init__(self) -> None:
        self.parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self.readers: list[threading.Thread] = []
        self.spins: list[float] = []
        self.reading = threading.Lock()
        self.entered = threading.Event()

    def next_responses(self, timeout: float | None, spin: float) -> list[Part] | None:
        assert self.reading.acquire(blocking=False), "two threads read at once"
        self.readers.append(threading.current_thread())
        self.spins.append(spin)
        self.entered.set()
        try:
            part = self.parts.get(timeout=timeout)
            return None if part is None else [part]
        except queue.Empty:
            return []
        finally:
            self.reading.release()


class Request:
    def __init__(self, responses: Responses, tag: int) -> None:
        self.done: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.result = GenerationResult(
            tag, None, [1], Answer(SamplingParams(), [1], None), False, lambda id: None, self.end
        )
        responses.running[tag] = self.result

    def end(self) -> None:
        self.done.put(None)

    def ids(self) -> list[int]:
        return self.result.result(timeout=5).outputs[0].token_ids


def test_a_caller_alone_reads_by_itself():
    engine = Engine()
    responses = Responses(engine)
    requests = [Request(responses, tag) for tag in (1, 2)]
    for tag in (2, 1):
        engine.parts.put(Part(tag, [tag]))
    for request in requests:
        responses.wait(request.done)
    assert [request.ids() for request in requests] == [[1], [2]]
    assert set(engine.readers) == {threading.current_thread()}
    assert responses.running == {}


def test_a_thread_takes_over_from_a_caller_that_waits():
    engine = Engine()
    responses = Responses(engine)
    first, second = Request(responses, 1), Request(responses, 2)
    caller = threading.Thread(target=responses.wait, args=(first.done,))
    caller.start()
    engine.entered.wait()
    responses.start()
    engine.parts.put(Part(2, [7]))
    assert second.ids() == [7]
    engine.parts.put(Part(1, [8]))
    caller.join(timeout=5)
    assert first.ids() == [8]
    engine.parts.put(None)
    responses.join()
    assert engine.readers[0] is caller and engine.readers[-1] is not caller


def test_two_callers_are_both_served():
    engine = Engine()
    responses = Responses(engine)
    requests = [Request(responses, tag) for tag in range(8)]
    callers = [threading.Thread(target=responses.wait, args=(r.done,)) for r in requests]
    for caller in callers:
        caller.start()
    for tag in range(8):
        engine.parts.put(Part(tag, [tag]))
    for caller in callers:
        caller.join(timeout=5)
    assert [request.ids() for request in requests] == [[tag] for tag in range(8)]
    engine.parts.put(None)
    responses.join()


def test_only_a_caller_stays_awake_and_not_for_long():
    engine = Engine()
    responses = Responses(engine)
    request = Request(responses, 1)
    later = threading.Timer(0.25, engine.parts.put, args=(Part(1, [7]),))
    later.start()
    responses.wait(request.done)
    assert engine.spins[0] > 0 and len(engine.spins) > 1
    assert not any(engine.spins[1:])
    responses.start()
    engine.parts.put(None)
    responses.join()
    assert engine.spins[-1] == 0


def test_a_closed_engine_ends_the_wait():
    engine = Engine()
    responses = Responses(engine)
    request = Request(responses, 1)
    engine.parts.put(Part(1, [], "cancelled"))
    engine.parts.put(None)
    responses.wait(request.done)
    responses.join()  # no thread was started
    assert request.ids() == []
