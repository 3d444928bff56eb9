"""An answer that comes before its request's body was read still reaches the client.

A connection that is closed while bytes wait to be read is reset, and a client that is still sending
hears of that instead of the answer. So the answer goes out whole, what the client goes on sending is
read and forgotten, within bounds, and only then is the connection closed (RFC 9112, 9.6).
"""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_CLOSE = (b"connection", b"close")


class LingeringClose:
    """At most `max_bytes` and `max_seconds` are spent on what is forgotten."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self._app, self._max_bytes, self._max_seconds = app, max_bytes, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else None
        if headers is None or not _has_body(headers):
            return await self._app(scope, receive, send)
        is_read = False

        async def receive_watched() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = is_read or not message.get("more_body", False)
            return message

        async def send_before_close(message: Message) -> None:
            if is_read:
                return await send(message)
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), _CLOSE]}
            if message["type"] != "http.response.body" or message.get("more_body", False):
                return await send(message)
            await send({**message, "more_body": True})
            # One who waits for `100 Continue` sends nothing; the first receive() would ask for it.
            if headers.get("expect", "").lower() != "100-continue":
                await self._forget(receive)
            await send({"type": "http.response.body", "body": b""})

        await self._app(scope, receive_watched, send_before_close)

    async def _forget(self, receive: Receive) -> None:
        async def forget() -> None:
            size, more = 0, True
            while more and size <= self._max_bytes:
                message = await receive()
                size += len(message.get("body", b""))
                more = message.get("more_body", False)

        try:
            await asyncio.wait_for(forget(), self._max_seconds)
        except asyncio.TimeoutError:
            pass


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
