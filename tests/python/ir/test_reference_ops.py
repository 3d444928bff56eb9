"""The numpy meanings against torch and transformers, the people who defined them."""

import ml_dtypes
import numpy as np
import pytest
from inflight.ir.reference import evaluate, numpy_dtype

RANDOM = np.random.default_rng(0)
DTYPES = ("float32", "float16", "bfloat16")


def _array(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RANDOM.normal(size=shape).astype(numpy_dtype(dtype))


def _torch(array: np.ndarray):  # noqa: ANN202
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(array)


def _numpy(tensor) -> np.ndarray:  # noqa: ANN001
    return tensor.float().numpy()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm_rounds_where_transformers_does(dtype: str) -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    x, weight = _array(7, 33, dtype=dtype), _array(33, dtype=dtype)
    norm = LlamaRMSNorm(33, eps=1e-5).to(_torch(x).dtype)
    with torch.no_grad():
        norm.weight.copy_(_torch(weight))
        expected = _numpy(norm(_torch(x)))
    y = evaluate("rms_norm", {"x": x, "weight": weight}, {"epsilon": 1e-5})["y"]
    assert y.dtype == x.dtype
    tolerance = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm_normalises_the_rounded_sum(dtype: str) -> None:
    x, residual, weight = (_array(*s, dtype=dtype) for s in ((5, 16), (5, 16), (16,)))
    made = evaluate(
        "add_rms_norm", {"x": x, "residual": residual, "weight": weight}, {"epsilon": 1e-6}
    )
    total = evaluate("add", {"a": x, "b": residual})["y"]
    np.testing.assert_array_equal(made["sum"], total)
    expected = evaluate("rms_norm", {"x": total, "weight": weight}, {"epsilon": 1e-6})["y"]
    np.testing.assert_array_equal(made["y"], expected)


def test_linear_rounds_once_and_to_the_dtype_asked_for() -> None:
    x, weight, bias = (_array(*s, dtype="bfloat16") for s in ((3, 50), (4, 50), (4,)))
    wide = x.astype(np.float64) @ weight.astype(np.float64).T + bias.astype(np.float64)
    inputs = {"x": x, "weight": weight, "bias": bias}
    asked = evaluate("linear", inputs, {}, {"y": "float32"})["y"]
    assert asked.dtype == np.float32
    np.testing.assert_allclose(asked, wide, rtol=1e-5, atol=1e-5)
    own = evaluate("linear", inputs)["y"]
    assert own.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(own, asked.astype(ml_dtypes.bfloat16))
    mixed = evaluate("linear", {"x": x.astype(np.float32), "weight": weight})["y"]
    assert mixed.dtype == np.float32


def test_fused_linear_is_its_parts() -> None:
    x, weight, norm, bias, residual = (
        _array(*s, dtype="bfloat16") for s in ((3, 50), (8, 50), (50,), (8,), (3, 4))
    )
    epsilon = {"epsilon": 1e-6}
    y = evaluate("rms_norm", {"x": x, "weight": norm}, epsilon)["y"]
    y = evaluate("linear", {"x": y, "weight": weight, "bias": bias})["y"]
    y = evaluate("silu_mul", {"gate_up": y})["y"]
    y = evaluate("add", {"a": residual, "b": y})["y"]
    inputs = {"x": x, "weight": weight, "norm_weight": norm, "bias": bias, "residual": residual}
    fused = evaluate("fused_linear", inputs, {**epsilon, "gated": True})["y"]
    np.testing.assert_array_equal(fused, y)
    plain = evaluate("fused_linear", {"x": x, "weight": weight}, {}, {"y": "float32"})["y"]
    linear = evaluate("linear", {"x": x, "weight": weight}, {}, {"y": "float32"})["y"]
    np.testing.assert_array_equal(plain, linear)


def test_embedding_gives_zero_rows_for_ids_outside() -> None:
    table = _array(5, 3)
    y = evaluate("embedding", {"ids": np.array([4, -1, 5, 0], np.int32), "table": table})["y"]
    np.testing.assert_array_equal(y, [table[4], np.zeros(3), np.zeros(3), table[0]])


def _rope_inputs(tokens: int, rotary: int) -> np.ndarray:
    angles = RANDOM.normal(size=(tokens, rotary // 2)).astype(np.float32) * 3
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def test_rope_is_that_of_transformers() -> None:
    import torch
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    x, cos_sin = _array(6, 3 * 8), _rope_inputs(6, 8)
    cos, sin = (torch.from_numpy(np.tile(part, 2))[None] for part in np.split(cos_sin, 2, axis=1))
    heads = torch.from_numpy(x).view(1, 6, 3, 8).transpose(1, 2)
    rotated, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    expected = rotated[0].transpose(0, 1).reshape(6, 24).numpy()
    y = evaluate("rope", {"x": x, "cos_sin": cos_sin}, {"num_heads": 3, "head_size": 8})["y"]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def test_rope_leaves_dimensions_beyond_the_table() -> None:
    x, cos_sin = _array(4, 2 * 10), _rope_inputs(4, 6)
    attributes = {"num_heads": 2, "head_size": 10}
    y = evaluate("rope", {"x": x, "cos_sin": cos_sin}, attributes)["y"].reshape(4, 2, 10)
    np.testing.assert_array_equal(y[..., 6:], x.reshape(4, 2, 10)[..., 6:])
    first = evaluate(
        "rope",
        {"x": x.reshape(4, 2, 10)[..., :6].reshape(4, 12), "cos_sin": cos_sin},
        {"num_heads": 2, "head_size": 6},
    )["y"]
    np.testing.assert_array_equal(y[..., :6].reshape(4, 12), first)


def test_rope_kv_append_writes_by_slot_and_skips_negative_ones() -> None:
    heads, kv_heads, size, per_block = 4, 2, 6, 3
    qkv, cos_sin = _array(4, (heads + 2 * kv_heads) * size), _rope_inputs(4, size)
    slots = np.array([7, -1, 0, 5], np.int32)
    cache = np.full((4, 2, kv_heads, per_block, size), 9.0, np.float32)
    attributes = {"num_heads": heads, "num_kv_heads": kv_heads, "head_size": size}
    inputs = {"qkv": qkv, "cos_sin": cos_sin, "slots": slots, "kv_cache": cache}
    q = evaluate("rope_kv_append", inputs, attributes)["q"]
    turn = {"num_heads": heads + kv_heads, "head_size": size}
    columns = (heads + kv_heads) * size
    turned = evaluate("rope", {"x": qkv[:, :columns], "cos_sin": cos_sin}, turn)["y"]
    np.testing.assert_array_equal(q, turned[:, : heads * size])
    expected = np.full_like(cache, 9.0)
    for t, slot in enumerate(slots):
        if slot >= 0:
            block, offset = slot // per_block, slot % per_block
            expected[block, 0, :, offset] = turned[t, heads * size :].reshape(kv_heads, size)
            expected[block, 1, :, offset] = qkv[t, columns:].reshape(kv_heads, size)
    np.testing.assert_array_equal(cache, expected)


@pytest.mark.parametrize("heads, kv_heads", [(4, 4), (4, 2), (5, 1)])
@pytest.mark.parametrize(("window", "num_sinks"), [(0, 0), (1, 0), (3, 0), (4, 2), (50, 1)])
def test_attention_over_blocks_is_causal_attention(
    heads: int, kv_heads: int, window: int, num_sinks: int
) -> None:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    size, per_block, kv_lengths, new = 6, 4, [9, 1, 13], [9, 1, 2]
    cache = _array(20, 2, kv_heads, per_block, size)
    tables = RANDOM.permutation(20)[:12].reshape(3, 4).astype(np.int32)
    q = _array(sum(new), heads * size)
    starts = np.cumsum([0, *new]).astype(np.int32)
    inputs = {
        "q": q,
        "kv_cache": cache,
        "block_tables": tables,
        "query_starts": starts,
        "kv_lengths": np.array(kv_lengths, np.int32),
    }
    attributes = {
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_size": size,
        "scale": 0.3,
    }
    if window > 0:
        attributes |= {"window": window, "num_sinks": num_sinks}
    y = evaluate("attention", inputs, attributes)["y"]
    for b, length in enumerate(kv_lengths):
        rows = cache[tables[b]].transpose(1, 2, 0, 3, 4).reshape(2, kv_heads, -1, size)
        k, v = (torch.from_numpy(np.ascontiguousarray(r[None, :, :length])) for r in rows)
        queries = torch.from_numpy(q[starts[b] : starts[b + 1]]).view(1, -1, heads, size)
        mask = torch.ones(length, length).tril().bool()
        if window > 0:
            near = torch.ones(length, length).triu(1 - window).bool()
            near[:, :num_sinks] = True
            mask &= near
        mask = mask[-new[b] :]
        expected = scaled_dot_product_attention(
            queries.transpose(1, 2), k, v, attn_mask=mask, scale=0.3, enable_gqa=True
        )
        expected = expected[0].transpose(0, 1).reshape(new[b], -1)
        np.testing.assert_allclose(
            y[starts[b] : starts[b + 1]], expected.numpy(), rtol=1e-5, atol=1e-6
        )


def test_silu_mul_and_its_parts() -> None:
    import torch

    gate_up = np.concatenate([_array(3, 8) * 5, _array(3, 8)], axis=1)
    gate_up[0, 0] = -200.0  # exp overflows, the answer is 0
    gate, up = torch.from_numpy(gate_up).chunk(2, dim=1)
    expected = (torch.nn.functional.silu(gate) * up).numpy()
    y = evaluate("silu_mul", {"gate_up": gate_up})["y"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-7)
    silu = evaluate("silu", {"x": np.ascontiguousarray(gate_up[:, :8])})["y"]
    parts = evaluate("mul", {"a": silu, "b": gate_up[:, 8:]})["y"]
    np.testing.assert_allclose(parts, expected, rtol=1e-5, atol=1e-7)


def test_gather_and_split_copy() -> None:
    x = _array(5, 7)
    rows = np.array([4, 0, 4], np.int32)
    np.testing.assert_array_equal(evaluate("gather_rows", {"x": x, "rows": rows})["y"], x[rows])
    parts = evaluate("split", {"x": x}, {"sizes": [1, 4, 2]})
    np.testing.assert_array_equal(np.concatenate(list(parts.values()), axis=1), x)
    assert [part.shape[1] for part in parts.values()] == [1, 4, 2]


def test_a_step_without_tokens_is_empty() -> None:
    none = np.zeros(0, np.int32)
    attributes = {"inv_freq": [1.0, 0.5], "attention_scaling": 1.0}
    table = evaluate("rope_table", {"positions": none, "rope_lengths": none}, attributes)
    assert table["cos_sin"].shape == (0, 4)
