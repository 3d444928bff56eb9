"""The cost model against its formula written a second time, and against what was measured."""

import dataclasses
import math
from pathlib import Path

import pytest
from inflight._core import InvalidArgumentError
from inflight._core.simulation import CostModel, SmallSteps, StepWork
from inflight.simulation.calibration import fit, keep, mean_error, read_points
from inflight.simulation.calibration_report import loads_of
from inflight.simulation.cost import CALIBRATION, Machine, cost_model, read_calibration
from inflight.simulation.gpus import GPUS
from inflight.simulation.models import MODELS, model_named

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_sizes_of_models_are_those_of_their_names() -> None:
    billions = {"1B": 1.236, "3B": 3.213, "8B": 8.030, "14B": 14.77, "32B": 32.76, "70B": 70.55}
    for name, expected in billions.items():
        assert MODELS[name].num_params / 1e9 == pytest.approx(expected, rel=2e-3), name
    assert MODELS["8B"].kv_bytes_per_token() == 131072
    assert MODELS["70B"].kv_bytes_per_token(1) == 163840


def test_a_model_of_a_config_file(tmp_path: Path) -> None:
    config = DOCS.parent / "demo_model" / "config.json"
    shape = model_named(str(config.parent))
    assert shape == model_named(str(config))
    assert shape.num_params > 0
    with pytest.raises(ValueError, match="no model '9B': expected 1B, 3B"):
        model_named("9B")
    (tmp_path / "config.json").write_text('{"num_attention_heads": "four", "vocab_size": 9}')
    with pytest.raises(ValueError, match="cannot be simulated") as caught:
        model_named(str(tmp_path))
    for problem in (
        "num_hidden_layers: missing",
        "num_attention_heads: expected a positive integer, got 'four'",
    ):
        assert problem in str(caught.value)


@pytest.mark.parametrize("rows", [1, 4, 5, 64, 65, 700])
@pytest.mark.parametrize("num_gpus", [1, 4])
def test_a_step_costs_what_its_bytes_and_operations_do(num_gpus: int, rows: int) -> None:
    model, gpu, fitted = MODELS["70B"], GPUS["H200"], CALIBRATION
    logits, keys, pairs = 90, 123_456, 456_789
    cost = cost_model(Machine(model, gpu, num_gpus))
    layers, hidden, vocab = 80, 8192, 128256
    linears = layers * (hidden * (8192 + 2 * 1024) + 8192 * hidden + 3 * hidden * 28672)
    s = 3.0

    def linear(params: float, rows: int, late: float = 0.0) -> float:
        read = 2 * params / num_gpus / gpu.read + late
        multiply = 2 * params * rows / num_gpus / fitted.linear_flops
        return (read**s + multiply**s) ** (1 / s)

    expected = 10e-6
    if rows <= 4:  # of a narrow model 8
        expected += layers * (fitted.one_launch + (rows - 1) * hidden * 0.6e-9)
        expected += linear(linears, rows)
    elif rows <= 64:
        expected += layers * (fitted.few_rows + (rows - 1) * fitted.further_row)
        expected += linear(linears, rows)
    else:
        expected += linear(linears, rows, late=layers * fitted.many_rows)
    expected += rows * 10 * layers * hidden * 2 / gpu.read
    expected += linear(vocab * hidden, logits)
    expected += logits * 8 * vocab / num_gpus / gpu.read
    expected += keys * 2 * layers * 1024 * 2 / num_gpus / (0.9 * gpu.read)
    expected += pairs * 4 * layers * 8192 / num_gpus / 617e12
    if num_gpus > 1:
        collectives = 2 * layers
        expected += collectives * 10e-6
        expected += collectives * rows * hidden * 2 * 1.5 / gpu.peer_link
    work = StepWork(rows, logits, 64, generation_keys=keys, prompt_pairs=pairs)
    assert cost.device_seconds(work) == pytest.approx(expected, rel=1e-9)
    narrow = cost_model(Machine(MODELS["1B"], gpu))
    eight, nine = (16 * launch for launch in (fitted.one_launch, fitted.few_rows))
    eight, nine = eight + 16 * 7 * 2048 * 0.6e-9, nine + 16 * 8 * fitted.further_row
    step = [narrow.device_seconds(StepWork(rows, 1, rows)) for rows in (8, 9)]
    assert step[1] - step[0] == pytest.approx(nine - eight, abs=2e-6)
    # A step without logits does not read the head's weights.
    head = [narrow.device_seconds(StepWork(128, logits, 1)) for logits in (0, 1)]
    assert head[1] - head[0] == pytest.approx(2 * vocab * 2048 / gpu.read, rel=0.01)
    # Heads of 64 are no faster than heads of 87 would be.
    pairs_alone = [narrow.device_seconds(StepWork(128, 1, 1, prompt_pairs=n)) for n in (0, 10**9)]
    assert pairs_alone[1] - pairs_alone[0] == pytest.approx(1e9 * 16 * 32 * 4 * 64 / 456e12)
    # Copies to and from the host run beside it, unless they take longer.
    few, many = (StepWork(1, 1, 1, host_copy_bytes=size) for size in (1000, 10**12))
    assert cost.device_seconds(few) == cost.device_seconds(StepWork(1, 1, 1))
    assert cost.device_seconds(many) == pytest.approx(1e12 / gpu.host_link)


