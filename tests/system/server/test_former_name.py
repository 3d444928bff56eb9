"""A repository that names the former backend: its config.pbtxt, from that backend's template filled
for release 0.19, loads as it is once our library is installed as tensorrtllm."""

import json
import os
from collections.abc import Iterator

import numpy as np
import pytest
from former_contract import INPUTS, OUTPUTS, rows
from inflight.serving.installation import install_backend
from triton_server import Server, Setup, ask, llm_request, running
from tritonclient.utils import InferenceServerException

PROMPT = [5, 17, 200, 33, 90, 91, 4]
# Filled by an operator; the rest is left as the template has it.
FILLED = {
    "gpt_model_type": "inflight_fused_batching",
    "max_beam_width": "1",
    "max_tokens_in_paged_kv_cache": "8192",
    "exclude_input_in_output": "True",
    "FORCE_CPU_ONLY_INPUT_TENSORS": "no",
    "executor_worker_path": "/opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker",
    "enable_kv_cache_reuse": "False",
    "batch_scheduler_policy": "max_utilization",
    "normalize_log_probs": "true",
    "cuda_graph_mode": "false",
    "multi_block_mode": "true",
    "gpu_weights_percent": "1.0",
}
LEFT = (
    "encoder_model_path max_attention_window_size sink_token_length kv_cache_free_gpu_mem_fraction "
    "cross_kv_cache_fraction kv_cache_host_memory_bytes kv_cache_onboard_blocks "
    "cancellation_check_period_ms stats_check_period_ms iter_stats_max_iterations "
    "request_stats_max_iterations enable_chunked_context decoding_mode lookahead_window_size "
    "lookahead_ngram_size lookahead_verification_set_size medusa_choices eagle_choices "
    "gpu_device_ids participant_ids num_nodes lora_cache_optimal_adapter_size "
    "lora_cache_max_adapter_size lora_cache_gpu_memory_fraction lora_cache_host_memory_bytes "
    "lora_prefetch_dir guided_decoding_backend xgrammar_tokenizer_info_path tokenizer_dir "
    "speculative_decoding_fast_logits enable_context_fmha_fp32_acc cuda_graph_cache_size "
    "enable_trt_overlap"
).split()

# Where releases differ from 0.19.
NEWER_TYPES = {"early_stopping": "INT32", "prompt_embedding_table": "FP32"}
OLDEST_TYPES = dict.fromkeys(
    "request_output_len end_id pad_id beam_width runtime_top_k min_length prompt_vocab_size".split(),
    "UINT32",
) | {"embedding_bias": "FP16"}


def tensors(kind: str, table: str, **dtypes: str) -> str:
    """`dtypes`: by name, of those that have another."""
    texts = []
    for name, (dtype, dims, *flags) in rows(table).items():
        dtype = dtypes.get(name, dtype)
        text = f'    name: "{name}"\n    data_type: TYPE_{dtype}\n    dims: [ {dims} ]\n'
        options = {
            "R": "reshape: { shape: [ ] }",
            "O": "optional: true",
            "G": "allow_ragged_batch: true",
        }
        text += "".join(f"    {options[flag]}\n" for flag in "".join(flags))
        texts.append("  {\n" + text + "  }")
    return f"{kind} [\n" + ",\n".join(texts) + "\n]\n"


def parameter(key: str, value: str) -> str:
    return f'parameters: {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'


def config(name: str, *, dtypes: dict[str, str] | None = None, **values: str) -> str:
    """`values` are parameters beside, or instead of, the usual ones."""
    filled = {**{key: "${" + key + "}" for key in LEFT}, **FILLED, **values}
    return (
        f'name: "{name}"\nbackend: "tensorrtllm"\nmax_batch_size: 8\n'
        "model_transaction_policy { decoupled: true }\n"
        "dynamic_batching {\n  preferred_batch_size: [ 8 ]\n  max_queue_delay_microseconds: 0\n"
        "  default_queue_policy: { max_queue_size: 0 }\n}\n"
        + tensors("input", INPUTS, **(dtypes or {}))
        + tensors("output", OUTPUTS)
        + "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
        + "".join(parameter(key, value) for key, value in filled.items())
    )


