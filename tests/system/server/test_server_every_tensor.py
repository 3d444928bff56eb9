"""Every tensor of the engine's model, the ensemble and the BLS, one after another: what a request with
it answers is not what the same request answers without it. Those that this cannot show are shown by
the tests named below."""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inflight.serving.schema import BLS, ENSEMBLE, TENSORRT_LLM
from inflight.serving.tensors import Model, Support
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, ask, llm_request
from tritonclient.utils import InferenceServerException

MODELS = (TENSORRT_LLM, ENSEMBLE, BLS)
PROMPT = "To be, or not to be: that is the question of this long test"
LENGTH = 12
VOCAB_SIZE = 259


@dataclass(frozen=True)
class Case:
    """A tensor's value, and what stands beside it in both requests. The one may depend on the ids said
    without it, the other on the greedy ones. Its effect is another answer, with these outputs besides,
    or an error that says this: of what only waits or stays in the cache nothing else shows here."""

    value: Any
    beside: dict[str, Any] | Callable[[list[int]], dict[str, Any]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    error: str = ""


def word(id: int) -> np.ndarray:
    return np.array([[[id], [1]]], np.int32)


def bias(id: int) -> np.ndarray:
    return np.where(np.arange(VOCAB_SIZE) == id, 1e4, 0).astype(np.float32)[None]


PERF = (
    "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks",
    "arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns",
    "acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens",
)  # fmt: skip
RANGE = {f"retention_token_range_{name}": value for name, value in
         {"starts": [0], "ends": [4], "priorities": [90], "durations_ms": [50]}.items()}  # fmt: skip
# Under the names of the ensemble; the engine's follow.
HOT = {"top_p": 0.95, "temperature": 3.0, "seed": 4}
NARROW = {**HOT, "top_p_decay": 0.001}
CASES = {
    "end_id": Case(lambda ids: ids[4]),
    "end_ids": Case(lambda ids: [ids[5], ids[4]]),
    "ignore_eos": Case(True, lambda ids: {"end_id": ids[4]}),
    "min_tokens": Case(LENGTH, lambda ids: {"end_id": ids[4]}),
    "min_length": Case(LENGTH, lambda ids: {"end_id": ids[4]}),
    "temperature": Case(9.0, {"top_p": 0.95, "seed": 4}),
    "top_k": Case(50, {"temperature": 3.0, "seed": 4}),
    "top_p": Case(0.95, {"temperature": 3.0, "seed": 4}),
    "min_p": Case(0.9, HOT),
    "top_p_decay": Case(0.001, HOT),
    "top_p_min": Case(0.95, NARROW),
    "top_p_reset_ids": Case(lambda ids: ids[1], NARROW),
    "repetition_penalty": Case(1e9),
    "presence_penalty": Case(1e4),
    "frequency_penalty": Case(1e4),
    "prompt_ignore_length": Case(len(PROMPT), {"repetition_penalty": 1e9}),
    "no_repeat_ngram_size": Case(1),
    "seed": Case(5, HOT),
    "random_seed": Case(5, {**HOT, "seed": None}),
    "num_return_sequences": Case(2, HOT, ("sequence_index",)),
    "timeout_ms": Case(1, {"max_tokens": 400}, error="timeout"),
    "priority": Case(-(2**31), error="priority is -2147483648"),
    "cache_salt": Case(lambda _: uuid.uuid4().hex, {"return_perf_metrics": True}),
    **{name: Case([7, 7], RANGE, error="each range has one of each") for name in RANGE},
    "retention_decode_priority": Case(101, error="101"),
    "retention_decode_duration_ms": Case(-2, error="-2"),
    "exclude_input_in_output": Case(False),
    "return_log_probs": Case(True, outputs=("cum_log_probs", "output_log_probs")),
    "num_top_log_probs": Case(
        2, {"return_log_probs": True}, ("top_log_prob_ids", "top_log_probs")
    ),
    "return_context_logits": Case(True, outputs=("context_logits",)),
    "return_generation_logits": Case(True, outputs=("generation_logits",)),
    "return_perf_metrics": Case(True, outputs=PERF),
    "return_kv_cache_reuse_stats": Case(True, outputs=PERF),
    "return_num_input_tokens": Case(True, outputs=("num_input_tokens",)),
    "return_num_output_tokens": Case(True, outputs=("num_output_tokens",)),
    "return_finish_reason": Case(True, outputs=("finish_reason",)),
    "return_stop_reason": Case(True, outputs=("stop_reason",)),
}  # fmt: skip
OF_THE_ENGINE = {
    "input_ids": Case([5, 17, 200]),
    "request_output_len": Case(5),
    "stop_words_list": Case(lambda ids: word(ids[4])),
    "bad_words_list": Case(lambda ids: word(ids[4])),
    "embedding_bias": Case(lambda ids: bias(ids[4])),
    "streaming": Case(True, {"max_tokens": 200}),
}
OF_TEXT = {
    "text_input": Case("Whether"),
    "max_tokens": Case(5),
    "bad_words": Case(["e", "a", "\ufffd", *map(chr, range(33, 127))]),
    "stop_words": Case([" ", "e", *map(chr, range(33, 127))]),
    "include_stop_str_in_output": Case(False, {"stop_words": [*map(chr, range(32, 127))]}),
    "embedding_bias_words": Case(["e"], {"embedding_bias_words": ["q"], "embedding_bias_weights": [1e4]}),
    "embedding_bias_weights": Case([1e4], {"embedding_bias_words": ["e"], "embedding_bias_weights": [0.0]}),
    "stream": Case(True, {"max_tokens": 200}),
}  # fmt: skip
SHOWN_BY = {
    "input_lengths": "test_server_batches.py",
    "stop": "test_server_life.py::test_stop_by_id",
    "text_context": "test_server_contract.py::test_what_postprocessing_is_told",
    "previous_ids": "test_server_contract.py::test_what_postprocessing_is_told",
    "response_state": "test_server_contract.py::test_what_postprocessing_is_told",
    "engine_request_id": "test_server_contract.py::test_what_postprocessing_is_told",
    "heartbeat": "test_server_contract.py::test_heartbeats",
    "kv_cache_events_after": "test_server_cache.py",
    "kv_cache_events": "test_server_cache.py",
    "response_group": "test_server_groups.py",
    "group_members": "test_server_groups.py",
    "group_begins": "test_server_groups.py",
    "group_lengths": "test_server_groups.py",
    "batch_index": "test_server_bls.py::test_rows_and_sequences",
    "pad_id": "test_former_tools.py",
}
ENGINE_NAMES = {
    "max_tokens": "request_output_len",
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "top_p_decay": "runtime_top_p_decay",
    "top_p_min": "runtime_top_p_min",
    "top_p_reset_ids": "runtime_top_p_reset_ids",
}


def cases_of(model: Model) -> dict[str, Case]:
    if model is not TENSORRT_LLM:
        return CASES | OF_TEXT
    return {ENGINE_NAMES.get(name, name): case for name, case in CASES.items()} | OF_THE_ENGINE


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_none_is_forgotten(model: Model) -> None:
    cases = cases_of(model)
    said = {name for case in cases.values() for name in case.outputs}
    always = {"output_ids", "sequence_length"} if model is TENSORRT_LLM else {"text_output"}
    for tensors, shown in ((model.inputs, cases.keys()), (model.outputs, said | always)):
        used = {tensor.name for tensor in tensors if tensor.support is Support.USED}
        assert shown <= used
        for name in used - shown:
            file, _, test = SHOWN_BY[name].partition("::")
            source = (Path(__file__).parent / file).read_text()
            if test:
                source = re.search(rf"^def {test}\(.*?(?=^def |^@pytest|\Z)", source, re.M | re.S)[
                    0
                ]
            assert re.search(rf"\b{name}\b", source), name


def outcome(answer: Answer) -> dict[str, list]:
    """What may be compared of it: what the clock says may not, nor the last bit of a number."""
    told: dict[str, list] = {}
    for name, value in answer.outputs.items():
        is_float = value.dtype.kind == "f"
        told[name] = [value.shape, (np.round(value, 3) if is_float else value).tolist()]
        if name.endswith("_time_ns"):
            told[name] = []
    return told


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_each_has_its_effect(server: Server, tokenizer: Tokenizer, model: Model) -> None:
    of_engine = model is TENSORRT_LLM
    alone = {"end_id": -1, "exclude_input_in_output": True}

    def run(given: dict[str, Any]) -> tuple[list | str, set[str]]:
        """The answer or the error, and the names of its outputs."""
        request = {"text_input": PROMPT, "max_tokens": LENGTH}
        if of_engine:
            request = llm_request(tokenizer.encode(PROMPT), LENGTH)
            given = {ENGINE_NAMES.get(name, name): value for name, value in given.items()}
        given = {k: v for k, v in {**request, **alone, **given}.items() if v is not None}
        try:
            answers = ask(server, model.name, **given)
        except InferenceServerException as error:
            return error.message(), set()
        return [*map(outcome, answers)], {name for answer in answers for name in answer.outputs}

    def ids_of(given: dict[str, Any]) -> list[int]:
        named = {ENGINE_NAMES.get(name, name): value for name, value in given.items()}
        request = llm_request(tokenizer.encode(PROMPT), LENGTH, **alone, **named)
        return ask(server, "tensorrt_llm", **request)[0].ids

    greedy = ids_of({})
    assert greedy[4] not in greedy[:4]
    run({"return_perf_metrics": True})  # the prompt is in the cache from here on
    failed = []
    for name, case in cases_of(model).items():
        beside = case.beside(greedy) if callable(case.beside) else case.beside
        without, names_without = run(beside)
        if name != "timeout_ms":  # whose request is long
            assert run(beside)[0] == without, f"{name}: not by this tensor alone"
        value = case.value(ids_of(beside)) if callable(case.value) else case.value
        told, names = run({**beside, name: value})
        if isinstance(told, str):
            has_its_effect = case.error != "" and case.error in told
        else:
            has_its_effect = told != without and names - names_without == set(case.outputs)
        if not has_its_effect:
            failed.append((name, told))
    assert failed == []
