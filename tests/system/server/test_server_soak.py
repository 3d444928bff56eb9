"""What days bring, compressed: loads and unloads, clients that leave, everything at once. Memory stays
flat, blocks come back, each request ends once.

Quick sizes by default; `scripts/soak` runs the full ones (INFLIGHT_SOAK=full): of the mixed load two hours
at two operations a second, as fast as they go.
"""

import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import pytest
import tritonclient.grpc as grpc
from frail_server import SERVERS
from inflight.serving.metrics_page import parse
from triton_server import Server, Stream, ask, ask_text, llm_request, tensors

PROMPT = [5, 17, 200]
TEXT_MODELS = ("ensemble", "tensorrt_llm_bls")
LONG = 3000  # tokens; nobody waits for all of them
ALL_FIT = 1900  # tokens; of four requests at once, into the cache: one that waits says nothing


@dataclass(frozen=True)
class Sizes:
    loads: int
    cancelled: int
    mixed: int  # operations, of 1 to 6 requests each


SIZES = {"quick": Sizes(10, 60, 160), "full": Sizes(100, 1000, 2 * 2 * 3600)}[
    os.environ.get("INFLIGHT_SOAK", "quick")
]
ALLOWED = 24 << 20  # bytes that the second half of a load may add
# The same, where every block of the KV cache was written before.
ALLOWED_MIXED = 12 << 20


def tell(progress: str) -> None:
    """A line for who waits (pytest -s, as in scripts/soak)."""
    print(f"{time.strftime('%H:%M:%S')} {progress}", flush=True)


def ended(server: Server, model: str = "tensorrt_llm") -> Counter[str]:
    """Requests of the model by how they ended: the engine's ends, and the server's."""
    counts: Counter[str] = Counter()
    for sample in parse(server.metrics_page()):
        if sample.labels.get("model") != model:
            continue
        if sample.name == "nv_llm_request_count":
            counts[sample.labels["end"]] += int(sample.value)
        if sample.name in ("nv_inference_request_success", "nv_inference_request_failure"):
            counts["released"] += int(sample.value)
    return counts


def wait_until_unloaded(client: grpc.InferenceServerClient, name: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        models = client.get_model_repository_index().models
        if next(model.state for model in models if model.name == name) == "UNAVAILABLE":
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_load_serve_unload(server: Server) -> None:
    """Each load answers, some streams are under way when it is unloaded."""
    sizes = []
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        (expected,) = ask(server, "second", **llm_request(PROMPT, 20))
        for _ in range(SIZES.loads):
            with Stream(server, "second") as stream:
                stream.send(**llm_request(PROMPT, 100, streaming=True))
                answers = [stream.next()]
                client.unload_model("second")
                while not answers[-1].final:
                    answers.append(stream.next())
            assert sum(len(answer.ids) for answer in answers) == 100
            wait_until_unloaded(client, "second")
            sizes.append(server.resident_bytes())
            if len(sizes) % 10 == 0:
                tell(f"{len(sizes)} loads, resident {sizes[-1] >> 10} KiB")
            client.load_model("second")
            (answer,) = ask(server, "second", **llm_request(PROMPT, 20))
            assert answer.ids == expected.ids
    half = len(sizes) // 2
    assert median(sizes[-5:]) - median(sizes[half - 2 : half + 3]) < ALLOWED, sizes


def cancel_streams(server: Server, draw: random.Random) -> int:
    """Several at once, each on a stream of its own or all on one."""
    num_streams, num_requests = draw.choice([(1, 1), (4, 1), (1, 4), (2, 2)])
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, "tensorrt_llm")) for _ in range(num_streams)]
        for stream in streams:
            for number in range(num_requests):
                stream.send(str(number), **llm_request(PROMPT, ALL_FIT, streaming=True))
        for stream in streams:  # one not read yet would never come to the server
            heard: Counter[str] = Counter()
            enough = draw.randint(1, 12)
            while len(heard) < num_requests or heard.total() < enough:
                result, error = stream.answers.get(timeout=60)
                assert error is None
                heard[result.get_response().id] += 1
        for stream in streams:
            stream.cancel()
    return num_streams * num_requests


