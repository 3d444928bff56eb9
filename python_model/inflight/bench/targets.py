"""The two ways to a server: its gRPC (`tensorrt_llm`, ids) and the OpenAI endpoint (completions)."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from inflight.bench.load import BenchRequest
from inflight.openai.engine_client import EngineClient
from inflight.openai.engine_request import EngineRequest, Part
from inflight.openai.errors import ApiError


@dataclass
class Record:
    """Of one request; times by time.perf_counter()."""

    num_input: int
    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)  # of pieces
    num_output: int = 0
    ended: float = 0.0
    error: str | None = None


class Target(ABC):
    """Prompts share the KV cache with others of the same target alone: of a seed they are the same
    in every run, and would be found there from the second run on."""

    @abstractmethod
    async def send(self, request: BenchRequest, index: int) -> Record:
        """Returns at the answer's end. Errors are in the record."""

    @abstractmethod
    async def close(self) -> None: ...


class GrpcTarget(Target):
    def __init__(self, url: str) -> None:
        self._client = EngineClient(url)
        self._salt = secrets.token_hex(8)

    async def send(self, request: BenchRequest, index: int) -> Record:
        record = Record(len(request.prompt))
        done = asyncio.get_running_loop().create_future()

        def sink(part: Part | ApiError) -> None:
            now = time.perf_counter()
            if isinstance(part, ApiError):
                record.error = part.message
            elif part.ids:
                record.arrivals.append(now)
                record.num_output += len(part.ids)
            if isinstance(part, ApiError) or part.final:
                record.ended = now
                if not done.done():  # Ctrl-C ends the waiting first
                    done.set_result(None)

        record.sent = time.perf_counter()
        engine_request = EngineRequest(
            request.prompt, request.num_output, seed=index, cache_salt=self._salt
        )
        self._client.submit(engine_request, f"bench-{index}", sink)
        await done
        return record

    async def close(self) -> None:
        await self._client.close()


class OpenAiTarget(Target):
    def __init__(self, url: str, model: str, api_key: str = "") -> None:
        """Must be made in the event loop that uses it."""
        import aiohttp

        self._url = url.rstrip("/").removesuffix("/v1") + "/v1/completions"
        self._model = model
        self._salt = secrets.token_hex(8)
        # What is no event of ours, too: who answers there may be anybody.
        self._failures = (aiohttp.ClientError, asyncio.TimeoutError, ValueError, LookupError)
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 20,
        )

    async def send(self, request: BenchRequest, index: int) -> Record:
        record = Record(len(request.prompt))
        body = {
            "model": self._model,
            "prompt": request.prompt,
            "max_tokens": request.num_output,
            "temperature": 0,
            "ignore_eos": True,
            "cache_salt": self._salt,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        record.sent = time.perf_counter()
        try:
            async with self._session.post(self._url, json=body) as answer:
                if answer.status != 200:
                    record.error = (await answer.text())[:500]
                ended = False
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        self._note(record, json.loads(line[len(b"data: ") :]))
                    ended = ended or line.startswith(b"data: [DONE]")
                if not ended and record.error is None:
                    record.error = "the stream ended before the answer did"
        except self._failures as error:
            record.error = f"{type(error).__name__}: {error}"
        record.ended = time.perf_counter()
        return record

    @staticmethod
    def _note(record: Record, event: dict) -> None:
        if "error" in event:
            record.error = event["error"]["message"]
        elif event.get("usage"):
            record.num_output = event["usage"]["completion_tokens"]
        elif event["choices"] and event["choices"][0]["text"]:
            record.arrivals.append(time.perf_counter())

    async def close(self) -> None:
        await self._session.close()
