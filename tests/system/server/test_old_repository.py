"""A model repository of the former backend: its own pre- and postprocessing, an ensemble of the
contract's tensors alone, dynamic batching, unfilled placeholders; the engine's model is ours."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inflight.serving.installation import python_environment
from inflight.serving.pbtxt import ModelConfig, render
from inflight.serving.schema import (
    ENSEMBLE,
    ENSEMBLE_STEPS,
    POSTPROCESSING,
    PREPROCESSING,
    TENSORRT_LLM,
)
from inflight.serving.tensors import Model, Step
from inflight.text.tokenizer import Tokenizer
from triton_server import Server, Setup, ask, running

SOURCES = Path(__file__).parent / "old_repository"
# What the former backend's repositories did not have, release 0.19.
NEW = {
    "preprocessing": {"INCLUDE_STOP_STR_IN_OUTPUT", "TEXT_CONTEXT"},
    "postprocessing": {
        "TEXT_CONTEXT", "PREVIOUS_IDS", "RESPONSE_STATE", "FINISH_REASON", "STOP_REASON",
        "FINISH_REASON_OUT", "STOP_REASON_OUT",
    },
    "tensorrt_llm": {
        "min_p", "min_tokens", "seed", "ignore_eos", "priority", "timeout_ms", "cache_salt", "text_context",
        "engine_request_id", "previous_ids", "response_state", "prompt_ignore_length",
        "return_num_input_tokens", "return_num_output_tokens", "return_finish_reason",
        "return_stop_reason", "num_input_tokens", "num_output_tokens", "finish_reason",
        "stop_reason", "no_repeat_ngram_size", "return_kv_cache_reuse_stats",
    },
}  # fmt: skip
BATCHING = """
dynamic_batching {
  preferred_batch_size: [ 16 ]
  max_queue_delay_microseconds: 0
  default_queue_policy: { max_queue_size: 0 }
}
"""


def old(model: Model) -> Model:
    new = NEW[model.name]
    return replace(
        model,
        inputs=tuple(tensor for tensor in model.inputs if tensor.name not in new),
        outputs=tuple(tensor for tensor in model.outputs if tensor.name not in new),
    )


def old_ensemble() -> tuple[Model, tuple[Step, ...]]:
    steps = []
    for step in ENSEMBLE_STEPS:
        model = old(step.model)
        known_in = {tensor.name for tensor in model.inputs}
        known_out = {tensor.name for tensor in model.outputs}
        steps.append(
            Step(
                model,
                tuple(link for link in step.inputs if link.model_tensor in known_in),
                tuple(link for link in step.outputs if link.model_tensor in known_out),
            )
        )
    fed = {link.ensemble_tensor for step in steps for link in step.inputs}
    made = {link.ensemble_tensor for step in steps for link in step.outputs}
    ensemble = replace(
        ENSEMBLE,
        inputs=tuple(tensor for tensor in ENSEMBLE.inputs if tensor.name in fed),
        outputs=tuple(tensor for tensor in ENSEMBLE.outputs if tensor.name in made),
    )
    return ensemble, tuple(steps)


@pytest.fixture(scope="module")
def old_server(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("old")
    repository = scratch / "repository"
    python = {"tokenizer_dir": str(setup.checkpoint), "EXECUTION_ENV_PATH": python_environment()}
    python = {key: value for key, value in python.items() if value}
    llm = {
        "gpt_model_type": "inflight_fused_batching",
        "gpt_model_path": str(setup.checkpoint.parent / "engine"),
        "device": setup.device,
        "max_tokens_in_paged_kv_cache": "8192",
        "batch_scheduler_policy": "${batch_scheduler_policy}",
        "kv_cache_host_memory_bytes": "${kv_cache_host_memory_bytes}",
        "enable_kv_cache_reuse": "${enable_kv_cache_reuse}",
        "decoding_mode": "${decoding_mode}",
    }
    ensemble, steps = old_ensemble()
    configs = [
        (old(PREPROCESSING), ModelConfig("python", 16, parameters={
            **python, "add_special_tokens": "${add_special_tokens}",
            "multimodal_model_path": "${multimodal_model_path}"}), (), BATCHING),
        (old(TENSORRT_LLM), ModelConfig("inflight", 16, decoupled=True, parameters=llm), (), BATCHING),
        (old(POSTPROCESSING), ModelConfig("python", 16, parameters={
            **python, "skip_special_tokens": "${skip_special_tokens}"}), (), BATCHING),
        (ensemble, ModelConfig(max_batch_size=16), steps, ""),
    ]  # fmt: skip
    for model, config, its_steps, rest in configs:
        folder = repository / model.name / "1"
        folder.mkdir(parents=True)
        text = render(model, config, its_steps) + rest
        (folder.parent / "config.pbtxt").write_text(text)
        source = SOURCES / f"{model.name}.py"
        if source.is_file():
            (folder / "model.py").write_text(source.read_text())
    with running(repository, scratch, "--load-model=*") as server:
        yield server


def test_whole_answers(old_server: Server, server: Server) -> None:
    """As our own repository gives them."""
    request = {"text_input": "To be, or not", "max_tokens": 20, "end_id": -1}
    options = [{}, {"exclude_input_in_output": True}, {"top_k": 40, "temperature": 2.0}]
    for others in (*options, {"repetition_penalty": 2.0}, {"bad_words": ["e"]}):
        (theirs,) = ask(old_server, "ensemble", **request, **others)
        (ours,) = ask(server, "ensemble", **request, **others)
        assert theirs.text == ours.text


def test_streamed_chunks_are_decoded_each_by_itself(
    old_server: Server, server: Server, tokenizer: Tokenizer
) -> None:
    request = {"text_input": "To be", "max_tokens": 30, "end_id": -1}
    (whole,) = ask(server, "ensemble", **request, exclude_input_in_output=True)
    pieces = [answer.text for answer in ask(old_server, "ensemble", **request, stream=True)]
    # Characters across chunks are broken there: what each chunk can say by itself is its ASCII.
    told, expected = ([c for c in text if c.isascii()] for text in ("".join(pieces), whole.text))
    assert told == expected


def test_stop_words_are_ids(old_server: Server) -> None:
    request = {"text_input": "To be", "max_tokens": 30, "end_id": -1}
    (whole,) = ask(old_server, "ensemble", **request, exclude_input_in_output=True)
    letter = next(c for c in whole.text if c.isascii() and c.isalnum())
    (told,) = ask(
        old_server, "ensemble", **request, exclude_input_in_output=True, stop_words=[letter, ""]
    )
    assert told.text == whole.text[: whole.text.index(letter) + 1]


def test_batches(old_server: Server) -> None:
    prompts = ["abc", "To be, or not"]
    answers = ask(
        old_server,
        "ensemble",
        text_input=np.array([[prompt.encode()] for prompt in prompts], object),
        max_tokens=np.full((2, 1), 9, np.int32),
        end_id=np.full((2, 1), -1, np.int32),
    )
    assert len(answers) == 2
    for answer in answers:
        prompt = prompts[answer.outputs["batch_index"].item()]
        (alone,) = ask(old_server, "ensemble", text_input=prompt, max_tokens=9, end_id=-1)
        assert answer.text == alone.text
