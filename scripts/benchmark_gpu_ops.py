"""Times the CUDA ops at the shapes of Llama-3.1-8B and 3.2-1B beside their floors.

    python scripts/benchmark_gpu_ops.py [--ops linear,decode,prefill,...] [--dtype bfloat16]

The floor of a line is the larger of the bytes it must move over the ceiling measured first (a copy
for ops that write as much as they read, else a read) and its operations over the product's rate.
Runs are replayed as CUDA graphs over operands larger than the L2 cache; medians.
"""

import argparse
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from inflight import _core

NUMPY = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TORCH = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
BEYOND_CACHES = 150 << 20  # bytes
LINEARS = {  # outputs x inputs
    "8B qkv": (6144, 4096),
    "8B o": (4096, 4096),
    "8B gate_up": (28672, 4096),
    "8B down": (4096, 14336),
    "8B head": (128256, 4096),
    "1B qkv": (3072, 2048),
    "1B o": (2048, 2048),
    "1B gate_up": (16384, 2048),
    "1B down": (2048, 8192),
    "1B head": (128256, 2048),
}


@dataclass(frozen=True)
class Ceilings:
    copy: float  # bytes a second, read and written
    read: float
    product: float  # operations a second


def elapsed(work, repeat: int) -> float:
    """Seconds of one call of `work`, by device events."""
    work()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    for _ in range(repeat):
        work()
    events[1].record()
    torch.cuda.synchronize()
    return events[0].elapsed_time(events[1]) / repeat * 1e-3


def graph_time(calls: list, rounds: int = 7) -> float:
    """Seconds of one of torch's `calls`, replayed as a graph; the median round."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return float(np.median([elapsed(graph.replay, 1) for _ in range(rounds)])) / len(calls)


def measure_ceilings() -> Ceilings:
    a = torch.empty(1 << 30, dtype=torch.int32, device="cuda").random_()
    b = torch.empty_like(a)
    copy = 2 * a.nbytes / elapsed(lambda: b.copy_(a), 10)
    read = a.nbytes / elapsed(lambda: torch.amax(a), 10)
    x = torch.randn(8192, 8192, device="cuda").bfloat16()
    product = 2 * 8192**3 / elapsed(lambda: x @ x, 10)
    return Ceilings(copy, read, product)


def random(shape: tuple[int, ...], dtype: str, scale: float = 1.0) -> np.ndarray:
    """Normal numbers; those of large arrays repeat after a prime number of elements."""
    count = int(np.prod(shape))
    some = np.random.default_rng(0).standard_normal(min(count, 1_000_003), np.float32) * scale
    return np.resize(some.astype(NUMPY[dtype]), shape)


def own_time(calls: list["_core.BoundCall"]) -> float:
    """Seconds of one call: the median of rounds over all of them, each at least a few times."""
    repeat = max(1, 12 // len(calls))
    return float(np.median(_core.time_calls(calls * repeat, 9)))


class Table:
    """Prints a line per measurement with its floor's share."""

    def __init__(self, ceilings: Ceilings):
        self.ceilings = ceilings
        print(
            f"{'op':16}{'shape':34}{'us':>10}{'TB/s':>8}{'TFLOP/s':>9}{'floor us':>10}{'share':>7}"
            f"{'torch us':>10}"
        )

    def add(
        self, op: str, shape: str, seconds: float, bytes_moved: float, operations: float = 0.0,
        peer: float | None = None, writes: bool = False,
    ) -> None:  # fmt: skip
        bandwidth = self.ceilings.copy if writes else self.ceilings.read
        floor = max(bytes_moved / bandwidth, operations / self.ceilings.product)
        print(
            f"{op:16}{shape:34}{seconds * 1e6:10.2f}{bytes_moved / seconds / 1e12:8.2f}"
            f"{operations / seconds / 1e12:9.1f}{floor * 1e6:10.2f}{floor / seconds:7.0%}"
            + (f"{peer * 1e6:10.2f}" if peer else ""),
            flush=True,
        )


def peer_linears(weights: list[torch.Tensor], m: int, dtype: str, out: str) -> list:
    """torch's product of m rows and each of `weights`, with an x and a y of its own as a bound call
    has them: one that all share would stay in the L2. y is written in the same dtype, too, and
    parts of a sum are added in float32: torch's default adds them in y's."""
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    calls = []
    for w in weights:
        n, k = w.shape
        x = torch.randn(m, k, device="cuda").to(TORCH[dtype])
        y = torch.empty(m, n, dtype=TORCH[out], device="cuda")
        wider = {} if out == dtype else {"out_dtype": TORCH[out]}
        calls.append(lambda x=x, w=w, y=y, wider=wider: torch.mm(x, w.t(), out=y, **wider))
    return calls


