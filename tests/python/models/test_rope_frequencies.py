"""Rope tables are those of transformers: frequencies, attention scaling, cosines and sines."""

from typing import Any

import numpy as np
import pytest
from inflight.ir.reference import evaluate
from inflight.models.rope import rope_attributes
from model_configs import model_config

ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "large_theta": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.5},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "llama3_without_original": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.5,
        "high_freq_factor": 3.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn_untruncated": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "rope_theta": 150000.0,
    },
    "yarn_mscale": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
    },
    "yarn_mscale_alone": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
    },
    "yarn_no_ramp": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 2.0,
        "beta_slow": 2.0,
        "truncate": False,
    },
    "yarn_attention_factor": {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": 128,
        "attention_factor": 1.25,
    },
    "yarn_narrow_ramp": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 1.0,
        "beta_slow": 1.0,
    },
}


def _transformers_rope(values: dict[str, Any], head_dim: int, max_positions: int) -> Any:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_positions,
        rope_parameters={"rope_theta": 10000.0, **values},
    )
    model = model_config(
        {**config.to_dict(), "architectures": ["LlamaForCausalLM"], "intermediate_size": 8}
    )
    return LlamaRotaryEmbedding(config), rope_attributes(model)


@pytest.mark.parametrize("head_dim", [4, 10, 64, 128])
@pytest.mark.parametrize("name", ROPES)
def test_frequencies_are_those_of_transformers(name: str, head_dim: int) -> None:
    theirs, ours = _transformers_rope(ROPES[name], head_dim, 256)
    inv_freq = np.array(ours["inv_freq"], np.float32)
    assert [float(f) for f in inv_freq] == ours["inv_freq"]  # exact in float32
    # one unit in the last place of the power, carried through the scaling
    np.testing.assert_allclose(inv_freq, theirs.inv_freq.numpy(), rtol=4e-7)
    assert ours["attention_scaling"] == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("length", [1, 255, 256, 257, 400, 600])
def test_tables_of_a_prompt_are_those_of_transformers(name: str, length: int) -> None:
    import torch

    theirs, attributes = _transformers_rope(ROPES[name], 32, 256)
    positions = np.arange(length, dtype=np.int32)
    step = {"positions": positions, "rope_lengths": np.full(length, length, np.int32)}
    table = evaluate("rope_table", step, attributes)["cos_sin"]
    cos, sin = theirs(torch.zeros(1), torch.arange(length)[None])
    expected = np.concatenate([cos[0, :, :16].numpy(), sin[0, :, :16].numpy()], axis=1)
    assert table.dtype == np.float32 and table.shape == (length, 32)
    # an angle of 600 is known to 3e-5 in float32
    np.testing.assert_allclose(table, expected, atol=2e-4 if length > 256 else 1e-4)


def test_a_step_mixes_rope_lengths() -> None:
    """Each token's frequencies follow its own sequence's length, not the step's longest."""
    _, attributes = _transformers_rope(ROPES["dynamic"], 32, 256)
    lengths = np.array([10, 300, 257, 256, 1000], np.int32)
    positions = np.array([3, 3, 256, 255, 3], np.int32)
    step = {"positions": positions, "rope_lengths": lengths}
    together = evaluate("rope_table", step, attributes)["cos_sin"]
    for i in range(len(lengths)):
        alone = evaluate(
            "rope_table",
            {"positions": positions[i : i + 1], "rope_lengths": lengths[i : i + 1]},
            attributes,
        )["cos_sin"]
        np.testing.assert_array_equal(together[i], alone[0])
    assert not np.allclose(together[0], together[1], atol=1e-3)
