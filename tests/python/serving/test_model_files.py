"""The model.py files, with a stand-in for the module that only tritonserver has."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from inflight.serving import repository
from serving_tokenizers import byte_level
from tokenizers import processors

FILES = Path(repository.__file__).parent / "model_files"


class Tensor:
    def __init__(self, name: str, value: np.ndarray) -> None:
        self.name, self.value = name, value

    def as_numpy(self) -> np.ndarray:
        return self.value


class Request(SimpleNamespace):
    """Of a client or, with `sent`, of the model under test to another model."""

    sent: list

    def is_cancelled(self) -> bool:
        return self.cancelled

    def exec(self, decoupled: bool) -> list:
        assert decoupled
        Request.sent.append(self)
        return []


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    Request.sent = []
    utils = ModuleType("triton_python_backend_utils")
    utils.Tensor = Tensor
    utils.InferenceResponse = lambda output_tensors=(), error=None: SimpleNamespace(
        outputs={tensor.name: tensor.value for tensor in output_tensors}, error=error
    )
    utils.InferenceRequest = Request
    utils.TritonError = lambda message, code: (message, code)
    utils.TritonError.INVALID_ARG = "invalid"
    utils.TritonError.INTERNAL = "internal"
    utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1
    utils.TRITONSERVER_MEMORY_CPU = 0
    utils.PreferredMemory = lambda memory: memory
    utils.using_decoupled_model_transaction_policy = lambda config: config.get("decoupled", False)
    utils.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)

    def model(name: str, decoupled: bool = False, more: dict | None = None, **parameters: str):
        spec = importlib.util.spec_from_file_location(f"model_{name}", FILES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        instance = module.TritonPythonModel()
        listed = {key: {"string_value": value} for key, value in parameters.items()}
        config = {"parameters": listed, "decoupled": decoupled, **(more or {})}
        instance.initialize({"model_config": json.dumps(config)})
        return instance

    return model


def request(cancelled: bool = False, **tensors: np.ndarray) -> Request:
    return Request(
        cancelled=cancelled, tensors={name: Tensor(name, value) for name, value in tensors.items()}
    )


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_level()._tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return str(folder)


def chunk(text: str, final: bool, stop: list[str]) -> Request:
    ids = [3 + 10] * len(text)
    context = json.dumps({"stop": stop}).encode()
    return request(
        TOKENS_BATCH=np.array([[ids]], np.int32),
        SEQUENCE_LENGTH=np.array([[len(ids)]], np.int32),
        TEXT_CONTEXT=np.frombuffer(context, np.uint8)[None],
        PREVIOUS_IDS=np.zeros((1, 0), np.int32),
        RESPONSE_STATE=np.array([[1 << 40, int(final), len(ids)]], np.int64),
    )


@pytest.mark.parametrize(
    ("final", "stop", "stops"),
    [(False, [], False), (False, ["*"], True), (True, ["*"], False)],
)
def test_postprocessing_ends_the_engines_request(
    load, tokenizer_dir: str, final: bool, stop: list[str], stops: bool
) -> None:
    model = load(
        "postprocessing", tokenizer_dir=tokenizer_dir, tensorrt_llm_model_name="the_engine"
    )
    (letter,) = model.execute([chunk("x", True, [])])[0].outputs["OUTPUT"]
    stop = [letter.decode() for _ in stop]
    (answer,) = model.execute([chunk("xx", final, stop)])
    assert answer.outputs["OUTPUT"].tolist() == [letter if stop else letter * 2]
    assert len(Request.sent) == int(stops)
    for command in Request.sent:
        assert command.model_name == "the_engine"
        values = {tensor.name: tensor.value.item() for tensor in command.inputs}
        assert values["stop"] is True
        assert values["engine_request_id"] == 1 << 40


ONE, SEVERAL = [{"count": 1}], [{"count": 1}, {"count": 2}]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"instance_group": ONE}, ""),
        ({"instance_group": SEVERAL}, "3 instances without preserve_ordering"),
        ({"instance_group": ONE, "dynamic_batching": {}}, "dynamic_batching without preserve_ord"),
        ({"instance_group": SEVERAL, "dynamic_batching": {"preserve_ordering": True}}, ""),
    ],
    ids=str,
)
def test_postprocessing_keeps_its_order(
    load, tokenizer_dir: str, config: dict, message: str
) -> None:
    parameters = {"tokenizer_dir": tokenizer_dir, "tensorrt_llm_model_name": "the_engine"}
    if not message:
        load("postprocessing", more=config, **parameters)
        return
    with pytest.raises(ValueError, match=message):
        load("postprocessing", more=config, **parameters)


def test_preprocessing_answers_errors(load, tokenizer_dir: str) -> None:
    model = load("preprocessing", tokenizer_dir=tokenizer_dir)
    length = np.array([[3]], np.int32)
    good, bad = model.execute(
        [
            request(QUERY=np.array([[b"abc"]], object), REQUEST_OUTPUT_LEN=length),
            request(QUERY=np.array([[b"\xff"]], object), REQUEST_OUTPUT_LEN=length),
        ]
    )
    assert good.outputs["REQUEST_INPUT_LEN"].item() == 3
    assert "UTF-8" in bad.error[0]


def test_postprocessing_answers_errors(load, tokenizer_dir: str) -> None:
    model = load("postprocessing", tokenizer_dir=tokenizer_dir, tensorrt_llm_model_name="x")
    bad = request(
        TOKENS_BATCH=np.zeros((1, 1, 3), np.int32), SEQUENCE_LENGTH=np.zeros((1, 2), np.int32)
    )
    first, second = model.execute([bad, chunk("x", True, [])])
    assert "SEQUENCE_LENGTH has 2 lengths" in first.error[0]
    assert len(second.outputs["OUTPUT"]) == 1


def test_multimodal_models_are_refused(load, tokenizer_dir: str) -> None:
    with pytest.raises(ValueError, match="multimodal_model_path .* '/engines/vision'"):
        load("preprocessing", tokenizer_dir=tokenizer_dir, multimodal_model_path="/engines/vision")
    others = {"multimodal_model_path": "${multimodal_model_path}", "gpt_model_path": "/x"}
    others |= {"max_num_images": "1", "hf_model_path": "/x", "add_special_tokens": "maybe"}
    load("preprocessing", tokenizer_dir=tokenizer_dir, **others)


def test_a_missing_parameter_is_named(load) -> None:
    with pytest.raises(ValueError, match="tokenizer_dir is missing"):
        load("preprocessing", tokenizer_dir="${tokenizer_dir}")


SPELLINGS = [
    ("true", True), ("1", True), ("false", False), ("FALSE", False), ("0", False),
    ("maybe", True), ("", True), ("${unfilled}", True),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), SPELLINGS)
def test_special_tokens_go_around_prompts_unless_told(
    load, tmp_path: Path, said: str, expected: bool
) -> None:
    raw = byte_level()._tokenizer
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    raw.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    model = load("preprocessing", tokenizer_dir=str(tmp_path), add_special_tokens=said)
    length = np.array([[3]], np.int32)
    (answer,) = model.execute(
        [request(QUERY=np.array([[b"x"]], object), REQUEST_OUTPUT_LEN=length)]
    )
    assert (answer.outputs["INPUT_ID"][0, 0] == 1) == expected


@pytest.mark.parametrize(("said", "expected"), SPELLINGS)
def test_special_tokens_are_no_text_unless_told(
    load, tokenizer_dir: str, said: str, expected: bool
) -> None:
    model = load(
        "postprocessing",
        tokenizer_dir=tokenizer_dir,
        tensorrt_llm_model_name="x",
        skip_special_tokens=said,
    )
    tokens, lengths = np.array([[[40, 2]]], np.int32), np.array([[2]], np.int32)
    (answer,) = model.execute([request(TOKENS_BATCH=tokens, SEQUENCE_LENGTH=lengths)])
    assert (b"</s>" not in answer.outputs["OUTPUT"][0]) == expected


@pytest.mark.parametrize(("said", "expected"), SPELLINGS)
def test_stop_words_belong_to_the_text_unless_told(
    load, tokenizer_dir: str, said: str, expected: bool
) -> None:
    others = {"tokenizer_dir": tokenizer_dir, "tensorrt_llm_model_name": "x"}
    model = load("postprocessing", include_stop_words=said, **others)
    (letter,) = model.execute([chunk("x", True, [])])[0].outputs["OUTPUT"]
    (answer,) = model.execute([chunk("xx", True, [letter.decode()])])
    assert answer.outputs["OUTPUT"].tolist() == [letter if expected else b""]
