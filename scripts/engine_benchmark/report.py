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


def _share(key: str, ours: float, goal: float) -> str:
    if ours < goal / 10 and not shapes.is_rate(key):
        return "met"
    return f"{advantage(key, ours, goal):.0%}"


def markdown(model: str, figures: dict[str, float]) -> str:
    """The same as a table for docs/performance.md."""
    peer, goal, floor = (table.get(model, {}) for table in (shapes.PEER, shapes.GOAL, shapes.FLOOR))
    lines = [f"| {model} | inflight | vLLM 0.22.1 | times vLLM | goal | floor |", "|---" * 6 + "|"]
    for key, ours in figures.items():
        times = f"{advantage(key, ours, peer[key]):.2f}" if key in peer else ""
        others = [_text(table.get(key)) for table in (peer, goal, floor)]
        lines.append(
            f"| {key} | {_text(ours)} | {others[0]} | {times} | {others[1]} | {others[2]} |"
        )
    return "\n".join(lines)


def print_figures(model: str, figures: dict[str, float]) -> None:
    peer, goal, floor = (table.get(model, {}) for table in (shapes.PEER, shapes.GOAL, shapes.FLOOR))
    table = Table(model, "inflight", "vLLM 0.22.1", "times vLLM", "goal", "of goal", "floor")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, ours in figures.items():
        times = f"{advantage(key, ours, peer[key]):.2f}" if key in peer else ""
        share = _share(key, ours, goal[key]) if key in goal else ""
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
