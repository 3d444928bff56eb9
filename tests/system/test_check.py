"""`inflight check`: what it says of good repositories and engines, and of every doubt."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from inflight.builder import build_engine
from inflight.cli.build import LoadFormat
from inflight.cli.main import app
from inflight.cli.repository import ServingOptions, repository_settings
from inflight.serving.repository import write_repository
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("check") / "engine"
    return build_engine(ROOT / "demo_model", output, max_batch_size=8, max_seq_len=256)


@pytest.fixture
def repository(engine: Path, tmp_path: Path) -> Path:
    options = ServingOptions(device="cpu", kv_cache_max_tokens=1024)
    return write_repository(tmp_path / "models", repository_settings(engine, options))


def run(path: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def edit(repository: Path, model: str, change: Callable[[str], str]) -> None:
    config = repository / model / "config.pbtxt"
    changed = change(config.read_text())
    assert changed != config.read_text()
    config.write_text(changed)


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n'


def row(output: str, key: str) -> list[str]:
    """Of the table of parameters: value and source."""
    line = next(line for line in output.splitlines() if re.search(rf"[│┃] {key} ", line))
    return [cell.strip() for cell in re.split("[│┃]", line)[2:4]]


def test_a_good_repository(repository: Path) -> None:
    code, output = run(repository)
    assert code == 0, output
    assert "0 errors, 0 warnings" in output
    assert row(output, "max_tokens_in_paged_kv_cache") == ["1024", "config.pbtxt"]
    assert row(output, "device") == ["cpu", "config.pbtxt"]
    assert row(output, "queue_timeout_ms") == ["0", "default"]
    assert row(output, "max_num_tokens") == ["the engine's", "default"]
    assert "1024 tokens" in output  # of the KV cache
    assert re.search(r"arena .* MiB .* tokens in 8 sequences", output)


def test_time_limits(engine: Path, tmp_path: Path) -> None:
    options = ServingOptions(
        device="cpu", request_timeout_ms=9000, queue_timeout_ms=800, step_timeout_ms=70
    )
    _, output = run(write_repository(tmp_path / "models", repository_settings(engine, options)))
    assert row(output, "request_timeout_ms") == ["9000", "config.pbtxt"]
    assert row(output, "queue_timeout_ms") == ["800", "config.pbtxt"]
    assert row(output, "step_timeout_ms") == ["70", "config.pbtxt"]


def test_the_former_name_and_a_checkpoint(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the backend reads them: an engine is built of the checkpoint, and that name's rules hold."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    edit(repository, "tensorrt_llm", lambda text: re.sub(
        r'(key: "gpt_model_path"\s+value: \{ string_value: )"[^"]*"',
        rf'\1"{ROOT / "demo_model"}"', text))  # fmt: skip
    edit(repository, "tensorrt_llm", lambda text: text.replace(
        'backend: "inflight"', 'backend: "tensorrtllm"') + parameter("max_seq_len", "128"))  # fmt: skip
    code, output = run(repository)
    assert code == 0, output
    built = re.search(r"gpt_model_path is a checkpoint; its engine is (\S+)", output)
    assert (Path(built[1]) / "engine.json").is_file()
    assert "memory on cpu" in output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "no_such_model"}')
    edit(repository, "tensorrt_llm", lambda text: text.replace(
        str(ROOT / "demo_model"), str(tmp_path / "broken")))  # fmt: skip
    code, output = run(repository)
    assert code == 1
    assert "broken has neither model.safetensors" in output


def test_an_engine(engine: Path) -> None:
    code, output = run(engine, "--device", "cpu")
    assert code == 0, output
    assert "memory on cpu" in output
    assert "0 errors" in output
    code, output = run(engine, "--device", "nowhere")
    assert code == 1
    assert "device is 'nowhere'" in output and "1 error, 0 warnings" in output


def test_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code, output = run(ROOT / "demo_model", "--device", "cpu")
    assert code == 0, output
    assert "demo_model" in output and "memory on cpu" in output
    assert (tmp_path / "inflight" / "engines").is_dir()
    (tmp_path / "config.json").write_text("{}")
    code, output = run(tmp_path)
    assert code == 1 and "inflight check: " in output and "Traceback" not in output


def test_neither(tmp_path: Path) -> None:
    code, output = run(tmp_path)
    assert code == 1
    assert "neither a model repository" in output


BATCHING = "dynamic_batching { max_queue_delay_microseconds: 100 }\n"
DOUBTS = {
    "unknown parameter": (
        "tensorrt_llm", lambda t: t + parameter("max_qeue_size", "4"),
        'warning tensorrt_llm: parameter max_qeue_size = "4" has no effect',
    ),
    "unreadable": (
        "tensorrt_llm", lambda t: t + parameter("max_num_tokens", "many"),
        'warning tensorrt_llm: parameter max_num_tokens = "many" is not a number',
    ),
    "placeholder": (
        "tensorrt_llm", lambda t: t + parameter("max_num_tokens", "${max_num_tokens}"),
        "note tensorrt_llm: unfilled placeholders, as if absent: max_num_tokens",
    ),
    "batcher": (
        "tensorrt_llm", lambda t: t + BATCHING,
        "warning tensorrt_llm: dynamic_batching: the engine batches by itself",
    ),
    "old type": (
        "tensorrt_llm", lambda t: t.replace("inflight_fused_batching", "V1"),
        "warning tensorrt_llm: Static batching type is deprecated",
    ),
    "small cache": (
        "tensorrt_llm", lambda t: t.replace('"1024"', '"128"'),
        "warning tensorrt_llm: the KV cache holds 128 tokens, less than one sequence of max_seq_len",
    ),
    "engines": (
        "tensorrt_llm", lambda t: t.replace("count: 1", "count: 2"),
        "warning tensorrt_llm: instance_group: 2 instances are 2 engines",
    ),
    "no streams": (
        "tensorrt_llm", lambda t: t.replace("decoupled: true", "decoupled: false"),
        "note tensorrt_llm: not decoupled",
    ),
    "batched words": (
        "preprocessing", lambda t: t + BATCHING,
        "warning preprocessing: dynamic_batching: Triton's batcher damages the server's heap under "
        "load (docs/server_faults.md); leave it out",
    ),
    "text that may not be asked for": (
        "postprocessing", lambda t: t + BATCHING,
        "heap under load, and drops what is left of a cancelled request, so that the engine may not "
        "hear of it",
    ),
    "batched text": (
        "postprocessing", lambda t: t + BATCHING,
        "warning postprocessing: with dynamic_batching and without preserve_ordering",
    ),
    "text in several processes": (
        "postprocessing", lambda t: t.replace("count: 1", "count: 3"),
        "warning postprocessing: with 3 instances and without preserve_ordering",
    ),
}  # fmt: skip
ERRORS = {
    "no batch dimension": (
        "tensorrt_llm", lambda t: re.sub(r"max_batch_size: \d+", "max_batch_size: 0", t),
        "warning tensorrt_llm: max_batch_size is 0",
    ),
    "relays": (
        "relay", lambda t: t.replace("count: 1", "count: 2"),
        "error relay: a relay with 2 instances does not keep the order of a stream",
    ),
    "type": (
        "tensorrt_llm", lambda t: t.replace("inflight_fused_batching", "fancy"),
        'error tensorrt_llm: Invalid gpt_model_type "fancy"',
    ),
    "no engine": (
        "tensorrt_llm", lambda t: re.sub('string_value: "/[^"]*engine"', 'string_value: "/gone"', t),
        "error tensorrt_llm: gpt_model_path: the engine directory /gone does not exist",
    ),
    "beyond the engine": (
        "tensorrt_llm", lambda t: t + parameter("max_seq_len", "100000"),
        "error tensorrt_llm: max_seq_len is 100000",
    ),
    "less than a block": (
        "tensorrt_llm", lambda t: t.replace('"1024"', '"1"'),
        "error tensorrt_llm: kv_cache_max_tokens is 1, less than one block",
    ),
    "placeholder": (
        "tensorrt_llm", lambda t: re.sub(r"max_batch_size: \d+", "max_batch_size: ${size}", t),
        "error tensorrt_llm: unfilled placeholder, with which a server refuses the file: "
        "max_batch_size: ${size}",
    ),
    "a size that is no int32": (
        "tensorrt_llm", lambda t: re.sub(r"max_batch_size: \d+", "max_batch_size: 99999999999", t),
        "'max_batch_size: 99999999999': Value out of range",
    ),
    "a flag that is none": (
        "tensorrt_llm", lambda t: t.replace("decoupled: true", "decoupled: maybe"),
        "decoupled: maybe': Expected",
    ),
    "not pbtxt": (
        "tensorrt_llm", lambda t: t + "}",
        "error tensorrt_llm: config.pbtxt: line ",
    ),
    "other name": (
        "preprocessing", lambda t: t.replace('name: "preprocessing"', 'name: "pre"', 1),
        "error preprocessing: config.pbtxt names the model 'pre', its folder 'preprocessing'",
    ),
    "no tokenizer": (
        "preprocessing", lambda t: re.sub('"/[^"]*engine"', '"/gone"', t),
        "error preprocessing: tokenizer_dir: /gone holds no tokenizer",
    ),
    "lost step": (
        "ensemble", lambda t: t.replace('model_name: "postprocessing"', 'model_name: "post"'),
        "error ensemble: its step 'post' is no model of the repository",
    ),
    "lost step of the BLS": (
        "tensorrt_llm_bls", lambda t: t.replace('string_value: "postprocessing"', 'string_value: "post"'),
        "error tensorrt_llm_bls: its step 'post' is no model of the repository",
    ),
    "an input that another version has, to the BLS": (
        "tensorrt_llm", lambda t: t.replace('name: "min_p"', 'name: "min_q"'),
        "error tensorrt_llm_bls: its step 'tensorrt_llm' has no input min_p",
    ),
    "BLS without links": (
        "tensorrt_llm_bls", lambda t: t.replace('key: "preprocessing_outputs"', 'key: "outputs"'),
        "error tensorrt_llm_bls: the parameter preprocessing_outputs is missing: it will not load",
    ),
    "few rows": (
        "relay", lambda t: re.sub(r"max_batch_size: \d+", "max_batch_size: 2", t),
        "error ensemble: its max_batch_size is 8, that of its step 'relay' only 2",
    ),
    "an input that another version of the model has": (
        "tensorrt_llm", lambda t: t.replace('name: "min_p"', 'name: "min_q"'),
        "error ensemble: its step 'tensorrt_llm' has no input min_p",
    ),
    "an output that another version of the model has": (
        "tensorrt_llm", lambda t: t.replace('name: "response_state"', 'name: "state"'),
        "error ensemble: its step 'tensorrt_llm' has no output response_state",
    ),
    "a required input that nobody gives": (
        "preprocessing", lambda t: re.sub(
            r'(name: "IMAGE_URL"\s+data_type: TYPE_STRING\s+dims: \[ 1 \]\s+)optional: true', r"\1", t),
        "error ensemble: its step 'preprocessing' gets no IMAGE_URL, which it requires",
    ),
    "logits of a type that there is not": (
        "tensorrt_llm", lambda t: re.sub(
            r'(name: "context_logits"\s+data_type: )TYPE_FP32', r"\1TYPE_INT32", t),
        "output context_logits is declared as TYPE_INT32, expected TYPE_FP32 or TYPE_FP16",
    ),
    "two types": (
        "tensorrt_llm", lambda t: re.sub(
            r'(name: "context_logits"\s+data_type: )TYPE_FP32', r"\1TYPE_FP16", t),
        "error ensemble: its tensor '_SAID_CONTEXT_LOGITS' is TYPE_FP16 and TYPE_FP32 to different models",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTS)
def test_doubts(repository: Path, name: str) -> None:
    model, change, expected = DOUBTS[name]
    edit(repository, model, change)
    code, output = run(repository)
    assert expected in output
    assert code == 0, output


@pytest.mark.parametrize("name", ERRORS)
def test_errors(repository: Path, name: str) -> None:
    model, change, expected = ERRORS[name]
    edit(repository, model, change)
    code, output = run(repository)
    assert expected in output
    assert code == 1


def test_missing_version_folder(repository: Path) -> None:
    for path in (repository / "ensemble" / "1").iterdir():
        path.unlink()
    (repository / "ensemble" / "1").rmdir()
    code, output = run(repository)
    assert "error ensemble: no version folder 1" in output
    assert code == 1


def test_no_model_of_ours(repository: Path) -> None:
    edit(repository, "tensorrt_llm", lambda t: t.replace('"inflight"', '"onnxruntime"'))
    code, output = run(repository)
    assert "no model has the backend inflight or tensorrtllm" in output
    assert code == 1


def test_layers_that_see_windows(tmp_path: Path) -> None:
    config = {
        "architectures": ["MinistralForCausalLM"],
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "head_dim": 8,
        "max_position_embeddings": 4096,
        "sliding_window": 256,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    built = build_engine(tmp_path, tmp_path / "engine", max_batch_size=2, load_format="dummy")
    options = ServingOptions(device="cpu", load_format=LoadFormat.dummy)
    _, output = run(write_repository(tmp_path / "models", repository_settings(built, options)))
    text = " ".join(re.sub("[│┃]", " ", output).split())
    # 4,095 tokens of two sequences; 256 tokens and a step of 2,048 of each layer with a window.
    assert "256 blocks of 32 tokens = 8192 tokens" in text
    assert "blocks for 2 layers with a window of 256 tokens" in text
    assert "note tensorrt_llm: blocks of layers with a sliding window stay in the KV pool" in text
