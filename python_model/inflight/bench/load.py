"""What is sent and when: lengths and arrivals, drawn once from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

Draw = Callable[[random.Random], int]

_MOST_TOKENS = 2**24  # of a prompt or an answer; no model has a longer context
_MOST_SIGMA = 10


def parse_lengths(text: str) -> Draw:
    """Of tokens: "128", "uniform:16:256", "normal:200:50" (mean, deviation), "lognormal:200:0.8"
    (median, sigma). Never below 1. Raises ValueError that says which are known, and how long."""
    kind, _, rest = text.partition(":")
    try:
        if not rest:
            length = int(kind)
            if not 1 <= length <= _MOST_TOKENS:
                raise ValueError
            return lambda draw: length
        first, second = (float(part) for part in rest.split(":"))
        if first <= 0 or second < 0 or not first + second <= _MOST_TOKENS:
            raise ValueError
        if kind == "uniform" and first <= second and first.is_integer() and second.is_integer():
            return lambda draw: draw.randint(int(first), int(second))
        if kind == "normal":
            return lambda draw: max(1, round(draw.gauss(first, second)))
        if kind == "lognormal" and second <= _MOST_SIGMA:
            log = math.log(first)
            return lambda draw: max(1, min(_MOST_TOKENS, round(draw.lognormvariate(log, second))))
        raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is no distribution of lengths: expected N, uniform:LOW:HIGH, "
            "normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA, of at most "
            f"{_MOST_TOKENS} tokens and a SIGMA of at most {_MOST_SIGMA}"
        ) from None


@dataclass(frozen=True)
class BenchRequest:
    prompt: list[int]
    num_output: int
    at: float = 0.0  # seconds after the start; all zero where concurrency rules


def draw_load(
    count: int,
    num_input: Draw,
    num_output: Draw,
    vocab_size: int,
    rate: float | None,
    seed: int,
    max_total: int | None = None,
) -> list[BenchRequest]:
    """`rate` requests a second on average, as a Poisson process; None: no times. `max_total` cuts
    answers, and prompts to leave room for one."""
    draw = random.Random(seed)
    requests, at = [], 0.0
    for _ in range(count):
        num_in, num_out = num_input(draw), num_output(draw)
        if max_total is not None:
            num_in = min(num_in, max_total - 1)
            num_out = min(num_out, max_total - num_in)
        prompt = [draw.randrange(vocab_size) for _ in range(num_in)]
        requests.append(BenchRequest(prompt, num_out, at))
        if rate is not None:
            at += draw.expovariate(rate)
    return requests
