#!/usr/bin/env python3
"""What the scheduler and the cache's books cost the host, without a model.

Runs the C++ program test_scheduler_speed of a build folder and prints its figures as a table: a
step's scheduling and bookkeeping beside an empty cache and beside one full of earlier prompts, the
match of a prompt of 100,000 tokens, bytes of a block. Times are of the thread's processor time;
each case has a process of its own, as an engine has.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = (
    *("what", "running", "waiting", "blocks", "cached", "least", "median", "p99", "goal", "unit"),
    *("stored", "evicted", "found"),  # blocks a step
)
NUM_CASES = 9  # of the program


def parse(line: str) -> dict[str, str]:
    """ "mixed running 256 median 4.8" -> {"what": "mixed", "running": "256", ...}."""
    what, *rest = line.split()
    return {"what": what} | dict(zip(rest[::2], rest[1::2], strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=ROOT / "build", help="CMake build folder")
    parser.add_argument("--steps", type=int, default=2000, help="measured steps per case")
    parser.add_argument("--blocks", type=int, default=1_000_000, help="of the pool")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    program = args.build / "tests" / "test_scheduler_speed"
    if not program.exists():
        print(f"{program} is not built: ninja -C {args.build} test_scheduler_speed")
        return 1
    command = [program, str(args.steps), str(args.blocks)]
    rows: list[dict[str, str]] = [dict(zip(COLUMNS, COLUMNS, strict=True))]
    failed = 0
    for number in range(NUM_CASES):
        done = subprocess.run([*command, str(number)], capture_output=True, text=True)
        rows += [parse(line) for line in done.stdout.splitlines()]
        print(done.stderr, end="", file=sys.stderr)
        failed = failed or done.returncode
    for cells in rows:
        print("".join(f"{cells.get(column, ''):>11}" for column in COLUMNS))
    if args.json:
        args.json.write_text(json.dumps(rows[1:], indent=2) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
