"""Time limits and priorities of requests, through a real server."""

import time

import numpy as np
import pytest
import tritonclient.grpc as grpc
from triton_server import Server, Stream, ask, llm_request

PROMPT = [5, 17, 200]
LONG = 3000  # tokens; nobody waits for all of them
OUTPUTS = ["output_ids", "sequence_length", "finish_reason"]


@pytest.mark.parametrize("streaming", [False, True])
def test_deadline_ends_with_the_tokens_so_far(server: Server, streaming: bool) -> None:
    (whole,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 200))
    with Stream(server, "tensorrt_llm") as stream:
        start = time.monotonic()
        request = llm_request(PROMPT, LONG, streaming=streaming, timeout_ms=200)
        stream.send(outputs=OUTPUTS, return_finish_reason=True, **request)
        answers = [stream.next()]
        while not answers[-1].final:
            answers.append(stream.next())
    assert 0.2 <= time.monotonic() - start < 20
    ids = [token for answer in answers for token in answer.ids]
    if streaming:
        ids = PROMPT + ids
    else:
        assert len(answers) == 1
    assert len(PROMPT) < len(ids) < LONG
    common = min(len(ids), len(whole.ids))
    assert ids[:common] == whole.ids[:common]
    reason = answers[-1].outputs["finish_reason"].reshape(-1)[0]
    assert reason == b"deadline"


def test_no_token_by_the_deadline_is_an_error(server: Server) -> None:
    with Stream(server, "short_queue") as running, Stream(server, "short_queue") as waiting:
        running.send("long", **llm_request(PROMPT, LONG, streaming=True))
        running.next()
        waiting.send(**llm_request(PROMPT, 5, timeout_ms=50))
        with pytest.raises(grpc.InferenceServerException) as caught:
            waiting.next()
        assert "Request timeout expired: its deadline has passed" in str(caught.value)
        waiting.run(request_id="long", stop=True, **llm_request([0], 0))
        while not running.next().final:
            pass
    server.wait_until_idle("short_queue")


def test_smaller_priority_numbers_begin_first(server: Server) -> None:
    with Stream(server, "short_queue") as running, Stream(server, "short_queue") as waiting:
        running.send("long", **llm_request(PROMPT, LONG, streaming=True))
        running.next()
        for request_id, priority in (("late", 5), ("early", -1)):
            waiting.send(request_id, priority=priority, **llm_request(PROMPT, 3))
        while server.gauges("short_queue")["waiting"] < 2:
            time.sleep(0.01)
        with Stream(server, "short_queue") as other:
            other.run(request_id="long", stop=True, **llm_request([0], 0))
        order = []
        for _ in range(2):
            result, error = waiting.answers.get(timeout=60)
            assert error is None
            order.append(result.get_response().id)
            assert np.size(result.as_numpy("output_ids")) == len(PROMPT) + 3
        assert order == ["early", "late"]
        while not running.next().final:
            pass
    server.wait_until_idle("short_queue")
