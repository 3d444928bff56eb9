#!/usr/bin/env python3
"""What tritonserver and tritonclient cost: the same engine and load, in process and served.

On the CPU the load is that of benchmark_engine.py: a Llama of 160 million parameters, 64 requests
with prompts of 16-256 tokens and answers of 16-256, sent at once over 16 gRPC streams, 16 in the
engine at a time. With --model it is one of benchmark_engine.py's shapes with dummy weights and 256
requests of 128 tokens in and 128 out, 64 at a time. The streams of a client process share its
connection:

    PYTHONPATH=python_model python scripts/benchmark_server.py [--quick]
    PYTHONPATH=python_model python scripts/benchmark_server.py --device cuda --model M8

Rows: whole answers and streamed ones, through `LLM`, through the model `tensorrt_llm` (ids) and
through `ensemble` (text). Server and clients share the machine's cores with the engine. The ways
take turns; all figures are medians. Beside the share of tokens per second that a way loses to `LLM`
of the same turn: its responses, and the processor time of a response in tritonserver (an engine on
the CPU included), in the processes of Python models and in the clients.

--stages prints instead what each stage costs a token (server_benchmark/stages.py): 64 streams, the
demo model, through `tensorrt_llm`, `ensemble`, `tensorrt_llm_bls` and the OpenAI endpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tritonclient.grpc as grpcclient
from demo_client import free_port, wait_until_ready
from engine_benchmark import shapes
from inflight import LLM, SamplingParams
from inflight.llm import KvCacheConfig
from rich.console import Console
from rich.table import Table
from server_benchmark import models, stages
from server_benchmark.clients import Clients, Outcome, cpu_seconds_below

Way = Callable[[], Outcome]


@dataclass(frozen=True)
class Request:
    prompt: list[int]  # of letters
    num_output: int

    def as_ids(self) -> dict:
        return {"kind": "ids", "prompt": self.prompt, "num_output": self.num_output}

    def as_text(self) -> dict:
        """As many ids, by the tokenizer of server_benchmark.models."""
        letters = "".join(chr(ord("a") + id % 26) for id in self.prompt)
        return {"kind": "text", "prompt": letters, "num_output": self.num_output}


def draw_load(count: int, num_in: tuple[int, int], num_out: tuple[int, int]) -> list[Request]:
    """Lengths between bounds, uniform."""
    draw = random.Random(1)
    return [
        Request([draw.randrange(3, 1000) for _ in range(draw.randint(*num_in))],
                draw.randint(*num_out))
        for _ in range(count)
    ]  # fmt: skip


def in_process(llm: LLM, requests: list[Request], streaming: bool) -> Outcome:
    started = time.perf_counter()
    results = [
        llm.generate_async(
            request.prompt,
            SamplingParams(max_tokens=request.num_output, ignore_eos=True, detokenize=False),
            streaming=streaming,
        )
        for request in requests
    ]
    if streaming:
        for result in results:
            for _ in result:
                pass
    count = sum(len(result.result().outputs[0].token_ids) for result in results)
    return Outcome(time.perf_counter() - started, count)


def served(server: int, run: Way) -> Outcome:
    before = cpu_seconds_below(server)
    outcome = run()
    after = cpu_seconds_below(server)
    return replace(outcome, server_cpu_s=after[0] - before[0], stub_cpu_s=after[1] - before[1])


def ways(llm: LLM, clients: Clients, server: int, requests: list[Request]) -> dict[str, Way]:
    ids = [request.as_ids() for request in requests]
    texts = [request.as_text() for request in requests]

    def to_ids(streaming: bool) -> Outcome:
        run = lambda: clients.run("tensorrt_llm", "output_ids", streaming, ids)  # noqa: E731
        return served(server, run)

    def to_text() -> Outcome:
        return served(server, lambda: clients.run("ensemble", "text_output", True, texts))

    return {
        "LLM, whole answers": lambda: in_process(llm, requests, False),
        "tensorrt_llm, whole answers": lambda: to_ids(False),
        "LLM, streamed": lambda: in_process(llm, requests, True),
        "tensorrt_llm, streamed": lambda: to_ids(True),
        "ensemble, streamed": to_text,
    }


def measure(runs: dict[str, Way], wanted: int, repeats: int) -> dict[str, list[Outcome]]:
    """The rows take turns; the first turn warms up, and shows that every id comes."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            outcome = run()
            if outcome.values != wanted and not name.startswith("ensemble"):
                raise SystemExit(f"{name}: {outcome.values} tokens came instead of {wanted}")
            if repeat > 0:
                outcomes[name].append(outcome)
    return outcomes


def median_of(outcomes: list[Outcome], figure: Callable[[Outcome], float]) -> float:
    return statistics.median(map(figure, outcomes))


