"""Figures of records written by hand."""

from pathlib import Path

import numpy as np
import pytest
from inflight.bench import report
from inflight.bench.targets import Record


def record(sent: float, arrivals: list[float], num_output: int, error: str | None = None) -> Record:
    ended = arrivals[-1] + 0.5 if arrivals else sent
    return Record(10, sent, arrivals, num_output, ended, error)


RECORDS = [
    record(100.0, [101.0, 102.0, 104.0], 7),  # pieces of several tokens
    record(101.0, [103.0], 1),
    record(101.5, [], 0, "no"),
]


def test_summary() -> None:
    summary = report.summarise(RECORDS)
    assert summary["seconds"] == 4.5
    assert (summary["requests"], summary["failed"], summary["first_error"]) == (3, 1, "no")
    assert (summary["input_tokens"], summary["output_tokens"]) == (20, 8)
    assert summary["output_tokens_per_s"] == pytest.approx(8 / 4.5)
    assert summary["ttft_ms"]["mean"] == pytest.approx(1500)
    assert summary["ttft_ms"]["max"] == pytest.approx(2000)
    assert summary["tpot_ms"]["mean"] == pytest.approx(500)  # 3 s for 6 tokens, of one record
    assert summary["itl_ms"]["p50"] == pytest.approx(1500)
    assert summary["latency_ms"]["p50"] == pytest.approx((4500 + 2500) / 2)


def test_percentiles_are_numpys() -> None:
    values = list(np.random.default_rng(0).exponential(size=101))
    for percent in (0, 1, 50, 90, 99, 100):
        assert report.percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert report.percentile([3.0], 99) == 3.0


def test_nothing_came() -> None:
    summary = report.summarise([RECORDS[2], RECORDS[2]])
    assert summary["failed"] == 2 and "ttft_ms" not in summary
    report.table_of(summary)


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    report.plot(RECORDS, report.summarise(RECORDS), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
