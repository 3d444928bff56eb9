"""scripts/benchmark_reuse.py runs in small, and finds what there is to be found. Nothing is timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
from engine_benchmark.users import Mix, draw_users  # noqa: E402


def test_it_runs_in_small(tmp_path: Path) -> None:
    written = tmp_path / "figures.json"
    sizes = ["--scale", "0.03", "--repeats", "1", "--pool-tokens", "16384"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_reuse.py"), "--model", "tiny"]
    ran = subprocess.run(
        [*command, "--device", "cpu", "--dtype", "float32", *sizes, "--json", str(written)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "python_model")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    facts = json.loads(written.read_text())
    assert (facts["model"], facts["device"]) == ("tiny", "cpu")
    figures = facts["figures"]
    for key, value in figures.items():
        assert f"{key} " in ran.stdout
        if "ms to first token" in key or "tok/s" in key:
            assert value > 0, key
    assert ran.stdout.count(", goal at ") == 4
    # Most of an agent's and a chat's prompt was another's or its own before.
    assert 0.4 < figures["mixed: of them found"] < 0.95
    # By chance a prompt begins with the same token as another.
    assert figures["no hits: tokens found"] < 50 < figures["no hits: blocks evicted"]


def test_users_share_what_they_should() -> None:
    mix = Mix(num_agents=40, num_chats=3, num_others=2, agent_instructions=50)
    users = draw_users(mix, vocab_size=1000, seed=4)
    assert users == draw_users(mix, vocab_size=1000, seed=4)
    assert users != draw_users(mix, vocab_size=1000, seed=5)
    assert len(users) == 45
    agents = [user for user in users if len(user.said) == 50]
    assert len(agents) == 40 and all(len(user.turns) == 3 for user in agents)
    assert 3 <= len({tuple(user.said) for user in agents}) <= mix.num_agent_kinds
    chats = [user for user in users if len(user.turns) == 4]
    assert len(chats) == 3 and len({tuple(user.said) for user in chats}) == 1
    alone = [user for user in users if not user.said]
    assert [len(user.turns) for user in alone] == [1, 1]
    for users_of_one in (agents, chats, alone):
        turns = [tuple(turn) for user in users_of_one for turn in user.turns]
        assert len(set(turns)) == len(turns)
    assert mix.longest == max(50 + 3 * 384, 256 + 4 * 224, 1024 + 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--parts", "hit,all"], "--parts: all: unknown"), (["--scale", "0"], "--scale 0.0: from 0")],
)
def test_what_it_does_not_know_it_says(arguments: list[str], message: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_reuse.py"), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2 and message in ran.stderr