def figures_of(outcomes: dict[str, list[Outcome]], wanted: int) -> dict[str, dict[str, float]]:
    figures = {}
    for name, runs in outcomes.items():
        base = outcomes.get("LLM, whole answers" if "whole" in name else "LLM, streamed", [])
        figures[name] = {"tokens_per_s": wanted / median_of(runs, lambda one: one.seconds)}
        # Turn by turn: what else the machine does changes slower than that.
        shares = [1 - llm.seconds / one.seconds for llm, one in zip(base, runs, strict=False)]
        if shares:
            figures[name]["share_lost"] = statistics.median(shares)
            figures[name] |= {"least_lost": min(shares), "most_lost": max(shares)}
        if not runs[0].responses:
            continue
        figures[name]["responses"] = median_of(runs, lambda one: one.responses)
        for part in ("server", "stub", "client"):
            figures[name][f"{part}_us"] = 1e6 * median_of(
                runs, lambda one, part=part: getattr(one, f"{part}_cpu_s") / one.responses
            )
    return figures


def print_table(figures: dict[str, dict[str, float]]) -> None:
    table = Table("way", "output tokens/s", "share lost", "least", "most", "responses", "server µs",
                  "Python µs", "client µs")  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    columns = {
        "tokens_per_s": "{:,.1f}",
        "share_lost": "{:.1%}",
        "least_lost": "{:.1%}",
        "most_lost": "{:.1%}",
        "responses": "{:,.0f}",
        "server_us": "{:.0f}",
        "stub_us": "{:.0f}",
        "client_us": "{:.0f}",
    }
    for name, row in figures.items():
        cells = (shape.format(row[key]) if key in row else "" for key, shape in columns.items())
        table.add_row(name, *cells)
    Console(width=110).print(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(shapes.MODELS), help="a shape, dummy weights")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--streams", type=int, help="16, or 64 of a shape")
    parser.add_argument("--clients", type=int, help="processes; else one for two cores")
    parser.add_argument("--num-requests", type=int, help="64, or four a stream of a shape")
    parser.add_argument("--num-in", type=int, default=128, help="tokens of a shape's prompts")
    parser.add_argument("--num-out", type=int, default=128, help="tokens of a shape's answers")
    parser.add_argument("--quick", action="store_true", help="shorter answers, fewer requests")
    parser.add_argument("--stages", action="store_true", help="processor time of each stage")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ways", default="", help="only those whose names hold one of a,b,…")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    options.streams = options.streams or (64 if options.model or options.stages else 16)
    options.clients = options.clients or min(options.streams, max(1, os.cpu_count() // 2))
    return options


def load_of(options: argparse.Namespace) -> list[Request]:
    if options.model:
        num_in, num_out = options.num_in, options.num_out
        count = options.num_requests or options.streams * (1 if options.quick else 4)
        return draw_load(count, (num_in, num_in), (num_out, num_out))
    longest = 64 if options.quick else 256
    return draw_load(options.num_requests or (32 if options.quick else 64), (16, longest),
                     (16, longest))  # fmt: skip


def main() -> None:
    options = parse()
    if options.stages:
        count = options.num_requests or options.streams * (1 if options.quick else 4)
        stages.main(options.streams, count, options.repeats, options.json)
        return
    requests = load_of(options)
    longest = max(len(request.prompt) + request.num_output for request in requests)
    # Blocks are of 64 tokens at most.
    kv_tokens = options.streams * (longest + 64)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        limits = {"max_batch_size": options.streams, "max_seq_len": longest + 1}
        if options.model:
            engine = models.dummy_engine(folder, options.model, options.dtype, **limits)
        else:
            engine = models.random_engine(folder, options.dtype, **limits)
        load_format = "dummy" if options.model else "auto"
        llm = LLM(
            engine,
            device=options.device,
            load_format=load_format,
            skip_tokenizer_init=True,
            kv_cache_config=KvCacheConfig(max_tokens=kv_tokens),
        )
        ports = {name: free_port() for name in ("http", "grpc", "metrics")}
        command = [sys.executable, "-m", "inflight.cli.main", "serve", str(engine)]
        command += [f"--{name}-port={port}" for name, port in ports.items()]
        command += [f"--device={options.device}", f"--load-format={load_format}"]
        command += [f"--kv-cache-max-tokens={kv_tokens}"]
        log_path = folder / "server.log"
        with log_path.open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"127.0.0.1:{ports['grpc']}"
            wait_until_ready(server, grpcclient.InferenceServerClient(url), log_path, 120)
            clients = Clients(url, options.streams, options.clients)
            chosen = ways(llm, clients, server.pid, requests)
            if options.ways:
                wanted = options.ways.split(",")
                chosen = {k: v for k, v in chosen.items() if any(part in k for part in wanted)}
            num_tokens = sum(request.num_output for request in requests)
            outcomes = measure(chosen, num_tokens, options.repeats)
            clients.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
            llm.shutdown()

    figures = figures_of(outcomes, num_tokens)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
