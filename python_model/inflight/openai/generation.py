"""Runs the choices of one HTTP request against the engine, until they end, the client leaves or time
is up. Whatever ends it, nothing of it goes on in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from inflight.openai.choice import Choice, Delta
from inflight.openai.engine_client import EngineClient
from inflight.openai.engine_request import Part
from inflight.openai.errors import ApiError, timed_out
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest

_Event = tuple[int, Part] | ApiError


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


class Generation:
    def __init__(
        self,
        model: ServedModel,
        engine: EngineClient,
        requests: Sequence[ChoiceRequest],
        request_id: str,
        max_seconds: float,
    ) -> None:
        self._engine = engine
        self._requests = requests
        self._ids = [f"{request_id}-{index}" for index in range(len(requests))]
        self._max_seconds = max_seconds
        self._events: asyncio.Queue[_Event | None] = asyncio.Queue()  # None: the client left
        self.choices = [Choice(model, request) for request in requests]

    def leave(self) -> None:
        """The client is gone; `deltas` ends with ClientLeft."""
        self._events.put_nowait(None)

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """(index of the choice, what is new of it), until each has had its `finish_reason`. Raises
        ApiError of the engine or of the time limit."""
        for index, (request, id) in enumerate(zip(self._requests, self._ids, strict=True)):
            self._engine.submit(request.engine, id, self._sink(index))
        timer = asyncio.get_running_loop().call_later(self._max_seconds, self._time_is_up)
        running = len(self.choices)
        try:
            while running:
                event = await self._events.get()
                if event is None:
                    raise ClientLeft
                if isinstance(event, ApiError):
                    raise event
                index, part = event
                choice = self.choices[index]
                if choice.finish_reason is not None:  # ended in its text
                    continue
                delta = choice.feed(part)
                if delta.finish_reason is not None:
                    running -= 1
                    self._engine.stop(self._ids[index])
                yield index, delta
        finally:
            timer.cancel()
            for id in self._ids:
                self._engine.stop(id)

    def _sink(self, index: int):
        def sink(part: Part | ApiError) -> None:
            self._events.put_nowait(part if isinstance(part, ApiError) else (index, part))

        return sink

    def _time_is_up(self) -> None:
        self._events.put_nowait(
            timed_out(f"the answer took longer than {self._max_seconds:g} s, this endpoint's limit")
        )

    @property
    def usage(self) -> dict[str, int]:
        """Of what was generated so far. A prompt counts once, however many choices it has."""
        prompts = {id(request.prompt): len(request.prompt.ids) for request in self._requests}
        num_prompt = sum(prompts.values())
        num_completion = sum(choice.num_tokens for choice in self.choices)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_completion,
            "total_tokens": num_prompt + num_completion,
        }
