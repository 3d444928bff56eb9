"""A picture of a run. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from inflight.simulation.run import Result
from inflight.simulation.summary import times_of

_COLORS = ("#1f6f8b", "#e09f3e", "#9e2a2b", "#9aa5b1")


def plot(result: Result, summary: dict[str, Any], path: Path, title: str) -> None:
    """Shares of requests below each time; tokens, requests and cache over time. Raises ImportError
    without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    times = times_of(result)
    _shares(axes[0][0], times, ("ttft", "queue"), "time to first token", summary)
    _shares(axes[0][1], times, ("tpot", "gap"), "time per output token", summary)
    width = result.bin_seconds
    timeline = result.timeline
    at = width * np.arange(len(timeline["steps"]))

    def over_time(axis: Any, series: dict[str, np.ndarray], name: str) -> None:
        for color, (label, values) in zip(_COLORS, series.items(), strict=False):
            axis.step(at, values, where="post", color=color, label=label, linewidth=1)
        axis.set(title=name, xlabel="seconds", ylim=(0, None))
        axis.legend(fontsize=8)

    rates = {
        "generated": timeline["generated_tokens"] / width,
        "prompt, computed": timeline["prompt_tokens"] / width,
        "prompt, found in the cache": timeline["cached_tokens"] / width,
    }
    over_time(axes[0][2], rates, "tokens/s")
    levels = {name: timeline[name] / width for name in ("running", "waiting")}
    over_time(axes[1][0], levels, "requests")
    blocks = width * result.num_blocks * result.num_replicas
    shares = {
        "held by running requests": timeline["used_blocks"] / blocks,
        "reusable": timeline["cached_blocks"] / blocks,
    }
    over_time(axes[1][1], shares, "share of the KV cache")
    prompts = timeline["prompt_tokens"] + timeline["cached_tokens"]
    more = {
        "devices busy": timeline["busy"] / (width * result.num_replicas),
        "prompt tokens found": timeline["cached_tokens"] / np.maximum(prompts, 1),
    }
    over_time(axes[1][2], more, "shares")
    figure.suptitle(
        f"{title}: {summary['output_tokens_per_s']:,.0f} output tokens/s, "
        f"hit rate {summary['hit_rate']:.0%}"
    )
    figure.savefig(path, dpi=110)


def _shares(
    axis: Any, times: dict[str, np.ndarray], names: tuple[str, str], title: str, summary: Any
) -> None:
    for color, name in zip(_COLORS, names, strict=False):
        values = np.sort(1e3 * times[name])
        if not len(values):
            continue
        axis.step(values, np.arange(1, len(values) + 1) / len(values), color=color, label=name)
        p99 = summary[f"{name}_ms"]["p99"]
        axis.axvline(p99, color=color, linewidth=0.8, linestyle=":")
        axis.annotate(f" p99 {p99:,.1f}", (p99, 0.02), fontsize=8, color=color)
    axis.set(title=title, xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))
    if any(len(times[name]) and times[name].max() > 20 * np.median(times[name]) for name in names):
        axis.set_xscale("symlog")
    axis.legend(fontsize=8)
