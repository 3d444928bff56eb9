"""`inflight build`: a checkpoint folder to an engine directory."""

import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inflight.builder import build_engine
from inflight.checkpoint.safetensors_file import CheckpointError
from inflight.config import DEFAULT_TOKENS_PER_BLOCK, ProblemsError


class LoadFormat(str, Enum):
    auto = "auto"
    dummy = "dummy"


class Dtype(str, Enum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def build(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a HuggingFace checkpoint.")],
    output: Annotated[Path, typer.Option(help="Engine directory to write.")],
    dtype: Annotated[
        Dtype, typer.Option(help="Of weights, activations and cache; auto: the checkpoint's.")
    ] = Dtype.auto,
    max_batch_size: Annotated[
        int | None, typer.Option(help="Sequences in a step; 64 if not given.", min=1)
    ] = None,
    max_seq_len: Annotated[
        int | None,
        typer.Option(
            help="Prompt and output of a request; the model's longest if not given.", min=1
        ),
    ] = None,
    max_num_tokens: Annotated[
        int | None, typer.Option(help="Tokens in a step; 2048 if not given.", min=1)
    ] = None,
    tokens_per_block: Annotated[
        int, typer.Option(help="Tokens in a block of the cache.", min=1)
    ] = DEFAULT_TOKENS_PER_BLOCK,
    pack: Annotated[
        bool, typer.Option("--pack", help="Also write the assembled weights, for fast starts.")
    ] = False,
    load_format: Annotated[
        LoadFormat,
        typer.Option(help="dummy: from config.json alone, to be loaded with random weights."),
    ] = LoadFormat.auto,
) -> None:
    """Compile a HuggingFace checkpoint into an engine directory.

    Without --pack no weight is copied: the engine reads them from the checkpoint, which must stay.
    """
    started = time.perf_counter()
    try:
        engine = build_engine(
            checkpoint,
            output,
            dtype=dtype.value,
            max_batch_size=max_batch_size,
            max_seq_len=max_seq_len,
            max_num_tokens=max_num_tokens,
            tokens_per_block=tokens_per_block,
            pack=pack,
            load_format=load_format.value,
        )
    except (ProblemsError, CheckpointError, OSError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{engine} built in {time.perf_counter() - started:.2f} s")
