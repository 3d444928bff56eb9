"""A checkpoint folder: configuration files at once, tensors only when asked.

Opening it reads headers alone; the data stays on the disk.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inflight.checkpoint.safetensors_file import CheckpointError, SafetensorsFile, TensorInfo

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class CheckpointReader:
    """Configuration, and the tensors of all files by name."""

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    files: dict[str, SafetensorsFile]
    tensors: dict[str, TensorInfo]

    @staticmethod
    def open(path: str | Path, config_only: bool = False) -> "CheckpointReader":
        """Raises CheckpointError naming the file at fault. With `config_only` no file of tensors is
        looked for."""
        folder = Path(path).absolute()
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder")
        config = _read_json(folder / "config.json")
        generation_path = folder / "generation_config.json"
        generation = _read_json(generation_path) if generation_path.exists() else {}
        names = [] if config_only else _file_names(folder)
        files = {name: SafetensorsFile.open(folder / name) for name in names}
        tensors: dict[str, TensorInfo] = {}
        for file in files.values():
            for name, info in file.tensors.items():
                if name in tensors:
                    raise CheckpointError(f"{name} is in {tensors[name].file} and in {info.file}")
                tensors[name] = info
        return CheckpointReader(folder, config, generation, files, tensors)

    def array(self, name: str) -> np.ndarray:
        """A tensor, mapped and not read."""
        return self.files[self.tensors[name].file].array(name)

    def same_content(self, first: str, second: str) -> bool:
        """Whether two tensors agree in shape, dtype and in samples of their bytes."""
        a, b = self.tensors[first], self.tensors[second]
        if (a.shape, a.stored_dtype) != (b.shape, b.stored_dtype):
            return False
        samples = [self.files[i.file].samples(i.begin, i.end) for i in (a, b)]
        return samples[0] == samples[1]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


def _file_names(folder: Path) -> list[str]:
    if (folder / _SINGLE).exists():
        return [_SINGLE]
    if not (folder / _INDEX).exists():
        raise CheckpointError(f"{folder} has neither {_SINGLE} nor {_INDEX}")
    weight_map = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{_INDEX}: weight_map is missing or empty")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{_INDEX}: {name!r} is not the name of a file in the folder")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"{_INDEX} names files that are missing: {', '.join(missing)}")
    return names
