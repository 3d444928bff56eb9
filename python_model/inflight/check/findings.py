"""What a check has to say."""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    error = "error"  # the model will not load, or will not do what it is there for
    warning = "warning"  # it will load; this is probably not meant
    note = "note"


@dataclass(frozen=True)
class Finding:
    level: Level
    model: str
    text: str