def bench_linear(runner, table: Table, dtype: str, rows: list[int], names: list[str]) -> None:
    size = np.dtype(NUMPY[dtype]).itemsize
    for name in names:
        n, k = LINEARS[name]
        copies = 1 + min(BEYOND_CACHES // (n * k * size), 40)
        base = random((n, k), dtype, k**-0.5)
        weights = [base] + [base.copy() for _ in range(copies - 1)]
        theirs = [
            torch.from_numpy(w.view(np.int16 if size == 2 else np.int32)).cuda() for w in weights
        ]
        theirs = [w.view(TORCH[dtype]) for w in theirs]
        for m in rows:
            out = "float32" if "head" in name else dtype
            x, y = random((m, k), dtype), np.zeros((m, n), NUMPY[out])
            calls = [runner.bind("linear", {"x": x, "weight": w}, {"y": y}) for w in weights]
            seconds = own_time(calls)
            del calls
            peer = graph_time(peer_linears(theirs, m, dtype, out))
            bytes_moved = size * (n * k + m * k) + y.nbytes
            table.add("linear", f"{name} {m}x{n}x{k}", seconds, bytes_moved, 2 * m * n * k, peer)


def bench_fused(runner, table: Table, dtype: str, rows: list[int], names: list[str]) -> None:
    """The same linears as a layer has them: norm before qkv, gate_up and head, gate, residuals."""
    size = np.dtype(NUMPY[dtype]).itemsize
    for name in names:
        n, k = LINEARS[name]
        part = name.split()[1]
        width = n // 2 if part == "gate_up" else n
        weight = random((n, k), dtype, k**-0.5)
        copies = 1 + min(BEYOND_CACHES // weight.nbytes, 40)
        weights = [weight.copy() for _ in range(copies)]
        for m in rows:
            inputs = {"x": random((m, k), dtype)}
            attributes: dict[str, object] = {"gated": True} if part == "gate_up" else {}
            if part in ("o", "down"):
                inputs["residual"] = random((m, width), dtype)
            else:
                inputs["norm_weight"] = random((k,), dtype)
                attributes["epsilon"] = 1e-5
            y = np.zeros((m, width), np.float32 if part == "head" else NUMPY[dtype])
            calls = [
                runner.bind("fused_linear", inputs | {"weight": w}, {"y": y}, attributes)
                for w in weights
            ]
            seconds = own_time(calls)
            del calls
            bytes_moved = size * n * k + sum(array.nbytes for array in inputs.values()) + y.nbytes
            table.add("fused_linear", f"{name} {m}x{n}x{k}", seconds, bytes_moved, 2 * m * n * k)


def paged(lengths: list[int], kv_heads: int, head_size: int, block: int, dtype: str):
    """A pool whose blocks are handed out in random order, and the block tables."""
    counts = [-(-length // block) for length in lengths]
    order = np.random.default_rng(1).permutation(sum(counts)).astype(np.int32)
    tables = np.zeros((len(lengths), max(counts)), np.int32)
    used = 0
    for row, count in enumerate(counts):
        tables[row, :count] = order[used : used + count]
        used += count
    return random((sum(counts), 2, kv_heads, block, head_size), dtype), tables


def bench_attention(
    runner, table: Table, dtype: str, label: str, queries: list[int], lengths: list[int],
    heads: int = 32, kv_heads: int = 8, head_size: int = 128, block: int = 32, window: int = 0,
) -> None:  # fmt: skip
    cache, tables = paged(lengths, kv_heads, head_size, block, dtype)
    q = random((sum(queries), heads * head_size), dtype)
    inputs = {
        "q": q,
        "kv_cache": cache,
        "block_tables": tables,
        "query_starts": np.cumsum([0, *queries]).astype(np.int32),
        "kv_lengths": np.array(lengths, np.int32),
    }
    attributes = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_size": head_size,
        "scale": head_size**-0.5,
    }
    if window:
        attributes["window"] = window
        label += f" w{window}"
    seen = read = 0  # keys, by each query and by any
    for rows, length in zip(queries, lengths, strict=True):
        most = window or length
        seen += int(np.minimum(np.arange(length - rows, length) + 1, most).sum())
        read += min(length, most + rows - 1)
    kv_bytes = read * 2 * kv_heads * head_size * cache.itemsize
    copies = 1 + min(BEYOND_CACHES // kv_bytes, 40)
    caches = [cache] + [cache.copy() for _ in range(copies - 1)]
    seconds = own_time(
        [
            runner.bind("attention", inputs | {"kv_cache": c}, {"y": np.zeros_like(q)}, attributes)
            for c in caches
        ]
    )
    table.add(
        "attention", f"{label} {heads}/{kv_heads}x{head_size} b{block}", seconds,
        kv_bytes + 2 * q.nbytes, 4 * seen * heads * head_size,
    )  # fmt: skip


def bench_decode(runner, table: Table, dtype: str) -> None:
    skewed = [32768] + [300] * 63
    long = {"64 x 2k": [2048] * 64, "1 x 32k": [32768], "1 x 32k + 63 x 300": skewed}
    short = {"1 x 200": [200], "1 x 2k": [2048], "64 x 300": [300] * 64, "256 x 300": [300] * 256}
    for size in (64, 80, 96, 128, 256):
        for label, lengths in (long | short).items():
            bench_attention(
                runner, table, dtype, label, [1] * len(lengths), lengths, head_size=size
            )
    for label, lengths in long.items():
        bench_attention(runner, table, dtype, label, [1] * len(lengths), lengths, block=64)
    for label, lengths, window in (  # each with a window beside one of that length
        ("64 x 1k", [1024] * 64, 0),
        ("64 x 8k", [8192] * 64, 1024),
        ("64 x 4k", [4096] * 64, 0),
        ("64 x 8k", [8192] * 64, 4096),
        ("1 x 4k", [4096], 0),
        ("1 x 32k", [32768], 4096),
    ):
        bench_attention(runner, table, dtype, label, [1] * len(lengths), lengths, window=window)


def bench_prefill(runner, table: Table, dtype: str) -> None:
    for block in (32, 64):
        for label, queries, lengths in (
            ("1 x 512", [512], [512]),
            ("1 x 2k", [2048], [2048]),
            ("1 x 8k", [8192], [8192]),
            ("1 x 16k", [16384], [16384]),
            ("8 x 1k", [1024] * 8, [1024] * 8),
            ("64 x 128", [128] * 64, [128] * 64),
            ("2k over 6k", [2048], [8192]),
            ("63 rows + 1 x 2k", [1] * 63 + [2048], [1000] * 63 + [2048]),
        ):
            bench_attention(runner, table, dtype, label, queries, lengths, block=block)
    bench_attention(runner, table, dtype, "1 x 8k", [8192], [8192], head_size=64)
    for label, queries, lengths, window in (
        ("1 x 8k", [8192], [8192], 1024),
        ("1 x 8k", [8192], [8192], 4096),
        ("8 x 2k", [2048] * 8, [2048] * 8, 1024),
        ("2k over 6k", [2048], [8192], 1024),
        ("2k over 14k", [2048], [16384], 4096),
        ("256 over 8k", [256], [8192], 4096),
    ):
        bench_attention(runner, table, dtype, label, queries, lengths, window=window)


def bench_small(runner, table: Table, dtype: str, rows: list[int]) -> None:
    hidden, inner, heads, kv_heads, size = 4096, 14336, 32, 8, 128
    item = np.dtype(NUMPY[dtype]).itemsize
    for t in rows:
        x, y = random((t, hidden), dtype), np.zeros((t, hidden), NUMPY[dtype])
        weight, ids = random((hidden,), dtype), np.random.default_rng(2).integers(0, 99_991, t)
        inputs = {"x": x, "residual": x.copy(), "weight": weight}
        call = runner.bind("add_rms_norm", inputs, {"y": y, "sum": y.copy()}, {"epsilon": 1e-5})
        table.add("add_rms_norm", f"{t}x{hidden}", own_time([call]), 4 * x.nbytes, writes=True)
        gate_up, z = random((t, 2 * inner), dtype), np.zeros((t, inner), NUMPY[dtype])
        call = runner.bind("silu_mul", {"gate_up": gate_up}, {"y": z})
        table.add("silu_mul", f"{t}x{inner}", own_time([call]), 3 * z.nbytes, writes=True)
        blocks = -(-t // 32)
        qkv = random((t, (heads + 2 * kv_heads) * size), dtype)
        call = runner.bind(
            "rope_kv_append",
            {
                "qkv": qkv,
                "cos_sin": random((t, size), "float32"),
                "slots": np.random.default_rng(3).permutation(blocks * 32)[:t].astype(np.int32),
                "kv_cache": np.zeros((blocks, 2, kv_heads, 32, size), NUMPY[dtype]),
            },
            {"q": y},
            {"num_heads": heads, "num_kv_heads": kv_heads, "head_size": size},
        )
        table.add(
            "rope_kv_append", f"{t}", own_time([call]), 2 * qkv.nbytes + 4 * t * size, writes=True
        )
        call = runner.bind(
            "embedding",
            {"ids": ids.astype(np.int32), "table": random((100_000, hidden), dtype)},
            {"y": y},
        )
        table.add(
            "embedding", f"{t}x{hidden}", own_time([call]), 2 * t * hidden * item, writes=True
        )
        rows_taken = np.arange(t, dtype=np.int32)
        call = runner.bind("gather_rows", {"x": x, "rows": rows_taken}, {"y": y})
        table.add("gather_rows", f"{t}x{hidden}", own_time([call]), 2 * x.nbytes, writes=True)


def bench_sampling(table: Table, batches: list[int], vocab_size: int = 128256) -> None:
    """Logits as a model's: normal with deviation 3, so that few tokens hold most of the mass. The
    floor is one read of them."""
    filters = {"top_k": 50, "top_p": 0.9}
    penalties = {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.1}
    ways = {
        "greedy": {"greedy": True},
        "greedy, penalties": {"greedy": True, **penalties},
        "temperature": {},
        "top_k 50, top_p 0.9": filters,
        " and penalties": {**filters, **penalties},
        " and 5 log_probs": {**filters, **penalties, "num_logprobs": 5},
        "top_p 0.9": {"top_p": 0.9},
        "top_k 1000": {"top_k": 1000},
        "top_p 0.9, temp. 3": {"top_p": 0.9, "temperature": 3.0},
    }
    ids = np.random.default_rng(1).integers(0, vocab_size, 1000).tolist()
    for batch in batches:
        logits = random((batch, vocab_size), "float32", 3.0)
        sampler = _core.decoding.Sampler(vocab_size, batch, 1, "cuda")
        copies = 1 + min(BEYOND_CACHES // logits.nbytes, 40)
        for name, fields in ways.items():
            rows = [
                _core.decoding.SampleRow(
                    i,
                    _core.decoding.SamplingParams(seed=i, **fields),
                    prompt_ids=ids[:500],
                    generated_ids=ids[500:],
                )
                for i in range(batch)
            ]
            seconds = float(np.median(sampler.time(logits, rows, copies, 9)))
            table.add("sampling", f"{batch}x{vocab_size} {name}", seconds, logits.nbytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ops", default="linear,fused,decode,prefill,small,sampling")
    parser.add_argument("--dtype", default="bfloat16", choices=list(NUMPY))
    parser.add_argument("--rows", default="1,2,4,8,16,32,64,128,256,2048,8192", help="of linears")
    parser.add_argument("--linears", default=",".join(LINEARS), help="names of LINEARS")
    options = parser.parse_args()
    if "cuda" not in _core.op_devices():
        raise SystemExit("this build or machine has no CUDA")
    ceilings = measure_ceilings()
    print(
        f"{torch.cuda.get_device_name()}: copy {ceilings.copy / 1e12:.2f} TB/s, read "
        f"{ceilings.read / 1e12:.2f} TB/s, bf16 product {ceilings.product / 1e12:.0f} TFLOP/s"
    )
    runner = _core.OpRunner("cuda", grids_may_wait=True)  # as an engine that has the GPU alone
    table = Table(ceilings)
    ops = options.ops.split(",")
    if "small" in ops:
        bench_small(runner, table, options.dtype, [1, 64, 4096])
    if "decode" in ops:
        bench_decode(runner, table, options.dtype)
    if "prefill" in ops:
        bench_prefill(runner, table, options.dtype)
    if "sampling" in ops:
        bench_sampling(table, [1, 32, 128, 256])
    if "linear" in ops:
        rows = [int(m) for m in options.rows.split(",")]
        bench_linear(runner, table, options.dtype, rows, options.linears.split(","))
    if "fused" in ops:
        rows = [int(m) for m in options.rows.split(",")]
        bench_fused(runner, table, options.dtype, rows, options.linears.split(","))


if __name__ == "__main__":
    main()
