"""Lengths and arrivals: the right distributions, the same for the same seed."""

import random
import statistics

import numpy as np
import pytest
from inflight.bench.load import draw_load, parse_lengths


def drawn(text: str, count: int = 20_000) -> list[int]:
    draw = random.Random(0)
    length = parse_lengths(text)
    return [length(draw) for _ in range(count)]


def test_lengths() -> None:
    assert set(drawn("7")) == {7}
    uniform = drawn("uniform:3:6")
    assert set(uniform) == {3, 4, 5, 6}
    assert abs(uniform.count(3) / len(uniform) - 0.25) < 0.02
    normal = drawn("normal:200:50")
    assert abs(statistics.fmean(normal) - 200) < 2 and abs(statistics.pstdev(normal) - 50) < 2
    assert min(drawn("normal:2:50")) == 1
    lognormal = drawn("lognormal:100:0.5")
    assert abs(np.log(lognormal).mean() - np.log(100)) < 0.02
    assert abs(np.log(lognormal).std() - 0.5) < 0.02


@pytest.mark.parametrize(
    "text", ["", "0", "-3", "x", "uniform:5", "uniform:6:3", "uniform:1.5:3", "normal:0:1",
             "normal:5:-1", "zipf:1:2", "normal:nan:1", "uniform:1:2:3"],
)  # fmt: skip
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no distribution of lengths"):
        parse_lengths(text)


def test_arrivals_are_a_poisson_process() -> None:
    two = parse_lengths("2")
    load = draw_load(20_000, two, two, 100, 50.0, seed=3)
    gaps = np.diff([request.at for request in load])
    assert load[0].at == 0 and abs(gaps.mean() * 50 - 1) < 0.03
    assert abs(gaps.std() / gaps.mean() - 1) < 0.03  # of an exponential distribution
    assert load == draw_load(20_000, two, two, 100, 50.0, seed=3)
    assert {request.at for request in draw_load(9, two, two, 100, None, seed=3)} == {0.0}


def test_prompt_and_answer_are_cut_together() -> None:
    load = draw_load(
        200, parse_lengths("uniform:1:90"), parse_lengths("uniform:1:90"), 7, None, 0, 50
    )
    totals = [len(request.prompt) + request.num_output for request in load]
    assert max(totals) == 50 and min(request.num_output for request in load) == 1
    assert all(0 <= id < 7 for request in load for id in request.prompt)
