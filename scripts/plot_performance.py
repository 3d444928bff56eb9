#!/usr/bin/env python
"""Plots figures of scripts/benchmark_engine.py against vLLM's, the goals and the floors, and prints
them as Markdown tables.

  pip install -r requirements/tools.txt
  PYTHONPATH=scripts python scripts/plot_performance.py docs/performance_*.json --output docs/performance.png

Every row is drawn as times vLLM's speed, so that milliseconds and tokens a second share an axis.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from engine_benchmark import shapes
from engine_benchmark.report import advantage, markdown

OURS, PEER, GOAL, FLOOR = "#1f6f8b", "#9aa5b1", "#e09f3e", "#9e2a2b"


def draw(axes: plt.Axes, facts: dict[str, Any]) -> None:
    model, figures = facts["model"], facts["figures"]
    peer, goal, floor = (table.get(model, {}) for table in (shapes.PEER, shapes.GOAL, shapes.FLOOR))
    keys = [key for key in peer if key in figures]
    rows = range(len(keys))
    ours = [advantage(key, figures[key], peer[key]) for key in keys]
    axes.barh(rows, ours, color=OURS, height=0.62, label="inflight")
    for row, key, times in zip(rows, keys, ours, strict=True):
        unit = "tok/s" if shapes.is_rate(key) else key.split(": ")[-1].split()[0]
        value = f"{figures[key]:,.0f}" if shapes.is_rate(key) else f"{figures[key]:.3g}"
        label = f"{value} {unit}  ({times:.2f}x)"
        if times > 0.5:
            axes.text(0.02, row, label, va="center", color="white", size=8)
        else:
            axes.text(times + 0.02, row, label, va="center", size=8)
    for table, color, label in ((goal, GOAL, "goal"), (floor, FLOOR, "floor")):
        known = [(advantage(k, table[k], peer[k]), r) for r, k in enumerate(keys) if table.get(k)]
        if known:
            times, where = zip(*known, strict=True)
            axes.scatter(times, where, color=color, marker="|", s=260, linewidths=2.5, label=label)
    axes.axvline(1, color=PEER, linewidth=2, label="vLLM 0.22.1")
    axes.set_yticks(rows, [key.rsplit(":", 1)[0] for key in keys], fontsize=8)
    axes.invert_yaxis()
    shown = [t for t in ours if t < 4] + [2.2]
    axes.set_xlim(0, max(shown) * 1.08)  # a start that is ten times as fast would hide the rest
    axes.set_xlabel("times vLLM's speed")
    axes.set_title(f"{model}, {facts['dtype']}, {facts['device']}", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="+", help="of benchmark_engine.py --json")
    parser.add_argument("--output", type=Path, default=Path("docs/performance.png"))
    options = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in options.json]
    figure, axes = plt.subplots(1, len(runs), figsize=(7.5 * len(runs), 5.5), squeeze=False)
    for one, facts in zip(axes[0], runs, strict=True):
        draw(one, facts)
        print(markdown(facts["model"], facts["figures"]), end="\n\n")
    figure.tight_layout()
    figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
