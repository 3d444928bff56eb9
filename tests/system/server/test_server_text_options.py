"""Options of the engine's model that the ensemble and the BLS hand on: each has the effect on the
text that it has on the ids, and ends that several ids may make."""

import json
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, Setup, ask, llm_request, overridden, unary
from tritonclient.utils import InferenceServerException

PROMPT = "To be, or not to be"
LENGTH = 24
MODELS = ["ensemble", "tensorrt_llm_bls"]
# Names that differ on the engine's model.
ENGINE_NAMES = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "top_p_min": "runtime_top_p_min",
    "top_p_decay": "runtime_top_p_decay",
    "top_p_reset_ids": "runtime_top_p_reset_ids",
}
HOT = {"top_p": 0.95, "temperature": 3.0, "seed": 4}
NARROW = {**HOT, "top_p_decay": 0.001}
# What is asked for, and beside what it has its effect.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "top_p_decay": ({"top_p_decay": 0.001}, HOT),
    "top_p_min": ({"top_p_min": 0.95}, NARROW),
    "min_p": ({"min_p": 0.9}, HOT),
    "no_repeat_ngram_size": ({"no_repeat_ngram_size": 1}, {}),
    "prompt_ignore_length": ({"prompt_ignore_length": 19}, {"repetition_penalty": 1e9}),
}


def engine_ids(server: Server, tokenizer: Tokenizer, **options: Any) -> list[int]:
    named = {ENGINE_NAMES.get(name, name): value for name, value in options.items()}
    request = llm_request(tokenizer.encode(PROMPT), LENGTH, exclude_input_in_output=True, **named)
    (answer,) = ask(server, "tensorrt_llm", **request)
    return answer.ids


def told(server: Server, model: str, **options: Any) -> list[Answer]:
    request = {"text_input": PROMPT, "max_tokens": LENGTH, "exclude_input_in_output": True}
    return ask(server, model, **{"end_id": -1, **request, **options})


def text(answers: list[Answer]) -> str:
    return "".join(answer.text for answer in answers)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_sampling(server: Server, tokenizer: Tokenizer, name: str) -> None:
    option, beside = OPTIONS[name]
    ids = engine_ids(server, tokenizer, **beside, **option)
    assert ids != engine_ids(server, tokenizer, **beside)
    for model in MODELS:
        assert text(told(server, model, **beside, **option)) == tokenizer.decode(ids)


def test_an_id_that_widens_top_p_again(server: Server, tokenizer: Tokenizer) -> None:
    narrow = engine_ids(server, tokenizer, **NARROW)
    options = {**NARROW, "top_p_reset_ids": narrow[1]}
    ids = engine_ids(server, tokenizer, **options)
    assert ids != narrow
    for model in MODELS:
        assert text(told(server, model, **options)) == tokenizer.decode(ids)


def test_several_end_ids(server: Server, tokenizer: Tokenizer) -> None:
    whole = engine_ids(server, tokenizer)
    first = next(at for at in range(4, LENGTH) if whole[at] not in whole[:at])
    second = next(at for at in range(first + 1, LENGTH) if whole[at] not in whole[:at])
    ends = {"end_ids": [whole[second], -1, whole[first]]}
    assert engine_ids(server, tokenizer, **ends) == whole[:first]
    assert engine_ids(server, tokenizer, end_id=whole[second], end_ids=[-1]) == whole[:second]
    assert engine_ids(server, tokenizer, ignore_eos=True, **ends) == whole
    assert len(engine_ids(server, tokenizer, min_tokens=first + 2, **ends)) >= first + 2
    for model in MODELS:
        answers = told(server, model, return_finish_reason=True, return_stop_reason=True, **ends)
        assert text(answers) == tokenizer.decode(whole[:first])
        reasons = [answers[-1].outputs[name].item() for name in ("finish_reason", "stop_reason")]
        assert reasons == [b"stop", str(whole[first]).encode()]
    with pytest.raises(InferenceServerException, match="259"):
        told(server, "ensemble", end_ids=[259])


