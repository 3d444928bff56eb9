"""The loads: each measures one engine and answers named figures. Greedy, end ids ignored."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from engine_benchmark import shapes
from inflight import LLM, SamplingParams

Figures = dict[str, float]


@dataclass
class Clock:
    """The time that is left; what would not fit is left out, and said so."""

    limit: float
    started: float = field(default_factory=time.perf_counter)
    skipped: list[str] = field(default_factory=list)

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.started

    def has(self, seconds: float, what: str) -> bool:
        if self.spent + seconds <= self.limit:
            return True
        self.skipped.append(f"{what} (about {seconds:.0f} s)")
        return False


@dataclass
class Bench:
    """An engine under measurement."""

    llm: LLM
    model: str
    clock: Clock
    repeats: int
    num_requests: int
    draw: random.Random = field(default_factory=lambda: random.Random(1))

    def prompts(self, count: int, length: int) -> list[list[int]]:
        size = self.llm.info.vocab_size
        return [self.draw.choices(range(3, size), k=length) for _ in range(count)]

    def seconds(self, prompts: list[list[int]], num_out: int | list[int]) -> float:
        """Of answering all prompts, sent at once."""
        lengths = num_out if isinstance(num_out, list) else [num_out] * len(prompts)
        params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in lengths]
        started = time.perf_counter()
        outputs = self.llm.generate(prompts, params, use_tqdm=False)
        elapsed = time.perf_counter() - started
        for output, length in zip(outputs, lengths, strict=True):
            got = len(output.outputs[0].token_ids)
            assert got == length, f"{got} tokens instead of {length}"
        return elapsed

    def median(self, run: Callable[[], float]) -> float:
        return statistics.median(run() for _ in range(self.repeats))

    def warm_up(self) -> float:
        """One request, then a full batch that shrinks to none: every size of step is met once."""
        self.seconds(self.prompts(1, 128), 8)
        size = min(self.llm.info.max_batch_size, self.num_requests)
        lengths = [2 + i * 96 // size for i in range(size)]
        return self.seconds(self.prompts(size, 16), lengths)


def one(bench: Bench) -> Iterator[Figures]:
    """Time between the first token and the last."""
    prompts = bench.prompts(1, 128)
    bench.seconds(prompts, 256)
    first = bench.median(lambda: bench.seconds(prompts, 1))
    whole = bench.median(lambda: bench.seconds(prompts, 256))
    yield {shapes.one_key(): (whole - first) / 255 * 1e3}


def ttft(bench: Bench) -> Iterator[Figures]:
    for length in shapes.TTFT_LENGTHS:
        bench.seconds(bench.prompts(1, length), 1)
        # a new prompt each time: nothing of it can be known
        seconds = bench.median(lambda n=length: bench.seconds(bench.prompts(1, n), 1))
        yield {shapes.ttft_key(length): seconds * 1e3}


def batch(bench: Bench) -> Iterator[Figures]:
    """Of a step of `size` requests that all generate: prompts' time is measured apart."""
    for size in shapes.BATCHES:
        if size > bench.llm.info.max_batch_size or not bench.clock.has(5, shapes.batch_key(size)):
            continue
        prompts = bench.prompts(size, 128)
        bench.seconds(prompts, 4)
        first = bench.median(lambda p=prompts: bench.seconds(p, 1))
        whole = bench.median(lambda p=prompts: bench.seconds(p, 128))
        yield {shapes.batch_key(size): (whole - first) / 127 * 1e3}


def throughput(bench: Bench) -> Iterator[Figures]:
    """The cheapest first. One run each: they are long."""
    for num_in, num_out in sorted(shapes.THROUGHPUT, key=lambda load: load[0] + load[1] * 8):
        key = shapes.throughput_key(num_in, num_out)
        wanted = bench.num_requests * num_out
        expected = shapes.PEER.get(bench.model, {}).get(key)
        if expected and not bench.clock.has(wanted / expected, key):
            continue
        prompts = bench.prompts(bench.num_requests, num_in)
        yield {key: wanted / bench.seconds(prompts, num_out)}


LOADS = {"one": one, "ttft": ttft, "batch": batch, "throughput": throughput}

_FIRST_TOKEN = """
from inflight import LLM, SamplingParams
llm = LLM({model!r}, load_format={load_format!r}, device={device!r}, dtype={dtype!r},
          max_batch_size={max_batch_size}, max_num_tokens={max_num_tokens},
          max_seq_len={max_seq_len})
llm.generate([list(range(3, 131))], SamplingParams(max_tokens=1, ignore_eos=True), use_tqdm=False)
print("first token", flush=True)
"""


def start_to_first_token(
    folder: Path, load_format: str, device: str, dtype: str, limits: dict[str, int]
) -> float:
    """Seconds from starting Python to the first token of a prompt of 128."""
    code = _FIRST_TOKEN.format(
        model=str(folder), load_format=load_format, device=device, dtype=dtype, **limits
    )
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    elapsed = time.perf_counter() - started
    process.stdout.read()
    if process.wait() != 0 or line.strip() != "first token":
        raise RuntimeError("the started process brought no token")
    return elapsed
