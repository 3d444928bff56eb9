"""Engines for dummy weights: built from a config.json and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inflight.builder import build_engine
from inflight.builder.cache import engine_dir_for
from inflight.builder.engine_file import EngineFile
from inflight.builder.memory import engine_memory
from inflight.checkpoint.safetensors_file import CheckpointError
from inflight.config import ProblemsError


@pytest.fixture
def bare(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    folder = tmp_path / "bare"
    folder.mkdir()
    shutil.copyfile(tiny_checkpoint / "config.json", folder / "config.json")
    return folder


def document(engine: Path) -> dict[str, Any]:
    return json.loads((engine / "engine.json").read_text())


def test_the_plan_is_that_of_the_checkpoint(
    tmp_path: Path, bare: Path, tiny_checkpoint: Path
) -> None:
    made = build_engine(bare, tmp_path / "engine", load_format="dummy")
    expected = document(build_engine(tiny_checkpoint, tmp_path / "whole"))
    assert document(made)["checkpoint"] == {"path": str(bare), "files": []}
    assert {**document(made), "checkpoint": 0} == {**expected, "checkpoint": 0}
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json",
        "engine.json",
    ]
    assert engine_memory(EngineFile.read(made)).mapped_bytes == 0


def test_files_beside_are_not_opened(tmp_path: Path, bare: Path) -> None:
    (bare / "model.safetensors").write_bytes(b"nonsense")
    build_engine(bare, tmp_path / "engine", load_format="dummy")


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_are_as_the_configuration_says(
    tmp_path: Path, make_checkpoint: Callable[..., Path], tied: bool
) -> None:
    checkpoint = make_checkpoint(tie_word_embeddings=tied)
    made = document(build_engine(checkpoint, tmp_path / "engine", load_format="dummy"))
    assert ("lm_head.weight" in made["ranks"][0]["weights"]) != tied


def test_errors(tmp_path: Path, bare: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        build_engine(bare, tmp_path / "engine")
    with pytest.raises(ValueError, match="load_format is 'none', must be auto or dummy"):
        build_engine(bare, tmp_path / "engine", load_format="none")
    with pytest.raises(ValueError, match="pack=True assembles weights"):
        build_engine(bare, tmp_path / "engine", load_format="dummy", pack=True)
    config = json.loads((bare / "config.json").read_text())
    del config["vocab_size"]
    (bare / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu"}))
    with pytest.raises(ProblemsError, match="(?s)vocab_size: missing.*hidden_act: 'gelu'"):
        build_engine(bare, tmp_path / "engine", load_format="dummy")
    assert not (tmp_path / "engine").exists()


def test_another_plan_version_is_built_anew(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = engine_dir_for(tiny_checkpoint, cache=tmp_path)
    monkeypatch.setattr("inflight.builder.cache.PLAN_VERSION", 0)
    assert engine_dir_for(tiny_checkpoint, cache=tmp_path) != before


def test_cached_apart_from_real_ones(tmp_path: Path, tiny_checkpoint: Path) -> None:
    real = engine_dir_for(tiny_checkpoint, cache=tmp_path)
    dummy = engine_dir_for(tiny_checkpoint, load_format="dummy", cache=tmp_path)
    assert real != dummy
    assert dummy == engine_dir_for(tiny_checkpoint, load_format="dummy", cache=tmp_path)
    assert document(real)["checkpoint"]["files"] != []
