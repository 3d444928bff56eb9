"""What stands before every request, called as a server calls it."""

import asyncio
import hmac
import json
from collections.abc import Sequence

import pytest
from inflight.openai.guards import BodyGuard, KeyGuard
from starlette.types import Message, Receive, Scope, Send


class Reached(Exception):
    """The request came through."""


async def beyond(scope: Scope, receive: Receive, send: Send) -> None:
    raise Reached((await receive())["body"])


def ask(guard, pieces: Sequence[bytes], pause: float = 0, **headers: str) -> tuple[int, str]:
    """The status and the code of a POST whose body comes in pieces, a pause before each."""
    left = list(pieces)
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": named}
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def test_a_body_that_dribbles_is_given_up() -> None:
    """By the time that all of it takes: no pause between its pieces is long."""
    guard = BodyGuard(beyond, max_bytes=100, max_seconds=0.2)
    assert ask(guard, [b"x"] * 50, pause=0.02) == (408, "request_timeout")
    with pytest.raises(Reached, match="xx"):
        ask(guard, [b"x", b"x"], pause=0.02)


def test_a_body_is_not_read_beyond_its_limit() -> None:
    guard = BodyGuard(beyond, max_bytes=100, max_seconds=10)
    assert ask(guard, [b"x" * 60, b"x" * 41]) == (413, "request_too_large")
    with pytest.raises(Reached):
        ask(guard, [b"x" * 60, b"x" * 40])


def test_the_time_of_a_comparison_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever key is given, it is compared with all of them, digests of one length each."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(
        hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b)
    )
    guard = KeyGuard(beyond, ["first", "second", "a longer third"])
    for key in ("first", "a longer third"):
        with pytest.raises(Reached):
            ask(guard, [b""], authorization=f"Bearer {key}")
    for key in ("", "firs", "first1", "é" * 1000):
        assert ask(guard, [b""], authorization=f"Bearer {key}") == (401, "invalid_api_key")
    assert compared == [(32, 32)] * 3 * 6
