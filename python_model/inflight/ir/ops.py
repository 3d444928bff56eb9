"""The table of ops: inputs, outputs, attributes, and which types come out of which.

The rows marked as having a kernel are what an engine's plan may name; a test holds them equal to
the C++ registry. The others are what models write and passes fuse away.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inflight.ir.graph import SEQUENCES, SEQUENCES_PLUS_1, TOKENS, TensorType

Types = Mapping[str, TensorType]
Attributes = Mapping[str, Any]

FLOAT_DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class TensorSpec:
    name: str
    optional: bool = False
    written: bool = False  # an input that the op writes in place: the cache


@dataclass(frozen=True)
class AttributeSpec:
    name: str
    type: str  # "bool", "int", "float", "string", "floats", "ints"
    optional: bool = False


@dataclass(frozen=True)
class OpSchema:
    """`infer` answers the output types or raises TypeError saying what does not fit."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attributes: tuple[AttributeSpec, ...]
    infer: Callable[[Types, Attributes], dict[str, TensorType]]
    has_kernel: bool = True
    any_output_dtype: bool = False  # the graph may ask for another float dtype than infer's


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise TypeError(text)


def _matrix(types: Types, name: str) -> TensorType:
    _require(len(types[name].shape) == 2, f"{name} must have 2 dimensions, is {types[name]}")
    _require(types[name].dtype in FLOAT_DTYPES, f"{name} must be floating point, is {types[name]}")
    return types[name]


def _indices(types: Types, name: str, *shape: Any) -> None:
    expected = TensorType("int32", tuple(shape))
    _require(types[name] == expected, f"{name} must be {expected}, is {types[name]}")


def _same(types: Types, first: str, second: str) -> None:
    _require(
        types[first] == types[second],
        f"{first} and {second} must be alike, are {types[first]} and {types[second]}",
    )


def _vector(types: Types, name: str, size: Any) -> None:
    shape = types[name].shape
    _require(shape == (size,), f"{name} must have shape [{size}], is {types[name]}")


def _infer_embedding(types: Types, _: Attributes) -> dict[str, TensorType]:
    table = _matrix(types, "table")
    _indices(types, "ids", TOKENS)
    return {"y": TensorType(table.dtype, (TOKENS, table.shape[1]))}


def _infer_rms_norm(types: Types, _: Attributes) -> dict[str, TensorType]:
    x = _matrix(types, "x")
    _vector(types, "weight", x.shape[1])
    return {"y": x}


