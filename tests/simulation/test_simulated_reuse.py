"""What is found in caches, in one replica and in fleets."""

from typing import Any

import numpy as np
import pytest
from inflight._core.simulation import CostModel, Fleet, Trace
from inflight.simulation.routing import ROUTERS
from inflight.simulation.run import Result, simulate
from inflight.simulation.summary import summarise
from inflight.simulation.trace_builder import TraceBuilder
from inflight.simulation.traces import TRACES, Load
from replicas import FINISHED, replica_config, run_alone


def sequences(trace: Trace) -> list[np.ndarray]:
    """Prompt and answer but for its last token, which is never run."""
    made = []
    for i, length in enumerate(trace.output_lengths().tolist()):
        answer = [trace.output_token(i, n) for n in range(length - 1)]
        made.append(np.concatenate([trace.prompt(i), answer]).astype(int))
    return made


def common_prefix(first: np.ndarray, second: np.ndarray) -> int:
    length = min(len(first), len(second))
    differs = np.nonzero(first[:length] != second[:length])[0]
    return int(differs[0]) if len(differs) else length


def spaced_chat(pause: float, count: int = 60, seed: int = 1) -> Trace:
    """Turns of a few conversations, one request at a time where the pause is long."""
    draw = np.random.default_rng(seed)
    builder = TraceBuilder()
    system, conversations, said = builder.new_stream(), {}, {}
    for i in range(count):
        who = int(draw.integers(0, 6))
        stream = conversations.setdefault(who, builder.new_stream())
        length = said.get(who, 0) + int(draw.integers(1, 12))
        output = int(draw.integers(1, 9))
        builder.add(
            i * pause, [(system, 0, 21), (stream, 0, length)], output, output=(stream, length)
        )
        said[who] = length + output
    return builder.build(50)


def test_one_after_another_finds_all_that_was_ever_run() -> None:
    """With room for all of it: as many tokens as the prompt has in common with any sequence before
    it, but never the last."""
    trace = spaced_chat(pause=10.0)
    records = run_alone(trace, replica_config(num_blocks=2000))
    known = sequences(trace)
    for i, prompt in enumerate(trace.prompt(i) for i in range(len(trace))):
        longest = max((common_prefix(prompt, known[j]) for j in range(i)), default=0)
        assert records["num_cached"][i] == min(longest, len(prompt) - 1), i
    assert records["num_cached"].sum() > 0.5 * trace.prompt_lengths().sum()


def test_all_together_nothing_is_found_that_was_not_run_and_nothing_is_lost() -> None:
    trace = spaced_chat(pause=0.02, count=300)
    for num_blocks in (200, 4000):
        fleet = Fleet(trace, replica_config(num_blocks=num_blocks), 1, 0.5)
        fleet.submit_all(np.zeros(len(trace), np.int32))
        fleet.drain()
        records = fleet.records()
        assert (records["state"] == FINISHED).all()
        assert (records["num_generated"] == trace.output_lengths()).all()
        read = fleet.timeline()["prompt_tokens"].sum() + records["num_cached"].sum()
        assert read == trace.prompt_lengths().sum()
        known = sequences(trace)
        for i in range(len(trace)):  # the planner may let one that finds more go first
            others = [sequence for j, sequence in enumerate(known) if j != i]
            longest = max(common_prefix(trace.prompt(i), sequence) for sequence in others)
            assert records["num_cached"][i] <= longest


def test_without_reuse_nothing_is_found() -> None:
    records = run_alone(spaced_chat(10.0), replica_config(enable_reuse=False))
    assert (records["num_cached"] == 0).all()


def test_more_memory_finds_no_less() -> None:
    trace = spaced_chat(pause=0.5, count=300)
    found = [
        run_alone(trace, replica_config(num_blocks=blocks))["num_cached"].sum()
        for blocks in (200, 300, 4000)
    ]
    assert found[0] <= found[1] <= found[2]
    assert found[0] < found[2]


def run(trace: Trace, router: str, num_replicas: int, **config: Any) -> Result:
    blocks = config.setdefault("num_blocks", 2000)
    made = ROUTERS[router](trace, num_replicas, blocks * 32)
    replica = replica_config(tokens_per_block=32, max_num_tokens=4096, max_batch_size=32, **config)
    return simulate(trace, replica, num_replicas, made, blocks)


@pytest.mark.parametrize("kind", ["chat", "agents", "documents"])
def test_who_knows_prefixes_finds_more(kind: str) -> None:
    load = Load(num_requests=250, rate=2.0, max_total=12_000, seed=9)
    trace = TRACES[kind](load)
    rates = {
        router: summarise(run(trace, router, 3, num_blocks=3000))["hit_rate"] for router in ROUTERS
    }
    assert 0 < rates["round-robin"] < rates["prefix-aware"] < 1
    assert rates["least-loaded"] < rates["prefix-aware"]


def test_what_is_found_need_not_be_computed() -> None:
    trace = TRACES["agents"](Load(num_requests=200, rate=2.0, max_total=12_000))
    with_reuse, without = (
        summarise(run(trace, "prefix-aware", 2, enable_reuse=reuse)) for reuse in (True, False)
    )
    assert without["hit_rate"] == 0
    assert without["computed_prompt_tokens"] == without["prompt_tokens"]
    computed = with_reuse["prompt_tokens"] - with_reuse["cached_prompt_tokens"]
    assert with_reuse["computed_prompt_tokens"] == computed
    assert with_reuse["ttft_ms"]["mean"] < 0.6 * without["ttft_ms"]["mean"]


def test_a_host_tier_finds_what_the_pool_has_no_room_for() -> None:
    trace = spaced_chat(pause=0.5, count=200)
    link = {"fixed": 0.01, "per_row": 0.001, "host_fixed": 0.001}
    found = {}
    for num_host_blocks, seconds_a_byte in ((0, 1e-9), (4000, 1e-9), (4000, 1.0)):
        config = replica_config(
            CostModel(**link, per_host_copy_byte=seconds_a_byte),
            num_blocks=120,
            num_host_blocks=num_host_blocks,
            block_bytes=1000.0,
        )
        records = run_alone(trace, config)
        assert (records["num_generated"] == trace.output_lengths()).all()
        found[num_host_blocks, seconds_a_byte] = records["num_cached"].sum()
    with_room = run_alone(trace, replica_config(num_blocks=4000))["num_cached"].sum()
    assert found[0, 1e-9] < found[4000, 1e-9] <= with_room
    # Copies that take far longer than computing are not made.
    assert found[4000, 1.0] < found[4000, 1e-9]
