"""Loads of the usual kinds. All are drawn once, from a seed, before anything runs."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from inflight._core.simulation import Trace
from inflight.bench.load import parse_lengths
from inflight.simulation.arrivals import Arrivals, parse_arrivals
from inflight.simulation.trace_builder import Segment, TraceBuilder


@dataclass(frozen=True)
class Load:
    """What all kinds have in common. Lengths and arrivals as texts, see parse_lengths and
    parse_arrivals; an empty length means the kind's own."""

    num_requests: int = 1000
    rate: float = 10.0  # requests a second
    arrivals: str = "poisson"
    input_tokens: str = ""
    output_tokens: str = ""
    max_total: int = 32768  # tokens of a prompt and its answer; longer ones are cut
    asked_output: int = 0  # what requests ask for at most, where that is more than they need
    seed: int = 0
    vocab_size: int = 128256

    def __post_init__(self) -> None:
        if self.num_requests < 1 or self.max_total < 2 or not self.rate > 0:
            raise ValueError(
                f"num_requests {self.num_requests} < 1, max_total {self.max_total} < 2 or rate "
                f"{self.rate} <= 0"
            )


class _Draws:
    """The load's random numbers: when, how long."""

    def __init__(self, load: Load, input_tokens: str, output_tokens: str):
        self.generator = np.random.default_rng(load.seed)
        self.random = random.Random(load.seed)
        self._load = load
        self._input = parse_lengths(load.input_tokens or input_tokens)
        self._output = parse_lengths(load.output_tokens or output_tokens)

    def arrivals(self, count: int, rate: float) -> list[float]:
        kind: Arrivals = parse_arrivals(self._load.arrivals)
        return kind(self.generator, count, rate).tolist()

    def input(self) -> int:
        return self._input(self.random)

    def output(self) -> int:
        return self._output(self.random)

    def add(
        self,
        builder: TraceBuilder,
        at: float,
        prompt: list[Segment],
        num_output: int,
        output: tuple[int, int] | None = None,
    ) -> None:
        """Cut to max_total; asks for `asked_output` where there is room for it."""
        room = self._load.max_total - sum(length for _, _, length in prompt)
        num_output = max(1, min(num_output, room))
        most = max(num_output, min(self._load.asked_output, room))
        builder.add(at, prompt, num_output, max_output=most, output=output)


def uniform(load: Load) -> Trace:
    """Requests that have nothing in common."""
    draws = _Draws(load, "lognormal:500:1.0", "lognormal:200:0.7")
    builder = TraceBuilder()
    for at in draws.arrivals(load.num_requests, load.rate):
        length = min(draws.input(), load.max_total - 1)
        draws.add(builder, at, [(builder.new_stream(), 0, length)], draws.output())
    return builder.build(load.vocab_size)


def _conversations(
    load: Load,
    draws: _Draws,
    *,
    system_tokens: int,
    num_systems: int,
    mean_turns: float,
    pause: float,
) -> Trace:
    """Conversations begin by the load's arrivals, each with one of `num_systems` system prompts
    (the n-th 1/n times as popular as the first, Zipf's law). A turn's prompt is all that was said
    before, answers included, and `input` new tokens. Turns: a geometric number; the next one comes
    `pause` seconds later on average (exponential), whatever the server does. As nothing was said
    before time 0, the rate rises to the load's within the length of a conversation or two."""
    builder = TraceBuilder()
    system_tokens = min(system_tokens, load.max_total // 2)
    systems = [builder.new_stream() for _ in range(num_systems)]
    weights = [1 / (n + 1) for n in range(num_systems)]
    turns: list[tuple[float, int, int, int, int, int]] = []
    for start in draws.arrivals(load.num_requests, load.rate / mean_turns):
        if len(turns) >= load.num_requests:
            break
        stream = builder.new_stream()
        system = draws.random.choices(systems, weights)[0]
        at, said = start, 0
        while True:
            said += draws.input()
            if system_tokens + said >= load.max_total:
                break
            output = min(draws.output(), load.max_total - system_tokens - said)
            turns.append((at, len(turns), system, stream, said, output))
            if draws.random.random() < 1 / mean_turns:
                break
            said += output
            at += draws.random.expovariate(1 / pause)
    turns.sort()
    for at, _, system, stream, said, output in turns[: load.num_requests]:
        prompt = [(system, 0, system_tokens), (stream, 0, said)]
        draws.add(builder, at, prompt, output, output=(stream, said))
    if not len(builder):
        raise ValueError(f"max_total {load.max_total} leaves no conversation its first turn")
    return builder.build(load.vocab_size)


def chat(load: Load) -> Trace:
    """People who talk: one system prompt of 200 tokens, 5 turns on average, half a minute between
    two."""
    draws = _Draws(load, "lognormal:60:1.0", "lognormal:200:0.7")
    return _conversations(load, draws, system_tokens=200, num_systems=1, mean_turns=5, pause=30.0)


def agents(load: Load) -> Trace:
    """Programs that call tools: 16 kinds, each with instructions of 6,000 tokens, 8 calls on
    average, 3 seconds between two, results of tools for input and short answers."""
    draws = _Draws(load, "lognormal:300:1.0", "lognormal:80:0.7")
    return _conversations(load, draws, system_tokens=6000, num_systems=16, mean_turns=8, pause=3.0)


def documents(load: Load) -> Trace:
    """Questions about long texts: each text (`input`) gets 4 questions on average, of 50 tokens,
    half a minute apart."""
    draws = _Draws(load, "lognormal:12000:0.6", "lognormal:150:0.7")
    mean_questions, question, pause = 4, 50, 30.0
    builder = TraceBuilder()
    asked: list[tuple[float, int, int, int]] = []
    for start in draws.arrivals(load.num_requests, load.rate / mean_questions):
        if len(asked) >= load.num_requests:
            break
        stream = builder.new_stream()
        length = max(1, min(draws.input(), load.max_total - question - 1))
        at = start
        while True:
            asked.append((at, len(asked), stream, length))
            if draws.random.random() < 1 / mean_questions:
                break
            at += draws.random.expovariate(1 / pause)
    asked.sort()
    for at, _, stream, length in asked[: load.num_requests]:
        prompt = [(stream, 0, length), (builder.new_stream(), 0, question)]
        draws.add(builder, at, prompt, draws.output())
    return builder.build(load.vocab_size)


TRACES: dict[str, Callable[[Load], Trace]] = {
    "uniform": uniform,
    "chat": chat,
    "agents": agents,
    "documents": documents,
}
