"""Building reads headers only, needs neither torch nor the C++ core, and takes seconds at most."""

import json
import math
import resource
import subprocess
import sys
from pathlib import Path

import pytest

LLAMA_31_8B = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
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
    "vocab_size": 128256,
}


def _shapes() -> dict[str, tuple[int, ...]]:
    hidden, wide, keys, vocab = 4096, 14336, 1024, 128256
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    for i in range(32):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (wide, hidden),
            "mlp.up_proj": (wide, hidden),
            "mlp.down_proj": (hidden, wide),
        }.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
    return {**shapes, "model.norm.weight": (hidden,), "lm_head.weight": (vocab, hidden)}


@pytest.fixture
def sparse_8b(tmp_path: Path) -> Path:
    """A checkpoint of Llama-3.1-8B's shape in four files of holes: 16 GB that take no disk."""
    names, shapes = list(_shapes()), _shapes()
    weight_map = {}
    for shard in range(4):
        file = f"model-0000{shard + 1}-of-00004.safetensors"
        header, offset = {}, 0
        for name in names[shard::4]:
            end = offset + 2 * math.prod(shapes[name])
            header[name] = {
                "dtype": "BF16",
                "shape": list(shapes[name]),
                "data_offsets": [offset, end],
            }
            weight_map[name], offset = file, end
        raw = json.dumps(header).encode()
        with (tmp_path / file).open("wb") as out:
            out.write(len(raw).to_bytes(8, "little") + raw)
            out.truncate(8 + len(raw) + offset)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_31_8B))
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_llama_8b_builds_within_three_seconds(sparse_8b: Path, tmp_path: Path) -> None:
    # processor time: the wall clock of a busy machine says more of its other work
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "inflight.cli.main", "build", sparse_8b]
        + ["--output", tmp_path / "out" / "engine"],
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3.0
    document = json.loads((tmp_path / "out" / "engine" / "engine.json").read_text())
    (rank,) = document["ranks"]
    assert len(rank["plan"]) == 5 * 32 + 4  # embedding, rope table, last rows, head
    assert document["limits"]["max_seq_len"] == 131072
    assert document["model"]["eos_token_ids"] == [128001, 128008, 128009]
    assert len(document["checkpoint"]["files"]) == 4
    weights = sum(math.prod(weight["shape"]) for weight in rank["weights"].values())
    assert weights == 8_030_261_248


def test_building_imports_neither_torch_nor_the_core(tiny_checkpoint: Path, tmp_path: Path) -> None:
    script = (
        "import sys, inflight\n"
        "assert 'inflight.builder' not in sys.modules\n"
        f"inflight.build_engine({str(tiny_checkpoint)!r}, {str(tmp_path / 'engine')!r})\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'inflight._core', 'inflight.llm'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names() -> None:
    import inflight

    assert inflight.__all__ == ["LLM", "SamplingParams", "build_engine"]
    assert set(inflight.__all__) <= set(dir(inflight))
    with pytest.raises(AttributeError, match="no attribute 'Llm'"):
        _ = inflight.Llm
