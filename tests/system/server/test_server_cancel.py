"""Clients that leave in the middle: their blocks come back, the others' answers stay the same.

They have a tritonserver of their own (frail_server.py).
"""

import threading
import time
from collections import Counter

import numpy as np
import pytest
import tritonclient.grpc as grpc
from frail_server import SERVERS
from triton_server import (
    LEFT_MODELS,
    STEPS_UNTIL_LEFT,
    Server,
    Setup,
    Stream,
    ask,
    ask_text,
    llm_request,
    steps_until_left,
    tensors,
)

PROMPT = [5, 17, 200]
LONG = 3000  # tokens; nobody waits for all of them


def num_steps(server: Server) -> float:
    return server.gauges()["iteration_counter"]


def check_all_is_free_early(server: Server, num_steps_before: float) -> None:
    server.wait_until_idle()
    assert num_steps(server) - num_steps_before < LONG


def test_cancelled_streams_free_their_blocks(on_frail_server) -> None:
    def scenario(server: Server) -> None:
        expected = ask_text(server, "abc", 40, end_id=-1)
        before = num_steps(server)
        for streams in (1, 4):
            with Stream(server, "tensorrt_llm") as stream:
                for _ in range(streams):
                    stream.send(**llm_request(PROMPT, LONG, streaming=True))
                for _ in range(4):
                    stream.next()
                assert server.gauges()["used"] > 0
                stream.cancel()
            server.wait_until_idle()
        check_all_is_free_early(server, before)
        assert ask_text(server, "abc", 40, end_id=-1) == expected

    on_frail_server(scenario, SERVERS)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", LEFT_MODELS)
def test_the_engine_hears_of_it_within_a_step(
    on_frail_server, setup: Setup, model: str, streaming: bool
) -> None:
    """A machine that is busy with something else may lose it a step, once or twice."""
    if setup.device != "cpu":
        pytest.skip(
            "on a GPU several such steps pass while a cancellation is on its way to the server"
        )

    def steps_taken(server: Server, turn: int) -> float:
        with Stream(server, model) as leaving:
            if model == "tensorrt_llm":
                leaving.send(**llm_request(PROMPT, 1500, streaming=streaming))
            else:
                leaving.send(text_input="abc", max_tokens=1500, stream=streaming, end_id=-1)
            return steps_until_left(server, leaving.cancel, f"{model} {streaming} {turn}")

    def scenario(server: Server) -> None:
        taken: list[float] = []
        while len(taken) < 3 and not any(steps <= STEPS_UNTIL_LEFT for steps in taken):
            taken.append(steps_taken(server, len(taken)))
        assert min(taken) <= STEPS_UNTIL_LEFT, taken

    on_frail_server(scenario, SERVERS)


def test_cancelled_while_not_streaming(on_frail_server) -> None:
    def scenario(server: Server) -> None:
        before = num_steps(server)
        with Stream(server, "tensorrt_llm") as stream:
            stream.send(**llm_request(PROMPT, LONG))
            while server.gauges()["active"] == 0:
                time.sleep(0.01)
            stream.cancel()
        check_all_is_free_early(server, before)

    on_frail_server(scenario, SERVERS)


def test_cancelled_call_of_a_model_without_streams(on_frail_server) -> None:
    """Its ensemble hears of it, too, though the engine has one response to give."""
    calls = {
        "plain": llm_request(PROMPT, LONG),
        "plain_ensemble": {"text_input": "abc", "max_tokens": LONG, "end_id": -1},
    }

    def scenario(server: Server) -> None:
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            for model, request in calls.items():
                before = server.gauges("plain")["iteration_counter"]
                call = client.async_infer(
                    model, tensors(**request), callback=lambda result, error: None
                )
                while server.gauges("plain")["active"] == 0:
                    time.sleep(0.01)
                call.cancel()
                server.wait_until_idle("plain")
                assert server.gauges("plain")["iteration_counter"] - before < LONG
        (alone,) = ask(server, "plain", **llm_request(PROMPT, 20))
        assert len(alone.ids) == len(PROMPT) + 20

    on_frail_server(scenario)


def test_cancelled_ensemble_ends_the_generation(on_frail_server) -> None:
    def scenario(server: Server) -> None:
        before = num_steps(server)
        with Stream(server, "ensemble") as stream:
            stream.send(text_input="abc", max_tokens=LONG, stream=True, end_id=-1)
            stream.next()
            stream.cancel()
        check_all_is_free_early(server, before)

    on_frail_server(scenario)


