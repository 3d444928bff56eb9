"""Requests to the server's `tensorrt_llm`, all over one gRPC stream, told apart by their ids.

One event loop's; nothing here blocks. A request is ended by the `stop` tensor, never by a cancelled
gRPC call, which a tritonserver before 2.57 may not survive (docs/server_faults.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import queue
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from inflight.openai.engine_request import (
    MODEL,
    EngineRequest,
    Part,
    events_message,
    events_of,
    read_response,
    stop_message,
    to_message,
)
from inflight.openai.errors import ApiError, of_engine, unavailable
from inflight.openai.event_follower import EventFollower

Sink = Callable[[Part | ApiError], None]  # an error is the last that it gets, as a final part is

_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


@dataclass
class _Member:
    """A request of a stream that has not ended."""

    number: int
    request_id: str
    sink: Sink
    wants_log_probs: bool
    num_received: int = 0  # ids
    early: dict[int, Part] = field(default_factory=dict)  # by begin: overtook what it goes on from


class _Stream:
    """A call of ModelStreamInfer, from its first request until one side ends it. Its requests are a
    group: what is new of them comes in one message a step of the engine, and the end of each in a
    message of its own. A thread reads; what has come by the time the loop turns to it is handed over
    at once."""

    def __init__(self, stub: rpc.GRPCInferenceServiceStub) -> None:
        self.ended = asyncio.Event()
        # By chance: who names another's group on this server would read along.
        self._group = secrets.randbits(63)
        self._numbers = itertools.count()
        self._members: dict[int, _Member] = {}
        self._by_id: dict[str, _Member] = {}
        self._loop = asyncio.get_running_loop()
        self._outgoing: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._arrived: list[pb.ModelStreamInferResponse] = []  # with the lock
        self.call = stub.ModelStreamInfer(iter(self._outgoing.get, None))
        threading.Thread(target=self._read, name="engine stream", daemon=True).start()

    def submit(self, request: EngineRequest, request_id: str, sink: Sink) -> None:
        member = _Member(next(self._numbers), request_id, sink, request.log_probs)
        self._members[member.number] = self._by_id[request_id] = member
        self._outgoing.put(to_message(request, request_id, self._group, member.number))

    def stop(self, request_id: str) -> None:
        if (member := self._by_id.get(request_id)) is not None:
            self._forget(member)
            self._outgoing.put(stop_message(request_id))

    def close(self) -> None:
        """No more requests come."""
        self._outgoing.put(None)

    def _read(self) -> None:
        why = "the stream was closed"
        try:
            for message in self.call:
                with self._lock:
                    self._arrived.append(message)
                    is_first = len(self._arrived) == 1
                if is_first:
                    self._loop.call_soon_threadsafe(self._hand_over_all)
            why = f"{self.call.code().name}: {self.call.details()}"
        except grpc.RpcError as error:
            why = f"{error.code().name}: {error.details()}"
        finally:
            self._outgoing.put(None)  # for gRPC's thread that writes
            with contextlib.suppress(RuntimeError):  # the loop may be gone
                self._loop.call_soon_threadsafe(self._end, why)

    def _hand_over_all(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        for message in arrived:
            self._hand_over(message)

    def _end(self, why: str) -> None:
        self.ended.set()
        for member in self._members.values():
            member.sink(unavailable(f"the server ended before the answer did ({why})"))
        self._members.clear()
        self._by_id.clear()

    def _hand_over(self, message: pb.ModelStreamInferResponse) -> None:
        response = message.infer_response
        if message.error_message:
            return self._hand_to(response.id, of_engine(message.error_message))
        try:
            news = read_response(response)
        except ValueError as error:
            failure = ApiError(str(error), status=500, type="server_error", code="engine_error")
            return self._hand_to(response.id, failure)
        if isinstance(news, Part):
            return self._hand_to(response.id, news)
        for number, part in news.items():
            if (member := self._members.get(number)) is None:  # nobody waits for it any more
                continue
            if not member.wants_log_probs:  # zeros, if another of the group wants them
                part.log_probs, part.top_log_probs = [], []
            self._hand_in_order(member, part)

    def _hand_to(self, request_id: str, part: Part | ApiError) -> None:
        member = self._by_id.get(request_id)
        if member is None:
            return
        if isinstance(part, Part) and part.final and not part.finish_reason:
            part = ApiError(
                "the answer ended without its end",
                status=500,
                type="server_error",
                code="engine_error",
            )
        if isinstance(part, Part) and part.finish_reason != "cancelled":
            return self._hand_in_order(member, part)
        self._forget(member)  # what is missing of it need not come any more
        member.sink(part)

    def _hand_in_order(self, member: _Member, part: Part) -> None:
        """A group's responses go by different requests, and a request's end by its own: the server
        may send them in another order than they were made in."""
        if not (part.ids or part.final):
            return
        member.early[part.begin] = part
        while member.number in self._members and member.num_received in member.early:
            part = member.early.pop(member.num_received)
            member.num_received += len(part.ids)
            if part.final:
                self._forget(member)
            member.sink(part)

    def _forget(self, member: _Member) -> None:
        del self._members[member.number], self._by_id[member.request_id]


class EngineClient:
    def __init__(self, url: str) -> None:
        """`url`: host:port of the server's gRPC. Connects with the first request."""
        self._channel = grpc.insecure_channel(url, options=_CHANNEL)
        self._stub = rpc.GRPCInferenceServiceStub(self._channel)
        self._stream: _Stream | None = None

    def submit(self, request: EngineRequest, request_id: str, sink: Sink) -> None:
        """`sink` is called in this loop with every part. The id must be in no other use."""
        if self._stream is None or self._stream.ended.is_set():
            self._stream = _Stream(self._stub)
        self._stream.submit(request, request_id, sink)

    def stop(self, request_id: str) -> None:
        """Ends a request of which nothing more is wanted. One that has ended is left alone."""
        if self._stream is not None:
            self._stream.stop(request_id)

    async def is_ready(self, seconds: float = 2.0) -> bool:
        """Whether the server answers and the model takes requests."""
        ask = functools.partial(self._stub.ModelReady, timeout=seconds)
        try:
            return (await asyncio.to_thread(ask, pb.ModelReadyRequest(name=MODEL))).ready
        except grpc.RpcError:
            return False

    async def kv_cache_events(self, after: int, seconds: float = 10.0) -> bytes:
        """JSON of the events after the one of this id; -1: of all that are kept. Raises ApiError."""
        return await asyncio.to_thread(self._kv_cache_events, after, seconds)

    def follow_kv_cache_events(self, after: int) -> EventFollower:
        """Of this loop: the same and those to come, for a while."""
        return EventFollower(self._stub, after)

    def _kv_cache_events(self, after: int, seconds: float) -> bytes:
        # A stream of its own: those who wait for tokens do not wait for megabytes of events.
        try:
            asked = self._stub.ModelStreamInfer(iter([events_message(after)]), timeout=seconds)
            messages = list(asked)
        except grpc.RpcError as error:
            raise unavailable(f"the server does not answer: {error.code().name}") from error
        if len(messages) != 1:
            raise unavailable(f"the server gave {len(messages)} answers to a question of one")
        [message] = messages
        if message.error_message:
            raise of_engine(message.error_message)
        return events_of(message.infer_response)

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._stream.ended.wait(), 2)
        self._channel.close()
