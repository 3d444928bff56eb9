"""Records to figures: percentiles, a table, a JSON file, a plot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from inflight.bench.targets import Record

_PERCENTILES = (50, 90, 95, 99)


def time_to_first_token(record: Record) -> float:
    return record.arrivals[0] - record.sent


def time_per_output_token(record: Record) -> float | None:
    """After the first; None of an answer of one token."""
    if record.num_output < 2:
        return None
    return (record.arrivals[-1] - record.arrivals[0]) / (record.num_output - 1)


def latency(record: Record) -> float:
    return record.ended - record.sent


def between_pieces(record: Record) -> list[float]:
    times = record.arrivals
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


FIGURES: dict[str, Callable[[Record], float | None]] = {
    "ttft": time_to_first_token,
    "tpot": time_per_output_token,
    "latency": latency,
}


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear between the two nearest ranks; of at least one value."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def values_of(records: Sequence[Record]) -> dict[str, list[float]]:
    """Seconds, of answers that came."""
    good = [record for record in records if record.error is None and record.arrivals]
    values: dict[str, list[float]] = {
        name: [value for record in good if (value := figure(record)) is not None]
        for name, figure in FIGURES.items()
    }
    values["itl"] = [gap for record in good for gap in between_pieces(record)]
    return values


def summarise(records: Sequence[Record]) -> dict[str, Any]:
    """Figures of a run of at least one request."""
    good = [record for record in records if record.error is None]
    ends = max(record.ended for record in records) - min(record.sent for record in records)
    seconds = max(ends, 1e-9)  # where everything was refused at once
    errors = [record.error for record in records if record.error is not None]
    num_output = sum(record.num_output for record in good)
    num_input = sum(record.num_input for record in good)
    return {
        "requests": len(records),
        "failed": len(errors),
        "first_error": errors[0] if errors else None,
        "seconds": seconds,
        "input_tokens": num_input,
        "output_tokens": num_output,
        "requests_per_s": len(good) / seconds,
        "output_tokens_per_s": num_output / seconds,
        "total_tokens_per_s": (num_input + num_output) / seconds,
        **{
            f"{name}_ms": {
                "mean": 1e3 * statistics.fmean(values),
                **{f"p{percent}": 1e3 * percentile(values, percent) for percent in _PERCENTILES},
                "max": 1e3 * max(values),
            }
            for name, values in values_of(records).items()
            if values
        },
    }


_TITLES = {
    "ttft_ms": "time to first token",
    "tpot_ms": "time per output token",
    "itl_ms": "between pieces",
    "latency_ms": "latency",
}


def table_of(summary: dict[str, Any]) -> Table:
    table = Table(
        "milliseconds", "mean", *(f"p{percent}" for percent in _PERCENTILES), "max",
        title=(
            f"{summary['requests']} requests ({summary['failed']} failed) in "
            f"{summary['seconds']:.2f} s: {summary['requests_per_s']:.2f} requests/s, "
            f"{summary['output_tokens_per_s']:,.1f} output tokens/s, "
            f"{summary['total_tokens_per_s']:,.1f} tokens/s in all"
        ),
        title_justify="left",
    )  # fmt: skip
    for column in table.columns[1:]:
        column.justify = "right"
    for key, title in _TITLES.items():
        if key in summary:
            table.add_row(title, *(f"{value:,.2f}" for value in summary[key].values()))
    return table


def plot(records: Sequence[Record], summary: dict[str, Any], path: Path) -> None:
    """Shares of requests below each time, and throughput over the run. Raises ImportError without
    matplotlib."""
    from matplotlib.figure import Figure

    values = values_of(records)
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for at, name in zip(axes.flat, ("ttft", "tpot", "latency"), strict=False):
        ordered = sorted(1e3 * value for value in values[name])
        if ordered:
            at.step(ordered, [(i + 1) / len(ordered) for i in range(len(ordered))], where="post")
            for percent in (50, 99):
                x = summary[f"{name}_ms"][f"p{percent}"]
                at.axvline(x, color="0.6", linewidth=0.8)
                side = (
                    "left" if percent == 50 else "right"
                )  # of its line: the 99th is near the edge
                at.annotate(f" p{percent} {x:,.1f} ", (x, 0.02), fontsize=8, ha=side)
        at.set(title=_TITLES[f"{name}_ms"], xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))
    _plot_throughput(axes.flat[3], records)
    figure.suptitle(
        f"{summary['requests']} requests, {summary['output_tokens_per_s']:,.0f} output tokens/s"
    )
    figure.savefig(path, dpi=120, format="png")


def _plot_throughput(at: Any, records: Sequence[Record]) -> None:
    start = min(record.sent for record in records)
    end = max(record.ended for record in records)
    width = max((end - start) / 60, 1e-3)
    bins = [0.0] * 61
    for record in records:
        if record.arrivals:
            each = record.num_output / len(record.arrivals)
            for arrival in record.arrivals:
                bins[min(int((arrival - start) / width), 60)] += each / width
    at.step([width * i for i in range(len(bins))], bins, where="post")
    at.set(title="output tokens/s", xlabel="seconds", ylim=(0, None))
