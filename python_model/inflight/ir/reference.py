"""The meaning of every op, in numpy. The graph interpreter runs on it and kernels are tested on it.

`evaluate(op, inputs, attributes, dtypes)` takes arrays by parameter name (bfloat16 through
ml_dtypes), computes in `compute` (float32 unless told) and answers the outputs by name, rounded to
their dtypes. The cache is written in place.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

Arrays = Mapping[str, np.ndarray]
Attributes = Mapping[str, Any]


def numpy_dtype(name: str) -> np.dtype:
    """The numpy dtype called `name` in graphs and engine files."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def evaluate(
    op: str,
    inputs: Arrays,
    attributes: Attributes | None = None,
    dtypes: Mapping[str, str] | None = None,
    compute: type = np.float32,
) -> dict[str, np.ndarray]:
    """The outputs of `op`; `dtypes` may ask linears for a y of another dtype than x."""
    if op in ("linear", "fused_linear"):
        asked = (dtypes or {}).get("y")
        dtype = numpy_dtype(asked) if asked else inputs["x"].dtype
        if op == "linear":
            return _linear(inputs, dtype, compute)
        return _fused_linear(inputs, attributes or {}, dtype, compute)
    return _MEANINGS[op](inputs, attributes or {}, compute)


def _embedding(inputs: Arrays, _: Attributes, __: type) -> dict[str, np.ndarray]:
    ids, table = inputs["ids"], inputs["table"]
    known = (ids >= 0) & (ids < table.shape[0])
    rows = table[np.where(known, ids, 0)]
    return {"y": np.where(known[:, None], rows, np.zeros((), table.dtype))}


def _normalize(x: np.ndarray, weight: np.ndarray, epsilon: float, compute: type) -> np.ndarray:
    # transformers rounds the normalised row before the weight, and the product again
    wide = x.astype(compute)
    mean_square = np.mean(wide * wide, axis=-1, keepdims=True)
    row = (wide / np.sqrt(mean_square + compute(epsilon))).astype(x.dtype)
    return (weight.astype(compute) * row.astype(compute)).astype(x.dtype)


