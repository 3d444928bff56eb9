"""What finding a prompt's beginning in the cache gains, and what looking for it costs: named figures
of engines that differ in nothing else. Greedy, end ids ignored."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from engine_benchmark.gaps import Gaps, longest_gap_ms, usual_gap_ms
from engine_benchmark.loads import Bench, Figures
from engine_benchmark.users import Mix, draw_users, serve_all
from inflight import LLM, SamplingParams


@dataclass(frozen=True)
class Sizes:
    """Tokens, but for counts."""

    shared: int = 4096
    own: int = 64
    num_generating: int = 16
    generated: int = 160  # while another prompt comes
    cost_requests: int = 64
    cost_in: int = 512
    cost_out: int = 256
    mix: Mix = Mix()

    def scaled(self, factor: float) -> Sizes:
        """Shorter prompts, and answers where they do not keep others busy; as many of them."""

        def shorter(sizes: Any, names: tuple[str, ...]) -> Any:
            lengths = {name: max(1, round(getattr(sizes, name) * factor)) for name in names}
            return replace(sizes, **lengths)

        lengths = ("agent_instructions", "agent_result", "chat_instructions", "chat_question")
        mix = shorter(self.mix, (*lengths, "other_prompt", "answer"))
        return replace(shorter(self, ("shared", "own", "cost_in", "cost_out")), mix=mix)

    @property
    def longest(self) -> int:
        """Of prompts and their answers."""
        return max(self.shared + self.own + 1, self.cost_in + self.cost_out, 16 + self.generated)


def _ms_to_first_token(bench: Bench, prompt: list[int]) -> float:
    return 1e3 * bench.seconds([prompt], 1)


def _found(llm: LLM) -> tuple[int, int]:
    """Tokens of prompts found in the cache; of them in host memory."""
    stats = llm.get_stats()
    return stats.prefix_hit_tokens, stats.prefix_host_hit_tokens


def _flush(bench: Bench, sizes: Sizes) -> list[float]:
    """Prompts that take the whole pool; ms to the first token of each."""
    stats = bench.llm.get_stats()
    length = sizes.shared + sizes.own
    count = 2 + stats.max_blocks * stats.tokens_per_block // length
    return [_ms_to_first_token(bench, prompt) for prompt in bench.prompts(count, length)]


def hit(bench: Bench, sizes: Sizes) -> Iterator[Figures]:
    """First token of a prompt whose beginning is in the pool, and of one that is all new, in turns."""
    [shared] = bench.prompts(1, sizes.shared)
    expected = sizes.shared - sizes.shared % bench.llm.get_stats().tokens_per_block
    times: dict[str, list[float]] = {"hit": [], "miss": []}
    for _ in range(bench.repeats + 1):  # the first makes it known
        [own, new] = bench.prompts(1, sizes.own) + bench.prompts(1, sizes.shared + sizes.own)
        before, _ = _found(bench.llm)
        times["hit"].append(_ms_to_first_token(bench, shared + own))
        found = _found(bench.llm)[0] - before
        if len(times["hit"]) > 1 and found < expected:
            raise RuntimeError(f"a prompt found {found} of {expected} tokens in the cache")
        times["miss"].append(_ms_to_first_token(bench, new))
    ours, theirs = (statistics.median(times[kind][1:]) for kind in ("hit", "miss"))
    yield {
        "hit: ms to first token": ours,
        "miss: ms to first token": theirs,
        "hit over miss": ours / theirs,
    }


def host(bench: Bench, sizes: Sizes) -> Iterator[Figures]:
    """First token of a prompt whose beginning others have driven into host memory, and of those
    others, which are computed."""
    [shared] = bench.prompts(1, sizes.shared)
    hits, misses = [], []
    for turn in range(bench.repeats + 1):
        [own] = bench.prompts(1, sizes.own)
        _, before = _found(bench.llm)
        ms = _ms_to_first_token(bench, shared + own)
        found = _found(bench.llm)[1] - before
        if turn > 0:
            if found < sizes.shared // 2:
                raise RuntimeError(
                    f"a prompt found {found} of {sizes.shared} tokens in host memory"
                )
            hits.append(ms)
        misses += _flush(bench, sizes)
    yield {
        "host hit: ms to first token": statistics.median(hits),
        "computed: ms to first token": statistics.median(misses),
        "host hit: times faster": statistics.median(misses) / statistics.median(hits),
        "from host: GB/s": bench.llm.info.onboard_bytes_per_second / 1e9,
    }


def beside(bench: Bench, sizes: Sizes) -> Iterator[Figures]:
    """The slowest token of sequences that generate while a prompt comes whose beginning is in host
    memory, and while one of the same length is computed; and their usual token."""
    llm, params = bench.llm, SamplingParams(max_tokens=sizes.generated, ignore_eos=True)
    [shared] = bench.prompts(1, sizes.shared)
    usual, slowest, to_first = [], {"host": [], "computed": []}, {"host": [], "computed": []}
    for _ in range(bench.repeats):
        for kind in slowest:
            _ms_to_first_token(bench, shared)
            _flush(bench, sizes)
            [own, new] = bench.prompts(1, sizes.own) + bench.prompts(1, sizes.shared + sizes.own)
            prompts = bench.prompts(sizes.num_generating, 16)
            others = [llm.generate_async(prompt, params) for prompt in prompts[1:]]
            gaps = Gaps(llm, prompts[0], sizes.generated)
            gaps.wait_for(sizes.generated // 4)
            before, begin = _found(llm)[1], time.perf_counter()
            _ms_to_first_token(bench, shared + own if kind == "host" else new)
            end = time.perf_counter()
            stamps = gaps.join()
            for other in others:
                other.result()
            if kind == "host" and _found(llm)[1] == before:
                raise RuntimeError("a prompt found nothing in host memory")
            usual.append(usual_gap_ms(stamps))
            slowest[kind].append(longest_gap_ms(stamps, begin, end))
            to_first[kind].append(1e3 * (end - begin))
    name = f"{sizes.num_generating} generate"
    yield {
        f"{name}: ms per token": statistics.median(usual),
        f"{name}, a host hit comes: slowest token, ms": statistics.median(slowest["host"]),
        f"{name}, a host hit comes: its first token, ms": statistics.median(to_first["host"]),
        f"{name}, a prompt is computed: slowest token, ms": statistics.median(slowest["computed"]),
        f"{name}, a prompt is computed: its first token, ms": statistics.median(
            to_first["computed"]
        ),
    }


def _in_turns(
    on: Bench, off: Bench, rounds: int, seconds: Callable[[Bench, int], float]
) -> tuple[list[float], list[float]]:
    """The one that goes first changes every round."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(rounds):
        for is_on in (turn % 2 == 0, turn % 2 != 0):
            times[is_on].append(seconds(on if is_on else off, turn))
    return times[True], times[False]


