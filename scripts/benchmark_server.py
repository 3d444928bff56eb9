#!/usr/bin/env python3
"""What tritonserver and tritonclient cost: the same engine and load, in process and served.

The load is that of benchmark_engine.py: a Llama of 160 million parameters, 64 requests with prompts
of 16-256 tokens and answers of 16-256, sent at once over 16 gRPC streams, 16 in the engine at a
time. Rows: whole answers and streamed ones, through `LLM`, through the model `tensorrt_llm` (ids)
and through `ensemble` (text). Server and client share the machine's cores with the engine. The two
sides take turns; all figures are medians.

    PYTHONPATH=python_model python scripts/benchmark_server.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tritonclient.grpc as grpcclient
from demo_client import free_port, wait_until_ready
from engine_benchmark.against_transformers import (
    CONCURRENCY,
    FULL,
    QUICK,
    Load,
    Request,
    write_checkpoint,
)
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from inflight.llm import KvCacheConfig
from inflight.text.tokenizer import Tokenizer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
KV_TOKENS = CONCURRENCY * 544


def in_process(llm: LLM, requests: list[Request], streaming: bool) -> int:
    """Runs the load through LLM and answers the number of tokens that came."""
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
    return sum(len(result.result().outputs[0].token_ids) for result in results)


class Client:
    """16 gRPC streams to one model."""

    def __init__(self, url: str) -> None:
        self._parts: queue.SimpleQueue = queue.SimpleQueue()
        self._clients = [grpcclient.InferenceServerClient(url) for _ in range(CONCURRENCY)]
        for client in self._clients:
            client.start_stream(callback=lambda result, error: self._parts.put((result, error)))

    def close(self) -> None:
        for client in self._clients:
            client.stop_stream()
            client.close()

    def run(self, model: str, calls: list[list], output: str, streaming: bool) -> int:
        """Sends all calls and waits for their ends; the number of ids (or texts) that came."""
        for index, inputs in enumerate(calls):
            self._clients[index % CONCURRENCY].async_stream_infer(
                model, inputs, request_id=str(index), enable_empty_final_response=streaming
            )
        open_calls, count = len(calls), 0
        while open_calls:
            result, error = self._parts.get()
            if error is not None:
                raise error
            value = result.as_numpy(output)
            count += 0 if value is None else value.size
            open_calls -= result.get_response().parameters["triton_final_response"].bool_param
        return count


def tensor(name: str, value: np.ndarray, kind: str) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, list(value.shape), kind)
    made.set_data_from_numpy(value)
    return made


def ids_call(request: Request, streaming: bool) -> list[grpcclient.InferInput]:
    return [
        tensor("input_ids", np.array([request.prompt], np.int32), "INT32"),
        tensor("input_lengths", np.array([[len(request.prompt)]], np.int32), "INT32"),
        tensor("request_output_len", np.array([[request.num_output]], np.int32), "INT32"),
        tensor("exclude_input_in_output", np.array([[True]]), "BOOL"),
        tensor("streaming", np.array([[streaming]]), "BOOL"),
    ]


def text_call(request: Request, tokenizer: Tokenizer) -> list[grpcclient.InferInput]:
    text = tokenizer.decode(request.prompt).encode()
    return [
        tensor("text_input", np.array([[text]], object), "BYTES"),
        tensor("max_tokens", np.array([[request.num_output]], np.int32), "INT32"),
        tensor("end_id", np.array([[-1]], np.int32), "INT32"),
        tensor("exclude_input_in_output", np.array([[True]]), "BOOL"),
        tensor("stream", np.array([[True]]), "BOOL"),
    ]


def make_engine(folder: Path, dtype: str) -> Path:
    checkpoint = write_checkpoint(folder / "checkpoint", dtype, num_kv_heads=12)
    for name in TOKENIZER_FILES:
        shutil.copy(ROOT / "demo_model" / name, checkpoint / name)
    return build_engine(checkpoint, folder / "engine", max_batch_size=CONCURRENCY, max_seq_len=1024)


def draw_load(load: Load, vocab_size: int) -> list[Request]:
    draw = random.Random(1)
    return [
        Request(
            [draw.randrange(3, vocab_size) for _ in range(draw.randint(16, load.longest))],
            draw.randint(16, load.longest),
        )
        for _ in range(load.num_requests)
    ]


def measure(runs: dict[str, Callable[[], int]], repeats: int) -> dict[str, float]:
    """Median seconds by row, the rows taking turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat > 0:  # the first warms up
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shorter answers, fewer requests")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    load = QUICK if options.quick else FULL

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        engine = make_engine(folder, options.dtype)
        tokenizer = Tokenizer.load(engine)
        requests = draw_load(load, vocab_size=1000)
        llm = LLM(
            engine,
            skip_tokenizer_init=True,
            kv_cache_config=KvCacheConfig(max_tokens=KV_TOKENS),
        )
        ports = {name: free_port() for name in ("http", "grpc", "metrics")}
        flags = [f"--{name}-port={port}" for name, port in ports.items()]
        log_path = folder / "server.log"
        command = [sys.executable, "-m", "inflight.cli.main", "serve", str(engine), *flags]
        with log_path.open("w") as log:
            server = subprocess.Popen(
                [*command, f"--kv-cache-max-tokens={KV_TOKENS}"],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            url = f"127.0.0.1:{ports['grpc']}"
            wait_until_ready(server, grpcclient.InferenceServerClient(url), log_path, 120)
            client = Client(url)
            whole = [ids_call(request, False) for request in requests]
            parts = [ids_call(request, True) for request in requests]
            texts = [text_call(request, tokenizer) for request in requests]
            wanted = sum(request.num_output for request in requests)
            ids = "output_ids"
            runs = {
                "LLM, whole answers": lambda: in_process(llm, requests, False),
                "tensorrt_llm, whole answers": lambda: client.run(
                    "tensorrt_llm", whole, ids, False
                ),
                "LLM, streamed": lambda: in_process(llm, requests, True),
                "tensorrt_llm, streamed": lambda: client.run("tensorrt_llm", parts, ids, True),
                "ensemble, streamed": lambda: client.run("ensemble", texts, "text_output", True),
            }
            for name in list(runs)[:4]:  # every token comes, whichever way
                count = runs[name]()
                if count != wanted:
                    raise SystemExit(f"{name}: {count} tokens came instead of {wanted}")
            seconds = measure(runs, options.repeats)
            client.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=60)
            llm.shutdown()

    table = Table("way", "output tokens/s", "share lost")
    figures = {}
    for name, value in seconds.items():
        base = seconds["LLM, whole answers" if "whole" in name else "LLM, streamed"]
        lost = 1 - base / value
        figures[name] = {"tokens_per_s": wanted / value, "share_lost": lost}
        table.add_row(name, f"{wanted / value:.1f}", f"{lost:.1%}")
    Console(width=100).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
