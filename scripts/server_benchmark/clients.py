"""Client processes under the benchmark's hands, and what processes spent on a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("stream_client.py")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Outcome:
    """Of a load that ran to its end."""

    seconds: float
    values: int  # ids, or texts
    responses: int = 0
    client_cpu_s: float = 0.0
    server_cpu_s: float = 0.0
    stub_cpu_s: float = 0.0  # processes of Python models


class Clients:
    """`streams` gRPC streams to a server, spread over so many processes: one Python process alone
    would be what is measured."""

    def __init__(self, url: str, streams: int, processes: int) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(processes)
        ]
        for index, process in enumerate(self._processes):
            self._tell(process, {"url": url, "streams": len(range(index, streams, processes))})

    def close(self) -> None:
        for process in self._processes:
            process.stdin.close()
        for process in self._processes:
            process.wait(timeout=30)

    def run(self, model: str, output: str, streaming: bool, calls: list[dict]) -> Outcome:
        """Sends all calls at once and waits for their ends."""
        count = len(self._processes)
        round_ = {"model": model, "output": output, "streaming": streaming}
        for index, process in enumerate(self._processes):
            self._tell(process, {**round_, "calls": calls[index::count]})
        for process in self._processes:
            if self._hear(process) != "ready":
                raise RuntimeError("a client process said something unexpected")
        started = time.perf_counter()
        for process in self._processes:
            self._tell(process, "go")
        figures = [json.loads(self._hear(process)) for process in self._processes]
        return Outcome(
            time.perf_counter() - started,
            sum(one["values"] for one in figures),
            sum(one["responses"] for one in figures),
            sum(one["cpu_s"] for one in figures),
        )

    @staticmethod
    def _tell(process: subprocess.Popen, what: Any) -> None:
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()

    @staticmethod
    def _hear(process: subprocess.Popen) -> str:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a client process ended with code {process.wait()}")
        return line.strip()


def _stats() -> dict[int, tuple[str, int, float]]:
    """Process id -> (name, parent, seconds on a processor)."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            name, rest = (folder / "stat").read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue
        fields = rest.split()
        found[int(folder.name)] = (name, int(fields[1]), sum(map(int, fields[11:13])) / TICKS)
    return found


def cpu_seconds_by_process(root: int) -> dict[int, tuple[str, float]]:
    """Of the descendants of a process: id -> (command line, seconds)."""
    found = {}
    stats = _stats()
    for pid, (_, _, seconds) in stats.items():
        if pid != root and _is_below(pid, root, stats):
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found[pid] = (line.replace(b"\0", b" ").decode("utf-8", "replace"), seconds)
    return found


def _is_below(pid: int, root: int, stats: dict[int, tuple[str, int, float]]) -> bool:
    while pid in stats and pid != root:
        pid = stats[pid][1]
    return pid == root


def cpu_seconds_below(root: int) -> tuple[float, float]:
    """Of the tritonserver among the descendants of a process, and of its Python models."""
    stats = _stats()
    server = stubs = 0.0
    for pid, (name, _, seconds) in stats.items():
        if pid == root or not _is_below(pid, root, stats):
            continue
        if name.startswith("triton_python"):
            stubs += seconds
        elif name.startswith("tritonserver"):
            server += seconds
    return server, stubs
