"""What the tables of serving tensors (schema.py) are made of: tensors, models, steps of an ensemble.

Dims leave the batch dimension out.
"""

from dataclasses import dataclass
from enum import Enum


class Support(Enum):
    """What the backend does with a tensor that a request gives."""

    USED = "used"
    IGNORED = "ignored"  # legal and without effect: concerns what this model cannot do anyway
    REFUSED = "refused"  # "not supported yet", unless it is empty or holds its default


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = True
    scalar: bool = False  # one element a row: the model sees it without its own dimension
    ragged: bool = False  # rows of different length may share a batch
    support: Support = Support.USED
    default: float | None = None  # the value that is legal although the tensor is refused


@dataclass(frozen=True)
class Model:
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


@dataclass(frozen=True)
class Link:
    """A tensor of one step: its name in the model and in the ensemble."""

    model_tensor: str
    ensemble_tensor: str


@dataclass(frozen=True)
class Step:
    model: Model
    inputs: tuple[Link, ...]
    outputs: tuple[Link, ...]
