"""One table: Python's schema, C++'s, the committed config.pbtxt files and the clients' contract."""

import math
from pathlib import Path

import pytest
from former_contract import INPUTS, LATER_INPUTS, LATER_OUTPUTS, OUTPUTS, rows
from google.protobuf import text_format
from inflight.serving.pbtxt import ModelConfig, render
from inflight.serving.repository import RepositorySettings, write_repository
from inflight.serving.schema import (
    ENSEMBLE,
    ENSEMBLE_STEPS,
    MODELS,
    POSTPROCESSING,
    PREPROCESSING,
    RELAYED_ENSEMBLE_STEPS,
    TENSORRT_LLM,
)
from inflight.serving.tensors import Step, Tensor
from tritonclient.grpc import model_config_pb2

ROOT = Path(__file__).resolve().parents[3]

OUR_INPUTS = set(
    """min_p
    ignore_eos priority timeout_ms cache_salt return_finish_reason return_stop_reason
    return_kv_cache_reuse_stats
    no_repeat_ngram_size end_ids
    num_top_log_probs
    text_context engine_request_id kv_cache_events_after response_group""".split()
)
FOR_POSTPROCESSING = {"text_context", "previous_ids", "response_state", "heartbeat"}
OUR_OUTPUTS = {
    *FOR_POSTPROCESSING,
    "kv_cache_events",
    "group_members",
    "group_begins",
    "group_lengths",
    "finish_reason",
    "stop_reason",
    "top_log_prob_ids",
    "top_log_probs",
}
CONTRACT_ENSEMBLE_INPUTS = set(
    """text_input max_tokens decoder_text_input bad_words stop_words embedding_bias_words
    embedding_bias_weights end_id pad_id prompt_table_extra_id top_k top_p length_penalty stream
    num_return_sequences exclude_input_in_output temperature repetition_penalty min_tokens
    presence_penalty frequency_penalty seed return_log_probs return_context_logits
    return_generation_logits return_perf_metrics return_num_input_tokens return_num_output_tokens
    beam_width prompt_embedding_table prompt_vocab_size lora_task_id lora_weights lora_config
    guided_decoding_guide_type guided_decoding_guide early_stopping""".split()
)

OUR_ENSEMBLE_INPUTS = set(
    """min_p min_length random_seed top_p_min top_p_decay top_p_reset_ids no_repeat_ngram_size
    prompt_ignore_length end_ids beam_search_diversity_rate retention_token_range_starts
    retention_token_range_ends retention_token_range_priorities retention_token_range_durations_ms
    retention_decode_priority retention_decode_duration_ms
    num_top_log_probs ignore_eos priority timeout_ms cache_salt return_finish_reason return_stop_reason
    include_stop_str_in_output return_kv_cache_reuse_stats""".split()
)


def dims_text(tensor: Tensor) -> str:
    return ",".join(map(str, tensor.dims))


def test_inputs_are_the_contracts() -> None:
    ours = {
        tensor.name: [
            tensor.dtype,
            dims_text(tensor),
            "O" * tensor.optional + "R" * tensor.scalar + "G" * tensor.ragged,
        ]
        for tensor in TENSORRT_LLM.inputs
        if tensor.name not in OUR_INPUTS
    }
    assert ours == rows(INPUTS, LATER_INPUTS)


def test_outputs_are_the_contracts() -> None:
    ours = {
        tensor.name: [tensor.dtype, dims_text(tensor)]
        for tensor in TENSORRT_LLM.outputs
        if tensor.name not in OUR_OUTPUTS
    }
    assert ours == rows(OUTPUTS, LATER_OUTPUTS)
    assert TENSORRT_LLM.outputs[0].name == "output_ids"


def test_ensemble_is_the_contracts() -> None:
    inputs = {tensor.name: tensor for tensor in ENSEMBLE.inputs}
    assert set(inputs) == CONTRACT_ENSEMBLE_INPUTS | OUR_ENSEMBLE_INPUTS
    assert [name for name, tensor in inputs.items() if not tensor.optional] == [
        "text_input",
        "max_tokens",
    ]
    assert (inputs["text_input"].dtype, inputs["text_input"].dims) == ("STRING", (1,))
    assert (inputs["stop_words"].dtype, inputs["stop_words"].dims) == ("STRING", (-1,))
    hidden = {"output_ids", "sequence_length", "context_phase_params", "kv_cache_events"}
    hidden |= FOR_POSTPROCESSING | {"group_members", "group_begins", "group_lengths"}
    passed = {tensor.name for tensor in TENSORRT_LLM.outputs} - hidden
    assert {tensor.name for tensor in ENSEMBLE.outputs} == passed | {"text_output"}


