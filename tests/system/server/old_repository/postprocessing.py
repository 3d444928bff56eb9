"""Ids to text as repositories of the former backend do it: each chunk by itself."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        folder = parameters["tokenizer_dir"]["string_value"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def execute(self, requests):
        responses = []
        for request in requests:
            tokens = pb_utils.get_input_tensor_by_name(request, "TOKENS_BATCH").as_numpy()
            lengths = pb_utils.get_input_tensor_by_name(request, "SEQUENCE_LENGTH").as_numpy()
            texts = [
                self.tokenizer.decode(beam[:length], skip_special_tokens=True).encode()
                for row, row_lengths in zip(tokens, lengths, strict=True)
                for beam, length in zip(row, row_lengths, strict=True)
            ]
            output = pb_utils.Tensor("OUTPUT", np.array(texts).astype(np.object_))
            responses.append(pb_utils.InferenceResponse([output]))
        return responses
