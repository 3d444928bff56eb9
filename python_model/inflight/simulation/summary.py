"""Records to figures: percentiles, rates, shares; a table of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from inflight._core.simulation import RequestState
from inflight.simulation.run import Result

PERCENTILES = (50, 90, 95, 99)


def times_of(result: Result) -> dict[str, np.ndarray]:
    """Seconds of requests that finished: from arrival to admission (queue) and to the first token,
    per token after the first, the longest wait between two, from arrival to the end."""
    records = result.records
    done = records["state"] == int(RequestState.FINISHED)
    column = {name: values[done] for name, values in records.items()}
    several = column["num_generated"] > 1
    between = (column["finished"] - column["first_token"])[several]
    return {
        "queue": column["admitted"] - column["arrival"],
        "ttft": column["first_token"] - column["arrival"],
        "tpot": between / (column["num_generated"][several] - 1),
        "gap": column["longest_gap"][several],
        "latency": column["finished"] - column["arrival"],
    }


def _percentiles(seconds: np.ndarray) -> dict[str, float]:
    values = 1e3 * np.percentile(seconds, PERCENTILES)
    return {
        "mean": 1e3 * float(seconds.mean()),
        **{f"p{p}": float(value) for p, value in zip(PERCENTILES, values, strict=True)},
        "max": 1e3 * float(seconds.max()),
    }


def summarise(result: Result) -> dict[str, Any]:
    """Times in milliseconds. Shares of cache and devices are of the time until the last step's end,
    the tail in which the fleet runs empty included."""
    records, timeline = result.records, result.timeline
    state = records["state"]
    done = state == int(RequestState.FINISHED)
    seconds = max(result.seconds, 1e-9)
    device_seconds = seconds * result.num_replicas
    block_seconds = device_seconds * result.num_blocks
    prompt_tokens = int(result.prompt_len[done].sum())
    cached = int(records["num_cached"][done].sum())
    generated = int(records["num_generated"].sum())
    times = times_of(result)
    return {
        "requests": len(state),
        "finished": int(done.sum()),
        "refused": int((state == int(RequestState.REFUSED)).sum()),
        "replicas": result.num_replicas,
        "blocks_per_replica": result.num_blocks,
        "seconds": result.seconds,
        "prompt_tokens": prompt_tokens,
        "cached_prompt_tokens": cached,
        "hit_rate": cached / prompt_tokens if prompt_tokens else 0.0,
        "computed_prompt_tokens": int(timeline["prompt_tokens"].sum()),
        "generated_tokens": generated,
        "requests_per_s": int(done.sum()) / seconds,
        "output_tokens_per_s": generated / seconds,
        "total_tokens_per_s": (prompt_tokens + generated) / seconds,
        "steps": int(timeline["steps"].sum()),
        "preemptions": int(records["num_preemptions"].sum()),
        "mean_waiting": float(timeline["waiting"].sum()) / seconds,
        "mean_running": float(timeline["running"].sum()) / seconds,
        "device_busy": float(timeline["busy"].sum()) / device_seconds,
        "cache_used": float(timeline["used_blocks"].sum()) / block_seconds,
        "cache_reusable": float(timeline["cached_blocks"].sum()) / block_seconds,
        **{f"{name}_ms": _percentiles(values) for name, values in times.items() if len(values)},
    }


_TITLES = {
    "queue_ms": "queue",
    "ttft_ms": "first token",
    "tpot_ms": "per token",
    "gap_ms": "longest gap",
    "latency_ms": "latency",
}


def table_of(summary: dict[str, Any]) -> Table:
    table = Table("ms", "mean", *(f"p{p}" for p in PERCENTILES), "max")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, title in _TITLES.items():
        if key in summary:
            values = summary[key].values()
            table.add_row(title, *(f"{v:,.{0 if v >= 1000 else 2}f}" for v in values))
    return table


def lines_of(summary: dict[str, Any]) -> list[str]:
    """What is no time."""
    refused = f" ({summary['refused']:,} refused)" if summary["refused"] else ""
    return [
        f"{summary['finished']:,} requests{refused} in {summary['seconds']:,.1f} s on "
        f"{summary['replicas']} replicas of {summary['blocks_per_replica']:,} blocks",
        f"{summary['requests_per_s']:,.2f} requests/s, "
        f"{summary['output_tokens_per_s']:,.0f} output tokens/s, "
        f"{summary['total_tokens_per_s']:,.0f} tokens/s in all",
        f"{summary['hit_rate']:.1%} of prompt tokens found in the cache, "
        f"{summary['preemptions']:,} preemptions",
        f"on average {summary['mean_waiting']:,.1f} waiting, {summary['mean_running']:,.1f} "
        f"running; devices busy {summary['device_busy']:.0%}, cache in use "
        f"{summary['cache_used']:.0%}, reusable {summary['cache_reusable']:.0%}",
    ]
