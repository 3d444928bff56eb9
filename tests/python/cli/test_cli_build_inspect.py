"""`inflight build` and `inflight inspect` as a user sees them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from inflight.builder.engine_file import EngineFile
from inflight.cli.main import app
from typer.testing import CliRunner


@pytest.fixture
def run() -> Callable[..., object]:
    return lambda *arguments: CliRunner().invoke(app, [str(a) for a in arguments])


def test_build_takes_every_option(run: Callable, tiny_checkpoint: Path, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    answer = run(
        "build", tiny_checkpoint, "--output", engine, "--dtype", "bfloat16",
        "--max-batch-size", 5, "--max-seq-len", 100, "--max-num-tokens", 50,
        "--tokens-per-block", 16, "--pack",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    assert f"{engine} built in" in answer.output.replace("\n", "")
    settings = EngineFile.read(engine).settings
    assert (settings.dtype, settings.tokens_per_block, settings.pack) == ("bfloat16", 16, True)
    assert settings.limits_json() == {
        "max_batch_size": 5,
        "max_num_tokens": 50,
        "max_seq_len": 100,
        "max_beam_width": 1,
    }


def test_errors_are_lines_and_not_tracebacks(
    run: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    answer = run(
        "build", tiny_checkpoint, "--output", tmp_path / "e", "--max-seq-len", 9999,
        "--max-batch-size", 9, "--max-num-tokens", 8,
    )  # fmt: skip
    assert answer.exit_code == 1
    assert "max_seq_len is 9999" in answer.output and "max_num_tokens is 8" in answer.output
    assert "Traceback" not in answer.output
    missing = run("build", tmp_path / "nowhere", "--output", tmp_path / "e")
    assert missing.exit_code == 1 and "is not a folder" in missing.output
    assert run("inspect", tmp_path).exit_code == 1
    assert run("build", tiny_checkpoint).exit_code == 2


def test_inspect_prints_facts_limits_memory_and_plan(run: Callable, tiny_engine: Path) -> None:
    text = run("inspect", tiny_engine).output
    for part in (
        "LlamaForCausalLM",
        "4 / 2 / 16",
        "max_num_tokens",
        "cache per token",
        "512 B",
        "plan of rank 0: 14 ops",
        "rope_attention",
        "weight=layers.1.mlp.gate_up.weight",
        "weight=layers.1.mlp.down.weight",
        "gated=True",
    ):
        assert part in text
    assert "after fuse_qkv" not in text


def test_inspect_shows_every_pass(run: Callable, tiny_engine: Path) -> None:
    text = run("inspect", tiny_engine, "--passes").output
    assert "as the model wrote it: 39 nodes, 21 weights" in text
    for name in ("fuse_qkv", "fuse_norm_linear", "fuse_linear_add", "gather_early"):
        assert f"after {name}: " in text
    assert "layers.1.attention.query.weight" in text
