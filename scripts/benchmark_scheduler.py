#!/usr/bin/env python3
"""Microseconds per step of scheduling and cache bookkeeping, without a model.

Runs the C++ program test_scheduler_speed of a build folder and prints its figures as a table.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURE = re.compile(r"(\w+) +([\d.]+)")


def parse(line: str) -> dict[str, str]:
    """ "mixed  running 256 median_us 4.8" -> {"case": "mixed", "running": "256", ...}."""
    case, rest = line.split(maxsplit=1)
    return {"case": case} | dict(FIGURE.findall(rest))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="CMake build folder")
    parser.add_argument("--steps", type=int, default=2000, help="measured steps per case")
    args = parser.parse_args()
    program = args.build / "tests" / "test_scheduler_speed"
    if not program.exists():
        print(f"{program} is not built: ninja -C {args.build} test_scheduler_speed")
        return 1
    done = subprocess.run([program, str(args.steps)], capture_output=True, text=True)
    rows = [parse(line) for line in done.stdout.splitlines()]
    columns = ("case", "running", "waiting", "blocks", "median_us", "p99_us", "goal_us")
    for cells in (dict(zip(columns, columns, strict=True)), *rows):
        print("".join(f"{cells[column]:>12}" for column in columns))
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
