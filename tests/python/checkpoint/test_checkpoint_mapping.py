"""Names and shapes, both ways strict."""

from inflight.checkpoint.mapping import CheckpointMapping
from inflight.checkpoint.safetensors_file import TensorInfo

MAPPING = CheckpointMapping(
    {"embedding.weight": "embed", "layers.{i}.norm.weight": "h.{i}.ln.weight"},
    unused=(r"h\.\d+\.freq",),
)


def _tensors(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    return {
        name.replace("__", "."): TensorInfo(name, "f", "F32", shape, 0, 0)
        for name, shape in shapes.items()
    }


def test_layers_are_counted_into_names() -> None:
    weight = MAPPING.weight("layers.12.norm.weight", "float16", (4,))
    assert weight.recipe.sources[0].tensor == "h.12.ln.weight"
    assert weight.recipe.source_shapes == ((4,),)
    assert weight.type.dtype == "float16"


def test_every_problem_is_found() -> None:
    weights = [
        MAPPING.weight("embedding.weight", "float32", (8, 4)),
        MAPPING.weight("layers.0.norm.weight", "float32", (4,)),
        MAPPING.weight("layers.1.norm.weight", "float32", (4,)),
    ]
    good = _tensors(embed=(8, 4), h__0__ln__weight=(4,), h__1__ln__weight=(4,), h__0__freq=(2,))
    assert MAPPING.problems(weights, good) == []
    assert MAPPING.problems([*weights, weights[0]], good) == []  # tied: used twice
    bad = _tensors(embed=(4, 8), h__1__ln__weight=(4,), h__2__ln__weight=(4,), h__0__freqs=(2,))
    bad["h.1.ln.weight"] = TensorInfo("h.1.ln.weight", "f", "F8_E4M3", (4,), 0, 4)
    assert MAPPING.problems([*weights, weights[0]], bad) == [  # each is told once
        "tensor embed has shape [4, 8], expected [8, 4]",
        "tensor h.0.ln.weight is missing",
        "tensor h.1.ln.weight has dtype F8_E4M3, expected F32, F16 or BF16",
        "tensor h.2.ln.weight is left over: no weight of the model uses it",
        "tensor h.0.freqs is left over: no weight of the model uses it",
    ]
