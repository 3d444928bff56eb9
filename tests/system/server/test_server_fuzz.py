"""Requests of random tensors: each gets an answer or an error, once, and the server goes on.

`INFLIGHT_FUZZ_CASES` is the least number of requests for each model (default 1,000);
`--hypothesis-seed` draws them anew.
"""

from __future__ import annotations

import os
import queue
import uuid
from statistics import median
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from inflight.serving.schema import BLS, ENSEMBLE, TENSORRT_LLM
from inflight.serving.tensors import Model, Tensor
from triton_server import Server, ask, llm_request

NUM_CASES = int(os.environ.get("INFLIGHT_FUZZ_CASES", "1000"))
AT_ONCE = 20  # requests in flight together, at most; half of them at least

DTYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "STRING": np.object_,
}
WIRE_NAMES = {"STRING": "BYTES"}
# A length without a bound would be generated to the model's end.
SHORT = ("request_output_len", "max_tokens")
REQUIRED = {
    "tensorrt_llm": ("input_ids", "input_lengths", "request_output_len"),
    "ensemble": ("text_input", "max_tokens"),
    "tensorrt_llm_bls": ("text_input", "max_tokens"),
}


def harmless(dtype: str) -> st.SearchStrategy[Any]:
    """Legal for nearly every tensor of the type."""
    if dtype == "BOOL":
        return st.just(False)
    if dtype == "STRING":
        return st.sampled_from([b"so", b"and then"])
    return st.just(1.0) if dtype.startswith("FP") else st.integers(1, 6)


def anything(dtype: str, name: str) -> st.SearchStrategy[Any]:
    """Among them the ends of what the type can hold."""
    if dtype == "BOOL":
        return st.booleans()
    if dtype == "STRING":
        return st.one_of(st.binary(max_size=12), st.just(b""), st.just("wørds, 語 ".encode() * 40))
    if name in SHORT:
        return st.integers(0 if dtype.startswith("U") else -2, 6)
    if dtype.startswith("FP"):
        ends = [0.0, -1.0, 1e-45, 65504.0, float("nan"), float("inf"), float("-inf")]
        return st.one_of(st.floats(0, 2, width=16), st.sampled_from(ends))
    info = np.iinfo(DTYPES[dtype])
    return st.one_of(
        st.integers(0, 258),
        st.sampled_from([0, 35, 258, 259, info.max, info.min, info.max - 1]),
    )


@st.composite
def arrays(draw: st.DrawFn, tensor: Tensor, rows: int) -> tuple[str, np.ndarray]:
    """(type on the wire, [rows, dims]): in most cases as declared, else another type, rank or size."""
    dtype, shape = tensor.dtype, [rows, *tensor.dims]
    change = draw(st.integers(0, 59))
    if change == 0:
        dtype = draw(st.sampled_from(sorted(DTYPES)))
    elif change == 1:
        shape.append(draw(st.integers(0, 3)))
    elif change == 2:
        shape.pop()
    elif change == 3:
        shape[-1] = draw(st.integers(0, 3))
    elif change == 4:
        shape[0] = draw(st.integers(0, 17))
    shape = [draw(st.integers(0 if change < 9 else 1, 12)) if dim < 0 else dim for dim in shape]
    kind = harmless(dtype) if change > 14 else anything(dtype, tensor.name)
    values = draw(st.lists(kind, min_size=1, max_size=3))
    flat = np.empty(int(np.prod(shape)), DTYPES[dtype])
    with np.errstate(over="ignore"):
        for index in range(flat.size):
            flat[index] = values[index % len(values)]
    return WIRE_NAMES.get(dtype, dtype), flat.reshape(shape)


@st.composite
def requests(draw: st.DrawFn, model: Model) -> dict[str, tuple[str, np.ndarray]]:
    required = REQUIRED[model.name]
    others = [tensor.name for tensor in model.inputs if tensor.name not in required]
    names = {*required, *draw(st.lists(st.sampled_from(others), max_size=4))}
    if draw(st.integers(0, 39)) == 0:
        names.discard(draw(st.sampled_from(required)))
    rows = 1 if draw(st.integers(0, 9)) else draw(st.integers(1, 4))
    if rows > 1 or "num_return_sequences" in names:
        # Each sequence that misses it has an error of its own, and an error does not say whether it
        # is the last.
        names.discard("timeout_ms")
    chosen = [tensor for tensor in model.inputs if tensor.name in names]
    return {tensor.name: draw(arrays(tensor, rows)) for tensor in chosen}


class Client:
    """A stream on which any number of requests is under way; counts how each one ends."""

    def __init__(self, server: Server, model: str) -> None:
        self._model = model
        self._ended: queue.Queue[str] = queue.Queue()
        self._client = grpc.InferenceServerClient(f"localhost:{server.grpc_port}")
        self._client.start_stream(self._on_response)

    def _on_response(self, result: grpc.InferResult | None, error: Exception | None) -> None:
        if error is not None:
            self._ended.put(str(error))
        elif result.get_response().parameters["triton_final_response"].bool_param:
            self._ended.put("answered")

    def send(self, values: dict[str, tuple[str, np.ndarray]]) -> None:
        inputs = []
        for name, (dtype, array) in values.items():
            inputs.append(grpc.InferInput(name, list(array.shape), dtype))
            inputs[-1].set_data_from_numpy(array)
        self._client.async_stream_infer(
            self._model, inputs, request_id=uuid.uuid4().hex, enable_empty_final_response=True
        )

    def ends(self, count: int) -> list[str]:
        return [self._ended.get(timeout=60) for _ in range(count)]

    def close(self) -> int:
        """Ends that nobody waited for."""
        self._client.stop_stream()
        self._client.close()
        return self._ended.qsize()


@pytest.mark.parametrize("model", [TENSORRT_LLM, ENSEMBLE, BLS], ids=lambda model: model.name)
def test_random_tensors(server: Server, model: Model) -> None:
    plain = llm_request([5, 17, 200], 12)
    (expected,) = ask(server, "tensorrt_llm", **plain)
    client = Client(server, model.name)
    counts = {"answered": 0, "refused": 0}
    sizes = []

    @settings(
        max_examples=-(-NUM_CASES // (AT_ONCE // 2)),
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a server that has ended tells nothing about smaller requests
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(requests(model), min_size=AT_ONCE // 2, max_size=AT_ONCE))
    def run(batch: list[dict[str, tuple[str, np.ndarray]]]) -> None:
        for values in batch:
            client.send(values)
        for end in client.ends(len(batch)):
            counts["answered" if end == "answered" else "refused"] += 1
        sizes.append(server.resident_bytes())

    run()
    assert client.close() == 0
    total = sum(counts.values())
    assert total >= NUM_CASES
    assert counts["answered"] > total // 20 and counts["refused"] > total // 20, counts
    print(f"{model.name}: {counts}")
    half = len(sizes) // 2
    # 8 MB: what malloc keeps for as many requests in flight varies by some.
    assert median(sizes[-half // 4 :]) - median(sizes[half : half + half // 4]) < 8 << 20, sizes
    (again,) = ask(server, "tensorrt_llm", **plain)
    assert again.ids == expected.ids
