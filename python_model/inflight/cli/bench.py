"""`inflight bench`: load on a running server, and what it gave."""

import asyncio
import json
import os
from collections.abc import Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from inflight.bench.load import BenchRequest, draw_load, parse_lengths


class Way(str, Enum):
    grpc = "grpc"
    openai = "openai"


def bench(
    way: Annotated[Way, typer.Option(help="tensorrt_llm over gRPC, or the endpoint.")] = Way.grpc,
    url: Annotated[
        str, typer.Option(help="Else localhost:8001, or http://localhost:9000 of the endpoint.")
    ] = "",
    model: Annotated[str, typer.Option(help="Of the endpoint; else its first.")] = "",
    num_requests: Annotated[int, typer.Option(min=1)] = 200,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-3, help="Requests a second, arriving at random (Poisson)."),
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Most requests at a time; 16 if no rate is given.")
    ] = None,
    input_tokens: Annotated[
        str, typer.Option(help="128, uniform:16:256, normal:200:50 or lognormal:200:0.8.")
    ] = "128",
    output_tokens: Annotated[str, typer.Option(help="The same.")] = "128",
    max_total_tokens: Annotated[
        int | None, typer.Option(min=2, help="Cut prompt and answer to so many together.")
    ] = None,
    vocab_size: Annotated[
        int, typer.Option(min=1, max=2**31, help="Prompts are random ids below it.")
    ] = 1000,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before, not counted.")] = 4,
    seed: Annotated[int, typer.Option(help="Of lengths, ids and arrivals.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures there.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write a PNG there (needs matplotlib).")
    ] = None,
) -> None:
    """Drive a running server: percentiles of times, and throughput.

    No prompt finds anything of another run or of the warm-up in the KV cache. Answers are as long
    as asked for: end tokens do not end them. A key for the endpoint comes from the variable
    OPENAI_API_KEY.
    """
    from inflight.bench.report import plot, summarise, table_of

    console = Console(stderr=True)
    if rate is None and concurrency is None:
        concurrency = 16
    try:
        draws = parse_lengths(input_tokens), parse_lengths(output_tokens)
        requests = draw_load(num_requests, *draws, vocab_size, rate, seed, max_total_tokens)
        # Prompts of their own, so that none that counts is found in the cache.
        others = min(warmup, num_requests), *draws, vocab_size, None, -1 - seed, max_total_tokens
        first = draw_load(*others)
        # Before the load, not after it.
        if plot_file is not None and find_spec("matplotlib") is None:
            raise ValueError("--plot needs matplotlib: pip install matplotlib")
        _check_writable("--json", json_file)
        _check_writable("--plot", plot_file)
    except ValueError as error:
        typer.echo(f"inflight bench: {error}", err=True)
        raise typer.Exit(1) from None
    settings = {
        "way": way.value,
        "rate": rate,
        "concurrency": concurrency,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "num_requests": num_requests,
        "seed": seed,
    }
    try:
        records = asyncio.run(_run(way, url, model, first, requests, concurrency, console))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    summary = summarise(records)
    table = table_of(summary)
    Console().print(table if summary["failed"] < len(records) else table.title)
    if json_file is not None:
        json_file.write_text(json.dumps({"settings": settings, **summary}, indent=2) + "\n")
    if plot_file is not None and summary["failed"] < len(records):
        plot(records, summary, plot_file)
    if summary["failed"]:
        typer.echo(f"inflight bench: {summary['first_error']}", err=True)
        raise typer.Exit(1)


def _check_writable(option: str, file: Path | None) -> None:
    """Raises ValueError."""
    if file is None:
        return
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ValueError(f"{option} {file} cannot be written")


async def _run(
    way: Way,
    url: str,
    model: str,
    first: Sequence[BenchRequest],
    requests: Sequence[BenchRequest],
    concurrency: int | None,
    console: Console,
) -> list:
    from inflight.bench.run import run_load
    from inflight.bench.targets import GrpcTarget, OpenAiTarget
    from inflight.client.chat_stream import ChatClient, ServerError

    if way is Way.grpc:
        target = GrpcTarget(url or "localhost:8001")
    else:
        url, key = url or "http://localhost:9000", os.environ.get("OPENAI_API_KEY", "")
        try:
            model = model or (await asyncio.to_thread(ChatClient(url, key).models))[0]
        except ServerError as error:
            typer.echo(f"inflight bench: {error}", err=True)
            raise typer.Exit(1) from None
        target = OpenAiTarget(url, model, key)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    try:
        await run_load(target, first, None)
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("requests", total=len(requests), rate="")
            count = 0

            def told(record) -> None:
                nonlocal count
                count += record.num_output
                elapsed = progress.tasks[bar].elapsed or 1e-9
                progress.update(bar, advance=1, rate=f"{count / elapsed:,.0f} tokens/s")

            return await run_load(target, requests, concurrency, told)
    finally:
        await target.close()
