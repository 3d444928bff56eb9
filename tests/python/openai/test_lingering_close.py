"""An answer before its request's body was read: what of the body is read still, and when it ends.
The protocol is ASGI's, by hand; a real server and client are in tests/system/openai."""

import asyncio
from collections.abc import Callable, Iterable

import pytest
from inflight.openai.lingering_close import LingeringClose
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LIMIT = 1000  # bytes
ANSWER = b"too long"


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 413, "headers": [(b"a", b"b")]})
    await send({"type": "http.response.body", "body": ANSWER})


def reads_first(count: int) -> ASGIApp:
    """Refuses after it has read so many messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(count):
            await receive()
        await refuse(scope, receive, send)

    return app


def pieces(sizes: Iterable[int], ends: bool = True) -> list[Message]:
    body = [{"type": "http.request", "body": b"x" * size, "more_body": True} for size in sizes]
    body[-1]["more_body"] = not ends
    return body


def run(
    app: ASGIApp,
    body: list[Message],
    headers: dict[str, str] | None = None,
    on_send: Callable[[Message, int], None] = lambda message, num_received: None,
    max_seconds: float = 30,
) -> tuple[list[Message], int]:
    """(what was sent, how many messages were received); a client that has no more stays silent."""
    sent: list[Message] = []
    num_received = 0

    async def receive() -> Message:
        nonlocal num_received
        if num_received == len(body):
            await asyncio.Event().wait()
        num_received += 1
        return body[num_received - 1]

    async def send(message: Message) -> None:
        on_send(message, num_received)
        sent.append(message)

    lines = {"content-length": "5000"} if headers is None else headers
    raw = [(name.encode(), value.encode()) for name, value in lines.items()]
    lingering = LingeringClose(app, LIMIT, max_seconds)
    asyncio.run(lingering({"type": "http", "headers": raw}, receive, send))
    return sent, num_received


def is_whole(sent: list[Message]) -> bool:
    first, *parts = sent
    goes_on = [part.get("more_body", False) for part in parts]
    assert first["status"] == 413 and (b"a", b"b") in first["headers"]
    return b"".join(part["body"] for part in parts) == ANSWER and goes_on == (
        [True] * (len(parts) - 1) + [False]
    )


def is_closed(sent: list[Message]) -> bool:
    return (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize("num_read", [0, 2, 3])
def test_the_answer_comes_first_and_its_end_after_the_body(num_read: int) -> None:
    seen: list[tuple[bytes, int]] = []

    def note(message: Message, num_received: int) -> None:
        seen.append((message.get("body", b""), num_received))

    sent, num_received = run(reads_first(num_read), pieces([100] * 4), on_send=note)
    assert is_whole(sent) and is_closed(sent)
    assert (ANSWER, num_read) in seen and seen[-1] == (b"", 4)
    assert num_received == 4


def test_of_a_long_body_only_the_limit_is_read() -> None:
    sent, num_received = run(refuse, pieces([100] * 50))
    assert is_whole(sent)
    assert num_received == LIMIT // 100 + 1


def test_of_a_slow_body_only_what_comes_in_time_is_read() -> None:
    sent, num_received = run(refuse, pieces([100] * 3, ends=False), max_seconds=0.05)
    assert is_whole(sent) and num_received == 3


def test_a_client_that_leaves_is_not_waited_for() -> None:
    body = [*pieces([100], ends=False), {"type": "http.disconnect"}]
    sent, num_received = run(refuse, body)
    assert is_whole(sent) and num_received == 2


def test_one_who_waits_to_be_asked_is_not_asked() -> None:
    headers = {"content-length": "5000", "expect": "100-Continue"}
    sent, num_received = run(refuse, pieces([100]), headers)
    assert is_whole(sent) and is_closed(sent) and num_received == 0


@pytest.mark.parametrize("headers", [{}, {"content-length": "0"}], ids=["none", "empty"])
def test_without_a_body_nothing_changes(headers: dict[str, str]) -> None:
    sent, num_received = run(refuse, pieces([100]), headers)
    assert is_whole(sent) and len(sent) == 2 and not is_closed(sent) and num_received == 0


@pytest.mark.parametrize("headers", [{"content-length": "300"}, {"transfer-encoding": "chunked"}])
def test_a_body_that_was_read_changes_nothing(headers: dict[str, str]) -> None:
    sent, num_received = run(reads_first(3), pieces([100] * 3), headers)
    assert is_whole(sent) and len(sent) == 2 and not is_closed(sent) and num_received == 3
