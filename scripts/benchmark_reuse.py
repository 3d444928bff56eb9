#!/usr/bin/env python
"""What prefix reuse and the host tier gain, and what they cost where nothing is shared.

  PYTHONPATH=python_model python scripts/benchmark_reuse.py --device cuda --model M8

A shape with dummy weights, bfloat16, in engines that differ in nothing but the cache. Parts:

hit     first token of a prompt whose first 4,096 tokens are in the pool, and of one that is all new
host    the same where they are in host memory, and where all is computed: a small pool, which
        others take in between
beside  the slowest token of 16 sequences that generate while such a prompt comes
mixed   agents, chats and prompts of their own, 96 users at once (engine_benchmark/users.py), with
        reuse and without: throughput
cost    prompts that share nothing, with reuse and without, in turns: throughput
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_benchmark import shapes
from engine_benchmark.command import model_folder, new_parser, write_figures

PARTS = ("hit", "host", "beside", "mixed", "cost")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    parser.add_argument("--repeats", type=int, default=5, help="of each; mixed takes a third")
    parser.add_argument("--pool-tokens", type=int, default=160 * 1024, help="of mixed and cost")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all lengths, to try this script"
    )
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: unknown")
    if not 0 < options.scale <= 1:
        parser.error(f"--scale {options.scale}: from 0 to 1, without 0")
    return options


def kv_bytes_per_token(model: str, dtype: str) -> int:
    shape = shapes.MODELS[model]
    head_size = shape.get("head_dim", shape["hidden_size"] // shape["num_attention_heads"])
    values = 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_size
    return values * (4 if dtype == "float32" else 2)


def measure(options: argparse.Namespace, model: Path) -> dict[str, float]:
    from engine_benchmark import loads, reuse
    from inflight.llm import KvCacheConfig

    sizes = reuse.Sizes().scaled(options.scale)

    @contextmanager
    def engine(cache: KvCacheConfig) -> Iterator[loads.Bench]:
        with loads.LLM(
            model,
            load_format="dummy",
            device=options.device,
            dtype=options.dtype,
            max_batch_size=128,
            max_num_tokens=8192,
            max_seq_len=max(sizes.longest, sizes.mix.longest) + 1,
            kv_cache_config=cache,
        ) as llm:
            bench = loads.Bench(llm, options.model, loads.Clock(1e9), options.repeats, 128)
            bench.warm_up()
            yield bench

    figures: dict[str, float] = {}

    def note(made: Iterator[dict[str, float]]) -> None:
        for each in made:
            figures.update(each)
            for key, value in each.items():
                print(f"{key} {value:,.4g}", flush=True)

    tiered = [part for part in ("host", "beside") if part in options.parts]
    if tiered:
        # What generates and a prompt fit into the pool, and what they drive out and three prompts
        # more into the host.
        length = sizes.shared + sizes.own
        tokens = max(2 * length, length + sizes.num_generating * (sizes.generated + 64))
        host_bytes = (tokens + 3 * length) * kv_bytes_per_token(options.model, options.dtype)
        cache = KvCacheConfig(max_tokens=tokens, host_cache_size=host_bytes)
        with engine(cache) as small:
            for part in tiered:
                note({"host": reuse.host, "beside": reuse.beside}[part](small, sizes))
    if not set(options.parts) - set(tiered):
        return figures
    pool = int(options.pool_tokens)
    with engine(KvCacheConfig(max_tokens=pool)) as on:
        if "hit" in options.parts:
            note(reuse.hit(on, sizes))
        if not set(options.parts) & {"mixed", "cost"}:
            return figures
        with engine(KvCacheConfig(max_tokens=pool, enable_block_reuse=False)) as off:
            if "mixed" in options.parts:
                note(reuse.mixed(on, off, sizes))
            if "cost" in options.parts:
                note(reuse.cost(on, off, sizes))
    return figures


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    with model_folder(options.model) as model:
        figures = measure(options, model)
    from engine_benchmark.reuse import GOALS

    for key, (goal, more) in GOALS.items():
        if key in figures:
            met = figures[key] >= goal if more else figures[key] <= goal
            bound = "at least" if more else "at most"
            print(f"{key}: {figures[key]:.3g}, goal {bound} {goal}: {'met' if met else 'missed'}")
    write_figures(options, figures)


if __name__ == "__main__":
    main()