def stop_by_id(server: Server, draw: random.Random) -> int:
    """Its own answer ends with the tokens so far."""
    request_id = f"stopped-{draw.random()}"
    with Stream(server, "tensorrt_llm") as stream:
        stream.send(request_id, **llm_request(PROMPT, LONG, streaming=True))
        answers = [stream.next() for _ in range(draw.randint(1, 12))]
        with Stream(server, "tensorrt_llm") as other:
            other.run(request_id=request_id, stop=True, **llm_request([0], 0))
        while not answers[-1].final:
            answers.append(stream.next())
    assert 0 < sum(len(answer.ids) for answer in answers) < LONG
    return 2  # the command, too


def test_cancelled_streams(on_frail_server: Callable[..., None]) -> None:
    def scenario(server: Server) -> None:
        draw = random.Random(4)
        expected = ask_text(server, "abc", 40, end_id=-1)
        before = ended(server)
        num_sent = 0
        sizes = []
        for number in range(SIZES.cancelled):
            kind = cancel_streams if number % 2 else stop_by_id
            num_sent += kind(server, draw)
            if number % 10 == 9:
                server.wait_until_idle()
                sizes.append(server.resident_bytes())
            if number % 100 == 99:
                tell(f"{number + 1} cancelled or stopped, resident {sizes[-1] >> 10} KiB")
        server.wait_until_idle()
        deadline = time.monotonic() + 10
        while (counted := ended(server) - before)["released"] < num_sent:
            assert time.monotonic() < deadline, (counted, num_sent)
            time.sleep(0.05)
        assert counted["released"] == num_sent
        num_commands = (SIZES.cancelled + 1) // 2
        assert counted["cancelled"] == num_sent - num_commands
        assert counted["finished"] == counted["failed"] == 0
        assert sizes[-1] - sizes[len(sizes) // 2] < ALLOWED, sizes
        assert ask_text(server, "abc", 40, end_id=-1) == expected

    on_frail_server(scenario, SERVERS)


def whole_answer(server: Server, draw: random.Random) -> None:
    length = draw.randint(1, 60)
    prompt = [draw.randint(3, 250) for _ in range(draw.randint(1, 200))]
    (answer,) = ask(server, "tensorrt_llm", **llm_request(prompt, length))
    assert len(answer.ids) == len(prompt) + length


def streams_together(server: Server, draw: random.Random) -> None:
    """Several on one connection; each gets one final response and all its tokens."""
    lengths = {f"s{i}": draw.randint(1, 80) for i in range(draw.randint(1, 6))}
    with Stream(server, "tensorrt_llm") as stream:
        for request_id, length in lengths.items():
            stream.send(request_id, **llm_request(PROMPT, length, streaming=True))
        finals: Counter[str] = Counter()
        tokens: Counter[str] = Counter()
        while finals.total() < len(lengths):
            result, error = stream.answers.get(timeout=60)
            assert error is None
            response = result.get_response()
            tokens[response.id] += result.as_numpy("output_ids").size
            finals[response.id] += response.parameters["triton_final_response"].bool_param
        time.sleep(0.01)
        assert stream.answers.empty()
    assert finals == Counter(dict.fromkeys(lengths, 1))
    assert tokens == Counter(lengths)


def text_stream(server: Server, draw: random.Random) -> None:
    model, length = draw.choice(TEXT_MODELS), draw.randint(1, 60)
    answers = ask(server, model, text_input="abc", max_tokens=length, stream=True, end_id=-1)
    assert sum(answer.final for answer in answers) == 1


def refused(server: Server, draw: random.Random) -> None:
    bad = draw.choice([{"temperature": -1.0}, {"runtime_top_k": -3}, {"end_id": 10**6}])
    with pytest.raises(grpc.InferenceServerException):
        ask(server, "tensorrt_llm", **llm_request(PROMPT, 5, **bad))


def overdue(server: Server, draw: random.Random) -> None:
    """Ends with what it has by then, or an error if that is nothing."""
    try:
        (answer,) = ask(server, "tensorrt_llm", **llm_request(PROMPT, LONG, timeout_ms=30))
        assert len(answer.ids) < LONG
    except grpc.InferenceServerException as error:
        assert "Request timeout expired" in str(error)


def leave_http(server: Server, draw: random.Random) -> None:
    body = {"text_input": "abc", "max_tokens": 60, "stream": True, "end_id": -1}
    connection = http.client.HTTPConnection("localhost", server.http_port)
    model = draw.choice(TEXT_MODELS)
    connection.request("POST", f"/v2/models/{model}/generate_stream", json.dumps(body))
    connection.getresponse().read(20)
    connection.close()


def cancel_a_call(server: Server, draw: random.Random) -> None:
    errors: list[Exception | None] = []
    done = threading.Event()
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        call = client.async_infer(
            "plain",
            tensors(**llm_request(PROMPT, LONG)),
            callback=lambda result, error: (errors.append(error), done.set()),
        )
        time.sleep(0.02)
        call.cancel()
        assert done.wait(60)


# Models that the operations of the mixed load use, and those that send one request which never comes to
# the engine's count: a command to stop another, one that is refused.
MODELS_IN_USE = {"tensorrt_llm": (stop_by_id, refused), "plain": ()}


def check_each_ended_once(
    server: Server, model: str, before: Counter[str], num_others: int
) -> None:
    """The server counts a request when it is released, which comes with its one final response."""
    deadline = time.monotonic() + 10
    while True:
        counts = ended(server, model) - before
        released = counts.pop("released", 0)
        if released == counts.total() + num_others:
            return
        assert time.monotonic() < deadline, (model, released, counts, num_others)
        time.sleep(0.05)


def leave_text(server: Server, draw: random.Random) -> None:
    """A client goes away in the middle of a stream."""
    with Stream(server, draw.choice(TEXT_MODELS)) as stream:
        stream.send(text_input="abc", max_tokens=200, stream=True, end_id=-1)
        stream.next()
        stream.cancel()


def fill_cache(server: Server, model: str) -> None:
    """Each block of the pool is written once: a page of memory counts when it is first used, and
    which block is the last to be used is chance."""
    length = 500
    num_tokens = int(server.gauges(model)["max"] * server.gauges(model)["tokens_per"])
    draw = random.Random(0)
    for _ in range(-(-num_tokens // length)):
        prompt = [draw.randint(3, 250) for _ in range(length)]
        ask(server, model, **llm_request(prompt, 1))


def test_mixed_load(on_frail_server: Callable[..., None]) -> None:
    kinds = [whole_answer, streams_together, text_stream, refused, overdue, leave_http]
    kinds += [stop_by_id, cancel_a_call, leave_text]

    def some(server: Server, count: int, seed: int) -> Counter[str]:
        """`count` operations by eight clients; all has ended then."""
        left = iter(range(count))

        def client(number: int) -> Counter[str]:
            draw = random.Random(f"{seed} {number}")
            done: Counter[str] = Counter()
            while next(left, None) is not None:
                kind = draw.choice(kinds)
                kind(server, draw)
                done[kind.__name__] += 1
            return done

        with ThreadPoolExecutor(8) as pool:
            done = sum(pool.map(client, range(8)), Counter())
        for model in MODELS_IN_USE:
            server.wait_until_idle(model)
        return done

    def scenario(server: Server) -> None:
        expected = ask_text(server, "abc", 40, end_id=-1)
        for model in MODELS_IN_USE:
            fill_cache(server, model)
        before = {model: ended(server, model) for model in MODELS_IN_USE}
        sizes = []  # after each eighth
        done: Counter[str] = Counter()
        for eighth in range(8):
            done += some(server, SIZES.mixed // 8, eighth)
            sizes.append((server.resident_bytes(), server.resident_bytes_of_processes()))
            tell(f"{done.total()} operations, resident {[size >> 10 for size in sizes[-1]]} KiB")
            for model, others in MODELS_IN_USE.items():
                num_others = sum(done[kind.__name__] for kind in others)
                check_each_ended_once(server, model, before[model], num_others)
        shown = [(size >> 10, processes >> 10) for size, processes in sizes]
        assert set(done) == {kind.__name__ for kind in kinds}
        assert done.total() == SIZES.mixed // 8 * 8
        for of_whom in zip(*sizes, strict=True):
            assert of_whom[-1] - of_whom[3] < ALLOWED_MIXED, shown
        assert ask_text(server, "abc", 40, end_id=-1) == expected

    on_frail_server(scenario, SERVERS)
