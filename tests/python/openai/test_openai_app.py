"""What the endpoint says of a server that is not ready, or not there."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from fastapi.testclient import TestClient
from inflight.openai.app import EndpointSettings, make_app
from inflight.openai.served_model import ServedModel
from openai_tokenizers import byte_level
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

NOBODY = "localhost:9"


class Server(rpc.GRPCInferenceServiceServicer):
    ready = True

    def ModelReady(self, request: pb.ModelReadyRequest, _: grpc.ServicerContext):  # noqa: N802
        assert request.name == "tensorrt_llm"
        return pb.ModelReadyResponse(ready=self.ready)

    def ModelStreamInfer(self, *_: object) -> Iterator[pb.ModelStreamInferResponse]:  # noqa: N802
        """Ends before it has answered."""
        return iter(())


@pytest.fixture
def served() -> Iterator[tuple[Server, str]]:
    with ThreadPoolExecutor(2) as pool:
        server, servicer = grpc.server(pool), Server()
        rpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("localhost:0")
        server.start()
        yield servicer, f"localhost:{port}"
        server.stop(None).wait()


def client_of(grpc_url: str, metrics_url: str = f"http://{NOBODY}/metrics") -> TestClient:
    tokenizer = byte_level()
    model = ServedModel("m", tokenizer, tokenizer.vocab_size, 64)
    settings = EndpointSettings(grpc_url=grpc_url, metrics_url=metrics_url)
    return TestClient(make_app(model, settings))


def test_health_is_the_models(served: tuple[Server, str]) -> None:
    server, url = served
    with client_of(url) as client:
        for ready, status in ((True, 200), (False, 503), (True, 200)):
            server.ready = ready
            assert client.get("/health").status_code == status
            assert client.head("/health").status_code == status


@pytest.mark.parametrize("query", ["", "?after=3", "?after=3&stream=true", "?stream=true"])
def test_cache_events_of_a_server_that_answers_nothing(
    served: tuple[Server, str], query: str
) -> None:
    with client_of(served[1]) as client:
        answer = client.get(f"/kv_cache_events{query}")
        assert answer.status_code == 503, answer.text
        assert answer.json()["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"max_tokens": -3}, "max_tokens: Input should be greater than or equal to 1; it is -3"),
        ({"seed": "é" * 99}, f'seed: Input should be a valid integer; it is "{"é" * 59}...'),
        ({"prompt": [[1, -2]]}, "greater than or equal to 0; it is -2"),
        ({"stop": ["a"] * 17}, "stop: List should have at most 16 items after validation, not 17"),
        ({"no_such_field": 1}, "no_such_field: Extra inputs are not permitted"),
        ({"best_of": 3}, "best_of is not supported"),
    ],
)
def test_errors_name_field_limit_and_value(field: dict[str, object], message: str) -> None:
    with client_of(NOBODY) as client:
        answer = client.post("/v1/completions", json={"model": "m", "prompt": [5], **field})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith(message), answer.text


def test_metrics_that_cannot_be_read(served: tuple[Server, str]) -> None:
    _, url = served
    for metrics_url in ("nowhere", f"http://{url}/metrics"):  # no URL, and no HTTP there
        with client_of(url, metrics_url) as client:
            answer = client.get("/metrics")
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "unavailable", answer.text


def test_a_server_that_is_not_there() -> None:
    with client_of(NOBODY) as client:
        for path in ("/health", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "unavailable", answer.text
        body = {"model": "m", "prompt": [5], "max_tokens": 2}
        assert client.post("/v1/completions", json=body).status_code == 503
