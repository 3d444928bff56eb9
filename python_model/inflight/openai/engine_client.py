"""Requests to the server's `tensorrt_llm`, all over one gRPC stream, told apart by their ids.

One event loop's; nothing here blocks. A request is ended by the `stop` tensor, never by a cancelled
gRPC call, which a tritonserver before 2.57 may not survive (docs/serving.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from inflight.openai.engine_request import (
    MODEL,
    EngineRequest,
    Part,
    stop_message,
    to_message,
    to_part,
)
from inflight.openai.errors import ApiError, of_engine, unavailable

Sink = Callable[[Part | ApiError], None]  # an error is the last that it gets, as a final part is

_CHANNEL = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class _Stream:
    """A call of ModelStreamInfer, from its first request until one side ends it."""

    def __init__(self, stub: rpc.GRPCInferenceServiceStub) -> None:
        self.sinks: dict[str, Sink] = {}
        self.ended = False
        self._outgoing: asyncio.Queue[pb.ModelInferRequest | None] = asyncio.Queue()
        self._call = stub.ModelStreamInfer()
        self._writer = asyncio.create_task(self._write())
        self.reader = asyncio.create_task(self._read())

    def send(self, message: pb.ModelInferRequest | None) -> None:
        """None: no more of them."""
        self._outgoing.put_nowait(message)

    async def _write(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # it has ended:
            while (message := await self._outgoing.get()) is not None:  # the reader hears of that
                await self._call.write(message)
            await self._call.done_writing()

    async def _read(self) -> None:
        why = "the stream was closed"
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self._hand_over(message)
            why = f"{(await self._call.code()).name}: {await self._call.details()}"
        except grpc.aio.AioRpcError as error:
            why = f"{error.code().name}: {error.details()}"
        finally:
            self.ended = True
            self._writer.cancel()
            for sink in self.sinks.values():
                sink(unavailable(f"the server ended before the answer did ({why})"))
            self.sinks.clear()

    def _hand_over(self, message: pb.ModelStreamInferResponse) -> None:
        response = message.infer_response
        sink = self.sinks.get(response.id)
        if sink is None:  # of a request that nobody waits for any more
            return
        if message.error_message:
            del self.sinks[response.id]
            sink(of_engine(message.error_message))
            return
        try:
            part = to_part(response)
        except ValueError as error:
            part = ApiError(str(error), status=500, type="server_error", code="engine_error")
        if isinstance(part, ApiError) or part.final:
            del self.sinks[response.id]
        sink(part)


class EngineClient:
    def __init__(self, url: str) -> None:
        """`url`: host:port of the server's gRPC. Connects with the first request."""
        self._channel = grpc.aio.insecure_channel(url, options=_CHANNEL)
        self._stub = rpc.GRPCInferenceServiceStub(self._channel)
        self._stream: _Stream | None = None

    def submit(self, request: EngineRequest, request_id: str, sink: Sink) -> None:
        """`sink` is called in this loop with every part. The id must be in no other use."""
        if self._stream is None or self._stream.ended:
            self._stream = _Stream(self._stub)
        self._stream.sinks[request_id] = sink
        self._stream.send(to_message(request, request_id))

    def stop(self, request_id: str) -> None:
        """Ends a request of which nothing more is wanted. One that has ended is left alone."""
        if self._stream is not None and self._stream.sinks.pop(request_id, None) is not None:
            self._stream.send(stop_message(request_id))

    async def is_ready(self, seconds: float = 2.0) -> bool:
        """Whether the server answers and the model takes requests."""
        try:
            answer = await self._stub.ModelReady(pb.ModelReadyRequest(name=MODEL), timeout=seconds)
        except grpc.aio.AioRpcError:
            return False
        return answer.ready

    async def close(self) -> None:
        if self._stream is not None:
            self._stream.send(None)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._stream.reader), 2)
        await self._channel.close()
