"""`inflight` next to `transformers.generate` on this machine's CPU, same random weights.

Two loads, a Llama of 160 million parameters (hidden 768, 12 layers, 12 heads, vocabulary 32000):
  one     one request, 128 tokens in, 128 out: milliseconds a token, the first one apart
  mixed   64 requests, prompts of 16-256 and answers of 16-256 tokens, both uniform, 16 at a time:
          wanted output tokens a second. transformers runs padded batches of 16 in order of arrival,
          each until its longest answer is done; inflight lets the next request in when one ends.

All times are medians over the repeats, in which the two take turns.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from inflight.llm import KvCacheConfig
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

CONCURRENCY = 16


@dataclass(frozen=True)
class Request:
    prompt: list[int]
    num_output: int


@dataclass(frozen=True)
class Load:
    """How much of each load to run."""

    num_in: int
    num_out: int
    num_requests: int
    longest: int
    repeats_one: int
    repeats_mixed: int


FULL = Load(num_in=128, num_out=128, num_requests=64, longest=256, repeats_one=5, repeats_mixed=3)
QUICK = Load(num_in=128, num_out=32, num_requests=32, longest=64, repeats_one=3, repeats_mixed=1)


class Transformers:
    name = "transformers"

    def __init__(self, checkpoint: Path, dtype: str) -> None:
        self._model = LlamaForCausalLM.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), local_files_only=True
        ).eval()
        self._model.generation_config.eos_token_id = None

    def one(self, request: Request) -> list[int]:
        return self._batch([request])[0]

    def mixed(self, requests: list[Request]) -> list[list[int]]:
        answers = []
        for start in range(0, len(requests), CONCURRENCY):
            answers += self._batch(requests[start : start + CONCURRENCY])
        return answers

    def _batch(self, requests: list[Request]) -> list[list[int]]:
        width = max(len(request.prompt) for request in requests)
        ids = torch.zeros(len(requests), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, width - len(request.prompt) :] = 1
        output = self._model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max(request.num_output for request in requests),
            pad_token_id=0,
        )
        return [
            row[width : width + request.num_output].tolist()
            for row, request in zip(output, requests, strict=True)
        ]


class Inflight:
    name = "inflight"

    def __init__(self, checkpoint: Path, dtype: str, num_threads: int) -> None:
        engine = build_engine(
            checkpoint,
            checkpoint.with_name(f"engine-{dtype}"),
            dtype=dtype,
            max_batch_size=CONCURRENCY,
            max_seq_len=1024,
        )
        self._llm = LLM(
            engine,
            skip_tokenizer_init=True,
            device="cpu",
            num_threads=num_threads,
            kv_cache_config=KvCacheConfig(max_tokens=CONCURRENCY * 544),
        )

    def one(self, request: Request) -> list[int]:
        return self.mixed([request])[0]

    def mixed(self, requests: list[Request]) -> list[list[int]]:
        params = [
            SamplingParams(max_tokens=request.num_output, ignore_eos=True) for request in requests
        ]
        outputs = self._llm.generate([r.prompt for r in requests], params, use_tqdm=False)
        return [output.outputs[0].token_ids for output in outputs]

    def close(self) -> None:
        self._llm.shutdown()


def write_checkpoint(folder: Path, dtype: str, num_kv_heads: int) -> Path:
    """The shape of JackFram/llama-160m with random weights, wide enough for tokens to vary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=2048,
        initializer_range=0.05,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def seconds(run: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    run(*arguments)
    return time.perf_counter() - started


def measure(contenders: list[Any], load: Load) -> dict[str, dict[str, float]]:
    """Name -> figures. The contenders take turns, so that a slow spell hits both."""
    draw = random.Random(1)

    def prompt(length: int) -> list[int]:
        return [draw.randrange(3, 32000) for _ in range(length)]

    one, first = Request(prompt(load.num_in), load.num_out), None
    first = Request(one.prompt, 1)
    mixed = [
        Request(prompt(draw.randint(16, load.longest)), draw.randint(16, load.longest))
        for _ in range(load.num_requests)
    ]
    times: dict[str, dict[str, list[float]]] = {
        contender.name: {"first": [], "one": [], "mixed": []} for contender in contenders
    }
    answers = {contender.name: contender.one(one) for contender in contenders}  # warms up, too
    for _ in range(load.repeats_one):
        for contender in contenders:
            times[contender.name]["first"].append(seconds(contender.one, first))
            times[contender.name]["one"].append(seconds(contender.one, one))
    for _ in range(load.repeats_mixed):
        for contender in contenders:
            times[contender.name]["mixed"].append(seconds(contender.mixed, mixed))
    wanted = sum(request.num_output for request in mixed)
    figures = {}
    for name, runs in times.items():
        first_s, one_s = statistics.median(runs["first"]), statistics.median(runs["one"])
        figures[name] = {
            "first_token_ms": first_s * 1e3,
            "token_ms": (one_s - first_s) / (load.num_out - 1) * 1e3,
            "mixed_tokens_per_s": wanted / statistics.median(runs["mixed"]),
        }
    reference, ours = (answers[contender.name] for contender in contenders)
    equal = sum(a == b for a, b in zip(reference, ours, strict=True))
    figures["agreement"] = {"equal_greedy_tokens": equal, "of": len(ours)}
    return figures


ROWS = (
    ("first_token_ms", "one request: first token, ms", False),
    ("token_ms", "one request: each further token, ms", False),
    ("mixed_tokens_per_s", "16 concurrent, mixed lengths: output tokens/s", True),
)


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table("dtype", "load", "transformers", "inflight", "times as fast")
    for column in table.columns[2:]:
        column.justify = "right"
    for dtype, figures in results.items():
        for key, label, more_is_better in ROWS:
            theirs, ours = figures["transformers"][key], figures["inflight"][key]
            ratio = ours / theirs if more_is_better else theirs / ours
            table.add_row(dtype, label, f"{theirs:.1f}", f"{ours:.1f}", f"{ratio:.2f}")
    Console(width=110).print(table)
    for dtype, figures in results.items():
        agreement = figures["agreement"]
        print(
            f"{dtype}: the first {agreement['of']} greedy tokens of one request, "
            f"{agreement['equal_greedy_tokens']} equal"
        )


def run(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """With the options of scripts/benchmark_engine.py."""
    num_threads = options.num_threads or len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads)
    load = QUICK if options.quick else FULL
    results: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in options.dtype or ["float32", "bfloat16"]:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_checkpoint(Path(folder) / dtype, dtype, options.num_kv_heads)
            ours = Inflight(checkpoint, dtype, num_threads)
            results[dtype] = measure([Transformers(checkpoint, dtype), ours], load)
            ours.close()
    print(f"{num_threads} threads each, torch {torch.__version__}")
    print_table(results)
    return results
