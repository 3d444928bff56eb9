"""A process of gRPC streams to a tritonserver, told what to do over its standard input.

Each line is a JSON object: first {"url", "streams"}, then {"model", "output", "streaming", "calls"}
for each round, answered by the line "ready"; the next line sends all its calls at once, and is
answered, when all have ended, by {"values", "responses", "cpu_s"}: elements of `output` that came,
responses that came, processor time spent. Ends with its input. `calls` are {"kind": "ids", "prompt",
"num_output"} or {"kind": "text", "prompt", "num_output"}.
"""

from __future__ import annotations

import json
import queue
import sys
import time
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

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


class Streams:
    def __init__(self, url: str, count: int) -> None:
        self._parts: queue.SimpleQueue = queue.SimpleQueue()
        self._clients = [grpcclient.InferenceServerClient(url) for _ in range(count)]
        for client in self._clients:
            client.start_stream(callback=lambda result, error: self._parts.put((result, error)))

    def close(self) -> None:
        for client in self._clients:
            client.stop_stream()
            client.close()

    def run(self, model: str, output: str, calls: list[Inputs]) -> dict[str, int]:
        for index, inputs in enumerate(calls):
            self._clients[index % len(self._clients)].async_stream_infer(
                model, inputs, request_id=str(index), enable_empty_final_response=True
            )
        open_calls = len(calls)
        values = responses = 0
        while open_calls:
            result, error = self._parts.get()
            if error is not None:
                raise error
            response = result.get_response()
            responses += 1
            for got in response.outputs:
                if got.name == output:
                    values += int(np.prod(got.shape))
            open_calls -= response.parameters["triton_final_response"].bool_param
        return {"values": values, "responses": responses}


def main() -> None:
    told = json.loads(sys.stdin.readline())
    streams = Streams(told["url"], told["streams"])
    for line in sys.stdin:
        round_: dict[str, Any] = json.loads(line)
        calls = [
            MAKERS[call["kind"]](call["prompt"], call["num_output"], round_["streaming"])
            for call in round_["calls"]
        ]
        print("ready", flush=True)
        sys.stdin.readline()
        before = time.process_time()
        figures = streams.run(round_["model"], round_["output"], calls)
        print(json.dumps({**figures, "cpu_s": time.process_time() - before}), flush=True)
    streams.close()


if __name__ == "__main__":
    main()
