"""What stands before every request: a key, and limits of its body's size and time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from inflight.openai.errors import ApiError
from inflight.openai.kv_cache_events import PATH as KV_CACHE_EVENTS

# The rest (health, metrics, the page) holds nothing that a key protects; events hold prompts.
_GUARDED = ("/v1/", KV_CACHE_EVENTS)


def answer_of(error: ApiError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(error.body(), error.status, headers)


class KeyGuard:
    """Lets requests through that carry one of the keys as `Authorization: Bearer KEY`."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        # Digests have one length: comparing them tells nothing of a key, its length neither.
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_GUARDED) and self._digests:
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            given = _digest(key.strip())
            # Every key is compared, so that the time does not tell which one it was.
            matches = [hmac.compare_digest(given, digest) for digest in self._digests]
            if scheme.lower() != "bearer" or not any(matches):
                error = ApiError(
                    "incorrect or missing API key: send it as Authorization: Bearer KEY",
                    status=401,
                    code="invalid_api_key",
                )
                return await answer_of(error)(scope, receive, send)
        await self._app(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


class BodyGuard:
    """Reads a body before anything else happens, and gives up on one that is too long or too slow."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self._app, self._max_bytes, self._max_seconds = app, max_bytes, max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        try:
            length = Headers(scope=scope).get("content-length", "0")
            if length.isdigit() and int(length) > self._max_bytes:
                raise self._too_long()
            body = await asyncio.wait_for(self._read(receive), self._max_seconds)
        except asyncio.TimeoutError:
            error = ApiError(
                f"the request's body did not come within {self._max_seconds:g} s",
                status=408,
                code="request_timeout",
            )
            return await answer_of(error)(scope, receive, send)
        except ApiError as error:
            return await answer_of(error)(scope, receive, send)
        if body is None:  # the client left
            return None
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        pieces, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if size > self._max_bytes:
                raise self._too_long()
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_long(self) -> ApiError:
        return ApiError(
            f"the request's body is longer than {self._max_bytes} bytes, this server's limit",
            status=413,
            code="request_too_large",
        )
