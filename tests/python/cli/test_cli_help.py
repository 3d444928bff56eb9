"""`inflight COMMAND --help` in a terminal of the usual width."""

import pytest
from inflight.cli.main import app
from typer.main import get_command
from typer.testing import CliRunner

COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_told_by_its_whole_name(name: str) -> None:
    answer = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "80"})
    assert answer.exit_code == 0
    words = answer.output.replace("/", " ").split()
    options = [each for each in COMMANDS[name].params if each.param_type_name == "option"]
    assert options
    for option in options:
        assert {*option.opts, *option.secondary_opts} <= set(words)
    assert max(map(len, answer.output.splitlines())) <= 80


@pytest.mark.parametrize("option", ["batch-scheduler-policy", "model-control-mode", "dtype"])
def test_a_name_that_there_is_not_is_refused_before_anything_starts(option: str) -> None:
    answer = CliRunner().invoke(app, ["serve", "/no/model", f"--{option}=no_such"])
    assert answer.exit_code == 2
    assert "'no_such' is not one of" in answer.output