def test_memory_settles_the_cache() -> None:
    alone = Machine(MODELS["8B"], GPUS["H200"])
    expected = (0.9 * GPUS["H200"].memory - 2 * MODELS["8B"].num_params) / (131072 * 32)
    assert alone.num_blocks(32) == int(expected)
    with pytest.raises(ValueError, match="70B has 141.1 GB of weights a GPU; .* more GPUs"):
        Machine(MODELS["70B"], GPUS["H100"]).num_blocks(32)
    assert Machine(MODELS["70B"], GPUS["H100"], 4).num_blocks(32) > 1000
    with pytest.raises(ValueError, match="3 GPUs cannot share 8 kv heads"):
        Machine(MODELS["70B"], GPUS["H200"], 3)


def test_the_calibration_is_the_fit_to_what_was_measured() -> None:
    points = read_points(DOCS)
    assert sum(point.held_out for point in points) == 6 and len(points) == 18
    fitted = fit(points)
    for name, value in vars(CALIBRATION).items():
        assert getattr(fitted, name) == pytest.approx(value, rel=2e-3), name
    assert mean_error([point for point in points if not point.held_out], fitted) < 0.05
    assert mean_error([point for point in points if point.held_out], fitted) < 0.06

    # No other constants nearby do better: it is the least of squares.
    def squares(calibration) -> float:
        kept = [point for point in points if not point.held_out]
        return sum(math.log(p.predicted(calibration) / p.measured) ** 2 for p in kept)

    for name, value in vars(fitted).items():
        for factor in (0.98, 1.02):
            other = type(fitted)(**{**vars(fitted), name: value * factor})
            assert squares(other) > squares(fitted), name


def test_what_is_kept_is_what_was_fitted(tmp_path: Path) -> None:
    kept = dataclasses.replace(CALIBRATION, few_rows=7.123456e-6)
    keep(kept, tmp_path / "calibration.json")
    assert vars(read_calibration(tmp_path / "calibration.json")) == pytest.approx(
        vars(kept), rel=1e-4
    )


def test_whole_loads_come_out_as_measured() -> None:
    """A thousand requests at once through scheduler and cache: nothing was fitted to these."""
    errors = [simulated / measured - 1 for _, _, measured, simulated in loads_of(DOCS)]
    assert len(errors) == 8
    assert max(abs(error) for error in errors) < 0.10
    assert sum(abs(error) for error in errors) / 8 < 0.05


def test_bad_costs_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="per_row -1"):
        CostModel(fixed=1, per_row=-1)
    with pytest.raises(InvalidArgumentError, match="sharpness 0.5 < 1"):
        CostModel(fixed=1, sharpness=0.5)
    with pytest.raises(InvalidArgumentError, match="small_steps: per_further_row -2"):
        CostModel(fixed=1, small_steps=[SmallSteps(max_rows=4, fixed=0, per_further_row=-2)])
    free = [SmallSteps(max_rows=rows, fixed=0, per_further_row=0) for rows in (4, 8)]
    with pytest.raises(InvalidArgumentError, match="max_rows 4 is not greater than the 8 before"):
        CostModel(fixed=1, small_steps=free[::-1])
    with pytest.raises(InvalidArgumentError, match="steps that take no time"):
        CostModel(launches=1, small_steps=free)
    with pytest.raises(InvalidArgumentError, match="steps that take no time"):
        CostModel(host_fixed=1)
