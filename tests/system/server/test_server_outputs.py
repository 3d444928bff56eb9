"""Optional outputs of a real server: token counts, perf metrics, why a request ended."""

import time

import numpy as np
import pytest
from inflight.config import DEFAULT_TOKENS_PER_BLOCK
from triton_server import Answer, Server, Stream, ask, ask_text, llm_request

PROMPT = [5, 17, 200, 33, 90, 91, 4]
ALONE = {"exclude_input_in_output": True}
COUNTS = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks", "kv_cache_alloc_total_blocks")
TIMES = ("arrival_time_ns", "first_scheduled_time_ns", "first_token_time_ns", "last_token_time_ns")
DRAFTS = ("acceptance_rate", "total_accepted_draft_tokens", "total_draft_tokens")


def only(answer: Answer, name: str):
    """The one element of a [1, 1] tensor."""
    assert answer.outputs[name].shape == (1, 1), name
    return answer.outputs[name].item()


@pytest.mark.parametrize("exclude", [False, True])
def test_token_counts(server: Server, exclude: bool) -> None:
    flags = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    request = llm_request(PROMPT, 9, exclude_input_in_output=exclude, **flags)
    (answer,) = ask(server, "tensorrt_llm", **request)
    assert only(answer, "num_input_tokens") == 7
    assert only(answer, "num_output_tokens") == len(answer.ids) == (9 if exclude else 16)
    request = llm_request(PROMPT, 9, streaming=True, **flags)
    pieces = ask(server, "tensorrt_llm", **request)
    assert [only(piece, "num_output_tokens") for piece in pieces] == [
        len(piece.ids) for piece in pieces
    ]
    assert {only(piece, "num_input_tokens") for piece in pieces} == {7}


def test_token_counts_of_text(server: Server, tokenizer) -> None:
    flags = {"return_num_input_tokens": True, "return_num_output_tokens": True, "end_id": -1}
    pieces = ask(server, "ensemble", text_input="To be", max_tokens=12, stream=True, **flags)
    assert sum(only(piece, "num_output_tokens") for piece in pieces) == 12
    assert {only(piece, "num_input_tokens") for piece in pieces} == {len(tokenizer.encode("To be"))}


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble"])
@pytest.mark.parametrize("streaming", [False, True])
def test_perf_metrics(server: Server, model: str, streaming: bool) -> None:
    num_tokens = 3 * DEFAULT_TOKENS_PER_BLOCK + 5
    # Begins like no other prompt.
    if model == "ensemble":
        text = ("j" if streaming else "q") * num_tokens
        request = {"text_input": text, "max_tokens": 100, "stream": streaming, "end_id": -1}
    else:
        request = llm_request([59 + streaming] * num_tokens, 100, streaming=streaming)
    before = time.time_ns()
    answers = ask(server, model, return_perf_metrics=True, **request)
    after = time.time_ns()
    newest = 0
    for answer in answers:
        assert [only(answer, name) for name in COUNTS] == [4, 0, 4]
        assert [only(answer, name) for name in DRAFTS] == [0, 0, 0]
        arrival, scheduled, first, last = (only(answer, name) for name in TIMES)
        assert before - 10**7 <= arrival < scheduled < first <= last <= after + 10**7
        assert last >= newest
        newest = last
    assert newest > first  # of 100 tokens
    assert len({only(answer, "first_token_time_ns") for answer in answers}) == 1
    if streaming:
        assert len(answers) > 1
    # Asked again: three whole blocks are shared, what it needs of the fourth is copied.
    for answer in ask(server, model, return_perf_metrics=True, **request):
        assert [only(answer, name) for name in COUNTS] == [1, 4, 1]
    (plain,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 2))
    assert not {*COUNTS, *TIMES, *DRAFTS} & set(plain.outputs)


def test_perf_metrics_come_though_others_are_listed(server: Server) -> None:
    request = llm_request(PROMPT, 2, return_perf_metrics=True, return_num_input_tokens=True)
    listed = ["output_ids", "sequence_length"]
    (answer,) = ask(server, "tensorrt_llm", outputs=listed, **request)
    assert {*COUNTS, *TIMES, *DRAFTS} <= set(answer.outputs)
    assert "num_input_tokens" not in answer.outputs


def reasons(answers: list[Answer]) -> tuple[str, str]:
    """Of the last answer; the others have none yet."""
    texts = [
        tuple(only(answer, name).decode() for name in ("finish_reason", "stop_reason"))
        for answer in answers
    ]
    assert set(texts[:-1]) <= {("", "")}
    return texts[-1]


@pytest.mark.parametrize("streaming", [False, True])
def test_why_it_ended(server: Server, streaming: bool) -> None:
    (whole,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 24, **ALONE))
    asked = {"return_finish_reason": True, "return_stop_reason": True, "streaming": streaming}

    def told(**options) -> tuple[str, str]:
        return reasons(ask(server, "tensorrt_llm", **llm_request(PROMPT, 24, **asked, **options)))

    assert told() == ("length", "")
    assert told(end_id=whole.ids[5]) == ("stop", str(whole.ids[5]))
    assert told(end_id=whole.ids[5], ignore_eos=True) == ("length", "")
    word = np.array([[whole.ids[3:5], [2, -1]]], np.int32)
    assert told(stop_words_list=word) == ("stop", f"{whole.ids[3]} {whole.ids[4]}")
    (plain,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 2))
    assert not {"finish_reason", "stop_reason"} & set(plain.outputs)


def test_a_stopped_request_was_cancelled(server: Server) -> None:
    request = llm_request(PROMPT, 3000, streaming=True, return_finish_reason=True)
    with Stream(server, "tensorrt_llm") as stream:
        stream.send(request_id="long", **request)
        answers = [stream.next()]
        with Stream(server, "tensorrt_llm") as other:
            other.send(request_id="long", **llm_request([0], 0, stop=True))
            other.next()
        while not answers[-1].final:
            answers.append(stream.next())
    assert only(answers[-1], "finish_reason") == b"cancelled"
    assert {only(answer, "finish_reason") for answer in answers[:-1]} == {b""}


def test_ignored_end_ids_are_output(server: Server) -> None:
    (whole,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 24, **ALONE))
    request = llm_request(PROMPT, 24, end_id=whole.ids[5], ignore_eos=True, **ALONE)
    (ignored,) = ask(server, "tensorrt_llm", **request)
    assert ignored.ids == whole.ids


def test_why_text_ended(server: Server) -> None:
    options = {"end_id": -1, "exclude_input_in_output": True}
    prompt = "Whether 'tis nobler"
    whole = ask_text(server, prompt, 60, **options)
    request = {"text_input": prompt, "max_tokens": 60, "return_finish_reason": True, **options}
    (answer,) = ask(server, "ensemble", **request)
    assert only(answer, "finish_reason") == b"length"
    word = next(whole[at : at + 3] for at in range(5, 30) if whole[at : at + 3].isascii())
    pieces = ask(server, "ensemble", stop_words=[word], stream=True, **request)
    assert only(pieces[-1], "finish_reason") == b"stop"
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(word) + 3]


def test_retention_takes_no_token_away(server: Server) -> None:
    """What blocks are kept changes no answer; bad wishes are refused."""
    (whole,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 12))
    request = llm_request(
        PROMPT,
        12,
        retention_token_range_starts=[0, 4],
        retention_token_range_ends=[4, -1],
        retention_token_range_priorities=[90, 10],
        retention_token_range_durations_ms=[-1, 100],
        retention_decode_priority=50,
        retention_decode_duration_ms=20,
    )
    (kept,) = ask(server, "tensorrt_llm", **request)
    assert kept.ids == whole.ids
