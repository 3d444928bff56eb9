"""From a checkpoint folder to an engine directory: content, errors, packing, overwriting."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from inflight import build_engine
from inflight.builder import assemble as assemble_module
from inflight.builder.assemble import assemble, packed_weight, write_packed
from inflight.builder.build import compile_checkpoint
from inflight.builder.engine_file import EngineFile, EngineFileError
from inflight.builder.memory import engine_memory
from inflight.checkpoint.reader import CheckpointReader
from inflight.checkpoint.safetensors_file import CheckpointError, SafetensorsFile
from inflight.config import BuildConfig, ProblemsError
from inflight.ir.graph import Recipe, Source, TensorType, Weight

TOP_KEYS = [
    "format_version",
    "inflight_version",
    "model",
    "limits",
    "dtype",
    "quantization",
    "kv_cache",
    "parallel",
    "checkpoint",
    "ranks",
]


def _edit_config(checkpoint: Path, **changes: Any) -> Path:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return checkpoint


def _save(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "model.safetensors")


def _load(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_engine_json_has_the_keys_of_its_format(tiny_engine: Path, tiny_checkpoint: Path) -> None:
    document = json.loads((tiny_engine / "engine.json").read_text())
    assert list(document) == TOP_KEYS
    assert document["format_version"] == 1
    assert document["limits"] == {
        "max_batch_size": 64,
        "max_num_tokens": 2048,
        "max_seq_len": 512,
        "max_beam_width": 1,
    }
    assert document["dtype"] == "float32"
    assert document["kv_cache"] == {
        "dtype": "float32",
        "tokens_per_block": 32,
        "layers": [{"num_kv_heads": 2, "head_size": 16}] * 2,
    }
    model = document["model"]
    assert model["eos_token_ids"] == [2] and model["pad_token_id"] == 0
    assert model["facts"]["rope"]["rope_type"] == "default"
    source = tiny_checkpoint / "model.safetensors"
    assert document["checkpoint"] == {
        "path": str(tiny_checkpoint),
        "files": [
            {
                "name": "model.safetensors",
                "size": source.stat().st_size,
                "fingerprint": SafetensorsFile.open(source).fingerprint(),
            }
        ],
    }
    (rank,) = document["ranks"]
    assert list(rank) == [
        "rank", "arena_bytes", "values", "weights", "plan", "outputs",
    ]  # fmt: skip
    for value in rank["values"].values():
        assert value["offset"] % 64 == 0
        assert set(value) == {"dtype", "shape", "offset"}
    # attributes are numbers that float32 holds exactly
    (table,) = [row for row in rank["plan"] if row["op"] == "rope_table"]
    inv_freq = table["attributes"]["inv_freq"]
    assert [float(np.float32(f)) for f in inv_freq] == inv_freq and len(inv_freq) == 8


def test_a_row_a_line(tiny_engine: Path) -> None:
    text = (tiny_engine / "engine.json").read_text()
    assert sum('"op":' in line for line in text.splitlines()) == text.count('"op":')


def test_building_twice_gives_the_same_bytes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    texts = [
        (build_engine(tiny_checkpoint, tmp_path / name) / "engine.json").read_bytes()
        for name in ("one", "two")
    ]
    assert texts[0] == texts[1]


def test_an_engine_is_read_back(tiny_engine: Path, tiny_checkpoint: Path) -> None:
    file = EngineFile.read(tiny_engine)
    assert file.to_json() == json.loads((tiny_engine / "engine.json").read_text())
    assert file.model.num_kv_heads == 2
    assert file.settings.max_num_tokens == 2048


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is missing"),
        ("{", "not JSON"),
        ("[]", "format_version is None"),
        ('{"format_version": 2}', "format_version is 2, this inflight reads 1"),
        ('{"format_version": 1}', "'model'"),
    ],
)
def test_other_engine_files_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "engine.json").write_text(content)
    with pytest.raises(EngineFileError, match=message):
        EngineFile.read(tmp_path)


def test_tokenizer_files_are_copied_and_weights_are_not(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer.model", "merges.txt"):
        (checkpoint / name).write_text(name)
    (checkpoint / "README.md").write_text("not for the engine")
    engine = build_engine(checkpoint, tmp_path / "deep" / "engine")
    assert sorted(path.name for path in engine.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "engine.json",
        "generation_config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer.model",
    ]
    assert (engine / "tokenizer.model").read_text() == "tokenizer.model"
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_every_problem_of_a_checkpoint_is_in_one_error(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = _edit_config(
        make_checkpoint(),
        hidden_act="gelu",
        sliding_window=128,
        layer_types=["full_attention", "sliding_attention"],
        rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
    )
    tensors = _load(checkpoint)
    del tensors["model.norm.weight"]
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((175, 64), np.float32)
    tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    _save(checkpoint, tensors)
    with pytest.raises(ProblemsError) as caught:
        build_engine(checkpoint, tmp_path / "engine", max_seq_len=5000)
    assert sorted(caught.value.problems) == sorted(
        [
            "hidden_act: 'gelu' is not supported, only silu is",
            "sliding_window: 128 is not supported, only null is",
            "layer_types: sliding_attention is not supported, only full_attention is",
            "rope_type: 'longrope' is not supported, only default, linear, dynamic, llama3, "
            "yarn are",
            "partial_rotary_factor: 0.5 is not supported, only 1.0 is",
            "max_seq_len is 5000, the model's positions end at 512",
            "tensor model.norm.weight is missing",
            "tensor model.layers.0.mlp.up_proj.weight has shape [175, 64], expected [176, 64]",
            "tensor model.layers.1.self_attn.q_proj.bias is left over: no weight of the model "
            "uses it",
        ]
    )
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "architecture 'GPT2LMHeadModel' is not supported"),
        ({"architectures": None}, "architecture '' is not supported, known are LlamaForCausalLM"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config: 'awq' is not"),
        ({"hidden_size": "wide"}, "hidden_size: expected a positive integer, got 'wide'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "by layer type"),
        ({"use_sliding_window": True, "sliding_window": 7}, "sliding_window: 7 is not supported"),
    ],
)
def test_unsupported_settings_are_named(
    changes: dict, message: str, make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = _edit_config(make_checkpoint(), **changes)
    with pytest.raises(ProblemsError) as caught:
        build_engine(checkpoint, tmp_path / "engine")
    assert message in str(caught.value)
    assert str(checkpoint) in str(caught.value)


def test_what_a_killed_build_left_is_in_nobodys_way(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (
        tmp_path / f".engine.{os.getpid()}"
    ).mkdir()  # in a container each process may have this number
    assert (build_engine(tiny_checkpoint, tmp_path / "engine") / "engine.json").is_file()


def test_settings_that_mean_nothing_are_accepted(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = _edit_config(
        make_checkpoint(),
        use_sliding_window=False,
        sliding_window=4096,
        layer_types=["full_attention"] * 2,
        quantization_config=None,
        partial_rotary_factor=1.0,
    )
    assert build_engine(checkpoint, tmp_path / "engine").is_dir()


class TestTiedEmbeddings:
    """Tied weights are taken as transformers takes them."""

    def _build(self, checkpoint: Path, tmp_path: Path) -> tuple[EngineFile, dict]:
        file = EngineFile.read(build_engine(checkpoint, tmp_path / "engine"))
        return file, file.ranks[0]["weights"]

    def test_one_table_serves_both_ends(
        self, make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        file, weights = self._build(make_checkpoint(tie_word_embeddings=True), tmp_path)
        assert "lm_head.weight" not in weights
        assert file.ranks[0]["plan"][-1]["inputs"]["weight"] == "embedding.weight"

    @pytest.mark.parametrize("change", ["same", "different", "only_head"])
    def test_both_tensors_stored(
        self, change: str, make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        import torch
        from transformers import LlamaForCausalLM

        checkpoint = make_checkpoint(tie_word_embeddings=True)
        tensors = _load(checkpoint)
        table = tensors["model.embed_tokens.weight"]
        tensors["lm_head.weight"] = table + (1 if change == "different" else 0)
        if change == "only_head":
            del tensors["model.embed_tokens.weight"]
        _save(checkpoint, tensors)
        file, weights = self._build(checkpoint, tmp_path)
        assert ("lm_head.weight" in weights) == (change == "different")
        assert file.model.tie_word_embeddings == (change != "different")
        reader = CheckpointReader.open(checkpoint)
        graph = compile_checkpoint(reader, BuildConfig()).graph
        head = graph.weights[graph.nodes[-1].inputs["weight"]]
        model = LlamaForCausalLM.from_pretrained(checkpoint)
        with torch.no_grad():
            np.testing.assert_array_equal(assemble(reader, head), model.lm_head.weight.numpy())

    def test_an_untied_head_must_be_there(
        self, make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        checkpoint = _edit_config(make_checkpoint(tie_word_embeddings=True))
        _edit_config(checkpoint, tie_word_embeddings=False)
        with pytest.raises(ProblemsError, match="tensor lm_head.weight is missing"):
            self._build(checkpoint, tmp_path)


class TestPack:
    @pytest.mark.parametrize("shard", ["5GB", "100KB"])
    @pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
    def test_packed_weights_are_the_assembled_ones(
        self,
        dtype: str,
        shard: str,
        make_checkpoint: Callable[..., Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(assemble_module, "_CHUNK_BYTES", 1000)  # several chunks a tensor
        checkpoint = make_checkpoint(shard=shard, attention_bias=True)
        engine = build_engine(checkpoint, tmp_path / "engine", dtype=dtype, pack=True)
        file = EngineFile.read(engine)
        assert file.checkpoint_path == "." and file.settings.pack
        packed = SafetensorsFile.open(engine / "rank0.safetensors")
        assert packed.header_end % 64 == 0
        (recorded,) = file.checkpoint_files
        assert recorded.size == packed.size and recorded.fingerprint == packed.fingerprint()
        reader = CheckpointReader.open(checkpoint)
        graph = compile_checkpoint(reader, BuildConfig(dtype=dtype)).graph
        assert list(packed.tensors) == list(file.ranks[0]["weights"]) == list(graph.weights)
        for name, weight in graph.weights.items():
            expected = assemble(reader, weight)
            assert packed.array(name).dtype == expected.dtype
            np.testing.assert_array_equal(packed.array(name), expected)
            recipe = file.ranks[0]["weights"][name]["recipe"]
            assert recipe == {"axis": 0, "sources": [{"tensor": name}]}

    def test_the_library_reads_the_packed_file(
        self, make_checkpoint: Callable[..., Path], tmp_path: Path
    ) -> None:
        from safetensors.torch import load_file

        checkpoint = make_checkpoint(dtype="bfloat16")
        engine = build_engine(checkpoint, tmp_path / "engine", pack=True)
        tensors = load_file(engine / "rank0.safetensors")
        q, k, v = (
            CheckpointReader.open(checkpoint).array(f"model.layers.0.self_attn.{n}_proj.weight")
            for n in "qkv"
        )
        qkv = tensors["layers.0.attention.qkv.weight"].float().numpy()
        np.testing.assert_array_equal(qkv, np.concatenate([q, k, v]).astype(np.float32))

    def test_slices_side_by_side(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        reader = CheckpointReader.open(tiny_checkpoint)
        name = "model.layers.0.mlp.down_proj.weight"  # [64, 176]
        sources = (Source(name, ((0, 64), (88, 176))), Source(name, ((0, 64), (0, 3))))
        recipe = Recipe(sources, ((64, 176), (64, 176)), axis=1)
        weight = Weight(TensorType("bfloat16", (64, 91)), recipe)
        whole = reader.array(name)
        expected = np.concatenate([whole[:, 88:], whole[:, :3]], axis=1)
        np.testing.assert_array_equal(assemble(reader, weight), expected.astype(ml_dtypes.bfloat16))
        write_packed(reader, {"w": weight}, tmp_path / "packed")
        packed = SafetensorsFile.open(tmp_path / "packed")
        np.testing.assert_array_equal(packed.array("w"), expected.astype(ml_dtypes.bfloat16))
        assert packed_weight("w", weight).recipe.source_shapes == ((64, 91),)


class TestTarget:
    def test_an_engine_is_replaced_as_a_whole(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        engine = build_engine(tiny_checkpoint, tmp_path / "engine", pack=True)
        build_engine(tiny_checkpoint, engine, max_batch_size=3)
        assert EngineFile.read(engine).settings.max_batch_size == 3
        assert not (engine / "rank0.safetensors").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["engine"]

    def test_a_link_to_an_engine_gives_way(self, tiny_checkpoint: Path, tmp_path: Path) -> None:
        other = build_engine(tiny_checkpoint, tmp_path / "other", max_batch_size=5)
        (tmp_path / "engine").symlink_to(other)
        engine = build_engine(tiny_checkpoint, tmp_path / "engine", max_batch_size=3)
        sizes = [EngineFile.read(each).settings.max_batch_size for each in (engine, other)]
        assert sizes == [3, 5]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "other"]

    @pytest.mark.parametrize("had_an_engine", [True, False])
    def test_builds_that_end_together(
        self,
        tiny_checkpoint: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        had_an_engine: bool,
    ) -> None:
        """Another one moves its engine into place between two steps of this one."""
        target, other = tmp_path / "engine", tmp_path / "other"
        if had_an_engine:
            build_engine(tiny_checkpoint, target)
        build_engine(tiny_checkpoint, other, max_batch_size=5)
        rename = Path.rename
        looks = 0

        def race(self: Path, to: Path) -> Path:
            nonlocal looks
            looks += 1
            if looks == 1 and not had_an_engine:
                shutil.copytree(other, target)
            moved = rename(self, to)
            if self == target and not target.exists():
                shutil.copytree(other, target)
                monkeypatch.setattr(Path, "rename", rename)
            return moved

        monkeypatch.setattr(Path, "rename", race)
        build_engine(tiny_checkpoint, target, max_batch_size=3)
        assert EngineFile.read(target).settings.max_batch_size == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == ["engine", "other"]

    def test_nothing_else_is_overwritten(
        self, make_checkpoint: Callable[..., Path], tiny_checkpoint: Path, tmp_path: Path
    ) -> None:
        other = make_checkpoint()
        before = sorted(path.name for path in other.iterdir())
        with pytest.raises(FileExistsError, match="something else than an engine: model.safe"):
            build_engine(tiny_checkpoint, other)
        assert sorted(path.name for path in other.iterdir()) == before
        (tmp_path / "file").write_text("text")
        with pytest.raises(FileExistsError, match="not a folder"):
            build_engine(tiny_checkpoint, tmp_path / "file")
        (tmp_path / "empty").mkdir()
        assert build_engine(tiny_checkpoint, tmp_path / "empty").is_dir()

    def test_a_failed_build_leaves_the_old_engine(
        self, make_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = make_checkpoint()
        engine = build_engine(checkpoint, tmp_path / "engine")
        before = (engine / "engine.json").read_bytes()

        def fail(*_: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(shutil, "copyfile", fail)
        with pytest.raises(OSError, match="no space left"):
            build_engine(checkpoint, engine)
        assert (engine / "engine.json").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["engine"]

    def test_a_checkpoint_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="is not a folder"):
            build_engine(tmp_path / "nowhere", tmp_path / "engine")
        assert list(tmp_path.iterdir()) == []


def test_memory_is_counted_from_the_engine_file(
    make_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint()
    stored = sum(
        int(np.prod(info.shape)) for info in CheckpointReader.open(checkpoint).tensors.values()
    )
    file = EngineFile.read(build_engine(checkpoint, tmp_path / "a"))
    memory = engine_memory(file)
    assert memory.weight_bytes == 4 * stored
    assert memory.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    assert memory.arena_bytes == file.ranks[0]["arena_bytes"]
    joined = 4 * 2 * (128 * 64 + 352 * 64)  # qkv and gate_up are put together, so copied
    assert memory.mapped_bytes == 4 * stored - joined
    half = engine_memory(EngineFile.read(build_engine(checkpoint, tmp_path / "b", dtype="float16")))
    assert half.weight_bytes == 2 * stored
    assert half.mapped_bytes == 0
    packed = engine_memory(EngineFile.read(build_engine(checkpoint, tmp_path / "c", pack=True)))
    assert packed.mapped_bytes == packed.weight_bytes == 4 * stored
