"""Text to ids as repositories of the former backend do it: AutoTokenizer, numpy, nothing of ours."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils
from transformers import AutoTokenizer


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        folder = parameters["tokenizer_dir"]["string_value"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.end_id = self.tokenizer.encode(self.tokenizer.eos_token, add_special_tokens=False)[0]

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def given(name):
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            return None if tensor is None else tensor.as_numpy()

        query, length = given("QUERY"), given("REQUEST_OUTPUT_LEN")
        rows = [self.tokenizer.encode(text[0].decode()) for text in query]
        ends = given("END_ID")
        ends = np.full((len(rows), 1), self.end_id, np.int32) if ends is None else ends
        ids = np.full((len(rows), max(map(len, rows))), self.end_id, np.int32)
        for row, one in zip(ids, rows, strict=True):
            row[: len(one)] = one
        outputs = {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": np.array([[len(row)] for row in rows], np.int32),
            "DECODER_INPUT_ID": np.full((len(rows), 1), self.end_id, np.int32),
            "REQUEST_DECODER_INPUT_LEN": np.ones((len(rows), 1), np.int32),
            "REQUEST_OUTPUT_LEN": length,
            "BAD_WORDS_IDS": self.word_lists(given("BAD_WORDS_DICT"), len(rows)),
            "STOP_WORDS_IDS": self.word_lists(given("STOP_WORDS_DICT"), len(rows)),
            "EMBEDDING_BIAS": np.zeros((len(rows), 0), np.float32),
            "OUT_END_ID": ends,
            "OUT_PAD_ID": np.full((len(rows), 1), self.end_id, np.int32),
        }
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in outputs.items()]
        )

    def word_lists(self, words, num_rows):
        if words is None:
            return np.zeros((num_rows, 2, 0), np.int32)
        lists = []
        for row in words:
            ids = [self.tokenizer.encode(w.decode(), add_special_tokens=False) for w in row if w]
            flat = [id for one in ids for id in one]
            lists.append((flat, np.cumsum([len(one) for one in ids]).tolist()))
        width = max(1, *(len(flat) for flat, _ in lists))
        packed = np.zeros((num_rows, 2, width), np.int32)
        packed[:, 1] = -1
        for row, (flat, ends) in zip(packed, lists, strict=True):
            row[0, : len(flat)] = flat
            row[1, : len(ends)] = ends
        return packed
