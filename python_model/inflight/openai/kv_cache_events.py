"""GET and POST /kv_cache_events, as TensorRT-LLM's server has them: what routers follow the cache by."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import FastAPI, Query, Request
from starlette.responses import Response

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
    ) -> Response:
        """A list of events: those after the one of the id `after`, or without it those since the last
        question without it."""
        engine = request.app.state.engine
        if after is not None:
            return _answer(await engine.kv_cache_events(after))
        async with cursor.turn:
            text = await engine.kv_cache_events(cursor.after)
            found = await asyncio.to_thread(json.loads, text)
            if found:
                cursor.after = found[-1]["event_id"]
        return _answer(text)

    app.add_api_route(PATH, events, methods=["GET", "POST"])


def _answer(text: bytes) -> Response:
    return Response(text, media_type="application/json")
