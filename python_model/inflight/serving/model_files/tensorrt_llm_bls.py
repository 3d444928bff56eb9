"""Triton's side of tensorrt_llm_bls: a request's tensors in, inflight.serving, responses out."""

import json
import os
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

_HANDED_ON = ("tenant", "request_type")  # of the request's parameters


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        package_path = config.get("parameters", {}).get("package_path", {}).get("string_value", "")
        if package_path and not package_path.startswith("${"):
            sys.path.insert(0, package_path)
        from inflight.serving.bls import Bls
        from inflight.serving.departures import Departures
        from inflight.serving.parameters import Parameters
        from inflight.serving.postprocess import Postprocessor
        from inflight.serving.preprocess import Preprocessor, vocab_size_of_model
        from inflight.serving.receipts import Receipts
        from inflight.serving.schema import BLS
        from inflight.text.tokenizer import Tokenizer

        parameters = Parameters(args["model_config"])
        for key in ("tensorrt_llm_draft_model_name", "multimodal_encoders_name"):
            parameters.refuse(key, "draft models and encoders are not supported yet")
        folder = parameters.text("tokenizer_dir")
        tokenizer = Tokenizer.load(folder)
        self._inputs = [tensor.name for tensor in BLS.inputs]
        self._llm_name = parameters.text("tensorrt_llm_model_name", "tensorrt_llm")
        self._departures = Departures()
        self._bls = Bls(
            Preprocessor(
                tokenizer,
                add_special_tokens=parameters.flag("add_special_tokens", True),
                model_vocab_size=vocab_size_of_model(folder),
            ),
            Postprocessor(
                tokenizer,
                skip_special_tokens=parameters.flag("skip_special_tokens", True),
                include_stop_words=parameters.flag("include_stop_words", True),
            ),
            Receipts(),
            self._departures,
            accumulate_tokens=parameters.flag("accumulate_tokens", False),
        )
        self._is_decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        # A thread a request: each waits for the engine nearly all the time. They alone are nice (on
        # Linux that is a thread's own): who asks for clients that have left waits behind nobody.
        self._threads = ThreadPoolExecutor(
            parameters.number("max_concurrent_requests", 256),
            initializer=os.nice,
            initargs=(parameters.number("niceness", 0),),
        )

    def execute(self, requests):
        clients = [_Client(request, self._is_decoupled) for request in requests]
        done = [
            self._threads.submit(self._run, request, client)
            for request, client in zip(requests, clients, strict=True)
        ]
        if self._is_decoupled:
            return None
        for one in done:
            one.result()
        return [client.response for client in clients]

    def finalize(self):
        self._threads.shutdown()
        self._departures.close()

    def _run(self, request, client):
        try:
            tensors = {
                name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs
            }
            given = {name: t.as_numpy() for name, t in tensors.items() if t is not None}
            llm = _Llm(self._llm_name, self._is_decoupled, _handed_on(request))
            self._bls.run(given, llm, client)
        except ValueError as error:
            client.fail(str(error), pb_utils.TritonError.INVALID_ARG)
        except _LlmError as error:
            client.fail(str(error), error.code)
        except Exception:
            client.fail(traceback.format_exc(), pb_utils.TritonError.INTERNAL)
        else:
            client.end()


class _Client:
    """One request's; a model that is not decoupled keeps its one response.

    The last response frees what the server keeps of a request, also under a question that is on its
    way whether the request was cancelled, and the server dies (Python backend of 24.10): the two
    take turns.
    """

    def __init__(self, request, is_decoupled):
        self._request = request
        self._turn = threading.Lock()
        self._sender = request.get_response_sender() if is_decoupled else None
        self._has_ended = False
        self.response = None

    def send(self, outputs, is_last):
        tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items()]
        self._send(pb_utils.InferenceResponse(output_tensors=tensors), is_last)

    def has_left(self):
        asked = self._request if self._sender is None else self._sender
        with self._turn:
            return not self._has_ended and asked.is_cancelled()

    def fail(self, message, code):
        if not self._has_ended:
            self._send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code)), True)

    def end(self):
        """In case that the engine's model ended without a last response."""
        if self._has_ended:
            return
        if self._sender is None and self.response is None:
            self.fail("the engine's model gave no response", pb_utils.TritonError.INTERNAL)
            return
        with self._turn:
            self._has_ended = True
            if self._sender is not None:
                self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _send(self, response, is_last):
        if not is_last and self._sender is not None:
            self._sender.send(response)
            return
        with self._turn:
            self._has_ended = is_last
            if self._sender is None:
                self.response = response
            else:
                self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class _LlmError(Exception):
    """What the engine's model answered."""

    def __init__(self, error):
        super().__init__(error.message())
        self.code = error.code()


def _handed_on(request):
    """Request parameters for the engine's model."""
    given = json.loads(request.parameters() or "{}")
    parameters = {name: given[name] for name in _HANDED_ON if name in given}
    if request.request_id():
        # By which the client, too, may stop it: ids of clients may repeat, ours do not.
        parameters["client_request_id"] = request.request_id()
    return parameters


class _Llm:
    def __init__(self, model_name, is_decoupled, parameters):
        self._model_name = model_name
        self._is_decoupled = is_decoupled
        self._parameters = parameters

    def generate(self, request_id, inputs, outputs):
        tensors = [pb_utils.Tensor(name, value) for name, value in inputs.items()]
        request = pb_utils.InferenceRequest(
            model_name=self._model_name,
            request_id=request_id,
            requested_output_names=outputs,
            parameters=self._parameters,
            inputs=tensors,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        )
        answered = request.exec(decoupled=self._is_decoupled)
        error = None
        for response in answered if self._is_decoupled else (answered,):
            if response.has_error():  # of a row; the others' responses still come
                error = error or response.error()
            elif error is None and response.output_tensors():
                yield {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        if error is not None:
            raise _LlmError(error)

    def stop(self, request_id="", engine_request_id=0, client_left=False):
        inputs = [
            pb_utils.Tensor("input_lengths", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("request_output_len", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("stop", np.ones((1, 1), np.bool_)),
            pb_utils.Tensor("engine_request_id", np.array([[engine_request_id]], np.uint64)),
            pb_utils.Tensor("client_left", np.array([[client_left]])),
        ]
        command = pb_utils.InferenceRequest(
            model_name=self._model_name,
            request_id=request_id,
            requested_output_names=[],
            inputs=inputs,
        )
        if self._is_decoupled:
            for _ in command.exec(decoupled=True):
                pass
        else:
            command.exec()
