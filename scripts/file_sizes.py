#!/usr/bin/env python3
"""Prints the lines of code by folder and every file above 500 lines (each needs its reason)."""

import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = {".py", ".h", ".cc", ".cu", ".cuh"}


def main() -> None:
    names = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    by_folder: Counter[str] = Counter()
    large = []
    for name in names:
        path = ROOT / name
        if path.suffix in SUFFIXES and path.is_file():
            lines = len(path.read_text().splitlines())
            by_folder["/".join(name.split("/")[:2] if "/" in name else [name])] += lines
            if lines > 500:
                large.append((lines, name))
    for folder, lines in sorted(by_folder.items()):
        print(f"{lines:7d}  {folder}")
    print(f"{sum(by_folder.values()):7d}  in all")
    for lines, name in sorted(large, reverse=True):
        print(f"above 500: {name} ({lines})")


if __name__ == "__main__":
    main()
