"""The handle of a request under way: wait for it, walk its stream, or stop it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import numpy as np

from inflight.llm.answer import Answer, Cursor
from inflight.llm.outputs import Logprob, RequestOutput
from inflight.llm.prompt_logits import prompt_logprobs

# The engine's words for an end, in ours.
_FINISH_REASONS = {
    "end_id": "stop",
    "stop_word": "stop",
    "length": "length",
    "deadline": "deadline",
    "cancelled": "cancelled",
}


class GenerationResult:
    """What `LLM.generate_async` gives.

    `result()` and `await` give the finished RequestOutput. `for` and `async for` give one whenever
    there is more, the last with `finished`; a reader that comes late gets larger parts. All
    iterators of one handle share one place in the stream. Any thread, any event loop.
    """

    def __init__(
        self,
        request_id: int,
        prompt: str | None,
        prompt_token_ids: list[int],
        answer: Answer,
        streaming: bool,
        cancel: Callable[[int], None],
        on_done: Callable[[], None] | None = None,
    ) -> None:
        self.request_id = request_id
        self.prompt = prompt
        self.prompt_token_ids = prompt_token_ids
        self.streaming = streaming
        self._answer = answer
        self._cancel = cancel  # by the engine's id
        self._on_done = on_done
        self._changed = threading.Condition()
        self._engine_id: int | None = None
        self._wants_cancel = False
        self._context_logits: np.ndarray | None = None
        self._prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self._error: BaseException | None = None
        self._is_done = False
        self._is_new = False  # is there anything the iterators have not given?
        self._seen = Cursor()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    # --- the user's side

    @property
    def done(self) -> bool:
        return self._is_done

    def abort(self) -> None:
        """End it early: the answer so far remains, with finish_reason "cancelled"."""
        with self._changed:
            self._wants_cancel = True
            engine_id = None if self._is_done else self._engine_id
        if engine_id is not None:
            self._cancel(engine_id)

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait for the end. Raises the request's error, or TimeoutError after `timeout` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_done, timeout):
                raise TimeoutError(f"request {self.request_id} has not finished in {timeout} s")
            return self._final()

    async def aresult(self) -> RequestOutput:
        while True:
            with self._changed:
                if self._is_done:
                    return self._final()
                waiter = self._new_waiter()
            await waiter

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self.aresult().__await__()

    def __iter__(self) -> Iterator[RequestOutput]:
        return self

    def __next__(self) -> RequestOutput:
        with self._changed:
            self._changed.wait_for(lambda: self._is_new or self._is_done)
            output = self._take()
        if output is None:
            raise StopIteration
        return output

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self

    async def __anext__(self) -> RequestOutput:
        while True:
            with self._changed:
                if self._is_new or self._is_done:
                    output = self._take()
                    break
                waiter = self._new_waiter()
            await waiter
        if output is None:
            raise StopAsyncIteration
        return output

    def _take(self) -> RequestOutput | None:
        """The next item of the stream; None after the last. Locked by the caller."""
        if self._is_new:
            self._is_new = False
            output = self._snapshot(self._seen)
            self._seen = self._answer.cursor
            return output
        if self._error is not None:
            raise self._error
        return None

    def _final(self) -> RequestOutput:
        if self._error is not None:
            raise self._error
        return self._snapshot(Cursor())

    def _snapshot(self, seen: Cursor) -> RequestOutput:
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.prompt,
            prompt_token_ids=self.prompt_token_ids,
            outputs=[self._answer.snapshot(seen)],
            finished=self._is_done,
            context_logits=self._context_logits,
            prompt_logprobs=self._prompt_logprobs,
        )

    def _new_waiter(self) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._waiters.append((loop, future))
        return future

    # --- the engine's side: the submitting thread and the reader of responses

    def submitted(self, engine_id: int) -> None:
        """The engine has taken it, under this id; parts may have come before."""
        with self._changed:
            self._engine_id = engine_id
            wants_cancel = self._wants_cancel
        if wants_cancel:
            self._cancel(engine_id)

    def deliver(self, response: Any) -> None:
        """A part from the engine (`_core.Response`), in order."""
        with self._changed:
            if self._is_done:  # ended by a stop in the text; this is what came after
                return
            before = self._answer.cursor
            self._answer.add(response.token_ids, response.log_probs, response.generation_logits)
            context_logits = response.context_logits
            if context_logits is not None:
                self._take_context_logits(context_logits)
            ends_early = self._answer.finish_reason is not None and not response.is_final
            if response.is_final:
                self._error = response.error
                self._answer.finish(_FINISH_REASONS.get(response.finish_reason, "error"))
            if ends_early:
                self._wants_cancel = True
            engine_id = self._engine_id if ends_early else None
            self._is_done = response.is_final or ends_early
            has_more = self._answer.cursor != before
            is_item = self._is_done and self._error is None
            self._is_new = self._is_new or is_item or (self.streaming and has_more)
            if self._is_done or self._is_new:
                self._changed.notify_all()
                waiters, self._waiters = self._waiters, []
            else:
                waiters = []
        if engine_id is not None:
            self._cancel(engine_id)
        for loop, future in waiters:
            _wake(loop, future)
        if self._is_done and self._on_done is not None:
            self._on_done()

    def _take_context_logits(self, logits: np.ndarray) -> None:
        params = self._answer.params
        if params.return_context_logits:
            self._context_logits = logits
        if params.prompt_logprobs is not None:
            self._prompt_logprobs = prompt_logprobs(
                logits, self.prompt_token_ids, params.prompt_logprobs
            )

    def fail(self, error: BaseException) -> None:
        """It cannot go on, by our own fault."""
        with self._changed:
            if self._is_done:
                return
            self._error = error
            self._is_done = self._wants_cancel = True
            engine_id = self._engine_id
            waiters, self._waiters = self._waiters, []
            self._changed.notify_all()
        if engine_id is not None:
            self._cancel(engine_id)
        for loop, future in waiters:
            _wake(loop, future)
        if self._on_done is not None:
            self._on_done()


def _wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    def set_result() -> None:
        if not future.done():
            future.set_result(None)

    try:
        loop.call_soon_threadsafe(set_result)
    except RuntimeError:  # the reader's event loop has been closed meanwhile
        pass
