"""Which checkpoint tensor a weight is made of, and whether a checkpoint has exactly those.

Both ways strict: a tensor that no weight uses is an error unless the model says that it is known
and unused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from inflight.checkpoint.safetensors_file import TensorInfo
from inflight.ir.graph import Recipe, Source, TensorType, Weight


@dataclass(frozen=True)
class CheckpointMapping:
    """`names`: weight to tensor, {i} stands for the layer. `unused`: patterns of tensor names."""

    names: Mapping[str, str]
    unused: tuple[str, ...] = ()

    def weight(self, name: str, dtype: str, shape: tuple[int, ...]) -> Weight:
        """The weight as one whole tensor of the checkpoint."""
        tensor = self._tensor_name(name)
        return Weight(TensorType(dtype, shape), Recipe((Source(tensor),), (shape,)))

    def problems(self, weights: Iterable[Weight], tensors: Mapping[str, TensorInfo]) -> list[str]:
        """Everything that keeps `tensors` from being the checkpoint of `weights`."""
        found = []
        used = set()
        for weight in weights:
            recipe = weight.recipe
            for source, shape in zip(recipe.sources, recipe.source_shapes, strict=True):
                if source.tensor in used:
                    continue
                used.add(source.tensor)
                info = tensors.get(source.tensor)
                if info is None:
                    found.append(f"tensor {source.tensor} is missing")
                elif info.shape != shape:
                    found.append(
                        f"tensor {source.tensor} has shape {list(info.shape)}, "
                        f"expected {list(shape)}"
                    )
                elif info.dtype is None:
                    found.append(
                        f"tensor {source.tensor} has dtype {info.stored_dtype}, "
                        "expected F32, F16 or BF16"
                    )
        for name in tensors:
            if name not in used and not self._is_unused(name):
                found.append(f"tensor {name} is left over: no weight of the model uses it")
        return found

    def _tensor_name(self, name: str) -> str:
        match = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
        if match is None:
            return self.names[name]
        return self.names[f"layers.{{i}}.{match[2]}"].replace("{i}", match[1])

    def _is_unused(self, name: str) -> bool:
        return any(re.fullmatch(pattern, name) for pattern in self.unused)
