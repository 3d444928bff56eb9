"""What a server's metrics page says, as numbers."""

import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Sample:
    """A line of the page."""

    name: str
    labels: dict[str, str]
    value: float


def fetch(url: str, seconds: float = 5) -> list[Sample]:
    """Raises OSError if nobody answers."""
    with urllib.request.urlopen(url, timeout=seconds) as page:
        return parse(page.read().decode())


def parse(text: str) -> list[Sample]:
    """Of Prometheus' text format; comments and lines that are none are left out."""
    found = (_SAMPLE.match(line) for line in text.splitlines() if not line.startswith("#"))
    return [Sample(m[1], dict(_LABEL.findall(m[2] or "")), float(m[3])) for m in found if m]


def total(samples: Iterable[Sample], name: str, category: str) -> float:
    """The sum over models of a metric's value for one category: the label that is neither model nor
    version."""
    return sum(
        sample.value
        for sample in samples
        if sample.name == name
        and category in (v for k, v in sample.labels.items() if k not in ("model", "version"))
    )