@pytest.fixture(scope="module")
def former(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`tensorrt_llm` loaded, of a checkpoint; the others when a test wants them."""
    scratch = tmp_path_factory.mktemp("former")
    path = {"gpt_model_path": str(setup.checkpoint)}
    on_cpu = {"device": "cpu"} if setup.device == "cpu" else {}
    configs = {
        "tensorrt_llm": config("tensorrt_llm", **path, **on_cpu),
        "newer": config("newer", dtypes=NEWER_TYPES, **path, **on_cpu),
        "oldest": config("oldest", dtypes=OLDEST_TYPES, **path, **on_cpu),
        "static": config("static", **{**path, **on_cpu, "gpt_model_type": "V1"}),
        "mistaken": config("mistaken", **{**path, "gpt_model_type": "invalid_batching"}),
        "nowhere": config("nowhere", gpt_model_path="/no/such/folder"),
        "encoder": config("encoder", **{**path, "encoder_model_path": "/encoder"}),
        "window": config("window", **{**path, **on_cpu, "max_attention_window_size": "1024"}),
        "broken": config("broken", gpt_model_path=str(scratch / "broken_checkpoint")),
    }
    (scratch / "broken_checkpoint").mkdir()
    (scratch / "broken_checkpoint" / "config.json").write_text('{"model_type": "no_such_model"}')
    for name, text in configs.items():
        (scratch / "repository" / name / "1").mkdir(parents=True)
        (scratch / "repository" / name / "config.pbtxt").write_text(text)
    install_backend(scratch / "backends", "tensorrtllm")
    cache = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")  # of the engine that is built
    try:
        with running(
            scratch / "repository", scratch, "--load-model=tensorrt_llm", "--log-verbose=1"
        ) as server:
            yield server
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if cache is not None:
            os.environ["XDG_CACHE_HOME"] = cache


def load(server: Server, name: str) -> tuple[int, str]:
    return server.post(f"/v2/repository/models/{name}/load", {})


def test_answers_as_under_our_name(former: Server, server: Server) -> None:
    (theirs,) = ask(former, "tensorrt_llm", **llm_request(PROMPT, 24))
    alone = {"exclude_input_in_output": True}
    (ours,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 24, **alone))
    assert theirs.ids == ours.ids  # the parameter leaves the prompt out
    assert list(theirs.outputs) == ["output_ids", "sequence_length"]
    pieces = ask(former, "tensorrt_llm", **llm_request(PROMPT, 24, streaming=True))
    assert sum((piece.ids for piece in pieces), []) == ours.ids


def test_what_clients_always_send(former: Server) -> None:
    """inflight_batcher_llm_client's tensors, and what an ensemble's preprocessing adds."""
    request = llm_request(
        PROMPT,
        16,
        beam_width=1,
        temperature=1.0,
        streaming=True,
        end_id=2,
        pad_id=2,
        runtime_top_k=1,
        runtime_top_p=0.0,
        decoder_input_ids=[2],
        decoder_input_lengths=1,
        stop_words_list=np.zeros((1, 2, 0), np.int32),
        bad_words_list=np.array([[[0], [-1]]], np.int32),
        embedding_bias=np.zeros((1, 0), np.float32),
        prompt_embedding_table=np.zeros((1, 0, 0), np.float16),
        len_penalty=1.5,
        early_stopping=True,
        beam_search_diversity_rate=0.5,
    )
    ids = sum((piece.ids for piece in ask(former, "tensorrt_llm", **request)), [])
    (plain,) = ask(former, "tensorrt_llm", **llm_request(PROMPT, 16, end_id=2))
    assert ids == plain.ids


def test_old_spellings(former: Server, server: Server) -> None:
    hot = {"runtime_top_k": 50, "temperature": 3.0}
    (old,) = ask(former, "tensorrt_llm", **llm_request(PROMPT, 24, random_seed=7, **hot))
    alone = {"exclude_input_in_output": True}
    (new,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 24, seed=7, **alone, **hot))
    assert old.ids == new.ids
    end = new.ids[0]
    least = llm_request(PROMPT, 24, random_seed=7, end_id=end, min_length=9, **hot)
    assert len(ask(former, "tensorrt_llm", **least)[0].ids) >= 9
    with pytest.raises(InferenceServerException, match="seed"):
        ask(former, "tensorrt_llm", **llm_request(PROMPT, 2, seed=7))  # not declared there


def test_ids_of_no_vocabulary_embed_as_zeros(former: Server, server: Server) -> None:
    """A public load generator sends random 32-bit numbers."""
    draw = np.random.default_rng(5)
    wild = [5, *draw.integers(-(2**31), 2**31, 40).tolist(), 2**31 - 1, -1, 259]
    others = {"exclude_input_in_output": False, "repetition_penalty": 1.3}
    (answer,) = ask(former, "tensorrt_llm", **llm_request(wild, 8, **others))
    assert answer.ids[: len(wild)] == wild
    assert all(0 <= token < 259 for token in answer.ids[len(wild) :])
    # All ids of no vocabulary are one.
    same = [5, *([300] * 43)]
    (same_answer,) = ask(former, "tensorrt_llm", **llm_request(same, 8, **others))
    assert same_answer.ids[44:] == answer.ids[44:]
    with pytest.raises(InferenceServerException, match="outside the vocabulary"):
        ask(server, "tensorrt_llm", **llm_request(wild, 8))


def test_batches_and_perf_metrics(former: Server) -> None:
    answers = ask(
        former,
        "tensorrt_llm",
        input_ids=np.full((2, 3), 5, np.int32),
        input_lengths=np.full((2, 1), 3, np.int32),
        request_output_len=np.full((2, 1), 4, np.int32),
        return_perf_metrics=np.ones((2, 1), np.bool_),
    )
    assert {answer.outputs["batch_index"].item() for answer in answers} == {0, 1}
    assert all(answer.outputs["arrival_time_ns"].item() > 10**18 for answer in answers)


def test_what_is_refused(former: Server) -> None:
    for options, part in (
        ({"beam_width": 2}, "beam_width is not supported yet"),
        ({"draft_input_ids": [4, 5]}, "draft_input_ids is not supported yet"),
        ({"lora_task_id": 1}, "lora_task_id is not supported yet"),
        ({"prompt_embedding_table": np.ones((1, 2, 4), np.float16)}, "prompt_embedding_table"),
        ({"guided_decoding_guide_type": "json"}, "guided_decoding_guide_type"),
    ):
        with pytest.raises(InferenceServerException, match=part):
            ask(former, "tensorrt_llm", **llm_request(PROMPT, 2, **options))


def test_what_the_log_says(former: Server) -> None:
    log = former.log.read_text()
    assert "parameters of the former backend that change nothing: FORCE_CPU_ONLY" in log
    assert "is a checkpoint; its engine is looked for" in log


def test_other_types_of_tensors(former: Server) -> None:
    """Newer repositories declare an INT32 early_stopping and tables of other types."""
    status, text = load(former, "newer")
    assert status == 200, text
    request = llm_request(PROMPT, 6, early_stopping=np.array([[2]], np.int32))
    empty = np.zeros((1, 0, 0), np.float32)
    (answer,) = ask(former, "newer", prompt_embedding_table=empty, **request)
    assert len(answer.ids) == 6
    with pytest.raises(InferenceServerException, match="prompt_embedding_table is not supported"):
        table = np.ones((1, 2, 4), np.float32)
        ask(former, "newer", prompt_embedding_table=table, **llm_request(PROMPT, 2))


def test_types_of_the_first_releases(former: Server) -> None:
    """Counts were UINT32, and a bias was FP16."""
    status, text = load(former, "oldest")
    assert status == 200, text

    def count(value: int) -> np.ndarray:
        return np.array([[value]], np.uint32)

    counts = {"beam_width": count(1), "runtime_top_k": count(1), "prompt_vocab_size": count(0)}
    ends = {"end_id": count(2**32 - 1), "pad_id": count(2)}
    request = {**llm_request(PROMPT, 0), "request_output_len": count(6)}
    (plain,) = ask(former, "tensorrt_llm", **llm_request(PROMPT, 6))
    (same,) = ask(former, "oldest", **request, **counts, **ends, min_length=count(6))
    assert same.ids == plain.ids
    bias = np.zeros((1, 259), np.float16)
    bias[0, 77] = 1e4
    (biased,) = ask(former, "oldest", **request, embedding_bias=bias)
    assert biased.ids == [77] * 6
    with pytest.raises(InferenceServerException, match="beam_width is not supported yet"):
        ask(former, "oldest", **{**request, "beam_width": count(2)})


def test_static_batching(former: Server) -> None:
    status, text = load(former, "static")
    assert status == 200, text
    assert "Static batching type is deprecated" in former.log.read_text()
    (answer,) = ask(former, "static", **llm_request(PROMPT, 3))
    assert len(answer.ids) == 3


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mistaken", "Invalid gpt_model_type"),
        ("nowhere", "/no/such/folder does not exist"),
        ("encoder", "encoder_model_path"),
        ("window", "max_attention_window_size is 1024"),
        ("broken", "no engine could be built of it"),
    ],
)
def test_what_does_not_load(former: Server, name: str, part: str) -> None:
    status, text = load(former, name)
    assert status >= 400
    assert part in json.loads(text)["error"]
    assert part in former.log.read_text()
    (answer,) = ask(former, "tensorrt_llm", **llm_request(PROMPT, 2))
    assert len(answer.ids) == 2
