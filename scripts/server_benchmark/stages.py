"""What each stage between the engine and a client costs: microseconds of a processor for a token, with
the demo model on the CPU and so many streams.

The engine's own time is that of `LLM` in this process, of one thread as in the server, so that nobody
waits by turning. A stage's is what its process spent on a processor while a load ran, divided by the
load's tokens; tritonserver's is that above the engine's.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import tritonclient.grpc as grpcclient
from demo_client import MODEL, free_port, wait_until_ready
from inflight import LLM, SamplingParams
from inflight.llm import KvCacheConfig
from inflight.serving import metrics_page
from rich.console import Console
from rich.table import Table
from server_benchmark.clients import Clients, cpu_seconds_by_process

NUM_IN, NUM_OUT = (16, 64), (64, 128)
KV_TOKENS = 64 * 256
WAYS = ("tensorrt_llm", "ensemble", "tensorrt_llm_bls", "OpenAI")
_ENGINE, _SERVER = "engine (LLM in process)", "tritonserver and backend"
# What tells a process: a part of its command line.
_STAGES = {
    _SERVER: "/tritonserver --",
    "preprocessing": "/preprocessing/",
    "postprocessing": "/postprocessing/",
    "OpenAI endpoint": "inflight.cli.main openai",
}


def draw_load(count: int) -> list[dict]:
    draw = random.Random(1)
    return [
        {
            "prompt": [draw.randrange(3, 1000) for _ in range(draw.randint(*NUM_IN))],
            "num_output": draw.randint(*NUM_OUT),
        }
        for _ in range(count)
    ]


def as_text(load: Sequence[dict]) -> list[dict]:
    letters = lambda ids: "".join(chr(ord("a") + id % 26) for id in ids)  # noqa: E731
    return [{**one, "kind": "text", "prompt": letters(one["prompt"])} for one in load]


def engine_us(llm: LLM, load: Sequence[dict], num_tokens: int) -> float:
    params = [
        SamplingParams(max_tokens=one["num_output"], ignore_eos=True, detokenize=False)
        for one in load
    ]
    before = time.process_time()
    results = [
        llm.generate_async(one["prompt"], each) for one, each in zip(load, params, strict=True)
    ]
    count = sum(len(result.result().outputs[0].token_ids) for result in results)
    assert count == num_tokens, f"{count} tokens came instead of {num_tokens}"
    return 1e6 * (time.process_time() - before) / count


def stages_us(root: int, run: Callable[[], int]) -> tuple[dict[str, float], int]:
    """Of each stage's process below `root`, while `run` answers how many tokens came."""
    before = cpu_seconds_by_process(root)
    count = run()
    after = cpu_seconds_by_process(root)
    spent = {stage: 0.0 for stage in _STAGES}
    for pid, (command, seconds) in after.items():
        for stage, part in _STAGES.items():
            if part in command:
                spent[stage] += seconds - before.get(pid, ("", 0.0))[1]
    return {stage: 1e6 * seconds / count for stage, seconds in spent.items()}, count


def run_openai(port: int, streams: int, count: int, scratch: Path) -> int:
    figures = scratch / "bench.json"
    lengths = {"input": NUM_IN, "output": NUM_OUT}
    command = [sys.executable, "-m", "inflight.cli.main", "bench", "--way=openai", "--warmup=0"]
    command += [f"--url=http://localhost:{port}", f"--concurrency={streams}"]
    command += [f"--{kind}-tokens=uniform:{low}:{high}" for kind, (low, high) in lengths.items()]
    command += [f"--num-requests={count}", f"--json={figures}"]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(figures.read_text())["output_tokens"]


def check_tokens(metrics_port: int, counted: int) -> None:
    """That the engine generated those that its time is divided by. The server tells of a request
    when its client has the end of it."""
    url = f"http://localhost:{metrics_port}/metrics"
    for _ in range(50):
        page = metrics_page.fetch(url)
        generated = metrics_page.total(page, "nv_llm_output_token_len_sum", "total_output_tokens")
        if generated == counted:
            return
        time.sleep(0.1)
    raise SystemExit(f"the engine generated {generated:.0f} tokens, {counted} were counted")


def measure(streams: int, count: int, repeats: int) -> dict[str, dict[str, float]]:
    """By way, then by stage: medians of so many turns, in microseconds for a token."""
    load = draw_load(count)
    num_tokens = sum(one["num_output"] for one in load)
    ports = {name: free_port() for name in ("http", "grpc", "metrics", "openai")}
    llm = LLM(
        MODEL,
        device="cpu",
        num_threads=1,
        skip_tokenizer_init=True,
        kv_cache_config=KvCacheConfig(max_tokens=KV_TOKENS),
    )
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        command = [sys.executable, "-m", "inflight.cli.main", "serve", str(MODEL), "--device=cpu"]
        command += [f"--{name}-port={port}" for name, port in ports.items()]
        command += ["--num-threads=1", f"--kv-cache-max-tokens={KV_TOKENS}"]
        log_path = scratch / "server.log"
        with log_path.open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            url = f"127.0.0.1:{ports['grpc']}"
            wait_until_ready(server, grpcclient.InferenceServerClient(url), log_path, 120)
            clients = Clients(url, streams, 1)

            def send(model: str, output: str, calls: list[dict]) -> int:
                clients.run(model, output, True, calls)
                return num_tokens

            ids = [{**one, "kind": "ids"} for one in load]
            texts = as_text(load)
            runs = {
                "tensorrt_llm": lambda: send("tensorrt_llm", "output_ids", ids),
                "ensemble": lambda: send("ensemble", "text_output", texts),
                "tensorrt_llm_bls": lambda: send("tensorrt_llm_bls", "text_output", texts),
                "OpenAI": lambda: run_openai(ports["openai"], streams, count, scratch),
            }
            turns: dict[str, list[dict[str, float]]] = {way: [] for way in runs}
            num_counted = 0
            for turn in range(repeats + 1):  # the first warms up
                engine = engine_us(llm, load, num_tokens)
                for way, run in runs.items():
                    spent, num_came = stages_us(server.pid, run)
                    num_counted += num_came
                    spent[_SERVER] -= engine
                    if turn:
                        turns[way].append({_ENGINE: engine, **spent})
            clients.close()
            check_tokens(ports["metrics"], num_counted)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
            llm.shutdown()
    return {
        way: {stage: statistics.median(one[stage] for one in rows) for stage in rows[0]}
        for way, rows in turns.items()
    }


def print_table(figures: dict[str, dict[str, float]], streams: int) -> None:
    title = f"µs of a processor for a token, {streams} streams, demo model on one thread"
    table = Table("stage", *WAYS, title=title, title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in (_ENGINE, *_STAGES):
        table.add_row(stage, *(f"{figures[way][stage]:,.0f}" for way in WAYS))
    added = {way: sum(figures[way][stage] for stage in _STAGES) for way in WAYS}
    table.add_section()
    table.add_row("added to the engine", *(f"{added[way]:,.0f}" for way in WAYS))
    shares = (added[way] / figures[way][_ENGINE] for way in WAYS)
    table.add_row("share of the engine's", *(f"{share:.0%}" for share in shares))
    Console(width=100).print(table)


def main(streams: int, num_requests: int, repeats: int, json_file: Path | None) -> None:
    figures = measure(streams, num_requests, repeats)
    print_table(figures, streams)
    if json_file:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")
