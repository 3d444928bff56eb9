"""A model from a config.json alone: random weights, ids in, ids out."""

import json
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams
from inflight.cli.main import app
from typer.testing import CliRunner

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "attention_bias": True,
    "eos_token_id": 2,
}
PROMPT = [5, 6, 7, 8, 300]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def answer(model: Path, device: str, **options: object) -> list[int]:
    with LLM(model, load_format="dummy", device=device, num_threads=1, **options) as llm:
        assert llm.tokenizer is None
        assert llm.info.device.split(":")[0] == device
        output = llm.generate(PROMPT, SamplingParams(max_tokens=24, ignore_eos=True))
    return output.outputs[0].token_ids


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_answers_and_repeats_itself(model: Path, device: str, dtype: str) -> None:
    # Racecheck runs it, and warm-up has steps of such sizes.
    limits = {"max_num_tokens": 64, "max_batch_size": 4}
    first = answer(model, device, dtype=dtype, **limits)
    assert len(first) == 24
    assert len(set(first)) > 4, "the weights' spread leaves nothing to choose"
    assert answer(model, device, dtype=dtype, **limits) == first


def test_text_needs_a_tokenizer(model: Path) -> None:
    with LLM(model, load_format="dummy", device="cpu", num_threads=1) as llm:
        with pytest.raises(ValueError, match="a text prompt needs a tokenizer.*give prompt ids"):
            llm.generate("hello")


def test_files_are_still_demanded_without_dummy(model: Path) -> None:
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor"):
        LLM(model, device="cpu")
    with pytest.raises(ValueError, match="load_format is 'none'"):
        LLM(model, device="cpu", load_format="none")


def test_commands(model: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    engine = tmp_path / "engine"
    built = run(app, ["build", str(model), "--output", str(engine), "--load-format", "dummy"])
    assert built.exit_code == 0, built.output
    shown = run(app, ["inspect", str(engine)])
    assert "none: dummy weights only" in shown.output
    with pytest.raises(ValueError, match="from a config.json alone"):
        LLM(engine, device="cpu", skip_tokenizer_init=True)
    arguments = ["repository", str(engine), "--output", str(tmp_path / "models")]
    options = ["--load-format", "dummy", "--device", "cpu", "--no-cuda-graphs"]
    written = run(app, [*arguments, *options])
    assert written.exit_code == 0, written.output
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tensorrt_llm"]
    config = (tmp_path / "models" / "tensorrt_llm" / "config.pbtxt").read_text()
    assert 'key: "load_format"\n  value: { string_value: "dummy" }' in config
    assert 'key: "cuda_graph_mode"\n  value: { string_value: "false" }' in config
