#!/usr/bin/env python
"""How late a long prompt makes the next token of those that generate, with a bound and without.

  PYTHONPATH=python_model python scripts/benchmark_neighbour.py --device cuda --model M8 --bounds 10,20

32 sequences generate (max_time_per_output_token_ms is the bound) while a prompt of 32,000 tokens is
read; a shape with dummy weights. The goal: the others' slowest token takes at most 1.5 times the bound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from engine_benchmark.command import model_folder, new_parser, write_figures

if TYPE_CHECKING:
    from engine_benchmark.loads import Bench, Figures

GOAL = 1.5  # times the bound


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--bounds", default="10,20", help="ms; without one it is measured, too")
    parser.add_argument("--num-generating", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=32_000)
    parser.add_argument("--generated", type=int, default=2048, help="more than come meanwhile")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    options.bounds = [float(bound) for bound in options.bounds.split(",")]
    if any(bound <= 0 for bound in options.bounds):
        parser.error(f"--bounds {options.bounds}: above 0")
    return options


def measure(bench: Bench, options: argparse.Namespace, bound: float) -> Iterator[Figures]:
    """The bound 0 is none."""
    from engine_benchmark.gaps import Gaps, longest_gap_ms, usual_gap_ms
    from inflight import SamplingParams

    length = options.prompt_tokens
    name = f"bound {bound:g} ms" if bound else "no bound"
    usual, slowest, to_first = [], [], []
    for turn in range(options.repeats + 1):  # the first tells the engine what steps cost
        [new, *prompts] = bench.prompts(1, length) + bench.prompts(options.num_generating, 16)
        params = SamplingParams(max_tokens=options.generated, ignore_eos=True)
        others = [bench.llm.generate_async(prompt, params) for prompt in prompts[1:]]
        gaps = Gaps(bench.llm, prompts[0], options.generated)
        gaps.wait_for(32)
        begin = time.perf_counter()
        bench.seconds([new], 1)
        end = time.perf_counter()
        num_beside = len(gaps.stamps)
        gaps.cancel()
        for other in others:
            other.abort()
        stamps = gaps.join()
        for other in others:
            other.result()
        if num_beside == options.generated:
            raise RuntimeError(
                f"all {num_beside} tokens came before the prompt's first: --generated"
            )
        if turn == 0:
            continue
        usual.append(usual_gap_ms([stamp for stamp in stamps if stamp < begin]))
        slowest.append(longest_gap_ms(stamps, begin, end))
        to_first.append(1e3 * (end - begin))
    yield {
        f"{name}: ms per token before": statistics.median(usual),
        f"{name}: slowest token, ms": max(slowest),
        f"{name}: first token of the prompt, ms": statistics.median(to_first),
    }
    if bound:
        yield {f"{name}: slowest over bound": max(slowest) / bound}


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    figures: dict[str, float] = {}
    with model_folder(options.model) as model:
        from engine_benchmark import loads
        from inflight.llm import KvCacheConfig, SchedulerConfig

        longest = max(options.prompt_tokens, options.generated) + 64
        pool = longest + options.num_generating * (options.generated + 64)
        for bound in (0.0, *options.bounds):
            with loads.LLM(
                model,
                load_format="dummy",
                device=options.device,
                dtype=options.dtype,
                max_batch_size=2 * options.num_generating,
                max_num_tokens=8192,
                max_seq_len=longest,
                kv_cache_config=KvCacheConfig(max_tokens=pool),
                scheduler_config=SchedulerConfig(max_time_per_output_token_ms=bound),
            ) as llm:
                bench = loads.Bench(llm, options.model, loads.Clock(1e9), options.repeats, 32)
                bench.warm_up()
                for each in measure(bench, options, bound):
                    figures.update(each)
                    for key, value in each.items():
                        print(f"{key} {value:,.4g}", flush=True)
    for key, value in figures.items():
        if key.endswith("slowest over bound"):
            met = "met" if value <= GOAL else "missed"
            print(f"{key}: {value:.3g}, goal at most {GOAL}: {met}")
    write_figures(options, figures)


if __name__ == "__main__":
    main()
