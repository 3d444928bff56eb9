"""Runs the choices of one HTTP request against the engine, until they end, the client leaves or time
is up. Whatever ends it, nothing of it goes on in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from inflight.openai.choice import Choice, Delta
from inflight.openai.engine_client import EngineClient, Sink
from inflight.openai.engine_request import Part
from inflight.openai.errors import ApiError, timed_out
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest

News = dict[int, Delta]  # by the choice's index


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
        self._parts: list[tuple[int, Part]] = []  # that have come and were not looked at
        self._failure: ApiError | ClientLeft | None = None
        self._woken = asyncio.Event()  # there is one or the other
        self.choices = [Choice(model, request) for request in requests]

    def leave(self) -> None:
        """The client is gone; `news` ends with ClientLeft."""
        self._fail(ClientLeft())

    async def news(self) -> AsyncGenerator[News, None]:
        """What has come by now, as one delta a choice, until each has had its `finish_reason`. A
        reader who takes his time gets fewer and longer ones. Raises ApiError of the engine or of
        the time limit."""
        for index, (request, id) in enumerate(zip(self._requests, self._ids, strict=True)):
            self._engine.submit(request.engine, id, self._sink(index))
        timer = asyncio.get_running_loop().call_later(self._max_seconds, self._time_is_up)
        try:
            while any(choice.finish_reason is None for choice in self.choices):
                await self._woken.wait()
                if self._failure is None:
                    self._woken.clear()
                elif not self._parts:
                    raise self._failure
                parts, self._parts = self._parts, []
                if news := self._feed(parts):
                    yield news
        finally:
            timer.cancel()
            for id in self._ids:
                self._engine.stop(id)

    def _feed(self, parts: list[tuple[int, Part]]) -> News:
        news: News = {}
        for index, part in parts:
            choice = self.choices[index]
            if choice.finish_reason is not None:  # ended in its text
                continue
            try:
                delta = choice.feed(part)
            except ApiError as error:
                self._fail(error)
                break
            if delta.finish_reason is not None:
                self._engine.stop(self._ids[index])
            if index in news:
                news[index].add(delta)
            else:
                news[index] = delta
        return news

    def _sink(self, index: int) -> Sink:
        def sink(part: Part | ApiError) -> None:
            if isinstance(part, ApiError):
                self._fail(part)
            elif self._failure is None:
                if self._parts and self._parts[-1][0] == index:
                    self._parts[-1][1].add(part)
                else:
                    self._parts.append((index, part))
                self._woken.set()

        return sink

    def _fail(self, why: ApiError | ClientLeft) -> None:
        """What came before is told first; nothing is afterwards."""
        self._failure = self._failure or why
        self._woken.set()

    def _time_is_up(self) -> None:
        self._fail(
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
