"""What loads look like: when requests come, and what their prompts share."""

import json
from pathlib import Path

import numpy as np
import pytest
from inflight._core import InvalidArgumentError
from inflight.simulation.arrivals import parse_arrivals
from inflight.simulation.trace_builder import TraceBuilder
from inflight.simulation.trace_file import read_trace
from inflight.simulation.traces import TRACES, Load


def gaps(arrivals: str, rate: float = 5.0, count: int = 40_000) -> np.ndarray:
    times = parse_arrivals(arrivals)(np.random.default_rng(1), count, rate)
    assert (np.diff(times) >= 0).all()
    return np.diff(times)


@pytest.mark.parametrize(
    ("arrivals", "variation"), [("poisson", 1.0), ("gamma:3", 3.0), ("gamma:0.5", 0.5)]
)
def test_gaps_have_their_mean_and_variation(arrivals: str, variation: float) -> None:
    made = gaps(arrivals)
    assert made.mean() == pytest.approx(1 / 5.0, rel=0.06)
    assert made.std() / made.mean() == pytest.approx(variation, rel=0.06)


def test_bursts_keep_the_rate_and_bunch_requests() -> None:
    made = gaps("mmpp:10:0.1:2")
    assert made.mean() == pytest.approx(1 / 5.0, rel=0.06)
    # Counts in windows of a second: a Poisson process has variance = mean.
    counts = np.bincount(np.cumsum(made).astype(int))
    assert counts.var() > 3 * counts.mean()
    poisson = np.bincount(np.cumsum(gaps("poisson")).astype(int))
    assert poisson.var() == pytest.approx(poisson.mean(), rel=0.1)


def test_constant_and_at_once() -> None:
    assert gaps("constant", count=10) == pytest.approx(0.2)
    assert (gaps("once", count=10) == 0).all()


@pytest.mark.parametrize("text", ["gamma", "gamma:0", "mmpp:1:2:3", "poisson:1", "rush", "gamma:x"])
def test_other_arrivals_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"'{text}' is no way of arriving: expected poisson"):
        parse_arrivals(text)


@pytest.mark.parametrize("kind", TRACES)
def test_a_load_is_what_was_asked_for_and_the_same_each_time(kind: str) -> None:
    load = Load(num_requests=300, rate=20.0, max_total=9000, vocab_size=500, seed=4)
    trace, same, other = (TRACES[kind](Load(**{**vars(load), "seed": n})) for n in (4, 4, 5))
    assert len(trace) == 300
    assert (trace.prompt_lengths() + trace.output_lengths() <= 9000).all()
    assert (np.diff(trace.arrivals()) >= 0).all()
    assert (trace.arrivals() == same.arrivals()).all()
    assert (trace.arrivals() != other.arrivals()).any()
    for request in (0, 123, 299):
        prompt = trace.prompt(request)
        assert len(prompt) == trace.prompt_lengths()[request]
        assert (prompt >= 0).all() and (prompt < 500).all()
        assert (prompt == same.prompt(request)).all()


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    differs = np.nonzero(first[:length] != second[:length])[0]
    return int(differs[0]) if len(differs) else length


def test_a_turn_begins_with_what_was_said_before() -> None:
    load = Load(num_requests=200, rate=5.0, input_tokens="40", output_tokens="30")
    trace = TRACES["chat"](load)
    prompts = [trace.prompt(i) for i in range(len(trace))]
    said = [
        np.concatenate([prompt, [trace.output_token(i, n) for n in range(30)]])
        for i, prompt in enumerate(prompts)
    ]
    further = [i for i, prompt in enumerate(prompts) if len(prompt) > 240]
    assert len(further) > 50
    for i in further:  # its last turn: 40 tokens after 70 less
        before = [j for j in range(i) if len(said[j]) == len(prompts[i]) - 40]
        assert any(common_prefix(said[j], prompts[i]) == len(said[j]) for j in before)
    assert all(common_prefix(prompts[0], prompt) >= 200 for prompt in prompts)


