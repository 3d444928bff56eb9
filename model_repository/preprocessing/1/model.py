"""Triton's side of preprocessing: tensors in, inflight.serving, tensors out."""

import json
import sys

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        listed = json.loads(args["model_config"]).get("parameters", {})
        package_path = listed.get("package_path", {}).get("string_value", "")
        if package_path and not package_path.startswith("${"):
            sys.path.insert(0, package_path)
        from inflight.serving.parameters import Parameters
        from inflight.serving.preprocess import Preprocessor, vocab_size_of_model
        from inflight.serving.schema import PREPROCESSING
        from inflight.text.tokenizer import Tokenizer

        parameters = Parameters(args["model_config"])
        parameters.refuse("multimodal_model_path", "images and videos are not supported yet")
        self._inputs = [tensor.name for tensor in PREPROCESSING.inputs]
        folder = parameters.text("tokenizer_dir")
        self._preprocessor = Preprocessor(
            Tokenizer.load(folder),
            add_special_tokens=parameters.flag("add_special_tokens", True),
            model_vocab_size=vocab_size_of_model(folder),
        )

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            tensors = {
                name: pb_utils.get_input_tensor_by_name(request, name) for name in self._inputs
            }
            given = {name: t.as_numpy() for name, t in tensors.items() if t is not None}
            outputs = self._preprocessor.process(given)
        except ValueError as error:
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            )
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(name, value) for name, value in outputs.items()]
        )
