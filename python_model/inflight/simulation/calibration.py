"""Fits the cost model's constants to measured steps and says how far off it is.

Measured: docs/performance_M8.json and _M1.json, of scripts/benchmark_engine.py on one H200. Half of
the kinds of single steps are fitted to, the others held out; whole loads of a thousand requests,
also held out, run through the simulator itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from inflight._core.simulation import StepWork
from inflight.simulation.cost import (
    CALIBRATION,
    CALIBRATION_FILE,
    Calibration,
    Machine,
    cost_model,
)
from inflight.simulation.gpus import GPUS
from inflight.simulation.models import MODELS

# From the call to the engine's queue, and from the step's end to the caller (docs/notes/steps.md,
# "First token").
CALLER = 164e-6
_PROMPTS, _BATCHES = (128, 2048, 8000), (8, 32, 64, 128, 256)
_HELD_OUT_PROMPTS, _HELD_OUT_BATCHES = (2048,), (64, 256)
LOADS = ((128, 128), (1024, 128), (128, 1024), (2048, 128))  # tokens in and out, 1,000 at once
SHAPES = {"M8": "8B", "M1": "1B"}  # as the benchmark calls them


@dataclass(frozen=True)
class Point:
    """A measured step, or what is a step and the way to its caller."""

    model: str  # of MODELS
    what: str
    measured: float  # seconds
    work: StepWork
    beside: float = 0.0  # seconds that are not the device's
    held_out: bool = False

    def predicted(self, calibration: Calibration) -> float:
        cost = cost_model(Machine(MODELS[self.model], GPUS["H200"]), calibration)
        return cost.device_seconds(self.work) + self.beside


def _generating(count: int, keys: int) -> StepWork:
    return StepWork(count, count, count, generation_keys=count * keys)


def read_points(folder: Path) -> list[Point]:
    """Of performance_M8.json and performance_M1.json in `folder`."""
    points = []
    for file_name, model in SHAPES.items():
        figures = json.loads((folder / f"performance_{file_name}.json").read_text())["figures"]
        # 128 in and 256 out: a step has 256 keys on average; 192 in batches of 128 out.
        one = figures["one request 128/256: ms per token"]
        points.append(Point(model, "a step of 1", 1e-3 * one, _generating(1, 256)))
        for length in _PROMPTS:
            points.append(
                Point(
                    model,
                    f"first token of {length:,}",
                    1e-3 * figures[f"first token, {length} in: ms"],
                    StepWork(length, 1, 1, prompt_pairs=length * (length + 1) // 2),
                    CALLER,
                    length in _HELD_OUT_PROMPTS,
                )
            )
        for batch in _BATCHES:
            points.append(
                Point(
                    model,
                    f"a step of {batch}",
                    1e-3 * figures[f"batch {batch}, 128/128: ms per token"],
                    _generating(batch, 192),
                    held_out=batch in _HELD_OUT_BATCHES,
                )
            )
    return points


def fit(points: Sequence[Point], start: Calibration = CALIBRATION) -> Calibration:
    """Least squares of the logarithms of predicted over measured, by Gauss-Newton steps in the
    constants' logarithms. Points held out are left out here."""
    fitted = [point for point in points if not point.held_out]
    names = [field.name for field in fields(Calibration)]
    values = np.log([getattr(start, name) for name in names])

    def made_of(at: np.ndarray) -> Calibration:
        return Calibration(*np.exp(at).tolist())

    def errors(at: np.ndarray) -> np.ndarray:
        made = made_of(at)
        return np.array([math.log(p.predicted(made) / p.measured) for p in fitted])

    delta = 1e-5
    for _ in range(100):
        now = errors(values)
        moved = [errors(values + delta * unit) for unit in np.eye(len(names))]
        slopes = (np.array(moved) - now).T / delta
        step = np.clip(np.linalg.lstsq(slopes, -now, rcond=None)[0], -0.3, 0.3)
        values = values + step
        if np.abs(step).max() < 1e-6:
            break
    return made_of(values)


def keep(calibration: Calibration, path: Path = CALIBRATION_FILE) -> None:
    """Makes it what simulations reckon with from their next start on."""
    constants = {name: float(f"{value:.5g}") for name, value in vars(calibration).items()}
    path.write_text(json.dumps(constants, indent=2) + "\n")


def mean_error(points: Sequence[Point], calibration: Calibration) -> float:
    """Mean of |predicted / measured - 1|."""
    return float(np.mean([abs(p.predicted(calibration) / p.measured - 1) for p in points]))
