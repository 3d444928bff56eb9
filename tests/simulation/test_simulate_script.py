"""scripts/simulate.py as a user runs it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def simulate() -> Callable[..., int]:
    """The script's main."""
    spec = importlib.util.spec_from_file_location("simulate", ROOT / "scripts" / "simulate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main(list(arguments))


def test_a_run_prints_and_writes_its_figures(
    simulate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "run.json"
    load = ("--trace", "agents", "--num-requests", "300", "--rate", "20", "--replicas", "2")
    status = simulate(*load, "--router", "prefix-aware", "--json", str(written))
    assert status == 0
    printed = capsys.readouterr().out
    figures = json.loads(written.read_text())
    assert figures["finished"] == 300
    assert f"{figures['output_tokens_per_s']:,.0f} output tokens/s" in printed
    assert f"{figures['ttft_ms']['p50']:,.2f}" in printed


def test_a_run_is_drawn(simulate: Callable[..., int], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "run.png"
    status = simulate("--num-requests", "200", "--plot", str(drawn))
    assert status == 0
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_sizing_question_is_answered(
    simulate: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "size.json"
    load = ("--trace", "uniform", "--num-requests", "400", "--rate", "60", "--model", "70B")
    fleet = ("--gpus-per-replica", "4", "--router", "least-loaded")
    status = simulate(
        *load, *fleet, "--find-replicas", "--ttft-p99", "500", "--tpot-p99", "60",
        "--json", str(written),
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    figures = json.loads(written.read_text())
    needed = figures["num_replicas"]
    assert needed > 1
    assert f"{needed} replicas, {4 * needed} H200" in printed
    assert figures["tried"][str(needed)]["ttft_ms"]["p99"] <= 500
    assert any(int(count) < needed for count in figures["tried"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trace", "nothing.jsonl"], "--trace nothing.jsonl: neither a file nor uniform"),
        (["--model", "9B"], "no model '9B'"),
        (["--arrivals", "rush"], "'rush' is no way of arriving"),
        (["--find-replicas"], "--find-replicas needs --ttft-p99 or --tpot-p99"),
        (["--model", "70B"], "more GPUs a replica"),
        (["--replicas", "0"], "num_replicas 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named(
    simulate: Callable[..., int],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        status = simulate("--num-requests", "10", *arguments)
    except SystemExit as end:  # argparse
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_only_what_was_calibrated_is_kept(
    simulate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        simulate("--keep")
    assert "--keep needs --calibrate" in capsys.readouterr().err
