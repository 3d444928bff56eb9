#!/usr/bin/env python
"""The engine beside its peers.

On the CPU, next to `transformers.generate` with the same random weights:

  PYTHONPATH=python_model python scripts/benchmark_engine.py [--quick]

On a GPU, shapes with dummy weights next to the figures of vLLM, the goals and the floors of one
H200 (docs/performance.md):

  PYTHONPATH=python_model python scripts/benchmark_engine.py --device cuda --model M8

Parts: `start` (process start to first token), `one` (one request), `ttft` (first token), `batch`
(a step of 8 to 256 requests), `throughput` (1,000 requests at once). What does not fit into
--time-limit is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from engine_benchmark import shapes

PARTS = ("start", "one", "ttft", "batch", "throughput")
TIME_LIMITS = {"M8": 200.0, "M1": 90.0, "tiny": 60.0}


def gpu_name() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[
            0
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""


def measure_shape(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    from engine_benchmark import loads
    from engine_benchmark.report import print_figures

    clock = loads.Clock(options.time_limit or TIME_LIMITS[options.model])
    model = folder / options.model
    model.mkdir()
    (model / "config.json").write_text(json.dumps(shapes.MODELS[options.model]))
    limits = {
        "max_batch_size": options.max_batch_size,
        "max_num_tokens": options.max_num_tokens,
        "max_seq_len": options.max_seq_len,
    }
    figures: dict[str, float] = {}
    # Before this process takes the GPU's memory. The first one builds the engine, too.
    if "start" in options.parts:
        same = (model, options.load_format, options.device, options.dtype, limits)
        first = loads.start_to_first_token(*same)
        figures[shapes.START_KEY] = loads.start_to_first_token(*same)
        print(f"process start to first token, engine not built before: {first:.2f} s")
    if options.parts == ["start"]:
        print_figures(options.model, figures)
        return {"figures": figures}
    started = time.perf_counter()
    llm = loads.LLM(
        model,
        load_format=options.load_format,
        device=options.device,
        dtype=options.dtype,
        **limits,
    )
    print(f"loaded in {time.perf_counter() - started:.2f} s on {llm.info.device} {gpu_name()}")
    print(llm.memory_plan, flush=True)
    bench = loads.Bench(llm, options.model, clock, options.repeats, options.num_requests)
    print(f"warmed up in {bench.warm_up():.2f} s", flush=True)
    for part in options.parts:
        for made in loads.LOADS[part](bench) if part in loads.LOADS else ():
            figures |= made
            for key, value in made.items():
                print(f"{clock.spent:6.1f} s  {key} {value:,.3f}", flush=True)
    facts = {
        "model": options.model,
        "dtype": llm.info.dtype,
        "device": gpu_name() or llm.info.device,
        "limits": limits,
        "figures": figures,
        "left_out": clock.skipped,
    }
    llm.shutdown()
    print_figures(options.model, figures)
    for what in clock.skipped:
        print(f"left out for want of time: {what}")
    return facts


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--dtype", action="append", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    shape = parser.add_argument_group("a shape with dummy weights")
    shape.add_argument("--model", choices=list(shapes.MODELS), help="M8 with --device cuda")
    shape.add_argument("--load-format", choices=["dummy"], default="dummy")
    shape.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}")
    shape.add_argument("--time-limit", type=float, help="seconds; 200 for M8, 90 for M1")
    shape.add_argument("--repeats", type=int, default=3)
    shape.add_argument("--num-requests", type=int, default=1000, help="of throughput")
    shape.add_argument("--max-batch-size", type=int, default=1024)
    shape.add_argument("--max-num-tokens", type=int, default=8192)
    shape.add_argument("--max-seq-len", type=int, default=8448)
    against = parser.add_argument_group("beside transformers")
    against.add_argument("--quick", action="store_true", help="shorter answers, fewer requests")
    against.add_argument("--num-kv-heads", type=int, default=12)
    against.add_argument("--num-threads", type=int, default=0, help="of both; 0 = all cores")
    options = parser.parse_args()
    if options.model is None and options.device != "cpu":
        options.model = "M8"
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: unknown")
    return options


def main() -> None:
    options = parse()
    if options.model is None:
        from engine_benchmark import against_transformers

        results = against_transformers.run(options)
    else:
        options.dtype = (options.dtype or ["bfloat16"])[0]
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
            results = measure_shape(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
