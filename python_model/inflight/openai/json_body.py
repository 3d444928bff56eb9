"""Bodies of JSON, read strictly: what is not JSON is refused here, with where and why.

`orjson` refuses what Python's own module lets through and nothing behind it can take: halves of
UTF-16 pairs, NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from inflight.openai.errors import ApiError


class JsonRoute(APIRoute):
    """A route whose request must bring a body of JSON."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            body = await request.body()
            return await handle(_ParsedRequest(request, body, _parsed(request, body)))

        return read_and_handle


class _ParsedRequest(Request):
    def __init__(self, request: Request, body: bytes, content: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._content_of_body = content
        self._bytes_of_body = body

    async def body(self) -> bytes:
        return self._bytes_of_body

    async def json(self) -> Any:
        return self._content_of_body


def _parsed(request: Request, body: bytes) -> Any:
    """Of other content types nothing is read: a page of anywhere may make a browser send those."""
    kind = Message()
    kind["content-type"] = request.headers.get("content-type") or "text/plain"
    if kind.get_content_type() != "application/json":
        raise ApiError(
            "the body must be JSON, said by the header Content-Type: application/json",
            status=415,
            code="unsupported_media_type",
        )
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(
            "a compressed body (Content-Encoding) is not supported",
            status=415,
            code="unsupported_content_encoding",
        )
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(f"the body is not JSON: {error}", code="invalid_json") from error
