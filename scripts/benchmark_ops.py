"""Times the CPU ops at the shapes of a Llama, with torch's counterpart on the same machine beside.

    python scripts/benchmark_ops.py [--ops linear,attention] [--dtypes float32,bfloat16] [--threads N]

Weights and caches are larger than the processor's caches: many copies are used in turn. "of read"
is the share of the measured read bandwidth, "of peak" that of the best product on cached operands.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from inflight import _core
from torch.nn import functional

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BEYOND_CACHES = 128 << 20  # bytes


@dataclass(frozen=True)
class Measurement:
    op: str
    shape: str
    dtype: str
    seconds: float
    read_bytes: float  # that the op must at least read and write
    operations: float
    torch_seconds: float | None = None


def best_time(calls: list[Callable[[], object]], budget: float = 0.5) -> float:
    """Seconds of one call: the best round over all the calls."""
    for call in calls:
        call()
    best, deadline = float("inf"), time.perf_counter() + budget
    while True:
        start = time.perf_counter()
        for call in calls:
            call()
        now = time.perf_counter()
        best = min(best, (now - start) / len(calls))
        if now > deadline:
            return best


def own_time(bound: list["_core.BoundCall"]) -> float:
    repeat = 1 if len(bound) > 1 else 20
    return best_time([lambda b=b: b.time(repeat) for b in bound]) / repeat


def random(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(NUMPY[dtype])


def tensor(array: np.ndarray) -> torch.Tensor:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def linear(runner: "_core.OpRunner", dtype: str, m: int, n: int, k: int) -> Measurement:
    size = np.dtype(NUMPY[dtype]).itemsize
    weights = [random((n, k), dtype)]
    weights += [weights[0].copy() for _ in range(BEYOND_CACHES // (n * k * size))]
    x, y = random((m, k), dtype), np.zeros((m, n), NUMPY[dtype])
    own = own_time([runner.bind("linear", {"x": x, "weight": w}, {"y": y}) for w in weights])
    rows = tensor(x)
    calls = [lambda w=w: functional.linear(rows, w) for w in map(tensor, weights)]
    count = size * (n * k + m * (n + k))
    return Measurement("linear", f"{m}x{n}x{k}", dtype, own, count, 2 * m * n * k, best_time(calls))


def attention(
    runner: "_core.OpRunner", dtype: str, sequences: int, queries: int, length: int, heads: int,
    kv_heads: int, size: int = 64, block: int = 32,
) -> Measurement:  # fmt: skip
    per_sequence = -(-length // block)
    blocks = per_sequence * sequences
    one = np.dtype(NUMPY[dtype]).itemsize * blocks * 2 * kv_heads * block * size
    cache = random((blocks, 2, kv_heads, block, size), dtype)
    caches = [cache] + [cache.copy() for _ in range(min(BEYOND_CACHES // one, 64))]
    q = random((sequences * queries, heads * size), dtype)
    y = np.zeros_like(q)
    inputs = {
        "q": q,
        "block_tables": np.random.default_rng(1).permutation(blocks).astype(np.int32).reshape(sequences, -1),
        "query_starts": np.arange(sequences + 1, dtype=np.int32) * queries,
        "kv_lengths": np.full(sequences, length, np.int32),
    }  # fmt: skip
    attributes = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_size": size,
        "scale": size**-0.5,
    }
    own = own_time(
        [runner.bind("attention", inputs | {"kv_cache": c}, {"y": y}, attributes) for c in caches]
    )
    # torch has no paged cache: it gets contiguous keys and values, with the same mask.
    query = tensor(random((sequences, heads, queries, size), dtype))
    keys = [tensor(random((sequences, kv_heads, length, size), dtype))]
    keys += [keys[0].clone() for _ in caches[1:]]
    mask = torch.ones(queries, length, dtype=torch.bool).tril(length - queries)
    calls = [
        lambda k=k: functional.scaled_dot_product_attention(query, k, k, mask, enable_gqa=True)
        for k in keys
    ]
    seen = sequences * heads * sum(range(length - queries + 1, length + 1))
    shape = f"{sequences}seq q{queries} kv{length} {heads}/{kv_heads}x{size}"
    read = one + 2 * q.nbytes
    return Measurement("attention", shape, dtype, own, read, 4 * seen * size, best_time(calls))


def norm(runner: "_core.OpRunner", dtype: str, rows: int, width: int) -> Measurement:
    x, residual, weight = (random(s, dtype) for s in ((rows, width), (rows, width), (width,)))
    y, total = np.zeros_like(x), np.zeros_like(x)
    inputs, outputs = {"x": x, "residual": residual, "weight": weight}, {"y": y, "sum": total}
    own = own_time([runner.bind("add_rms_norm", inputs, outputs, {"epsilon": 1e-5})])
    a, b, w = tensor(x), tensor(residual), tensor(weight)
    theirs = best_time([lambda: functional.rms_norm(a + b, (width,), w, 1e-5)])
    return Measurement(
        "add_rms_norm", f"{rows}x{width}", dtype, own, 4 * x.nbytes, 5 * x.size, theirs
    )


def silu_mul(runner: "_core.OpRunner", dtype: str, rows: int, width: int) -> Measurement:
    x, y = random((rows, 2 * width), dtype), np.zeros((rows, width), NUMPY[dtype])
    own = own_time([runner.bind("silu_mul", {"gate_up": x}, {"y": y})])
    gate, up = tensor(x).split(width, dim=1)
    theirs = best_time([lambda: functional.silu(gate) * up])
    return Measurement("silu_mul", f"{rows}x{width}", dtype, own, 3 * y.nbytes, 20 * y.size, theirs)


def rope(runner: "_core.OpRunner", dtype: str, rows: int, heads: int, kv_heads: int) -> Measurement:
    size, block = 64, 32
    blocks = -(-rows // block)
    qkv = random((rows, (heads + 2 * kv_heads) * size), dtype)
    inputs = {
        "qkv": qkv,
        "cos_sin": random((rows, size), "float32"),
        "slots": np.arange(rows, dtype=np.int32),
        "kv_cache": np.zeros((blocks, 2, kv_heads, block, size), NUMPY[dtype]),
    }
    attributes = {"num_heads": heads, "num_kv_heads": kv_heads, "head_size": size}
    outputs = {"q": np.zeros((rows, heads * size), NUMPY[dtype])}
    own = own_time([runner.bind("rope_kv_append", inputs, outputs, attributes)])
    shape = f"{rows}x{heads}/{kv_heads}x{size}"
    return Measurement("rope_kv_append", shape, dtype, own, 2 * qkv.nbytes, 3 * qkv.size)


def peak(runner: "_core.OpRunner", dtype: str) -> float:
    """Operations a second of the best product whose operands stay in the caches."""
    best = 0.0
    for m, n, k in ((96, 256, 1024), (192, 512, 512), (384, 512, 1024)):
        x, w = random((m, k), dtype), random((n, k), dtype)
        call = runner.bind("linear", {"x": x, "weight": w}, {"y": np.zeros((m, n), np.float32)})
        best = max(best, 2 * m * n * k / own_time([call]))
    return best


def measurements(runner: "_core.OpRunner", ops: set[str], dtype: str):
    if "linear" in ops:
        for n, k in ((2304, 768), (768, 2048), (4096, 4096)):
            for m in (1, 2, 4, 8, 16, 32, 64, 512):
                yield linear(runner, dtype, m, n, k)
    if "attention" in ops:
        for heads, kv_heads in ((12, 4), (32, 8)):
            yield attention(runner, dtype, 1, 1, 256, heads, kv_heads)
            yield attention(runner, dtype, 1, 1, 8192, heads, kv_heads)
            yield attention(runner, dtype, 16, 1, 256, heads, kv_heads)
            yield attention(runner, dtype, 16, 1, 2048, heads, kv_heads)
            yield attention(runner, dtype, 1, 512, 512, heads, kv_heads)
            yield attention(runner, dtype, 1, 256, 2048, heads, kv_heads)
    for rows in (1, 16, 512):
        if "add_rms_norm" in ops:
            yield norm(runner, dtype, rows, 768)
        if "silu_mul" in ops:
            yield silu_mul(runner, dtype, rows, 2048)
        if "rope_kv_append" in ops:
            yield rope(runner, dtype, rows, 12, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", default="linear,attention,add_rms_norm,silu_mul,rope_kv_append")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="0 = all cores")
    options = parser.parse_args()
    runner = _core.OpRunner("cpu", options.threads)
    torch.set_num_threads(runner.num_threads)
    bandwidth = runner.read_bandwidth()
    print(f"{runner.num_threads} threads, {bandwidth / 1e9:.1f} GB/s read")
    print(
        f"{'op':15}{'shape':30}{'dtype':10}{'us':>10}{'GB/s':>8}{'of read':>9}{'GFLOP/s':>9}"
        f"{'of peak':>9}{'torch us':>11}{'times':>7}"
    )
    for dtype in options.dtypes.split(","):
        most = peak(runner, dtype)
        for m in measurements(runner, set(options.ops.split(",")), dtype):
            speed, rate = m.read_bytes / m.seconds, m.operations / m.seconds
            theirs = (
                f"{m.torch_seconds * 1e6:11.1f}{m.torch_seconds / m.seconds:7.2f}"
                if m.torch_seconds
                else ""
            )
            print(
                f"{m.op:15}{m.shape:30}{m.dtype:10}{m.seconds * 1e6:10.1f}{speed / 1e9:8.1f}"
                f"{speed / bandwidth:9.0%}{rate / 1e9:9.1f}{rate / most:9.0%}{theirs}",
                flush=True,
            )


if __name__ == "__main__":
    main()
