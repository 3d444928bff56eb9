"""A stream of the KV cache's events from the server, as they come, for one reader."""

from __future__ import annotations

import asyncio
import queue
import threading
import uuid
from collections.abc import AsyncGenerator

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

from inflight.openai.engine_request import events_message, events_of, stop_message
from inflight.openai.errors import of_engine, unavailable


class EventFollower:
    """Of the event loop that makes it."""

    def __init__(self, stub: rpc.GRPCInferenceServiceStub, after: int) -> None:
        """Begins to follow behind the event of the id `after`; -1: with all that are kept."""
        self._id = uuid.uuid4().hex
        self._loop = asyncio.get_running_loop()
        self._outgoing: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
        self._arrived: asyncio.Queue[pb.ModelStreamInferResponse | Exception | None]
        self._arrived = asyncio.Queue()
        self._outgoing.put(events_message(after, self._id, streaming=True))
        # A stream of its own: those who wait for tokens do not wait for megabytes of events, and a
        # tritonserver before 2.57 may die of two threads that answer on one (docs/server_faults.md).
        self._call = stub.ModelStreamInfer(iter(self._outgoing.get, None))
        threading.Thread(target=self._read, name="cache events", daemon=True).start()

    def stop(self) -> None:
        self._outgoing.put(stop_message(self._id))
        self._outgoing.put(None)

    def _read(self) -> None:
        end: Exception | None = None
        try:
            for message in self._call:
                self._hand_over(message)
        except grpc.RpcError as error:
            end = unavailable(f"the server does not answer: {error.code().name}")
        finally:
            self._hand_over(end)

    def _hand_over(self, item: pb.ModelStreamInferResponse | Exception | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)

    async def lists(self) -> AsyncGenerator[bytes, None]:
        """Events as JSON, the first list at once and maybe of none; ends when the server ends the
        stream (after 10 s) or `stop` was called. Raises ApiError."""
        try:
            while (message := await self._arrived.get()) is not None:
                if isinstance(message, Exception):
                    raise message
                if message.error_message:
                    raise of_engine(message.error_message)
                response = message.infer_response
                if response.raw_output_contents:  # else the answer to `stop`
                    yield events_of(response)
                    if response.parameters["triton_final_response"].bool_param:
                        return
        finally:
            self.stop()
