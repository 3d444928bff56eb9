"""The client of the endpoint before servers that end early or are something else."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from inflight.client.chat_stream import ChatClient, ServerError

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "Who"}}]}\n\n'


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = b""

    def do_GET(self) -> None:
        self.wfile.write(self.answer)
        self.close_connection = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], ChatClient]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def client_of(answer: bytes) -> ChatClient:
        Handler.answer = answer
        return ChatClient(f"http://127.0.0.1:{server.server_port}")

    yield client_of
    server.shutdown()
    server.server_close()


def whole(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def pieces(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + end


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\0\0\4\0 no HTTP\r\n\r\n",  # as a port of gRPC
        whole(b"<html>"),
        whole(b"[]"),
        whole(b'{"data": [1]}'),
        whole(b'{"data": []}'),
    ],
)
def test_what_is_no_list_of_models(serve: Callable, answer: bytes) -> None:
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1"):
        serve(answer).models()


@pytest.mark.parametrize("url", ["", "localhost:9000", "http://[", "http://localhost:x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ServerError):
        ChatClient(url).models()


@pytest.mark.parametrize(
    "answer",
    [
        pieces(EVENT),  # ended as if it were whole
        pieces(EVENT, end=b""),
        pieces(EVENT, end=b"40\r\ndata: "),
        pieces(EVENT, b"data: {x\n\n"),
        pieces(EVENT, b"data: {}\n\n"),
    ],
)
def test_an_answer_that_breaks_off(serve: Callable, answer: bytes) -> None:
    """Is not taken for a whole one."""
    said = []
    with pytest.raises(ServerError, match="broke off|ended before"):
        for piece in serve(answer).stream("m", [], {}):
            said.append(piece)
    assert said == ["Who"]
    assert list(serve(pieces(EVENT, b"data: [DONE]\n\n")).stream("m", [], {})) == ["Who"]
