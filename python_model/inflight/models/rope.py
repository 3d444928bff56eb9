"""Inverse frequencies of the rotary embedding, computed in float32 as transformers does.

Powers are taken in float64 and rounded: the correctly rounded float32 power, which the libraries
behind torch come within one unit in the last place of.
"""

import math
from typing import Any

import numpy as np

from inflight.config import ModelConfig, RopeConfig

ROPE_TYPES = ("default", "linear", "dynamic", "llama3", "yarn")


def rope_attributes(config: ModelConfig) -> dict[str, Any]:
    """The attributes of the `rope_table` op."""
    rope = config.rope
    inv_freq = _plain(rope.theta, config.head_size)
    scaling = 1.0
    dynamic: dict[str, Any] = {}
    if rope.rope_type == "linear":
        inv_freq = inv_freq / np.float32(rope.factor)
    elif rope.rope_type == "llama3":
        inv_freq = _llama3(inv_freq, rope)
    elif rope.rope_type == "yarn":
        inv_freq = _yarn(rope, config.head_size)
        scaling = _yarn_attention_scaling(rope)
    elif rope.rope_type == "dynamic":
        dynamic = {
            "dynamic_base": rope.theta,
            "dynamic_factor": rope.factor,
            "dynamic_original_max_position": config.max_position_embeddings,
        }
    return {
        "inv_freq": [float(f) for f in inv_freq],
        "attention_scaling": float(scaling),
        **dynamic,
    }


def _powers(theta: float, size: int) -> np.ndarray:
    """theta ** (0/size, 2/size, ...), float32 [size/2]."""
    exponents = np.arange(0, size, 2).astype(np.float32) / np.float32(size)
    base = np.float64(np.float32(theta))
    return np.power(base, exponents.astype(np.float64)).astype(np.float32)


def _plain(theta: float, size: int) -> np.ndarray:
    return np.float32(1) / _powers(theta, size)


def _over(scalar: float, x: np.ndarray) -> np.ndarray:
    """scalar / x as torch computes it: the reciprocal, then the product."""
    return (np.float32(1) / x) * np.float32(scalar)


def _llama3(inv_freq: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Long waves slowed by `factor`, short ones kept, a smooth passage between."""
    original = rope.original_max_position_embeddings
    low, high = rope.low_freq_factor, rope.high_freq_factor
    factor = np.float32(rope.factor)
    wavelength = _over(2 * math.pi, inv_freq)
    is_long = wavelength > np.float32(original / low)
    is_short = wavelength < np.float32(original / high)
    scaled = np.where(is_long, inv_freq / factor, inv_freq)
    smooth = (_over(original, wavelength) - np.float32(low)) / np.float32(high - low)
    blend = (np.float32(1) - smooth) * scaled / factor + smooth * scaled
    return np.where(~is_long & ~is_short, blend, scaled)


def _yarn(rope: RopeConfig, size: int) -> np.ndarray:
    """Interpolated frequencies for slow dimensions, plain ones for fast, a ramp between."""

    def dimension(rotations: float) -> float:
        turns = rope.original_max_position_embeddings / (rotations * 2 * math.pi)
        return size * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast or 32), dimension(rope.beta_slow or 1)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001  # a ramp of no width would divide by zero
    powers = _powers(rope.theta, size)
    plain = np.float32(1) / powers
    interpolated = np.float32(1) / (np.float32(rope.factor) * powers)
    ramp = (np.arange(size // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    keep = np.float32(1) - np.clip(ramp, np.float32(0), np.float32(1))
    return interpolated * (np.float32(1) - keep) + plain * keep


def _yarn_attention_scaling(rope: RopeConfig) -> float:
    def mscale(multiplier: float) -> float:
        return 1.0 if rope.factor <= 1 else 0.1 * multiplier * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return mscale(rope.mscale) / mscale(rope.mscale_all_dim)
    return mscale(1.0)