def _rms_norm(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    return {"y": _normalize(inputs["x"], inputs["weight"], attributes["epsilon"], compute)}


def _add_rms_norm(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    total = _add({"a": inputs["x"], "b": inputs["residual"]}, {}, compute)["y"]
    return {
        "y": _normalize(total, inputs["weight"], attributes["epsilon"], compute),
        "sum": total,
    }


def _linear(inputs: Arrays, dtype: np.dtype, compute: type) -> dict[str, np.ndarray]:
    y = inputs["x"].astype(compute) @ inputs["weight"].astype(compute).T
    if "bias" in inputs:
        y = y + inputs["bias"].astype(compute)
    return {"y": y.astype(dtype)}


def _fused_linear(
    inputs: Arrays, attributes: Attributes, dtype: np.dtype, compute: type
) -> dict[str, np.ndarray]:
    """The ops that it stands for, one after the other."""
    x = inputs["x"]
    if "norm_weight" in inputs:
        x = _normalize(x, inputs["norm_weight"], attributes["epsilon"], compute)
    y = _linear({**inputs, "x": x}, dtype, compute)["y"]
    if attributes.get("gated", False):
        y = _silu_mul({"gate_up": y}, {}, compute)["y"]
    if "residual" in inputs:
        y = _add({"a": inputs["residual"], "b": y}, {}, compute)["y"]
    return {"y": y}


def rope_frequencies(attributes: Attributes, length: int) -> np.ndarray:
    """Inverse frequencies [R/2] float32 for a sequence of `length` tokens.

    Dynamic NTK scaling recomputes them beyond the original length, in float32 and in the order of
    transformers, whose sequence length is a tensor.
    """
    inv_freq = np.asarray(attributes["inv_freq"], np.float32)
    original = attributes.get("dynamic_original_max_position")
    if original is None or length <= original:
        return inv_freq
    factor = attributes["dynamic_factor"]
    rotary = 2 * len(inv_freq)
    stretch = np.float32(factor) * np.float32(length) / np.float32(original)
    stretch -= np.float32(factor - 1)
    power = np.float32(rotary / (rotary - 2))
    base = np.float32(attributes["dynamic_base"]) * np.float32(
        np.power(np.float64(stretch), np.float64(power))
    )
    exponents = np.arange(0, rotary, 2).astype(np.float32) / np.float32(rotary)
    powers = np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


def _rope_table(inputs: Arrays, attributes: Attributes, _: type) -> dict[str, np.ndarray]:
    lengths = inputs["rope_lengths"]
    frequencies = {n: rope_frequencies(attributes, int(n)) for n in np.unique(lengths)}
    half = len(attributes["inv_freq"])
    table = [frequencies[n] for n in lengths] or np.zeros((0, half), np.float32)
    angles = inputs["positions"].astype(np.float32)[:, None] * np.asarray(table, np.float32)
    cos_sin = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    return {"cos_sin": cos_sin * np.float32(attributes["attention_scaling"])}


def _rotate(x: np.ndarray, cos_sin: np.ndarray, head_size: int, compute: type) -> np.ndarray:
    """x[T, heads*D], the first R dimensions of each head rotated in halves."""
    half = cos_sin.shape[1] // 2
    heads = x.astype(compute).reshape(x.shape[0], -1, head_size)
    cos, sin = (part[:, None, :] for part in np.split(cos_sin.astype(compute), 2, axis=1))
    first, second, rest = np.split(heads, [half, 2 * half], axis=-1)
    rotated = np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)
    return rotated.reshape(x.shape).astype(x.dtype)


def _append(k: np.ndarray, v: np.ndarray, slots: np.ndarray, cache: np.ndarray) -> None:
    """k, v [T, Hk*D] into cache[num_blocks, 2, Hk, tokens_per_block, D]; slot < 0: nowhere."""
    _, _, kv_heads, tokens_per_block, head_size = cache.shape
    kept = slots >= 0
    blocks, offsets = np.divmod(slots[kept], tokens_per_block)
    for which, rows in enumerate((k, v)):
        heads = rows.reshape(-1, kv_heads, head_size)[kept]
        cache[blocks, which, :, offsets, :] = heads.astype(cache.dtype)


def _rope_kv_append(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    size = attributes["head_size"]
    queries, keys = attributes["num_heads"] * size, attributes["num_kv_heads"] * size
    q, k, v = np.split(inputs["qkv"], [queries, queries + keys], axis=1)
    cos_sin = inputs["cos_sin"]
    _append(_rotate(k, cos_sin, size, compute), v, inputs["slots"], inputs["kv_cache"])
    return {"q": _rotate(q, cos_sin, size, compute)}


def _seen(keys: np.ndarray, queries: np.ndarray, attributes: Attributes) -> np.ndarray:
    """Whether the token at position `queries` sees that at `keys`."""
    window, num_sinks = attributes.get("window", 0), attributes.get("num_sinks", 0)
    near = keys > queries - window if window > 0 else True
    return (keys <= queries) & (near | (keys < num_sinks))


def _attention(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    cache = inputs["kv_cache"]
    starts = inputs.get("query_starts", np.arange(len(inputs["kv_lengths"]) + 1))
    heads, kv_heads, size = (attributes[k] for k in ("num_heads", "num_kv_heads", "head_size"))
    tokens_per_block = cache.shape[3]
    y = np.zeros_like(inputs["q"])
    for b, kv_length in enumerate(inputs["kv_lengths"]):
        begin, end = int(starts[b]), int(starts[b + 1])
        if begin == end:
            continue
        first = int(kv_length) - (end - begin)
        positions = np.arange(kv_length)
        seen = _seen(positions[None, :], np.arange(first, kv_length)[:, None], attributes)
        # What no row sees is not read: its blocks may be another sequence's.
        positions, seen = positions[seen.any(axis=0)], seen[:, seen.any(axis=0)]
        blocks = inputs["block_tables"][b, positions // tokens_per_block]
        # [positions, 2, Hk, D]
        rows = cache[blocks, :, :, positions % tokens_per_block, :].astype(compute)
        keys, values = (np.repeat(rows[:, i], heads // kv_heads, axis=1) for i in (0, 1))
        q = inputs["q"][begin:end].astype(compute).reshape(-1, heads, size)
        scores = np.einsum("thd,shd->hts", q, keys) * compute(attributes["scale"])
        scores = np.where(seen[None], scores, compute(-np.inf))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        y[begin:end] = np.einsum("hts,shd->thd", weights, values).reshape(end - begin, -1)
    return {"y": y}


def _rope_attention(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    rotated = _rope_kv_append(inputs, attributes, compute)
    y = _attention({**inputs, **rotated}, attributes, compute)["y"]
    return {"y": y[inputs["last_rows"]] if "last_rows" in inputs else y}


def _silu(inputs: Arrays, _: Attributes, compute: type) -> dict[str, np.ndarray]:
    x = inputs["x"].astype(compute)
    with np.errstate(over="ignore"):
        return {"y": (x / (1 + np.exp(-x))).astype(inputs["x"].dtype)}


def _silu_mul(inputs: Arrays, _: Attributes, compute: type) -> dict[str, np.ndarray]:
    gate, up = np.split(inputs["gate_up"].astype(compute), 2, axis=1)
    with np.errstate(over="ignore"):
        return {"y": (gate / (1 + np.exp(-gate)) * up).astype(inputs["gate_up"].dtype)}


def _gather_rows(inputs: Arrays, _: Attributes, __: type) -> dict[str, np.ndarray]:
    return {"y": inputs["x"][inputs["rows"]]}


def _split(inputs: Arrays, attributes: Attributes, _: type) -> dict[str, np.ndarray]:
    parts = np.split(inputs["x"], np.cumsum(attributes["sizes"])[:-1], axis=1)
    return {f"y{i}": part for i, part in enumerate(parts)}


def _rope(inputs: Arrays, attributes: Attributes, compute: type) -> dict[str, np.ndarray]:
    return {"y": _rotate(inputs["x"], inputs["cos_sin"], attributes["head_size"], compute)}


def _kv_append(inputs: Arrays, _: Attributes, __: type) -> dict[str, np.ndarray]:
    _append(inputs["k"], inputs["v"], inputs["slots"], inputs["kv_cache"])
    return {}


def _add(inputs: Arrays, _: Attributes, compute: type) -> dict[str, np.ndarray]:
    a, b = inputs["a"], inputs["b"]
    return {"y": (a.astype(compute) + b.astype(compute)).astype(a.dtype)}


def _mul(inputs: Arrays, _: Attributes, compute: type) -> dict[str, np.ndarray]:
    a, b = inputs["a"], inputs["b"]
    return {"y": (a.astype(compute) * b.astype(compute)).astype(a.dtype)}


_MEANINGS: Mapping[str, Callable[[Arrays, Attributes, type], dict[str, np.ndarray]]] = {
    "embedding": _embedding,
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rope_table": _rope_table,
    "rope_kv_append": _rope_kv_append,
    "attention": _attention,
    "rope_attention": _rope_attention,
    "silu_mul": _silu_mul,
    "gather_rows": _gather_rows,
    "split": _split,
    "rope": _rope,
    "kv_append": _kv_append,
    "silu": _silu,
    "mul": _mul,
    "add": _add,
}
