"""Outputs that say what became of a request, through the ensemble and the BLS: why it ended, what it
counted, and biases of words; stop words with and without themselves."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, Setup, Stream, ask, llm_request, overridden

MODELS = ["ensemble", "tensorrt_llm_bls"]
REASONS = {"return_finish_reason": True, "return_stop_reason": True}
PERF_METRICS = {
    "kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks",
    "arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns",
    "acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens",
}  # fmt: skip


def text(answers: list[Answer]) -> str:
    return "".join(answer.text for answer in answers)


def reasons(answer: Answer) -> tuple[str, str]:
    values = [answer.outputs[name] for name in ("finish_reason", "stop_reason")]
    assert all(value.size == 1 for value in values)
    return tuple(value.item().decode() for value in values)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_why_it_ended(server: Server, tokenizer: Tokenizer, model: str, stream: bool) -> None:
    request = {"text_input": "Whether", "max_tokens": 40, "exclude_input_in_output": True}

    def ended(**options) -> tuple[str, tuple[str, str]]:
        answers = ask(server, model, **{**request, "stream": stream, **REASONS, **options})
        assert all(reasons(answer) == ("", "") for answer in answers[:-1])
        return text(answers), reasons(answers[-1])

    whole, why = ended(end_id=-1)
    assert why == ("length", "")
    ids = [answer.ids for answer in ask(server, "tensorrt_llm", input_ids=tokenizer.encode("Whether"),
           input_lengths=7, request_output_len=40, exclude_input_in_output=True)][0]  # fmt: skip
    end = next(id for at, id in enumerate(ids) if at > 3 and id not in ids[:at])
    assert ended(end_id=end)[1] == ("stop", str(end))
    for at in range(6, 30, 6):  # across tokens: a byte each
        word = whole[at : at + 2]
        if word.strip() and "\ufffd" not in word:
            kept, why = ended(end_id=-1, stop_words=[word])
            assert (kept, why) == (whole[: whole.index(word) + 2], ("stop", word))
            bare, why = ended(end_id=-1, stop_words=[word], include_stop_str_in_output=False)
            assert (bare, why) == (whole[: whole.index(word)], ("stop", word))


# Of the server's own.
PARAMETERS = {"triton_final_response", "sequence_id", "sequence_start", "sequence_end"}


@pytest.mark.parametrize("model", ["tensorrt_llm", *MODELS])
def test_all_is_said_in_tensors(server: Server, model: str) -> None:
    """Parameters of a response would not come through an ensemble: no response of ours has any."""
    request = {"text_input": "To be", "max_tokens": 40, "stream": True, "end_id": -1, **REASONS}
    if model == "tensorrt_llm":
        request = llm_request([5, 17, 200], 40, streaming=True, **REASONS)
    with Stream(server, model) as stream:
        stream.send(**request)
        is_final, ends = False, set()
        while not is_final:
            result, error = stream.answers.get(timeout=60)
            assert error is None
            parameters = result.get_response().parameters
            assert set(parameters) <= PARAMETERS
            is_final = parameters["triton_final_response"].bool_param
            ends.add(result.as_numpy("finish_reason").item())
    assert ends - {b""} == {b"length"}


@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_said_unasked(server: Server, model: str) -> None:
    (answer,) = ask(server, model, text_input="a", max_tokens=3)
    assert set(answer.outputs) == {"text_output"}


@pytest.mark.parametrize("model", MODELS)
def test_counts_and_metrics(server: Server, tokenizer: Tokenizer, model: str) -> None:
    flags = ("return_num_input_tokens", "return_num_output_tokens", "return_perf_metrics")
    request = {"text_input": "To be", "max_tokens": 12, "end_id": -1, **dict.fromkeys(flags, True)}
    for stream in (False, True):
        answers = ask(server, model, stream=stream, exclude_input_in_output=True, **request)
        for answer in answers:
            names = {"text_output", "num_input_tokens", "num_output_tokens"} | PERF_METRICS
            assert set(answer.outputs) == names
            assert all(answer.outputs[name].shape == (1, 1) for name in names - {"text_output"})
            assert answer.outputs["num_input_tokens"].item() == len(tokenizer.encode("To be"))
        assert sum(answer.outputs["num_output_tokens"].item() for answer in answers) == 12
        times = [answers[-1].outputs[f"{name}_time_ns"].item()
                 for name in ("arrival", "first_scheduled", "first_token", "last_token")]  # fmt: skip
        assert times == sorted(times) and times[0] > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_bias_of_words(server: Server, model: str) -> None:
    request = {
        "text_input": "To be",
        "max_tokens": 6,
        "end_id": -1,
        "exclude_input_in_output": True,
    }
    told = text(
        ask(
            server,
            model,
            embedding_bias_words=["z", "Q"],
            embedding_bias_weights=np.array([[1e4, -1e4]], np.float32),
            **request,
        )
    )
    assert told == "z" * 6
    with pytest.raises(Exception, match="2 words, but EMBEDDING_BIAS_WEIGHTS has 1 weights"):
        ask(
            server,
            model,
            embedding_bias_words=["z", "Q"],
            embedding_bias_weights=np.array([[1.0]], np.float32),
            **request,
        )


def test_biased_words_of_a_tokenizer_larger_than_the_model(
    server: Server, setup: Setup, tmp_path: Path
) -> None:
    """Those that both know are biased; another is refused with both sizes, not by a tensor's length."""
    files = json.loads((setup.checkpoint / "tokenizer.json").read_text())
    size = setup.tokenizer.vocab_size
    extra = {"id": size, "content": "<extra>", "special": False, "normalized": False}
    sides = {"single_word": False, "lstrip": False, "rstrip": False}
    files["added_tokens"].append({**extra, **sides})
    (tmp_path / "tokenizer.json").write_text(json.dumps(files))
    shutil.copy(setup.checkpoint / "config.json", tmp_path)
    request = {"text_input": "ab", "max_tokens": 4, "end_id": -1, "exclude_input_in_output": True}
    weights = {"embedding_bias_weights": np.array([[1e4]], np.float32)}
    with overridden(server, "preprocessing", parameters={"tokenizer_dir": str(tmp_path)}):
        told = text(ask(server, "ensemble", embedding_bias_words=["z"], **weights, **request))
        assert told == "zzzz"
        message = (
            f"token id {size} of the tokenizer's {size + 1}; the model's vocabulary has {size}"
        )
        with pytest.raises(grpc.InferenceServerException, match=message):
            ask(server, "ensemble", embedding_bias_words=["<extra>"], **weights, **request)
