"""`inflight check`: a repository or an engine, before a server is started."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from inflight.builder.cache import engine_dir_for
from inflight.builder.engine_file import ENGINE_FILE
from inflight.check.findings import Finding, Level
from inflight.check.llm import LlmReport, MemoryPlan, check_engine
from inflight.check.repository import RepositoryReport, check_repository, is_repository

_PIPED_WIDTH = 160
_STYLES = {Level.error: "bold red", Level.warning: "yellow", Level.note: "dim"}


def check(
    path: Annotated[Path, typer.Argument(help="A model repository, an engine or a checkpoint.")],
    device: Annotated[str, typer.Option(help="Of an engine: cpu, cuda, cuda:1 or auto.")] = "auto",
) -> None:
    """Print the effective configuration, the memory plan and every doubtful setting. The exit status
    is 1 if there is an error among them."""
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    if is_repository(path):
        report = check_repository(path)
    elif any((path / name).is_file() for name in (ENGINE_FILE, "config.json")):
        llm = check_engine(_engine_of(path), device)
        report = RepositoryReport((), (llm,), llm.findings)
    else:
        typer.echo(
            f"inflight check: {path} is neither a model repository (no */config.pbtxt) nor an engine "
            f"directory (no {ENGINE_FILE}) nor a checkpoint folder (no config.json)",
            err=True,
        )
        raise typer.Exit(1)
    for llm in report.llms:
        console.print(_parameters(llm))
        if llm.plan is not None:
            console.print(_memory(llm.name, llm.plan))
    _print_findings(console, report.findings)
    if any(finding.level is Level.error for finding in report.findings):
        raise typer.Exit(1)


def _engine_of(path: Path) -> Path:
    """Of a checkpoint the one in the cache, where a server would find it, too."""
    try:
        return engine_dir_for(path)
    except (ValueError, OSError) as error:
        typer.echo(f"inflight check: {error}", err=True)
        raise typer.Exit(1) from None


def _parameters(llm: LlmReport) -> Table:
    table = Table(title=f"{llm.name}, version {llm.version}: parameters", title_justify="left")
    for column in ("parameter", "value", "from"):
        table.add_column(column, overflow="fold")
    for row in llm.parameters:
        style = (
            "" if row.source == "config.pbtxt" else "dim" if row.source != "unknown" else "yellow"
        )
        table.add_row(row.key, row.value, row.source, style=style)
    return table


def _memory(name: str, plan: MemoryPlan) -> Table:
    table = Table(title=f"{name}: memory on {plan.device}", title_justify="left", show_header=False)
    table.add_column("use")
    table.add_column("bytes", justify="right")
    table.add_column("note")
    memory, on_cpu = plan.memory, plan.device == "cpu"
    # What lies side by side in the files is, too, which only the loader sees.
    mapped = f"at least {_size(memory.mapped_bytes)} of them read in place" if on_cpu else ""
    table.add_row("weights", _size(memory.weight_bytes), mapped)
    note = f"{plan.max_num_tokens} tokens in {plan.max_batch_size} sequences"
    table.add_row("arena", _size(memory.arena_bytes), note)
    cache = plan.cache_bytes
    per = f"{plan.num_blocks} blocks of {plan.tokens_per_block} tokens = {plan.num_tokens} tokens"
    windows = [
        f"{blocks} blocks for {layers} layers with a window of {window} tokens"
        for window, _, layers, blocks in plan.windows
    ]
    has_other_layers = 0 in memory.layer_windows
    table.add_row("KV cache", _size(cache), ", ".join([per] * has_other_layers + windows))
    on_host = plan.num_host_blocks * plan.bytes_per_block
    if on_host:
        where = "" if on_cpu else ", page-locked host memory"
        table.add_row("KV cache on host", _size(on_host), f"{plan.num_host_blocks} blocks{where}")
    taken = cache + on_host if on_cpu else cache
    table.add_row("free", _size(plan.free_bytes - taken), "now, beside all of these")
    return table


def _print_findings(console: Console, findings: tuple[Finding, ...]) -> None:
    order = list(Level)
    for finding in sorted(findings, key=lambda finding: order.index(finding.level)):
        style = _STYLES[finding.level]
        console.print(
            f"[{style}]{finding.level.value}[/] {finding.model}: ", end="", highlight=False
        )
        console.print(finding.text, markup=False, highlight=False, soft_wrap=True)
    counts = Counter(finding.level for finding in findings)
    told = [f"{counts[level]} {level.value}{'s' * (counts[level] != 1)}" for level in Level]
    console.print(", ".join(told), highlight=False)


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
