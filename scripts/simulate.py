#!/usr/bin/env python
"""Fleets of replicas under load, in virtual time: the engine's own scheduler and cache manager
against a model of what steps cost a GPU (docs/simulation.md).

  PYTHONPATH=python_model python scripts/simulate.py --model 8B --gpu H200 --trace chat --rate 40 \\
    --num-requests 20000 --replicas 4 --router prefix-aware --plot chat.png

How many GPUs for this load at this latency:

  PYTHONPATH=python_model python scripts/simulate.py --model 70B --gpus-per-replica 4 --trace agents \\
    --rate 30 --num-requests 5000 --find-replicas --ttft-p99 1000 --tpot-p99 50

How far the costs are off what was measured:

  PYTHONPATH=python_model python scripts/simulate.py --calibrate [--keep]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from inflight._core import InvalidArgumentError
from inflight.simulation import calibration, calibration_report, plots
from inflight.simulation.cost import Machine
from inflight.simulation.gpus import GPUS
from inflight.simulation.models import MODELS, model_named
from inflight.simulation.routing import ROUTERS
from inflight.simulation.run import FleetConfig, Result, run
from inflight.simulation.sizing import Bounds, find_replicas
from inflight.simulation.summary import lines_of, summarise, table_of
from inflight.simulation.trace_file import read_trace
from inflight.simulation.traces import TRACES, Load
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

POLICIES = ("guaranteed_no_evict", "max_utilization", "static_batch")
DOCS = Path(__file__).resolve().parent.parent / "docs"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--model", default="8B", help=f"{', '.join(MODELS)} or a config.json")
    fleet.add_argument("--gpu", default="H200", choices=list(GPUS))
    fleet.add_argument("--gpus-per-replica", type=int, default=1, help="tensor parallelism")
    fleet.add_argument("--weight-bytes", type=float, default=2, help="a value; 1 for FP8")
    fleet.add_argument("--kv-bytes", type=float, default=2, help="a value; 1 for FP8 or INT8")
    fleet.add_argument("--replicas", type=int, default=1)
    fleet.add_argument("--router", default="round-robin", choices=list(ROUTERS))
    fleet.add_argument("--max-batch-size", type=int, default=256)
    fleet.add_argument("--max-num-tokens", type=int, default=8192, help="in a step")
    fleet.add_argument("--tokens-per-block", type=int, default=32)
    fleet.add_argument("--num-blocks", type=int, help="of a KV pool; what the GPU has room for")
    fleet.add_argument("--capacity-policy", default=POLICIES[0], choices=POLICIES)
    fleet.add_argument("--max-tpot-ms", type=float, default=0.0, help="bound on steps; 0: none")
    fleet.add_argument("--no-reuse", action="store_true", help="of blocks between requests")
    fleet.add_argument("--host-gib", type=float, default=0.0, help="of a replica's host tier")
    load = parser.add_argument_group("load")
    load.add_argument("--trace", default="chat", help=f"{', '.join(TRACES)} or a file: JSON lines")
    load.add_argument("--num-requests", type=int, help="1,000; of a file all")
    load.add_argument("--rate", type=float, default=10.0, help="requests a second, mean")
    load.add_argument("--arrivals", default="poisson", help="poisson, gamma:2, mmpp:8:0.1:20, ...")
    load.add_argument("--input-tokens", default="", help="lognormal:60:1.0, uniform:16:512, ...")
    load.add_argument("--output-tokens", default="")
    load.add_argument("--asked-output", type=int, default=0, help="max_tokens of every request")
    load.add_argument("--max-total", type=int, default=32768, help="tokens, prompt and answer")
    load.add_argument("--seed", type=int, default=0)
    sizing = parser.add_argument_group("sizing")
    sizing.add_argument("--find-replicas", action="store_true", help="the fewest that do")
    sizing.add_argument("--ttft-p99", type=float, help="ms, at most")
    sizing.add_argument("--tpot-p99", type=float, help="ms, at most")
    sizing.add_argument("--max-replicas", type=int, default=256)
    parser.add_argument("--calibrate", action="store_true", help="fit the costs, print the errors")
    parser.add_argument("--keep", action="store_true", help="reckon with them from now on")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--plot", type=Path, help="draw the run into this PNG")
    options = parser.parse_args(arguments)
    if options.keep and not options.calibrate:
        parser.error("--keep needs --calibrate")
    if options.find_replicas and options.ttft_p99 is None and options.tpot_p99 is None:
        parser.error("--find-replicas needs --ttft-p99 or --tpot-p99")
    return options


def make_trace(options: argparse.Namespace, vocab_size: int) -> Any:
    if options.trace not in TRACES:
        if not Path(options.trace).is_file():
            raise ValueError(f"--trace {options.trace}: neither a file nor {', '.join(TRACES)}")
        return read_trace(Path(options.trace), vocab_size, options.num_requests)
    return TRACES[options.trace](
        Load(
            num_requests=options.num_requests or 1000,
            rate=options.rate,
            arrivals=options.arrivals,
            input_tokens=options.input_tokens,
            output_tokens=options.output_tokens,
            asked_output=options.asked_output,
            max_total=options.max_total,
            seed=options.seed,
            vocab_size=vocab_size,
        )
    )


def fleet_config(options: argparse.Namespace, num_replicas: int) -> FleetConfig:
    return FleetConfig(
        machine=Machine(
            model_named(options.model),
            GPUS[options.gpu],
            options.gpus_per_replica,
            options.weight_bytes,
            options.kv_bytes,
        ),
        num_replicas=num_replicas,
        router=options.router,
        max_batch_size=options.max_batch_size,
        max_num_tokens=options.max_num_tokens,
        tokens_per_block=options.tokens_per_block,
        num_blocks=options.num_blocks,
        capacity_policy=options.capacity_policy,
        max_time_per_output_token_ms=options.max_tpot_ms,
        enable_reuse=not options.no_reuse,
        host_bytes=options.host_gib * 2**30,
    )


class Runs:
    """Runs of one trace, each with a progress bar on a terminal."""

    def __init__(self, options: argparse.Namespace, console: Console):
        self._options, self._console = options, console
        self.trace = make_trace(options, model_named(options.model).vocab_size)

    def run(self, num_replicas: int) -> Result:
        config = fleet_config(self._options, num_replicas)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        bar = Progress(
            *(*columns, TimeElapsedColumn()),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        started = time.perf_counter()
        with bar:
            task = bar.add_task(f"{num_replicas} replicas", total=len(self.trace))
            result = run(self.trace, config, lambda sent: bar.update(task, completed=sent))
        elapsed = time.perf_counter() - started
        self._console.print(
            f"{num_replicas} replicas: {result.seconds:,.1f} s simulated in {elapsed:.1f} s",
            style="dim",
        )
        return result


def size(runs: Runs, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    bounds = Bounds(options.ttft_p99, options.tpot_p99)
    found = find_replicas(lambda count: summarise(runs.run(count)), bounds, options.max_replicas)
    for count, summary in sorted(found.tried.items()):
        verdict = "within the bounds" if bounds.hold(summary) else "not enough"
        tpot = summary.get("tpot_ms", {"p99": 0.0})["p99"]
        console.print(
            f"{count:4} replicas: p99 of the first token {summary['ttft_ms']['p99']:,.1f} ms, "
            f"per token {tpot:,.2f} ms: {verdict}",
            soft_wrap=True,
        )
    if found.num_replicas is None:
        console.print(f"[bold]not even {options.max_replicas} replicas are enough[/bold]")
    else:
        gpus = found.num_replicas * options.gpus_per_replica
        console.print(f"[bold]{found.num_replicas} replicas, {gpus} {options.gpu}[/bold]")
    return {"num_replicas": found.num_replicas, "tried": found.tried}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return answer(options, Console())
    except (InvalidArgumentError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def answer(options: argparse.Namespace, console: Console) -> int:
    if options.calibrate:
        fitted, figures = calibration_report.report(DOCS, console)
        if options.keep:
            calibration.keep(fitted)
    else:
        runs = Runs(options, console)
        if options.find_replicas:
            figures = size(runs, options, console)
            if figures["num_replicas"] is None:
                return 1
        else:
            result = runs.run(options.replicas)
            figures = summarise(result)
            console.print(table_of(figures))
            for line in lines_of(figures):
                console.print(line, soft_wrap=True, highlight=False)
            if options.plot:
                title = f"{options.replicas} x {options.model} on {options.gpu}, {options.trace}"
                plots.plot(result, figures, options.plot, title)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
