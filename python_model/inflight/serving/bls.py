"""Text in, text out, by way of the engine's model: what `tensorrt_llm_bls` does with a request.

Walks the steps of the ensemble itself, with pre- and postprocessing in its own process. Knows no
Triton: the engine's model and the client are given as what they can do.
"""

import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import numpy as np

from inflight.serving.departures import Departures
from inflight.serving.postprocess import Postprocessor
from inflight.serving.preprocess import Preprocessor
from inflight.serving.receipts import Receipts
from inflight.serving.schema import BLS, ENSEMBLE_STEPS
from inflight.serving.support import refuse_unsupported
from inflight.serving.tensors import Step

Tensors = dict[str, np.ndarray]


class Llm(Protocol):
    """The engine's model."""

    def generate(self, request_id: str, inputs: Tensors, outputs: list[str]) -> Iterator[Tensors]:
        """Its responses; raises what the model answers with an error."""

    def stop(
        self, request_id: str = "", engine_request_id: int = 0, client_left: bool = False
    ) -> None:
        """Ends the request of this id, or the one sequence of this number. Any thread."""


class Client(Protocol):
    """The one who asked."""

    def send(self, outputs: Tensors, is_last: bool) -> None: ...

    def has_left(self) -> bool:
        """Any thread."""


class Bls:
    """Any number of threads may run requests. `accumulate_tokens`: every piece of a stream is the
    whole text so far."""

    def __init__(
        self,
        preprocessor: Preprocessor,
        postprocessor: Postprocessor,
        receipts: Receipts,
        departures: Departures,
        accumulate_tokens: bool = False,
    ) -> None:
        self._preprocessor = preprocessor
        self._postprocessor = postprocessor
        self._receipts = receipts
        self._departures = departures
        self._accumulate_tokens = accumulate_tokens

    def run(self, given: Tensors, llm: Llm, client: Client) -> None:
        """`given`: tensors of BLS, batch dimension first. Sends every response, the last one marked
        so. Raises ValueError for a bad request and whatever the engine's model answers; nothing
        runs for the request any more then."""
        _check(given)
        preprocessing, generation, _ = ENSEMBLE_STEPS
        tensors = dict(given)
        made = self._preprocessor.process(_inputs_of(preprocessing, tensors))
        for link in preprocessing.outputs:
            if link.model_tensor in made:
                tensors[link.ensemble_tensor] = made[link.model_tensor]
        inputs = _inputs_of(generation, tensors)
        outputs = [link.model_tensor for link in generation.outputs]
        request_id = uuid.uuid4().hex

        def client_left() -> None:
            llm.stop(request_id=request_id, client_left=True)

        with self._departures.watching(client.has_left, client_left):
            responses = llm.generate(request_id, inputs, outputs)
            try:
                self._answer(responses, _num_sequences(given), llm, client)
            except BaseException:
                llm.stop(request_id=request_id)
                with suppress(Exception):
                    for _ in responses:
                        pass
                raise

    def _answer(
        self, responses: Iterator[Tensors], num_sequences: int, llm: Llm, client: Client
    ) -> None:
        *_, generation, postprocessing = ENSEMBLE_STEPS
        passed = [link for link in generation.outputs if not link.ensemble_tensor.startswith("_")]
        told: dict[tuple[int, int], str] = defaultdict(str)  # by row and sequence of the row
        num_running = num_sequences
        for response in responses:
            tensors = {
                link.ensemble_tensor: response[link.model_tensor]
                for link in generation.outputs
                if link.model_tensor in response
            }
            text = self._postprocessor.process(_inputs_of(postprocessing, tensors))
            if text.stop_engine_request is not None:
                llm.stop(engine_request_id=text.stop_engine_request)
            if text.receipt is not None:
                self._receipts.tell(*text.receipt)
            num_running -= int(text.is_last)
            outputs = text.tensors()
            if self._accumulate_tokens:
                key = (_index(response, "batch_index"), _index(response, "sequence_index"))
                (piece,) = outputs["OUTPUT"]
                told[key] += piece.decode()
                outputs["OUTPUT"] = np.array([told[key].encode()], np.object_)
            named = {
                link.ensemble_tensor: outputs[link.model_tensor]
                for link in postprocessing.outputs
                if link.model_tensor in outputs
            }
            named |= {
                link.ensemble_tensor: tensors[link.ensemble_tensor]
                for link in passed
                if link.ensemble_tensor in tensors
            }
            client.send(named, is_last=num_running == 0)


def _check(given: Tensors) -> None:
    refuse_unsupported(BLS, given)
    if not all(given["text_input"].reshape(-1)):
        raise ValueError("text_input is empty")
    lengths = given["max_tokens"].reshape(-1)
    if (lengths <= 0).any():
        raise ValueError(f"max_tokens is {lengths.min()}, expected at least 1")


def _inputs_of(step: Step, tensors: Tensors) -> Tensors:
    """Under the names of the step's model."""
    return {
        link.model_tensor: tensors[link.ensemble_tensor]
        for link in step.inputs
        if link.ensemble_tensor in tensors
    }


def _num_sequences(given: Tensors) -> int:
    """Of all rows together."""
    num_rows = given["text_input"].shape[0]
    a_row = given.get("num_return_sequences")
    return num_rows if a_row is None else int(np.broadcast_to(a_row, (num_rows, 1)).sum())


def _index(response: Tensors, name: str) -> int:
    return int(response[name].flat[0]) if name in response else 0
