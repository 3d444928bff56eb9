"""config.json in every spelling that transformers 4 and 5 write, and what is wrong with others."""

import json
from typing import Any

import pytest
from inflight.config import BuildConfig, ModelConfig, ParallelConfig, ProblemsError, RopeConfig
from model_configs import model_config

LLAMA_2: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
}
LLAMA_31_TRANSFORMERS_4: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}


def _transformers_5(config: dict[str, Any]) -> dict[str, Any]:
    changed = {k: v for k, v in config.items() if k not in ("rope_scaling", "rope_theta")}
    changed["rope_parameters"] = {**config["rope_scaling"], "rope_theta": config["rope_theta"]}
    changed["dtype"] = changed.pop("torch_dtype")
    changed["head_dim"] = 128
    return changed


def test_both_spellings_mean_the_same() -> None:
    old = model_config(LLAMA_31_TRANSFORMERS_4)
    assert old == model_config(_transformers_5(LLAMA_31_TRANSFORMERS_4))
    assert old == ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=128256,
        hidden_size=4096,
        num_layers=32,
        num_heads=32,
        num_kv_heads=8,
        head_size=128,
        intermediate_size=14336,
        max_position_embeddings=131072,
        rms_norm_epsilon=1e-5,
        rope=RopeConfig(
            rope_type="llama3",
            theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=8192,
        ),
        dtype="bfloat16",
        bos_token_id=128000,
        eos_token_ids=(128001, 128008, 128009),
    )


def test_what_transformers_writes_itself_is_read_back() -> None:
    from transformers import LlamaConfig

    for values in (
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 5e4},
        {
            "rope_scaling": {
                "type": "linear",
                "rope_type": "linear",
                "factor": 2.0,
                "rope_theta": 5e4,
            }
        },
    ):
        config = json.loads(LlamaConfig(**values).to_json_string(use_diff=False))
        model = model_config({**config, "architectures": ["LlamaForCausalLM"]})
        assert model.rope == RopeConfig(rope_type="linear", theta=5e4, factor=2.0)
        direct = model_config({**LLAMA_2, **values})
        assert direct.rope == model.rope


def test_absent_keys_have_the_defaults_of_transformers() -> None:
    from transformers import LlamaConfig

    theirs, ours = LlamaConfig(), model_config(LLAMA_2)
    assert ours.num_kv_heads == theirs.num_key_value_heads == 32
    assert ours.head_size == theirs.head_dim == 128
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.rms_norm_epsilon == theirs.rms_norm_eps
    assert ours.hidden_act == theirs.hidden_act
    assert ours.attention_bias is theirs.attention_bias is False
    assert ours.mlp_bias is theirs.mlp_bias is False
    assert ours.tie_word_embeddings is theirs.tie_word_embeddings is False
    assert ours.rope == RopeConfig(theta=theirs.rope_parameters["rope_theta"])
    assert ours.dtype is None


def test_original_positions_come_from_where_transformers_takes_them() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}
    beside = {**LLAMA_2, "max_position_embeddings": 8192, "rope_parameters": yarn}
    assert model_config(beside).rope.original_max_position_embeddings == 8192
    beside["original_max_position_embeddings"] = 2048
    assert model_config(beside).rope.original_max_position_embeddings == 2048
    beside["rope_parameters"] = {**yarn, "original_max_position_embeddings": 1024}
    assert model_config(beside).rope.original_max_position_embeddings == 2048

    from transformers import LlamaConfig

    theirs = LlamaConfig(
        max_position_embeddings=8192,
        original_max_position_embeddings=2048,
        rope_parameters={**yarn, "rope_theta": 1e4, "original_max_position_embeddings": 1024},
    )
    theirs.standardize_rope_params()  # as every computation of frequencies begins
    assert theirs.rope_parameters["original_max_position_embeddings"] == 2048


def test_yarn_without_factor_takes_the_ratio() -> None:
    values = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 1024}
    config = {**LLAMA_2, "max_position_embeddings": 4096, "rope_parameters": values}
    assert model_config(config).rope.factor == 4.0


@pytest.mark.parametrize(
    "config, generation, expected",
    [
        ({"eos_token_id": 2}, {}, (2,)),
        ({"eos_token_id": 2}, {"eos_token_id": [5, 6]}, (5, 6)),
        ({"eos_token_id": [3, 4]}, {"eos_token_id": 7}, (7,)),
        ({"eos_token_id": [3, 4]}, {"bos_token_id": 1}, (3, 4)),
        ({"eos_token_id": None}, {}, ()),
        ({}, {}, ()),
        ({"eos_token_id": -1}, {}, ()),
        ({"eos_token_id": 0}, {}, (0,)),
    ],
)
def test_end_tokens(config: dict, generation: dict, expected: tuple[int, ...]) -> None:
    model = model_config({**LLAMA_2, **config}, generation)
    assert model.eos_token_ids == expected