def mixed(on: Bench, off: Bench, sizes: Sizes) -> Iterator[Figures]:
    """The users of users.py, once with each; other ones in the next round."""
    hit_tokens = on.llm.get_stats().prefix_hit_tokens
    num_in = num_out = 0

    def seconds(bench: Bench, turn: int) -> float:
        nonlocal num_in, num_out
        users = draw_users(sizes.mix, bench.llm.info.vocab_size, seed=1000 + turn)
        started = time.perf_counter()
        num_in, num_out = serve_all(bench.llm, users, sizes.mix.answer)
        return time.perf_counter() - started

    rounds = max(1, on.repeats // 3)
    ours, theirs = _in_turns(on, off, rounds, seconds)
    found = (on.llm.get_stats().prefix_hit_tokens - hit_tokens) / rounds
    yield {
        "mixed, reuse on: output tok/s": num_out / statistics.median(ours),
        "mixed, reuse off: output tok/s": num_out / statistics.median(theirs),
        "mixed: times the throughput": statistics.median(theirs) / statistics.median(ours),
        "mixed: prompt tokens": num_in,
        "mixed: of them found": found / num_in,
    }


def cost(on: Bench, off: Bench, sizes: Sizes) -> Iterator[Figures]:
    """Prompts that have nothing in common, in pools that are full of others' blocks."""

    def seconds(bench: Bench, _turn: int) -> float:
        prompts = bench.prompts(sizes.cost_requests, sizes.cost_in)
        return bench.seconds(prompts, sizes.cost_out)

    before = on.llm.get_stats()
    _in_turns(on, off, 1, seconds)
    ours, theirs = _in_turns(on, off, on.repeats, seconds)
    after = on.llm.get_stats()
    num_out = sizes.cost_requests * sizes.cost_out
    lost = [1 - b / a for a, b in zip(ours, theirs, strict=True)]
    yield {
        "no hits, reuse on: output tok/s": num_out / statistics.median(ours),
        "no hits, reuse off: output tok/s": num_out / statistics.median(theirs),
        "no hits: throughput lost": statistics.median(lost),
        "no hits: least lost in a turn": min(lost),
        "no hits: most lost in a turn": max(lost),
        "no hits: blocks evicted": after.evicted_blocks - before.evicted_blocks,
        "no hits: tokens found": after.prefix_hit_tokens - before.prefix_hit_tokens,
    }


GOALS: dict[str, tuple[float, bool]] = {  # the goal, and whether more is better
    "hit over miss": (0.15, False),
    "host hit: times faster": (3.0, True),
    "mixed: times the throughput": (1.3, True),
    "no hits: throughput lost": (0.01, False),
}