def test_tensors_between_the_steps_have_the_contracts_names() -> None:
    """Repositories with steps of their own count on them."""
    between = {link.ensemble_tensor for step in ENSEMBLE_STEPS[:2] for link in step.outputs}
    assert between >= set(
        """_INPUT_ID _REQUEST_INPUT_LEN _DECODER_INPUT_ID _REQUEST_DECODER_INPUT_LEN
        _REQUEST_OUTPUT_LEN _STOP_WORDS_IDS _BAD_WORDS_IDS _EMBEDDING_BIAS _PREPROCESSOR_END_ID
        _PREPROCESSOR_PAD_ID _OUT_PROMPT_TABLE_EXTRA_IDS _TOKENS_BATCH _SEQUENCE_LENGTH""".split()
    )


def test_cpp_table_equals_pythons() -> None:
    core = pytest.importorskip("inflight._core")
    for ours, theirs in (
        (TENSORRT_LLM.inputs, core.schema_inputs()),
        (TENSORRT_LLM.outputs, core.schema_outputs()),
    ):
        assert [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "dims": tensor.dims,
                "optional": tensor.optional,
                "scalar": tensor.scalar,
                "ragged": tensor.ragged,
                "support": tensor.support.value,
                "default": tensor.default,
            }
            for tensor in ours
        ] == theirs


def test_names_are_unique() -> None:
    for model in MODELS:
        for tensors in (model.inputs, model.outputs):
            names = [tensor.name for tensor in tensors]
            assert len(names) == len(set(names)), model.name


@pytest.mark.parametrize("steps", [ENSEMBLE_STEPS, RELAYED_ENSEMBLE_STEPS], ids=len)
def test_ensemble_links_fit(steps: tuple[Step, ...]) -> None:
    """Every link joins tensors of one type; every required input is fed; nothing is fed twice."""
    sources = {tensor.name: tensor for tensor in ENSEMBLE.inputs}
    used = set()
    for step in steps:
        inputs = {tensor.name: tensor for tensor in step.model.inputs}
        outputs = {tensor.name: tensor for tensor in step.model.outputs}
        fed = [link.model_tensor for link in step.inputs]
        assert len(fed) == len(set(fed))
        assert {name for name, tensor in inputs.items() if not tensor.optional} <= set(fed)
        for link in step.inputs:
            assert inputs[link.model_tensor].dtype == sources[link.ensemble_tensor].dtype, link
            used.add(link.ensemble_tensor)
        for link in step.outputs:
            assert link.ensemble_tensor not in sources, link
            sources[link.ensemble_tensor] = outputs[link.model_tensor]
    for tensor in ENSEMBLE.outputs:
        assert sources[tensor.name].dtype == tensor.dtype
    assert {tensor.name for tensor in ENSEMBLE.inputs} <= used


def test_committed_repository_is_rendered(tmp_path: Path) -> None:
    write_repository(tmp_path, RepositorySettings())
    committed = ROOT / "model_repository"
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    there = {
        path.relative_to(committed)
        for path in committed.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert written == there
    for path in written:
        assert (tmp_path / path).read_text() == (committed / path).read_text(), path


def parsed(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_rendered_configs_say_what_the_table_says(model, tmp_path: Path) -> None:
    settings = RepositorySettings(
        engine_dir='/a "quoted"\\path', max_batch_size=7, preprocessing_instances=3, decoupled=True
    )
    write_repository(tmp_path, settings)
    config = parsed((tmp_path / model.name / "config.pbtxt").read_text())
    assert config.name == model.name
    assert config.max_batch_size == 7
    for tensors, theirs in ((model.inputs, config.input), (model.outputs, config.output)):
        assert len(tensors) == len(theirs)
        for ours, other in zip(tensors, theirs, strict=True):
            assert other.name == ours.name
            assert model_config_pb2.DataType.Name(other.data_type) == f"TYPE_{ours.dtype}"
            assert tuple(other.dims) == ours.dims
            assert other.HasField("reshape") == ours.scalar
            assert math.prod(other.reshape.shape) == 1
    for ours, other in zip(model.inputs, config.input, strict=True):
        assert other.optional == ours.optional
        assert other.allow_ragged_batch == ours.ragged
    if model is TENSORRT_LLM:
        assert config.backend == "inflight"
        assert config.parameters["gpt_model_path"].string_value == '/a "quoted"\\path'
        assert config.model_transaction_policy.decoupled
    assert not config.HasField("dynamic_batching")  # it damages the server's heap
    if model is POSTPROCESSING:  # the server keeps a stream's chunks in order only so
        assert config.instance_group[0].count == 1
    if model is PREPROCESSING:
        assert config.backend == "python"
        assert config.instance_group[0].count == 3
    if model is ENSEMBLE:
        assert [step.model_name for step in config.ensemble_scheduling.step] == [
            "preprocessing",
            "tensorrt_llm",
            "relay",
            "postprocessing",
        ]


def test_versions_can_be_listed() -> None:
    config = parsed(render(TENSORRT_LLM, ModelConfig(backend="inflight", versions=(1, 3))))
    assert list(config.version_policy.specific.versions) == [1, 3]