def _infer_add_rms_norm(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    _same(types, "x", "residual")
    return {**_infer_rms_norm(types, attributes), "sum": types["x"]}


def _infer_linear(types: Types, _: Attributes) -> dict[str, TensorType]:
    x, weight = _matrix(types, "x"), _matrix(types, "weight")
    _require(
        x.shape[1] == weight.shape[1], f"columns of x {x} and weight {weight} are not the same"
    )
    if "bias" in types:
        _vector(types, "bias", weight.shape[0])
    return {"y": TensorType(x.dtype, (x.shape[0], weight.shape[0]))}


def _infer_fused_linear(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    y = _infer_linear(types, attributes)["y"]
    if attributes.get("gated", False):
        y = _infer_silu_mul({"gate_up": y}, attributes)["y"]
    if "norm_weight" in types:
        _vector(types, "norm_weight", types["x"].shape[1])
        _require("epsilon" in attributes, "a norm_weight needs an epsilon")
    if "residual" in types:
        residual = _matrix(types, "residual")
        _require(residual.shape == y.shape, f"residual must be shaped as {y}, is {residual}")
    return {"y": y}


def _infer_rope_table(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    _indices(types, "positions", TOKENS)
    _indices(types, "rope_lengths", TOKENS)
    return {"cos_sin": TensorType("float32", (TOKENS, 2 * len(attributes["inv_freq"])))}


def _check_cache(types: Types, num_kv_heads: int, head_size: int) -> None:
    shape = types["kv_cache"].shape
    _require(
        len(shape) == 5 and shape[1:3] == (2, num_kv_heads) and shape[4] == head_size,
        f"kv_cache must be [num_blocks, 2, {num_kv_heads}, tokens_per_block, {head_size}], "
        f"is {types['kv_cache']}",
    )


def _check_cos_sin(types: Types, head_size: int) -> None:
    shape = types["cos_sin"].shape
    _require(
        types["cos_sin"].dtype == "float32" and shape[0] == TOKENS and shape[1] <= head_size,
        f"cos_sin must be float32[T, at most {head_size}], is {types['cos_sin']}",
    )


def _columns(types: Types, name: str, columns: int, rows: str = TOKENS) -> TensorType:
    value = _matrix(types, name)
    _require(
        value.shape == (rows, columns), f"{name} must have shape [{rows}, {columns}], is {value}"
    )
    return value


def _infer_rope_kv_append(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    heads, kv_heads, size = (attributes[k] for k in ("num_heads", "num_kv_heads", "head_size"))
    qkv = _columns(types, "qkv", (heads + 2 * kv_heads) * size)
    _check_cos_sin(types, size)
    _check_cache(types, kv_heads, size)
    _indices(types, "slots", TOKENS)
    return {"q": TensorType(qkv.dtype, (TOKENS, heads * size))}


def _infer_attention(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    heads, kv_heads, size = (attributes[k] for k in ("num_heads", "num_kv_heads", "head_size"))
    _require(heads % kv_heads == 0, f"{kv_heads} kv heads do not divide {heads} heads")
    window, num_sinks = (attributes.get(k, 0) for k in ("window", "num_sinks"))
    _require(
        window >= 0 and num_sinks >= 0 and (window > 0 or num_sinks == 0),
        f"window and num_sinks must be at least 0, num_sinks needs a window: {window}, {num_sinks}",
    )
    if "query_starts" in types:
        q = _columns(types, "q", heads * size)
        _indices(types, "query_starts", SEQUENCES_PLUS_1)
    else:  # each sequence has one row
        q = _columns(types, "q", heads * size, SEQUENCES)
    _check_cache(types, kv_heads, size)
    _indices(types, "kv_lengths", SEQUENCES)
    return {"y": q}


def _infer_rope_attention(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    rotated = _infer_rope_kv_append(types, attributes)
    of_all = _infer_attention({**types, **rotated}, attributes)
    if "last_rows" not in types:
        return of_all
    _indices(types, "last_rows", SEQUENCES)
    return {"y": replace(of_all["y"], shape=(SEQUENCES, of_all["y"].shape[1]))}


def _infer_silu_mul(types: Types, _: Attributes) -> dict[str, TensorType]:
    x = _matrix(types, "gate_up")
    _require(x.shape[1] % 2 == 0, f"gate_up must have an even number of columns, is {x}")
    return {"y": TensorType(x.dtype, (x.shape[0], x.shape[1] // 2))}


def _infer_gather_rows(types: Types, _: Attributes) -> dict[str, TensorType]:
    x = _matrix(types, "x")
    _indices(types, "rows", SEQUENCES)
    return {"y": TensorType(x.dtype, (SEQUENCES, x.shape[1]))}


def _infer_split(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    x, sizes = _matrix(types, "x"), attributes["sizes"]
    _require(sum(sizes) == x.shape[1], f"sizes {sizes} do not add up to the columns of {x}")
    return {f"y{i}": TensorType(x.dtype, (x.shape[0], size)) for i, size in enumerate(sizes)}


def _infer_rope(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    _check_cos_sin(types, attributes["head_size"])
    return {"y": _columns(types, "x", attributes["num_heads"] * attributes["head_size"])}


def _infer_kv_append(types: Types, attributes: Attributes) -> dict[str, TensorType]:
    kv_heads, size = attributes["num_kv_heads"], attributes["head_size"]
    _columns(types, "k", kv_heads * size)
    _columns(types, "v", kv_heads * size)
    _check_cache(types, kv_heads, size)
    _indices(types, "slots", TOKENS)
    return {}


def _infer_unary(types: Types, _: Attributes) -> dict[str, TensorType]:
    return {"y": _matrix(types, "x")}


def _infer_binary(types: Types, _: Attributes) -> dict[str, TensorType]:
    _same(types, "a", "b")
    return {"y": _matrix(types, "a")}


def _tensors(*names: str) -> tuple[TensorSpec, ...]:
    """`name`, `name?` for an optional one, `name!` for one written in place."""
    return tuple(
        TensorSpec(name.rstrip("?!"), optional=name.endswith("?"), written=name.endswith("!"))
        for name in names
    )


def _attributes(**types: str) -> tuple[AttributeSpec, ...]:
    """name="int"; name="int?" for an optional one."""
    return tuple(
        AttributeSpec(name, type_.rstrip("?"), optional=type_.endswith("?"))
        for name, type_ in types.items()
    )


_HEADS = {"num_heads": "int", "num_kv_heads": "int", "head_size": "int"}
# Tokens that a token sees, itself included (absent or 0: all before it), and how many of the
# sequence's first it sees besides.
_WINDOW = {"window": "int?", "num_sinks": "int?"}

_SCHEMAS = (
    OpSchema("embedding", _tensors("ids", "table"), _tensors("y"), (), _infer_embedding),
    OpSchema(
        "rms_norm",
        _tensors("x", "weight"),
        _tensors("y"),
        _attributes(epsilon="float"),
        _infer_rms_norm,
    ),
    OpSchema(
        "add_rms_norm",
        _tensors("x", "residual", "weight"),
        _tensors("y", "sum?"),
        _attributes(epsilon="float"),
        _infer_add_rms_norm,
    ),
    OpSchema(
        "linear",
        _tensors("x", "weight", "bias?"),
        _tensors("y"),
        (),
        _infer_linear,
        any_output_dtype=True,
    ),
    OpSchema(
        "fused_linear",
        _tensors("x", "weight", "bias?", "norm_weight?", "residual?"),
        _tensors("y"),
        _attributes(epsilon="float?", gated="bool?"),
        _infer_fused_linear,
        any_output_dtype=True,
    ),
    OpSchema(
        "rope_table",
        _tensors("positions", "rope_lengths"),
        _tensors("cos_sin"),
        _attributes(
            inv_freq="floats",
            attention_scaling="float",
            dynamic_base="float?",
            dynamic_factor="float?",
            dynamic_original_max_position="int?",
        ),
        _infer_rope_table,
    ),
    OpSchema(
        "rope_kv_append",
        _tensors("qkv", "cos_sin", "slots", "kv_cache!"),
        _tensors("q"),
        _attributes(**_HEADS),
        _infer_rope_kv_append,
    ),
    OpSchema(
        "attention",
        _tensors("q", "kv_cache", "block_tables", "query_starts?", "kv_lengths"),
        _tensors("y"),
        _attributes(**_HEADS, scale="float", **_WINDOW),
        _infer_attention,
    ),
    OpSchema(
        "rope_attention",
        _tensors(
            "qkv",
            "cos_sin",
            "slots",
            "kv_cache!",
            "block_tables",
            "query_starts",
            "kv_lengths",
            "last_rows?",
        ),
        _tensors("y"),
        _attributes(**_HEADS, scale="float", **_WINDOW),
        _infer_rope_attention,
    ),
    OpSchema("silu_mul", _tensors("gate_up"), _tensors("y"), (), _infer_silu_mul),
    OpSchema("gather_rows", _tensors("x", "rows"), _tensors("y"), (), _infer_gather_rows),
    OpSchema(
        "split",
        _tensors("x"),
        (),  # y0, y1, ...: one for each of sizes
        _attributes(sizes="ints"),
        _infer_split,
        has_kernel=False,
    ),
    OpSchema(
        "rope",
        _tensors("x", "cos_sin"),
        _tensors("y"),
        _attributes(num_heads="int", head_size="int"),
        _infer_rope,
        has_kernel=False,
    ),
    OpSchema(
        "kv_append",
        _tensors("k", "v", "slots", "kv_cache!"),
        (),
        _attributes(num_kv_heads="int", head_size="int"),
        _infer_kv_append,
        has_kernel=False,
    ),
    OpSchema("silu", _tensors("x"), _tensors("y"), (), _infer_unary, has_kernel=False),
    OpSchema("mul", _tensors("a", "b"), _tensors("y"), (), _infer_binary, has_kernel=False),
    OpSchema("add", _tensors("a", "b"), _tensors("y"), (), _infer_binary, has_kernel=False),
)

OPS: Mapping[str, OpSchema] = {schema.name: schema for schema in _SCHEMAS}
