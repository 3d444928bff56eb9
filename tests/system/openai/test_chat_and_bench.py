"""`inflight chat` and `inflight bench` against a running server, as a user runs them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from inflight.serving.metrics_page import fetch, total
from openai_endpoint import KEY, ROOT, Endpoint


def run(
    *arguments: object, said: str = "", key: str = KEY, **environment: str
) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "inflight.cli.main", *map(str, arguments)],
        input=said,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "python_model"),
            "OPENAI_API_KEY": key,
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_chat_remembers_what_was_said(endpoint: Endpoint) -> None:
    options = ("--temperature=0", "--max-tokens=12", f"--url={endpoint.url}")
    ran = run(
        "chat", *options, said="What light?\n\n/reset\nWhat light?\nAnd then?\n/exit\nnever\n"
    )
    assert ran.returncode == 0, ran.stderr
    first = endpoint.ensemble(text_input="ROMEO:\nWhat light?\n\nJULIET:\n", max_tokens=12)
    history = f"ROMEO:\nWhat light?\n\nJULIET:\n{first.strip()}\n\nROMEO:\nAnd then?\n\nJULIET:\n"
    second = endpoint.ensemble(text_input=history, max_tokens=12)
    assert ran.stdout == f"{first}\n{first}\n{second}\n"
    assert ran.stderr.count("[12 tokens") == 3


@pytest.mark.parametrize(
    ("arguments", "key", "said"),
    [(["--url=http://localhost:9"], KEY, "localhost:9"), ([], "wrong", "API key")],
)
def test_a_chat_says_why_not(endpoint: Endpoint, arguments: list, key: str, said: str) -> None:
    ran = run("chat", *(arguments or [f"--url={endpoint.url}"]), key=key)
    assert ran.returncode == 1 and said in ran.stderr


@pytest.mark.parametrize("way", ["grpc", "openai"])
def test_bench_counts_what_it_asked_for(endpoint: Endpoint, tmp_path: Path, way: str) -> None:
    url = f"localhost:{endpoint.grpc_port}" if way == "grpc" else endpoint.url
    ran = run(
        "bench",
        f"--way={way}",
        f"--url={url}",
        "--num-requests=12",
        "--input-tokens=uniform:5:20",
        "--output-tokens=17",
        "--concurrency=4",
        f"--json={tmp_path / 'figures.json'}",
        f"--plot={tmp_path / 'figures.png'}",
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["failed"] == 0 and figures["output_tokens"] == 12 * 17
    assert 12 * 5 <= figures["input_tokens"] <= 12 * 20
    for name in ("ttft_ms", "tpot_ms", "latency_ms"):
        row = figures[name]
        assert 0 < row["p50"] <= row["p90"] <= row["p99"] <= row["max"]
    assert figures["ttft_ms"]["max"] < figures["latency_ms"]["max"]
    assert figures["settings"]["way"] == way
    assert "time per output token" in ran.stdout


@pytest.mark.parametrize("way", ["grpc", "openai"])
def test_bench_measures_no_cache(endpoint: Endpoint, way: str) -> None:
    """Neither what its warm-up left there, nor what the same command did before."""
    url = f"localhost:{endpoint.grpc_port}" if way == "grpc" else endpoint.url
    page = f"http://localhost:{endpoint.metrics_port}/metrics"
    tokens = lambda kind: total(fetch(page, 10), "nv_llm_prefix_cache_metrics", kind)  # noqa: E731
    hit, queried = tokens("hit_tokens"), tokens("queried_tokens")
    for _ in range(2):
        ran = run(
            "bench", f"--way={way}", f"--url={url}", "--num-requests=3", "--warmup=3",
            "--input-tokens=200", "--output-tokens=2",
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        endpoint.wait_until_idle()
    assert tokens("queried_tokens") == queried + 2 * 6 * 200
    assert tokens("hit_tokens") - hit < 20  # tokens that prompts begin with alike by chance


def test_bench_at_a_rate_takes_its_time(endpoint: Endpoint, tmp_path: Path) -> None:
    """Its bar grows meanwhile, as in a terminal."""
    ran = run(
        "bench", f"--url=localhost:{endpoint.grpc_port}", "--num-requests=20", "--rate=20",
        "--output-tokens=2", "--input-tokens=4", f"--json={tmp_path / 'figures.json'}", FORCE_COLOR="1",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    from inflight.bench.load import draw_load, parse_lengths

    two = parse_lengths("2")
    last = draw_load(20, two, two, 10, 20.0, 0)[-1].at
    assert json.loads((tmp_path / "figures.json").read_text())["seconds"] >= last > 0.3
    shown = [int(done) for done in re.findall(r"(\d+)/20", ran.stderr)]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == 20
    assert len(set(shown)) > 3 and "tokens/s" in ran.stderr


def test_bench_tells_of_refusals(endpoint: Endpoint) -> None:
    ran = run(
        "bench", f"--url=localhost:{endpoint.grpc_port}", "--num-requests=3", "--warmup=0",
        "--vocab-size=1000000",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "3 failed" in ran.stdout and "p50" not in ran.stdout
    assert "outside the vocabulary" in ran.stderr


def test_bench_says_which_distributions_there_are() -> None:
    ran = run("bench", "--input-tokens=zipf:3")
    assert ran.returncode == 1 and "uniform:LOW:HIGH" in ran.stderr
