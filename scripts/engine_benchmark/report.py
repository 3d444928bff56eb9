"""Figures beside those of the peer, the goals and the floors."""

from engine_benchmark import shapes
from rich.console import Console
from rich.table import Table


def _text(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" if value >= 100 else f"{value:.3f}"


def advantage(key: str, ours: float, theirs: float) -> float:
    """How many times better than `theirs`."""
    return ours / theirs if shapes.is_rate(key) else theirs / ours


def print_figures(model: str, figures: dict[str, float]) -> None:
    peer, goal, floor = (table.get(model, {}) for table in (shapes.PEER, shapes.GOAL, shapes.FLOOR))
    table = Table(model, "inflight", "vLLM 0.22.1", "times vLLM", "goal", "of goal", "floor")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, ours in figures.items():
        times = f"{advantage(key, ours, peer[key]):.2f}" if key in peer else ""
        share = f"{advantage(key, ours, goal[key]):.0%}" if goal.get(key) and ours else ""
        table.add_row(
            key,
            _text(ours),
            _text(peer.get(key)),
            times,
            _text(goal.get(key)),
            share,
            _text(floor.get(key)),
        )
    Console(width=130).print(table)
