"""A process of gRPC streams to a tritonserver, told what to do over its standard input.

Each line is a JSON object: first {"url", "streams"}, then {"model", "output", "streaming", "calls"}
for each round, answered by the line "ready"; the next line sends all its calls at once, and is
answered, when all have ended, by {"values", "responses", "cpu_s"}: elements of `output` that came,
responses that came, processor time spent. Ends with its input. `calls` are {"kind": "ids", "prompt",
"num_output"} or {"kind": "text", "prompt", "num_output"}.

The streams share a connection and are read in one thread: tritonclient.grpc.aio, which takes half
the processor time of tritonclient.grpc for a response, and with it of the server's cores.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpcclient

Request = dict[str, Any]
Inputs = list[grpcclient.InferInput]


def tensor(name: str, value: np.ndarray, kind: str) -> grpcclient.InferInput:
    made = grpcclient.InferInput(name, list(value.shape), kind)
    made.set_data_from_numpy(value)
    return made


def ids_call(prompt: list[int], num_output: int, streaming: bool) -> Inputs:
    return [
        tensor("input_ids", np.array([prompt], np.int32), "INT32"),
        tensor("input_lengths", np.array([[len(prompt)]], np.int32), "INT32"),
        tensor("request_output_len", np.array([[num_output]], np.int32), "INT32"),
        tensor("exclude_input_in_output", np.array([[True]]), "BOOL"),
        tensor("streaming", np.array([[streaming]]), "BOOL"),
    ]


def text_call(prompt: str, num_output: int, streaming: bool) -> Inputs:
    return [
        tensor("text_input", np.array([[prompt.encode()]], object), "BYTES"),
        tensor("max_tokens", np.array([[num_output]], np.int32), "INT32"),
        tensor("end_id", np.array([[-1]], np.int32), "INT32"),
        tensor("exclude_input_in_output", np.array([[True]]), "BOOL"),
        tensor("stream", np.array([[streaming]]), "BOOL"),
    ]


MAKERS = {"ids": ids_call, "text": text_call}


class Stream:
    def __init__(self, client: grpcclient.InferenceServerClient) -> None:
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()  # None: no more
        self._results = client.stream_infer(self._to_send())

    async def _to_send(self) -> AsyncIterator[Request]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def close(self) -> None:
        self._requests.put_nowait(None)
        async for _ in self._results:
            pass

    async def run(self, requests: list[Request], output: str) -> tuple[int, int]:
        """Elements of `output`, responses."""
        for request in requests:
            self._requests.put_nowait(request)
        open_calls = len(requests)
        values = responses = 0
        while open_calls:
            result, error = await anext(self._results)
            if error is not None:
                raise error
            response = result.get_response()
            responses += 1
            values += sum(math.prod(got.shape) for got in response.outputs if got.name == output)
            open_calls -= response.parameters["triton_final_response"].bool_param
        return values, responses


def requests_of(round_: dict[str, Any]) -> list[Request]:
    return [
        {
            "model_name": round_["model"],
            "inputs": MAKERS[call["kind"]](call["prompt"], call["num_output"], round_["streaming"]),
            "request_id": str(index),
            "enable_empty_final_response": True,
        }
        for index, call in enumerate(round_["calls"])
    ]


async def main() -> None:
    told = json.loads(sys.stdin.readline())
    count = told["streams"]
    client = grpcclient.InferenceServerClient(told["url"])
    streams = [Stream(client) for _ in range(count)]
    # Nothing is on its way while a line is waited for: reading may block.
    while line := sys.stdin.readline():
        round_ = json.loads(line)
        requests = requests_of(round_)
        print("ready", flush=True)
        sys.stdin.readline()
        before = time.process_time()
        ends = await asyncio.gather(
            *(
                stream.run(requests[index::count], round_["output"])
                for index, stream in enumerate(streams)
            )
        )
        values, responses = map(sum, zip(*ends, strict=True))
        figures = {"values": values, "responses": responses, "cpu_s": time.process_time() - before}
        print(json.dumps(figures), flush=True)
    for stream in streams:
        await stream.close()
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