def test_begin_and_pad_tokens() -> None:
    config = {**LLAMA_2, "bos_token_id": 1, "pad_token_id": -1}
    assert model_config(config).bos_token_id == 1
    assert model_config(config).pad_token_id is None
    generation = {"bos_token_id": 3, "pad_token_id": 0}
    assert model_config(config, generation).bos_token_id == 3
    assert model_config(config, generation).pad_token_id == 0


def test_every_problem_is_named_at_once() -> None:
    config = {
        **LLAMA_2,
        "hidden_size": 0,
        "intermediate_size": None,
        "vocab_size": "many",
        "num_key_value_heads": 5,
        "head_dim": 33,
        "rms_norm_eps": -1.0,
        "attention_bias": "yes",
        "eos_token_id": "end",
        "rope_scaling": {"rope_type": "llama3", "factor": 0},
        "rope_theta": 1.0,
    }
    with pytest.raises(ProblemsError) as caught:
        model_config(config)
    for key in (
        "hidden_size: expected a positive integer, got 0",
        "intermediate_size: missing",
        "vocab_size: expected a positive integer, got 'many'",
        "num_key_value_heads: 5 does not divide 32",
        "head_dim: the head size 33 is odd",
        "rms_norm_eps: expected a positive finite number, got -1.0",
        "attention_bias: expected true or false, got 'yes'",
        "eos_token_id: expected token ids, got 'end'",
        "factor: expected a positive finite number, got 0",
        "low_freq_factor: missing, rope type 'llama3' needs it",
        "high_freq_factor: missing, rope type 'llama3' needs it",
        "rope_theta: expected more than 1, got 1.0",
    ):
        assert key in str(caught.value)
    assert len(caught.value.problems) == 12


def test_facts_survive_json() -> None:
    model = model_config(_transformers_5(LLAMA_31_TRANSFORMERS_4))
    assert ModelConfig.from_json(json.loads(json.dumps(model.to_json()))) == model
    parallel = ParallelConfig(tensor=2)
    assert ParallelConfig.from_json(json.loads(json.dumps(parallel.to_json()))) == parallel


def _limits(model: ModelConfig, **settings: Any) -> dict[str, int]:
    return BuildConfig(**settings).resolve(model, "float32").limits_json()


def test_limits_have_defaults_that_fit_each_other() -> None:
    model = model_config(LLAMA_2)
    assert _limits(model) == {
        "max_batch_size": 64,
        "max_num_tokens": 2048,
        "max_seq_len": 2048,
        "max_beam_width": 1,
    }
    assert _limits(model, max_batch_size=4096)["max_num_tokens"] == 4096
    assert _limits(model, max_num_tokens=16)["max_batch_size"] == 16
    assert _limits(model, max_num_tokens=100)["max_batch_size"] == 64
    assert _limits(model, max_seq_len=7)["max_seq_len"] == 7


@pytest.mark.parametrize(
    "rope, default, longest",
    [
        ({}, 1000, 1000),
        ({"rope_type": "dynamic", "factor": 2.5}, 2500, 2500),
        ({"rope_type": "linear", "factor": 2.0}, 1000, 2000),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000},
            1000,
            4000,
        ),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 250},
            1000,
            1000,
        ),
    ],
)
def test_longest_sequence_follows_the_rope(rope: dict, default: int, longest: int) -> None:
    config = {**LLAMA_2, "max_position_embeddings": 1000, "rope_parameters": rope or None}
    model = model_config(config)
    assert _limits(model)["max_seq_len"] == default
    assert _limits(model, max_seq_len=longest)["max_seq_len"] == longest
    with pytest.raises(ProblemsError, match=f"max_seq_len is {longest + 1}.* end at {longest}"):
        _limits(model, max_seq_len=longest + 1)


def test_limits_that_do_not_fit_are_all_named() -> None:
    request = BuildConfig(
        dtype="int3",
        max_batch_size=9,
        max_num_tokens=8,
        max_seq_len=0,
        tokens_per_block=-1,
        max_beam_width=4,
        parallel=ParallelConfig(tensor=2),
    )
    with pytest.raises(ProblemsError) as caught:
        request.resolve(model_config(LLAMA_2), "float32")
    text = str(caught.value)
    for part in (
        "dtype is 'int3'",
        "max_num_tokens is 8, at least max_batch_size (9)",
        "max_seq_len is 0",
        "tokens_per_block is -1",
        "max_beam_width is 4",
        "only one rank",
    ):
        assert part in text


def test_auto_dtype() -> None:
    model = model_config(LLAMA_2)
    assert BuildConfig().resolve(model, "float16").dtype == "float16"
    named = model_config({**LLAMA_2, "torch_dtype": "torch.bfloat16"})
    assert BuildConfig().resolve(named, "float16").dtype == "bfloat16"
    assert BuildConfig(dtype="float32").resolve(named, "float16").dtype == "float32"
