"""Engine directories written by hand: the format's second author, independent of the compiler."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

VOCAB, HIDDEN = 11, 8
STORED = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32", "uint8": "U8"}

Tensors = Mapping[str, np.ndarray]
Recipe = dict[str, Any]


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def safetensors_bytes(tensors: Tensors, padding: int = 0) -> bytes:
    """A safetensors file whose data begins `padding` bytes behind an 8-byte boundary."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": STORED[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + padding)
    return len(text).to_bytes(8, "little") + text + data


def fingerprint(file: bytes) -> str:
    """The seam's words: FNV-1a 64 of the header, then of 64 samples of 64 bytes."""
    header_end = 8 + int.from_bytes(file[:8], "little")
    data = file[header_end:]
    samples = [data]
    if len(data) >= 64:
        begins = [i * (len(data) - 64) // 63 for i in range(64)]
        samples = [data[begin : begin + 64] for begin in begins]
    value = 14695981039346656037
    for byte in file[:header_end] + b"".join(samples):
        value = (value ^ byte) * 1099511628211 % 2**64
    return f"{value:016x}"


def weight(array_dtype: str, shape: list[int], *sources: Any, axis: int = 0) -> Recipe:
    """A weight entry; a source is a tensor's name or (name, slice)."""
    rows = [
        {"tensor": source} if isinstance(source, str) else {"tensor": source[0], "slice": source[1]}
        for source in sources
    ]
    return {
        "dtype": array_dtype,
        "shape": shape,
        "recipe": {"axis": axis, "sources": rows},
    }


def base_tensors() -> dict[str, np.ndarray]:
    """What the plan of `document` needs."""
    generator = np.random.default_rng(0)
    return {
        "table": generator.standard_normal((VOCAB, HIDDEN), np.float32),
        "head": generator.standard_normal((VOCAB, HIDDEN), np.float32),
    }


def document(checkpoint: Mapping[str, bytes], weights: Mapping[str, Recipe]) -> dict[str, Any]:
    """engine.json of a model without layers: logits = head(embedding(last token))."""
    row = {"float32": 4}["float32"] * HIDDEN
    arena = {"v0": 0, "v1": 16 * row, "v2": 20 * row}
    return copy.deepcopy(
        {
            "format_version": 1,
            "inflight_version": "0.1.0",
            "model": {
                "architecture": "LlamaForCausalLM",
                "vocab_size": VOCAB,
                "hidden_size": HIDDEN,
                "num_layers": 1,
                "num_heads": 2,
                "num_kv_heads": 1,
                "head_size": 4,
                "intermediate_size": 16,
                "max_position_embeddings": 32,
                "bos_token_id": 1,
                "eos_token_ids": [2, 3],
                "pad_token_id": None,
                "tie_word_embeddings": False,
                "facts": {"anything": [1, {"at": "all"}]},
            },
            "limits": {
                "max_batch_size": 4,
                "max_num_tokens": 16,
                "max_seq_len": 32,
                "max_beam_width": 1,
            },
            "dtype": "float32",
            "quantization": None,
            "kv_cache": {
                "dtype": "float32",
                "tokens_per_block": 8,
                "layers": [{"num_kv_heads": 1, "head_size": 4}],
            },
            "parallel": {"tensor": 1, "pipeline": 1, "expert": 1},
            "checkpoint": {
                "path": "checkpoint",
                "files": [
                    {"name": name, "size": len(file), "fingerprint": fingerprint(file)}
                    for name, file in checkpoint.items()
                ],
            },
            "ranks": [
                {
                    "rank": 0,
                    "arena_bytes": arena["v2"] + 4 * VOCAB * 4,
                    "values": {
                        "v0": {"dtype": "float32", "shape": ["T", HIDDEN], "offset": arena["v0"]},
                        "v1": {"dtype": "float32", "shape": ["B", HIDDEN], "offset": arena["v1"]},
                        "v2": {"dtype": "float32", "shape": ["B", VOCAB], "offset": arena["v2"]},
                    },
                    "weights": {
                        "table": weight("float32", [VOCAB, HIDDEN], "table"),
                        "head": weight(
                            "float32", [VOCAB, HIDDEN], ("head", [[0, VOCAB], [0, HIDDEN]])
                        ),
                        **weights,
                    },
                    "plan": [
                        {
                            "op": "embedding",
                            "inputs": {"ids": "input_ids", "table": "table"},
                            "outputs": {"y": "v0"},
                            "attributes": {},
                        },
                        {
                            "op": "gather_rows",
                            "inputs": {"x": "v0", "rows": "last_rows"},
                            "outputs": {"y": "v1"},
                            "attributes": {},
                        },
                        {
                            "op": "linear",
                            "inputs": {"x": "v1", "weight": "head"},
                            "outputs": {"y": "v2"},
                            "attributes": {},
                        },
                    ],
                    "outputs": {"logits": "v2"},
                }
            ],
        }
    )


def write(
    folder: Path,
    tensors: Tensors | None = None,
    weights: Mapping[str, Recipe] | None = None,
    padding: int = 0,
) -> dict[str, Any]:
    """An engine directory over one checkpoint file that also holds `tensors`; its engine.json."""
    files = {"model.safetensors": safetensors_bytes({**base_tensors(), **(tensors or {})}, padding)}
    return write_files(folder, files, weights or {})


def write_files(
    folder: Path, files: Mapping[str, bytes], weights: Mapping[str, Recipe]
) -> dict[str, Any]:
    (folder / "checkpoint").mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        (folder / "checkpoint" / name).write_bytes(file)
    content = document(files, weights)
    write_json(folder, content)
    return content


def write_json(folder: Path, content: Any) -> None:
    (folder / "engine.json").write_text(json.dumps(content))
