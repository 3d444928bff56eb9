"""Triton's side of postprocessing: tensors in, inflight.serving, tensors out."""

import json
import os
import sys

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        listed = json.loads(args["model_config"]).get("parameters", {})
        package_path = listed.get("package_path", {}).get("string_value", "")
        if package_path and not package_path.startswith("${"):
            sys.path.insert(0, package_path)
        from inflight.serving.order import check_keeps_order
        from inflight.serving.parameters import Parameters
        from inflight.serving.postprocess import Postprocessor
        from inflight.serving.receipts import Receipts
        from inflight.serving.schema import POSTPROCESSING
        from inflight.text.tokenizer import Tokenizer

        check_keeps_order(args["model_config"])
        parameters = Parameters(args["model_config"])
        self._inputs = [tensor.name for tensor in POSTPROCESSING.inputs]
        self._llm = parameters.text("tensorrt_llm_model_name")
        os.nice(parameters.number("niceness", 0))
        self._receipts = Receipts()
        self._postprocessor = Postprocessor(
            Tokenizer.load(parameters.text("tokenizer_dir")),
            skip_special_tokens=parameters.flag("skip_special_tokens", True),
            include_stop_words=parameters.flag("include_stop_words", True),
        )

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs}
        given = {name: t.as_numpy() for name, t in tensors.items() if t is not None}
        try:
            text = self._postprocessor.process(given)
        except ValueError as error:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            )
        if text.stop_engine_request is not None:
            self._stop(text.stop_engine_request)
        if text.receipt is not None:
            self._receipts.tell(*text.receipt)
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, value) for name, value in text.tensors().items()]
        )

    def _stop(self, engine_request_id):
        inputs = [
            pb_utils.Tensor("input_lengths", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("request_output_len", np.zeros((1, 1), np.int32)),
            pb_utils.Tensor("stop", np.ones((1, 1), np.bool_)),
            pb_utils.Tensor("engine_request_id", np.array([[engine_request_id]], np.uint64)),
        ]
        command = pb_utils.InferenceRequest(
            model_name=self._llm, requested_output_names=[], inputs=inputs
        )
        for _ in command.exec(decoupled=True):
            pass
