"""rope_table and rope_kv_append against transformers' formulas in float64."""

import numpy as np
import pytest
from arrays import FLOATS, float64, guarded, guards_intact, normal, numpy_dtype, poisoned, rounded
from tolerance import assert_close


def inverse_frequencies(size: int, base: float = 10000.0) -> list[float]:
    return [float(np.float32(base ** (-2 * i / size))) for i in range(size // 2)]


@pytest.mark.parametrize("size", [2, 6, 64, 128])
@pytest.mark.parametrize("scaling", [1.0, 1.3])
def test_rope_table(runner, size, scaling):
    positions = np.array([0, 1, 2, 17, 1000, 4095, 100000], np.int32)
    inv_freq = inverse_frequencies(size)
    cos_sin = poisoned((positions.size, size), "float32")
    runner.run(
        "rope_table",
        {"positions": positions, "rope_lengths": positions + 1},
        {"cos_sin": cos_sin},
        {"inv_freq": inv_freq, "attention_scaling": scaling},
    )
    assert guards_intact(cos_sin)
    # The angle is a float32 product in transformers, so it is one in the reference.
    angles = (positions.astype(np.float32)[:, None] * np.float32(inv_freq)).astype(np.float64)
    want = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * scaling
    np.testing.assert_allclose(cos_sin, want, rtol=0, atol=3e-7)


def test_dynamic_scaling_follows_transformers(runner):
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=32,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0},
    )
    for length in (5, 32, 33, 50, 300):
        embedding = LlamaRotaryEmbedding(config)
        base = [float(f) for f in embedding.inv_freq]
        cos, sin = embedding(torch.zeros(1, 1), torch.arange(length)[None])
        want = torch.cat([cos[0, :, :16], sin[0, :, :16]], dim=1).numpy()
        cos_sin = poisoned((length, 32), "float32")
        runner.run(
            "rope_table",
            {
                "positions": np.arange(length, dtype=np.int32),
                "rope_lengths": np.full(length, length, np.int32),
            },
            {"cos_sin": cos_sin},
            {
                "inv_freq": base,
                "attention_scaling": 1.0,
                "dynamic_base": 10000.0,
                "dynamic_factor": 3.0,
                "dynamic_original_max_position": 32,
            },
        )
        # One unit in the last place of an angle of `length` radians.
        np.testing.assert_allclose(cos_sin, want, rtol=0, atol=length * 3e-7 + 3e-7)


def rotate(x: np.ndarray, cos_sin: np.ndarray) -> np.ndarray:
    """x [T, heads, head size]."""
    half = cos_sin.shape[1] // 2
    cos, sin = cos_sin[:, None, :half], cos_sin[:, None, half:]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


@pytest.mark.parametrize("cache_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_size", "rope_size"),
    [(1, 1, 2, 2), (4, 2, 64, 64), (6, 2, 20, 20), (3, 1, 17, 10), (8, 8, 80, 32)],
)
def test_rope_kv_append(
    runner, num_heads, num_kv_heads, head_size, rope_size, dtype, cache_dtype, tokens=23
):
    rng = np.random.default_rng(0)
    qkv = normal(rng, (tokens, (num_heads + 2 * num_kv_heads) * head_size), dtype)
    cos_sin = normal(rng, (tokens, rope_size), "float32", 0.7)
    slots = rng.permutation(7 * 8)[:tokens].astype(np.int32)
    slots[[3, 11]] = -1
    pool = np.full((7, 3, 2, num_kv_heads, 8, head_size), np.nan, numpy_dtype(cache_dtype))
    q = poisoned((tokens, num_heads * head_size), dtype)
    attributes = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "head_size": head_size}
    inputs = {"qkv": qkv, "cos_sin": cos_sin, "slots": slots, "kv_cache": pool[:, 1]}
    runner.run("rope_kv_append", inputs, {"q": q}, attributes)
    assert guards_intact(q)

    heads = float64(qkv).reshape(tokens, -1, head_size)
    turned = rotate(heads[:, : num_heads + num_kv_heads], float64(cos_sin))
    assert_close(q, turned[:, :num_heads].reshape(tokens, -1))
    written = np.zeros(pool.shape, bool)
    for t, slot in enumerate(slots):
        if slot < 0:
            continue
        block, offset = divmod(int(slot), 8)
        written[block, 1, :, :, offset] = True
        assert_close(pool[block, 1, 0, :, offset], turned[t, num_heads:])
        values = rounded(heads[t, num_heads + num_kv_heads :], cache_dtype)
        np.testing.assert_array_equal(float64(pool[block, 1, 1, :, offset]), values)
    assert np.isnan(float64(pool)[~written]).all(), "a slot that is no token's was written"


def test_a_slot_beyond_the_cache(device, runner):
    if device != "cpu":
        pytest.skip("slots are checked on the host only")
    inputs = {
        "qkv": guarded(np.ones((1, 12)), "float32"),
        "cos_sin": np.ones((1, 4), np.float32),
        "slots": np.array([16], np.int32),
        "kv_cache": np.zeros((2, 2, 1, 8, 4), np.float32),
    }
    attributes = {"num_heads": 1, "num_kv_heads": 1, "head_size": 4}
    with pytest.raises(Exception, match=r"slots\[0\] = 16 is beyond the cache's 16"):
        runner.run("rope_kv_append", inputs, {"q": poisoned((1, 4), "float32")}, attributes)