def test_agents_of_a_kind_share_instructions_and_popular_ones_are_many() -> None:
    trace = TRACES["agents"](Load(num_requests=400, rate=5.0))
    kinds = [trace.prompt(i)[:6000].tobytes() for i in range(len(trace))]
    counts = sorted((kinds.count(kind) for kind in set(kinds)), reverse=True)
    assert 5 < len(counts) <= 16
    assert counts[0] > 2 * counts[len(counts) // 2]


def test_questions_to_a_document_share_it() -> None:
    trace = TRACES["documents"](Load(num_requests=60, rate=5.0, input_tokens="1000"))
    texts = [trace.prompt(i)[:1000].tobytes() for i in range(len(trace))]
    assert 5 < len(set(texts)) < 40
    questions = [trace.prompt(i)[1000:].tobytes() for i in range(len(trace))]
    assert len(set(questions)) == 60


def test_hashes_stand_for_whole_prefixes() -> None:
    builder = TraceBuilder()
    first, second = builder.new_stream(), builder.new_stream()
    builder.add(0, [(first, 0, 100)], 1)
    builder.add(0, [(first, 0, 70), (second, 0, 30)], 1)
    builder.add(0, [(first, 0, 40), (first, 40, 60)], 1)
    builder.add(0, [(second, 0, 10), (first, 10, 90)], 1)
    builder.add(0, [builder.literal(range(100))], 1)
    trace = builder.build(32000)
    hashes = [trace.prefix_hashes(i, 32) for i in range(5)]
    assert [len(each) for each in hashes] == [3] * 5
    assert hashes[0][:2] == hashes[1][:2] and hashes[0][2] != hashes[1][2]
    assert hashes[0] == hashes[2]
    assert not set(hashes[0]) & set(hashes[3])  # they begin otherwise
    assert trace.prompt(4).tolist() == list(range(100))


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_file_of_our_own(tmp_path: Path) -> None:
    path = write(
        tmp_path / "load.jsonl",
        {"arrival": 2.5, "prompt_ids": [5, 6, 7], "output_length": 2, "priority": 3},
        {"arrival": 0.5, "input_length": 50, "output_length": 4, "max_output_length": 9},
        {"arrival": 1, "input_length": 50, "prefix_group": "a", "prefix_length": 30, "output_length": 1},
        {"arrival": 1, "input_length": 60, "prefix_group": "a", "prefix_length": 20, "output_length": 1},
    )  # fmt: skip
    trace = read_trace(path, 100)
    assert trace.arrivals().tolist() == [0.5, 1, 1, 2.5]
    assert trace.prompt_lengths().tolist() == [50, 50, 60, 3]
    assert trace.output_lengths().tolist() == [4, 1, 1, 2]
    assert trace.prompt(3).tolist() == [5, 6, 7]
    assert 20 <= common_prefix(trace.prompt(1), trace.prompt(2)) < 24  # 1 in 100 by chance
    assert len(read_trace(path, 100, max_requests=2)) == 2


def test_a_file_of_mooncake(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mooncake.jsonl",
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1536, "output_length": 5, "hash_ids": [0, 1, 7]},
    )
    trace = read_trace(path, 1000)
    assert trace.arrivals().tolist() == [0, 3]
    assert trace.prompt_lengths().tolist() == [1100, 1536]
    assert common_prefix(trace.prompt(0), trace.prompt(1)) in range(1024, 1027)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "no object"),
        ({"input_length": 5, "output_length": 5}, "neither arrival .* nor timestamp"),
        ({"arrival": 1, "output_length": 5}, "input_length is None"),
        ({"arrival": 1, "input_length": 0, "output_length": 5}, "input_length is 0"),
        ({"arrival": 1, "input_length": 5, "output_length": 5, "foo": 1}, "unknown: foo"),
        (
            {"arrival": 1, "input_length": 513, "output_length": 5, "hash_ids": [1]},
            "1 hash_ids for input_length 513",
        ),
        (
            {"arrival": 1, "input_length": 5, "output_length": 5, "prefix_group": 1, "prefix_length": 6},
            "prefix_length 6 > input_length 5",
        ),
        ({"arrival": 1, "prompt_ids": ["a"], "output_length": 5}, "integer"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_lines_are_named(tmp_path: Path, line: object, message: str) -> None:
    good = {"arrival": 0, "input_length": 5, "output_length": 5}
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        read_trace(write(tmp_path / "bad.jsonl", good, line), 100)


def test_bad_requests_are_named() -> None:
    for arguments, message in (
        (dict(num_output=0), "request 1: num_output 0 < 1"),
        (dict(num_output=3, max_output=2), "request 1: max_output 2 < num_output 3"),
        (dict(num_output=1, prompt=[]), "request 1: segments"),
    ):
        builder = TraceBuilder()
        builder.add(0.0, [(1, 0, 5)], 1)
        builder.add(1.0, **{"prompt": [(1, 0, 5)], **arguments})
        with pytest.raises(InvalidArgumentError, match=message):
            builder.build(100)
    builder = TraceBuilder()
    builder.add(0.0, [builder.literal([5, 100])], 1)
    with pytest.raises(InvalidArgumentError, match="id 100 is outside the vocabulary of 100"):
        builder.build(100)


def test_requests_and_positions_that_are_not_there_are_refused() -> None:
    builder = TraceBuilder()
    builder.add(0.0, [(1, 0, 5)], num_output=2, max_output=3)
    trace = builder.build(100)
    assert 0 <= trace.output_token(0, 2) < 100
    for asked, message in (
        (lambda: trace.output_token(0, 3), "position 3 of 3"),
        (lambda: trace.output_token(0, -1), "position -1 of 3"),
        (lambda: trace.output_token(1, 0), "request 1 of 1"),
        (lambda: trace.prompt(1), "request 1 of 1"),
        (lambda: trace.prefix_hashes(-1, 4), "request -1 of 1"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            asked()