def test_cancelled_ensemble_that_does_not_stream(on_frail_server) -> None:
    """No response comes under way that would schedule a step: the heartbeats do. Rows and
    sequences end with it."""

    def scenario(server: Server) -> None:
        for columns in (1, 3):
            before = num_steps(server)
            with Stream(server, "ensemble") as stream:
                stream.send(
                    text_input=np.array([[b"abc"]] * columns, object),
                    max_tokens=np.full((columns, 1), LONG, np.int32),
                    end_id=np.full((columns, 1), -1, np.int32),
                    num_return_sequences=np.full((columns, 1), columns, np.int32),
                )
                while server.gauges()["active"] == 0:
                    time.sleep(0.01)
                stream.cancel()
            check_all_is_free_early(server, before)
        assert ask_text(server, "abc", 5, end_id=-1)

    on_frail_server(scenario)


def test_heartbeats_are_seen_by_nobody(on_frail_server) -> None:
    """A long answer that does not stream is one response with the final flag, as it was; the models
    around the engine count one request."""

    def counted(server: Server) -> Counter[str]:
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            stats = {
                name: client.get_inference_statistics(name, as_json=True)["model_stats"][0]
                for name in ("preprocessing", "tensorrt_llm", "relay", "postprocessing", "ensemble")
            }
        return Counter(
            {
                name: int(s["inference_stats"]["success"].get("count", 0))
                for name, s in stats.items()
            }
        )

    def settled(server: Server) -> Counter[str]:
        """The server counts a request a moment after its answer."""
        newest, former = counted(server), None
        while newest != former:
            time.sleep(0.3)
            newest, former = counted(server), newest
        return newest

    def scenario(server: Server) -> None:
        before = settled(server)
        answers = ask(server, "ensemble", text_input="abc", max_tokens=1500, end_id=-1)
        assert len(answers) == 1 and answers[0].final
        requests = settled(server)
        requests.subtract(before)
        assert requests.pop("relay") > 1
        assert set(requests.values()) == {1}

    on_frail_server(scenario)


def test_clients_that_vanish(on_frail_server) -> None:
    """No goodbye: the connection is gone, as when the client's process dies."""

    def scenario(server: Server) -> None:
        before = num_steps(server)
        stream = Stream(server, "tensorrt_llm")
        stream.__enter__()
        stream.send(**llm_request(PROMPT, LONG, streaming=True))
        stream.next()
        stream.client._channel.close()
        check_all_is_free_early(server, before)

    on_frail_server(scenario, SERVERS)


def test_others_go_on(on_frail_server) -> None:
    def scenario(server: Server) -> None:
        request = {"text_input": "keep", "max_tokens": 150, "stream": True, "end_id": -1}
        expected = "".join(answer.text for answer in ask(server, "ensemble", **request))
        (ids,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 200))
        told: list[str] = []
        counted: list[list[int]] = []

        def keep_text() -> None:
            told.append("".join(answer.text for answer in ask(server, "ensemble", **request)))

        def keep_ids() -> None:
            (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, 200))
            counted.append(answer.ids)

        threads = [threading.Thread(target=run) for run in (keep_text, keep_ids) * 2]
        for thread in threads:
            thread.start()
        for _ in range(6):
            with Stream(server, "tensorrt_llm") as stream:
                stream.send(**llm_request(PROMPT, LONG, streaming=True))
                stream.next()
                stream.cancel()
        for thread in threads:
            thread.join()
        assert told == [expected] * 2
        assert counted == [ids.ids] * 2
        server.wait_until_idle()

    on_frail_server(scenario, SERVERS)


def test_unloading_after_a_cancel(on_frail_server) -> None:
    """Nothing of a request whose client has left holds the model."""

    def scenario(server: Server) -> None:
        (expected,) = ask(server, "second", **llm_request(PROMPT, 20))
        with Stream(server, "second") as stream:
            stream.send(**llm_request(PROMPT, LONG, streaming=True))
            stream.next()
            stream.cancel()
        with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
            client.unload_model("second")
            deadline = time.monotonic() + 60  # of a machine with nothing to spare
            while client.is_model_ready("second"):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            client.load_model("second")
            (again,) = ask(server, "second", **llm_request(PROMPT, 20))
        assert again.ids == expected.ids
        server.wait_until_idle("second")

    on_frail_server(scenario, SERVERS)
