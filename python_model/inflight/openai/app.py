"""The routes. One app serves one model of one tritonserver."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
import urllib.request
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from inflight.openai.answers import AnswerFormat, ChatFormat, CompletionFormat
from inflight.openai.choice import Delta
from inflight.openai.engine_client import EngineClient
from inflight.openai.errors import ApiError, unavailable
from inflight.openai.event_stream import DONE, EventStream, event_of, watched
from inflight.openai.generation import ClientLeft, Generation
from inflight.openai.guards import BodyGuard, KeyGuard, answer_of
from inflight.openai.json_body import JsonRoute
from inflight.openai.kv_cache_events import add_kv_cache_events
from inflight.openai.lingering_close import LingeringClose
from inflight.openai.page_files import add_page
from inflight.openai.protocol import ChatBody, CompletionBody, SamplingBody
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest, chat_choices, check_model, completion_choices

_CLIENT_LEFT = Response(status_code=499)  # goes nowhere
_FORGOTTEN_BODIES = 4  # times the longest body that is read


@dataclass(frozen=True)
class EndpointSettings:
    grpc_url: str = "localhost:8001"
    metrics_url: str = "http://localhost:8002/metrics"
    api_keys: tuple[str, ...] = ()  # none: open to all
    max_body_bytes: int = 16 << 20
    max_body_seconds: float = 30.0
    max_answer_seconds: float = 600.0


def make_app(model: ServedModel, settings: EndpointSettings) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = EngineClient(settings.grpc_url)
        yield
        await app.state.engine.close()

    # No pages of FastAPI's: they load their scripts from elsewhere.
    app = FastAPI(title="inflight", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(
        BodyGuard, max_bytes=settings.max_body_bytes, max_seconds=settings.max_body_seconds
    )
    app.add_middleware(KeyGuard, keys=settings.api_keys)
    app.add_middleware(  # the outermost: both guards answer before a body was read
        LingeringClose,
        max_bytes=_FORGOTTEN_BODIES * settings.max_body_bytes,
        max_seconds=settings.max_body_seconds,
    )
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    _add_facts(app, model, settings)
    add_kv_cache_events(app)
    add_page(app)
    answers = APIRouter(route_class=JsonRoute)

    @answers.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        check_model(model, body.model)
        choices = await chat_choices(model, body)
        return await _answer(request, body, choices, ChatFormat, "chatcmpl")

    @answers.post("/v1/completions")
    async def completions(body: CompletionBody, request: Request) -> Response:
        check_model(model, body.model)
        choices = await completion_choices(model, body)
        return await _answer(request, body, choices, CompletionFormat, "cmpl")

    async def _answer(
        request: Request,
        body: SamplingBody,
        choices: list[ChoiceRequest],
        format_class: type[AnswerFormat],
        prefix: str,
    ) -> Response:
        request_id = f"{prefix}-{uuid.uuid4().hex}"
        generation = Generation(
            model, request.app.state.engine, choices, request_id, settings.max_answer_seconds
        )
        head = {"id": request_id, "created": int(time.time()), "model": model.name}
        wants_log_probs = body.num_logprobs is not None
        format = format_class(generation, head, body.includes_usage, wants_log_probs)
        if not body.stream:
            return await _whole(request, generation, format)
        events = _events(request, generation, format)
        # An error that comes before anything was said gets a status of its own.
        first = await anext(events, None)
        return _CLIENT_LEFT if first is None else EventStream(first, events)

    app.include_router(answers)
    return app


async def _whole(request: Request, generation: Generation, format: AnswerFormat) -> Response:
    collected = [Delta() for _ in generation.choices]
    texts: list[list[str]] = [[] for _ in generation.choices]
    try:
        async with watched(request.receive, generation.leave):
            async for news in generation.news():
                for index, delta in news.items():
                    texts[index].append(delta.text)
                    collected[index].log_probs += delta.log_probs
                    collected[index].finish_reason = delta.finish_reason
    except ClientLeft:
        return _CLIENT_LEFT
    for all, pieces in zip(collected, texts, strict=True):
        all.text = "".join(pieces)
    return JSONResponse(format.whole(collected))


async def _events(
    request: Request, generation: Generation, format: AnswerFormat
) -> AsyncGenerator[bytes, None]:
    """Raises what the engine says before the first event; later it becomes an event."""
    begun = False
    try:
        async with watched(request.receive, generation.leave):
            async with contextlib.aclosing(generation.news()) as all_news:
                async for news in all_news:
                    chunks = [] if begun else list(format.first_chunks())
                    begun = True
                    for index, delta in news.items():
                        chunks += format.chunks_of(index, delta)
                    if chunks:
                        yield b"".join(map(event_of, chunks))
        yield b"".join(map(event_of, format.last_chunks())) + DONE
    except ClientLeft:
        return
    except ApiError as error:
        if not begun:
            raise
        yield event_of(error.body()) + DONE


def _add_facts(app: FastAPI, model: ServedModel, settings: EndpointSettings) -> None:
    card = {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "inflight",
        "max_model_len": model.max_seq_len,
    }

    @app.get("/v1/models")
    async def models() -> dict:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict:
        check_model(model, name)
        return card

    @app.api_route("/health", methods=["GET", "HEAD"])
    async def health(request: Request) -> Response:
        if await request.app.state.engine.is_ready():
            return Response(status_code=200)
        raise unavailable("the model is not ready")

    @app.get("/metrics")
    async def metrics() -> Response:
        try:
            page, kind = await asyncio.to_thread(_fetch, settings.metrics_url)
        # ValueError: of a URL that is none.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unavailable(f"the server's metrics cannot be read: {error}") from error
        return Response(page, media_type=kind)


def _fetch(url: str) -> tuple[bytes, str]:
    with urllib.request.urlopen(url, timeout=5) as page:
        return page.read(), page.headers.get("Content-Type", "text/plain")


async def _api_error(_: Request, error: ApiError) -> Response:
    return answer_of(error)


async def _invalid_body(_: Request, error: RequestValidationError) -> Response:
    errors = error.errors()
    # What a client wants in vain explains what is wrong beside it: `tool_calls` a content of null.
    unsupported = (one for one in errors if one["type"] == "unsupported_parameter")
    first = next(unsupported, errors[0])
    where = _place(first["loc"][1:])
    param = where[0] if where else None
    code = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}
    if first["type"] == "unsupported_parameter":  # names its field itself
        where = where[:2] if len(where) > 1 else []
    message = f"{'.'.join(where)}: {first['msg']}" if where else first["msg"]
    says_it_all = first["type"] in (*code, "unsupported_parameter")
    if not says_it_all and isinstance(first.get("input"), str | int | float):
        message += f"; it is {_shortened(json.dumps(first['input'], ensure_ascii=False))}"
    return answer_of(ApiError(message, param=param, code=code.get(first["type"], first["type"])))


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."


def _place(steps: Sequence[str | int]) -> list[str]:
    """The field and where in it, without the names of alternatives: ("messages", 0, "content", "parts",
    0, "type") has one behind "content"."""
    before = ("", *steps)
    return [
        str(step)
        for last, step in zip(before, steps, strict=False)
        if last not in ("content", "prompt", "stop") or isinstance(step, int)
    ]


async def _http_error(_: Request, error: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    answer = answer_of(ApiError(str(error.detail), status=error.status_code, code=code))
    answer.headers.update(error.headers or {})  # what is allowed, of a wrong method
    return answer


async def _internal_error(_: Request, error: Exception) -> Response:
    message = f"internal error: {type(error).__name__}"
    answer = answer_of(ApiError(message, status=500, type="server_error", code="internal_error"))
    answer.headers["Connection"] = "close"  # as uvicorn does; nobody is to ask again over this one
    return answer
