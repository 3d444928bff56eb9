"""What the benchmarks of one model with dummy weights have in common: options, a folder, a file."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_benchmark import shapes


def new_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(shapes.MODELS), default="M8")
    parser.add_argument("--device", default="cuda", help="cpu, cuda, cuda:1")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


@contextmanager
def model_folder(model: str) -> Iterator[Path]:
    """One with the model's configuration; engines built of it are forgotten with it."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "cache")
        folder = Path(name) / model
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(shapes.MODELS[model]))
        yield folder


def write_figures(options: argparse.Namespace, figures: dict[str, float]) -> None:
    """If a file was asked for."""
    if options.json:
        facts = {"model": options.model, "dtype": options.dtype, "device": options.device}
        options.json.write_text(json.dumps({**facts, "figures": figures}, indent=2) + "\n")
