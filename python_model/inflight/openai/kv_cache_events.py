"""GET and POST /kv_cache_events, as TensorRT-LLM's server has them: what routers follow the cache by."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

from inflight.openai.engine_client import EngineClient
from inflight.openai.errors import unavailable
from inflight.openai.event_stream import EventStream, watched

PATH = "/kv_cache_events"
_INT64_MAX = 2**63 - 1


class _Cursor:
    """Up to where the events have been asked for by those who do not say it themselves."""

    def __init__(self) -> None:
        self.after = -1
        self.turn = asyncio.Lock()


def add_kv_cache_events(app: FastAPI) -> None:
    cursor = _Cursor()

    async def events(
        request: Request,
        after: Annotated[int | None, Query(ge=-1, le=_INT64_MAX)] = None,
        stream: bool = False,
    ) -> Response:
        """A list of events: those after the one of the id `after`, or without it those since the last
        question without it. `stream`: server-sent events, each such a list, the first at once and the
        others as they come; without `after` from the header Last-Event-ID on, or from now on."""
        engine = request.app.state.engine
        if stream:
            lists = _followed(request, engine, await _position(request, engine, after))
            # An error that comes before anything was said gets a status of its own.
            first = await anext(lists, None)
            if first is None:
                raise unavailable("the server ended the stream before the first events")
            return EventStream(first, lists)
        if after is not None:
            return _answer(await engine.kv_cache_events(after))
        async with cursor.turn:
            text = await engine.kv_cache_events(cursor.after)
            found = await asyncio.to_thread(json.loads, text)
            if found:
                cursor.after = found[-1]["event_id"]
        return _answer(text)

    app.add_api_route(PATH, events, methods=["GET", "POST"])


async def _position(request: Request, engine: EngineClient, after: int | None) -> int:
    """The id of the event behind which a stream begins."""
    if after is not None:
        return after
    seen = request.headers.get("last-event-id", "")
    if seen.isascii() and seen.isdigit() and len(seen) < 19:
        return int(seen)
    newest = -1
    while True:
        found = json.loads(await engine.kv_cache_events(newest))
        if not found:
            return newest
        newest = found[-1]["event_id"]


async def _followed(
    request: Request, engine: EngineClient, after: int
) -> AsyncGenerator[bytes, None]:
    follower = engine.follow_kv_cache_events(after)
    async with (
        watched(request.receive, follower.stop),
        contextlib.aclosing(follower.lists()) as lists,
    ):
        async for text in lists:
            events = await asyncio.to_thread(json.loads, text)
            if events:
                after = events[-1]["event_id"]
            yield b"id: %d\ndata: %s\n\n" % (after, text)


def _answer(text: bytes) -> Response:
    return Response(text, media_type="application/json")
