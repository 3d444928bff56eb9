"""What the calibration is worth: each measured figure beside the predicted one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from inflight.simulation.calibration import (
    LOADS,
    SHAPES,
    fit,
    mean_error,
    read_points,
)
from inflight.simulation.cost import CALIBRATION, Calibration, Machine
from inflight.simulation.gpus import GPUS
from inflight.simulation.models import MODELS
from inflight.simulation.run import FleetConfig, run
from inflight.simulation.traces import Load, uniform


def simulated_throughput(
    model: str, num_input: int, num_output: int, calibration: Calibration, count: int = 1000
) -> float:
    """Output tokens/s of `count` requests at once, under the benchmark's limits."""
    config = FleetConfig(
        Machine(MODELS[model], GPUS["H200"]),
        max_batch_size=1024,
        max_num_tokens=8192,
        calibration=calibration,
    )
    load = Load(
        num_requests=count,
        arrivals="once",
        input_tokens=str(num_input),
        output_tokens=str(num_output),
    )
    return count * num_output / run(uniform(load), config).seconds


def loads_of(
    folder: Path, calibration: Calibration = CALIBRATION
) -> list[tuple[str, str, float, float]]:
    """Model, what, measured and simulated tokens/s: held out, for nothing is fitted to them."""
    rows = []
    for file_name, model in SHAPES.items():
        figures = json.loads((folder / f"performance_{file_name}.json").read_text())["figures"]
        for num_input, num_output in LOADS:
            name = f"{num_input}/{num_output}"
            measured = figures[f"1,000 at once, {name}: output tok/s"]
            simulated = simulated_throughput(model, num_input, num_output, calibration)
            rows.append((model, f"1,000 of {name}", measured, simulated))
    return rows


def report(folder: Path, console: Console) -> tuple[Calibration, dict[str, Any]]:
    """Prints the fit and its errors; the fit, and the figures of it."""
    points = read_points(folder)
    fitted = fit(points)
    table = Table("", "figure", "measured", "predicted", "error", "", title="H200, bfloat16")
    for column in table.columns[2:5]:
        column.justify = "right"
    for point in points:
        predicted = point.predicted(fitted)
        table.add_row(
            *(point.model, point.what),
            *(f"{1e3 * value:,.3f} ms" for value in (point.measured, predicted)),
            f"{predicted / point.measured - 1:+.1%}",
            "held out" if point.held_out else "fitted",
        )
    loads = loads_of(folder, fitted)
    for model, what, measured, simulated in loads:
        table.add_row(
            *(model, what),
            *(f"{value:,.0f} tok/s" for value in (measured, simulated)),
            f"{simulated / measured - 1:+.1%}",
            "held out",
        )
    console.print(table)
    steps = [point for point in points if not point.held_out]
    errors = {
        "fitted": mean_error(steps, fitted),
        "held_out_steps": mean_error([point for point in points if point.held_out], fitted),
        "held_out_loads": float(np.mean([abs(s / m - 1) for _, _, m, s in loads])),
    }
    for name, error in errors.items():
        console.print(f"mean error, {name.replace('_', ' ')}: {error:.1%}")
    console.print(_constants("fitted now", fitted))
    console.print(_constants("in use", CALIBRATION))
    return fitted, {"calibration": vars(fitted), "mean_errors": errors}


def _constants(name: str, calibration: Calibration) -> str:
    return (
        f"{name}: {1e6 * calibration.one_launch:.2f} µs a layer in one launch, "
        f"{1e6 * calibration.few_rows:.2f} and {1e6 * calibration.further_row:.3f} a further row "
        f"of up to 64, {1e6 * calibration.many_rows:.2f} of more, linears "
        f"{calibration.linear_flops / 1e12:.1f} TFLOP/s"
    )
