"""When requests come: seconds, ascending, drawn from a generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Arrivals = Callable[[np.random.Generator, int, float], np.ndarray]


def poisson(draw: np.random.Generator, count: int, rate: float) -> np.ndarray:
    """`count` arrivals, `rate` a second on average, independent of each other."""
    return np.cumsum(draw.exponential(1 / rate, count))


def constant(draw: np.random.Generator, count: int, rate: float) -> np.ndarray:
    return np.arange(count) / rate


def at_once(draw: np.random.Generator, count: int, rate: float) -> np.ndarray:
    return np.zeros(count)


def gamma(variation: float) -> Arrivals:
    """Gaps of a Gamma distribution, `variation` = deviation over mean: 1 is Poisson's, more is
    burstier."""

    def draw_arrivals(draw: np.random.Generator, count: int, rate: float) -> np.ndarray:
        shape = 1 / variation**2
        return np.cumsum(draw.gamma(shape, 1 / (rate * shape), count))

    return draw_arrivals


def mmpp(factor: float, share: float, seconds: float) -> Arrivals:
    """A Markov-modulated Poisson process of two states: bursts of `seconds` on average, `share` of
    the time, in which the rate is `factor` times that of quiet times; on the whole `rate`."""

    def draw_arrivals(draw: np.random.Generator, count: int, rate: float) -> np.ndarray:
        quiet = rate / (1 - share + share * factor)
        rates, lengths = (quiet, quiet * factor), (seconds * (1 - share) / share, seconds)
        state = int(draw.random() < share)
        at, left = 0.0, draw.exponential(lengths[state])
        arrivals = np.empty(count)
        for i in range(count):
            # Without memory: what is left of a gap at a change of state is drawn anew.
            gap = draw.exponential(1 / rates[state])
            while gap > left:
                at += left
                state = 1 - state
                left = draw.exponential(lengths[state])
                gap = draw.exponential(1 / rates[state])
            at += gap
            left -= gap
            arrivals[i] = at
        return arrivals

    return draw_arrivals


_EXPECTED = (
    "poisson, constant, once, gamma:VARIATION (deviation over mean of the gaps) or "
    "mmpp:FACTOR:SHARE:SECONDS (rate in bursts over that of quiet times, share of the time in "
    "bursts, their mean length)"
)


def parse_arrivals(text: str) -> Arrivals:
    """Raises ValueError that says what is expected."""
    kind, _, rest = text.partition(":")
    plain = {"poisson": poisson, "constant": constant, "once": at_once}
    if kind in plain and not rest:
        return plain[kind]
    try:
        numbers = [float(part) for part in rest.split(":")]
        if not all(math.isfinite(number) and number > 0 for number in numbers):
            raise ValueError
        if kind == "gamma" and len(numbers) == 1:
            return gamma(numbers[0])
        if kind == "mmpp" and len(numbers) == 3 and numbers[1] < 1:
            return mmpp(*numbers)
        raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is no way of arriving: expected {_EXPECTED}") from None
