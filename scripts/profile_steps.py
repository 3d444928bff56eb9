#!/usr/bin/env python
"""What a GPU does between two generation steps, seen by torch's profiler around a running engine.

    PYTHONPATH=python_model python scripts/profile_steps.py [--model M1] [--batches 1,64,256]

Per batch: microseconds from step to step, those without any kernel running, and those between a step's
last kernel and the next step's first (medians of 20 steps); then the host's work without the profiler.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from engine_benchmark import shapes

PROMPT = list(range(1, 129))
FIRST_KERNEL = "step_inputs"


def generate(llm, batch: int, num_tokens: int) -> tuple[float, int]:
    """Seconds of host work, steps."""
    from inflight import SamplingParams

    before = llm.get_stats()
    params = SamplingParams(max_tokens=num_tokens, ignore_eos=True)
    llm.generate([PROMPT] * batch, params, use_tqdm=False)
    after = llm.get_stats()
    return after.host_seconds - before.host_seconds, after.iteration - before.iteration


def host_microseconds(llm, batch: int) -> float:
    """Of a generation step: a long run less a short one."""
    short, long = (generate(llm, batch, num_tokens) for num_tokens in (20, 220))
    return 1e6 * (long[0] - short[0]) / (long[1] - short[1])


def kernels_of(llm, batch: int, folder: Path) -> list[tuple[str, float, float]]:
    """(name, begin, end) in microseconds, in order."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        generate(llm, batch, 32)
    trace = folder / "trace.json"
    profiler.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    found = [(e["name"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "kernel"]
    return sorted(found, key=lambda kernel: kernel[1])


def steps_of(kernels: list[tuple[str, float, float]]) -> list[tuple[float, float, float]]:
    """(from step to step, idle, idle between steps) of the last 20 whole steps."""
    starts = [i for i, (name, _, _) in enumerate(kernels) if FIRST_KERNEL in name]
    steps = []
    for first, following in list(pairwise(starts))[-22:-2]:
        end, idle = kernels[first][2], 0.0
        for _, begin, stop in kernels[first + 1 : following]:
            idle += max(0.0, begin - end)
            end = max(end, stop)
        between = kernels[following][1] - end
        steps.append((kernels[following][1] - kernels[first][1], idle + between, between))
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=shapes.MODELS, default="M1")
    parser.add_argument("--batches", default="1,64,256")
    options = parser.parse_args()
    from inflight import LLM

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(shapes.MODELS[options.model]))
        limits = {"max_batch_size": 256, "max_num_tokens": 8192, "max_seq_len": 2048}
        with LLM(folder, device="cuda", dtype="bfloat16", load_format="dummy", **limits) as llm:
            for batch in map(int, options.batches.split(",")):
                generate(llm, batch, 8)
                host = host_microseconds(llm, batch)
                steps = steps_of(kernels_of(llm, batch, folder))
                period, idle, between = (
                    statistics.median(column) for column in zip(*steps, strict=True)
                )
                print(
                    f"{options.model}, batch {batch:3d}: step {period:7.1f} us, idle {idle:5.1f}, "
                    f"between steps {between:4.1f}; host {host:5.1f} us a step",
                    flush=True,
                )


if __name__ == "__main__":
    main()