def test_the_models_own_end_ids(server: Server, setup: Setup, tokenizer: Tokenizer) -> None:
    """An end_id that is one of the model's stands for all of them, if the model is told so."""
    whole = engine_ids(server, tokenizer)
    first = next(at for at in range(4, LENGTH) if whole[at] not in whole[:at])
    folder = setup.repository.parent / "engine_of_two_ends"
    if not folder.exists():
        shutil.copytree(setup.checkpoint.parent / "engine", folder)
        facts = json.loads((folder / "engine.json").read_text())
        facts["model"]["eos_token_ids"] = [whole[first], 2]
        (folder / "engine.json").write_text(json.dumps(facts))
    prompt, alone = tokenizer.encode(PROMPT), {"exclude_input_in_output": True}
    for told_so, ends_at in (("false", LENGTH), ("true", first)):
        parameters = {"gpt_model_path": str(folder), "use_model_end_ids": told_so}
        with overridden(server, "plain", parameters=parameters):
            for options, expected in (
                ({"end_id": 2}, whole[:ends_at]),
                ({"end_id": -1}, whole),
                ({}, whole),
            ):
                (answer,) = ask(server, "plain", **llm_request(prompt, LENGTH, **alone, **options))
                assert answer.ids == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_deadline(server: Server, model: str, stream: bool) -> None:
    request = {"max_tokens": 3000, "timeout_ms": 200, "stream": stream, "priority": 3}
    answers = told(server, model, return_finish_reason=True, **request)
    assert answers[-1].outputs["finish_reason"].item() == b"deadline"
    assert text(answers)


@pytest.mark.parametrize("model", MODELS)
def test_retention(server: Server, tokenizer: Tokenizer, model: str) -> None:
    """What blocks are kept changes no answer; bad wishes are refused by name."""
    wishes = {
        "retention_token_range_starts": [0, 4],
        "retention_token_range_ends": [4, -1],
        "retention_token_range_priorities": [90, 10],
        "retention_token_range_durations_ms": [-1, 100],
        "retention_decode_priority": 50,
        "retention_decode_duration_ms": 20,
    }
    expected = tokenizer.decode(engine_ids(server, tokenizer))
    assert text(told(server, model, **wishes)) == expected
    with pytest.raises(InferenceServerException, match="retention_token_range_ends has 1 elem"):
        told(server, model, **{**wishes, "retention_token_range_ends": [4]})
    # Concerns beams, of which there is one.
    beams = {"beam_search_diversity_rate": 0.5, "length_penalty": 2.0, "early_stopping": True}
    assert text(told(server, model, beam_width=1, **beams)) == expected
    assert np.size(told(server, model, beam_width=1)[0].outputs["text_output"]) == 1


def test_parameters_of_the_bls(server: Server) -> None:
    """Pieces that are the whole text so far, and another engine's model."""
    whole = text(told(server, "tensorrt_llm_bls"))
    with overridden(server, "tensorrt_llm_bls", parameters={"accumulate_tokens": "true"}):
        pieces = [answer.text for answer in told(server, "tensorrt_llm_bls", stream=True)]
    assert pieces[-1] == whole
    assert all(later.startswith(piece) for piece, later in pairwise(pieces))
    with overridden(server, "tensorrt_llm_bls", parameters={"tensorrt_llm_model_name": "second"}):
        other = text(told(server, "tensorrt_llm_bls"))
    assert other != whole == text(told(server, "tensorrt_llm_bls"))


def texts_to_encode(draw: random.Random) -> dict[str, Any]:
    return {"QUERY": "".join(draw.choices("abcdefgh ", k=100_000)), "REQUEST_OUTPUT_LEN": 1}


def ids_to_decode(draw: random.Random) -> dict[str, Any]:
    ids = np.array([[draw.choices(range(3, 259), k=100_000)]], np.int32)
    return {"TOKENS_BATCH": ids, "SEQUENCE_LENGTH": np.array([[100_000]], np.int32)}


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize(
    ("model", "made"), [("preprocessing", texts_to_encode), ("postprocessing", ids_to_decode)]
)
def test_instances_of_text_models_work_side_by_side(
    server: Server, model: str, made: Callable[[random.Random], dict[str, Any]], instances: int
) -> None:
    """Then their times together are longer than the clock's."""
    draw = random.Random(instances)
    requests = [made(draw) for _ in range(8)]

    def busy(client: grpc.InferenceServerClient) -> int:
        (stats,) = client.get_inference_statistics(model).model_stats
        return stats.inference_stats.compute_infer.ns

    changes: dict[str, Any] = {"instance_group": [{"count": instances, "kind": "KIND_CPU"}]}
    if model == "postprocessing":  # which else refuses to lose the order
        changes |= {"dynamic_batching": {"preserve_ordering": True}, "max_batch_size": 1}
    with (
        overridden(server, model, **changes),
        grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client,
        ThreadPoolExecutor(len(requests)) as pool,
    ):
        before, begin = busy(client), time.monotonic()
        list(pool.map(lambda request: unary(server, model, **request), requests))
        seconds = time.monotonic() - begin
        share = (busy(client) - before) / 1e9 / seconds
    assert share > 1.2 if instances > 1 else share <= 1
