"""engine.json: what it holds, how it is written, and which versions are read.

One line for each value, weight and plan row, so that diff compares two engines.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflight import __version__
from inflight.config import BuildConfig, ModelConfig, ParallelConfig

FORMAT_VERSION = 1
ENGINE_FILE = "engine.json"
_LINE = 100


class EngineFileError(ValueError):
    """The engine directory cannot be read; the message names the file and the key."""


@dataclass(frozen=True)
class CheckpointFile:
    """A safetensors file that recipes read, as it was when the engine was built."""

    name: str
    size: int
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "size": self.size, "fingerprint": self.fingerprint}


@dataclass(frozen=True)
class EngineFile:
    """The content of engine.json. `ranks` stay as they are written: plan, values, recipes."""

    model: ModelConfig
    settings: BuildConfig  # resolved
    checkpoint_path: str
    checkpoint_files: tuple[CheckpointFile, ...]
    ranks: tuple[Mapping[str, Any], ...]
    inflight_version: str = __version__

    def to_json(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "format_version": FORMAT_VERSION,
            "inflight_version": self.inflight_version,
            "model": _model_json(self.model),
            "limits": settings.limits_json(),
            "dtype": settings.dtype,
            "quantization": None,
            "kv_cache": {
                "dtype": settings.dtype,
                "tokens_per_block": settings.tokens_per_block,
                "layers": [_layer_json(self.model, i) for i in range(self.model.num_layers)],
            },
            "parallel": settings.parallel.to_json(),
            "checkpoint": {
                "path": self.checkpoint_path,
                "files": [file.to_json() for file in self.checkpoint_files],
            },
            "ranks": list(self.ranks),
        }

    def write(self, folder: Path) -> None:
        text = _format(self.to_json(), 0)
        (folder / ENGINE_FILE).write_text(text + "\n", encoding="utf-8")

    @staticmethod
    def read(folder: str | Path) -> "EngineFile":
        """Raises EngineFileError for another version, a missing key or broken JSON."""
        path = Path(folder) / ENGINE_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EngineFileError(f"{path} is missing") from None
        except ValueError as error:
            raise EngineFileError(f"{path} is not JSON: {error}") from error
        version = document.get("format_version") if isinstance(document, dict) else None
        if version != FORMAT_VERSION:
            raise EngineFileError(
                f"{path}: format_version is {version!r}, this inflight reads {FORMAT_VERSION}; "
                "build the engine again"
            )
        try:
            return _from_json(document)
        except (KeyError, TypeError) as error:
            raise EngineFileError(f"{path}: {error}") from error


def _from_json(document: Mapping[str, Any]) -> EngineFile:
    return EngineFile(
        model=ModelConfig.from_json(document["model"]["facts"]),
        settings=BuildConfig(
            dtype=document["dtype"],
            tokens_per_block=document["kv_cache"]["tokens_per_block"],
            parallel=ParallelConfig.from_json(document["parallel"]),
            pack=document["checkpoint"]["path"] == ".",
            **document["limits"],
        ),
        checkpoint_path=document["checkpoint"]["path"],
        checkpoint_files=tuple(CheckpointFile(**f) for f in document["checkpoint"]["files"]),
        ranks=tuple(document["ranks"]),
        inflight_version=document["inflight_version"],
    )


def _layer_json(model: ModelConfig, layer: int) -> dict[str, int]:
    """Layers of equal windows are of one group: with a pool and a block table of their own."""
    window = model.window_of(layer)
    return {
        "num_kv_heads": model.num_kv_heads,
        "head_size": model.head_size,
        **({"window": window} if window > 0 else {}),
    }


def _model_json(model: ModelConfig) -> dict[str, Any]:
    facts = model.to_json()
    names = (
        "architecture",
        "vocab_size",
        "hidden_size",
        "num_layers",
        "num_heads",
        "num_kv_heads",
        "head_size",
        "intermediate_size",
        "max_position_embeddings",
        "bos_token_id",
        "eos_token_ids",
        "pad_token_id",
        "tie_word_embeddings",
    )
    return {**{name: facts[name] for name in names}, "facts": facts}


def _format(value: Any, depth: int) -> str:
    """JSON on one line where it is short or deep, else one element a line."""
    flat = json.dumps(value, allow_nan=False, ensure_ascii=False)
    is_container = isinstance(value, (dict, list)) and len(value) > 0
    if not is_container or depth > 3 or (depth > 0 and len(flat) <= _LINE):
        return flat
    indent = " " * (depth + 1)
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {_format(v, depth + 1)}" for k, v in value.items()]
        begin, end = "{", "}"
    else:
        items = [_format(v, depth + 1) for v in value]
        begin, end = "[", "]"
    body = ",\n".join(indent + item for item in items)
    return f"{begin}\n{body}\n{' ' * depth}{end}"
