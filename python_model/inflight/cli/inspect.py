"""`inflight inspect`: what an engine is, what memory it takes, and the plan it runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from inflight.builder.build import model_graph
from inflight.builder.engine_file import EngineFile, EngineFileError
from inflight.builder.memory import engine_memory
from inflight.ir.graph import Graph
from inflight.ir.printer import format_attribute, format_attributes, format_inputs
from inflight.passes.pipeline import stages

_PIPED_WIDTH = 180


def inspect(
    engine: Annotated[Path, typer.Argument(help="Engine directory.")],
    passes: Annotated[
        bool, typer.Option("--passes", help="Show the graph before and after each pass.")
    ] = False,
) -> None:
    """Print an engine's model facts, limits, memory and plan."""
    console = Console()
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    try:
        file = EngineFile.read(engine)
    except EngineFileError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    console.print(_facts("model", _model_facts(file)))
    console.print(_facts("limits", file.settings.limits_json()))
    console.print(_facts("memory", _memory_facts(file)))
    if passes:
        previous: Graph | None = None
        for name, graph in stages(model_graph(file.model, file.settings)):
            console.print(_graph_table(name, graph, previous))
            previous = graph
    for rank in file.ranks:
        console.print(_plan_table(rank))


def _model_facts(file: EngineFile) -> dict[str, Any]:
    model, settings = file.model, file.settings
    rope = {k: v for k, v in model.to_json()["rope"].items() if v is not None}
    return {
        "architecture": model.architecture,
        "layers": model.num_layers,
        "hidden / intermediate": f"{model.hidden_size} / {model.intermediate_size}",
        "heads / kv heads / head size": (
            f"{model.num_heads} / {model.num_kv_heads} / {model.head_size}"
        ),
        "vocabulary": model.vocab_size,
        "tied embeddings": model.tie_word_embeddings,
        "biases (attention / MLP)": f"{model.attention_bias} / {model.mlp_bias}",
        "rope": ", ".join(f"{k}={format_attribute(v)}" for k, v in rope.items()),
        "end tokens": ", ".join(map(str, model.eos_token_ids)) or "none",
        "dtype": settings.dtype,
        "ranks": len(file.ranks),
        "checkpoint": file.checkpoint_path if file.checkpoint_files else "none: dummy weights only",
        "built by": f"inflight {file.inflight_version}",
    }


def _memory_facts(file: EngineFile) -> dict[str, str]:
    memory = engine_memory(file)
    block = memory.kv_bytes_per_token * file.settings.tokens_per_block
    sequence = memory.kv_bytes(file.settings.max_seq_len)
    return {
        "weights": _size(memory.weight_bytes),
        "mapped, not copied, on the CPU: at least": _size(memory.mapped_bytes),
        "arena": _size(memory.arena_bytes),
        "cache per token": _size(memory.kv_bytes_per_token),
        f"cache per block of {file.settings.tokens_per_block}": _size(block),
        f"cache per sequence of {file.settings.max_seq_len}": _size(sequence),
    }


def _size(count: int) -> str:
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"


def _facts(title: str, facts: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def _node_table(title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("#", justify="right")
    for column in ("op", "inputs", "outputs", "attributes"):
        table.add_column(column, overflow="fold")
    return table


def _graph_table(name: str, graph: Graph, previous: Graph | None) -> Table:
    count = f"{len(graph.nodes)} nodes, {len(graph.weights)} weights"
    if previous is None:
        title = f"as the model wrote it: {count}"
    else:
        title = (
            f"after {name}: {count} (before: {len(previous.nodes)} nodes, "
            f"{len(previous.weights)} weights)"
        )
    table = _node_table(title)
    for index, node in enumerate(graph.nodes):
        made = (f"{value}: {graph.values[value]}" for value in node.outputs.values())
        changed = previous is not None and node not in previous.nodes
        table.add_row(
            str(index),
            node.op,
            format_inputs(node),
            "\n".join(made),
            format_attributes(node),
            style="bold" if changed else None,
        )
    return table


def _plan_table(rank: Mapping[str, Any]) -> Table:
    table = _node_table(f"plan of rank {rank['rank']}: {len(rank['plan'])} ops")
    for index, row in enumerate(rank["plan"]):
        table.add_row(
            str(index),
            row["op"],
            _joined(f"{k}={v}" for k, v in row["inputs"].items()),
            "\n".join(_value(rank, name) for name in row["outputs"].values()),
            _joined(f"{k}={format_attribute(v)}" for k, v in row["attributes"].items()),
        )
    return table


def _value(rank: Mapping[str, Any], name: str) -> str:
    value = rank["values"][name]
    shape = ", ".join(map(str, value["shape"]))
    return f"{name}: {value['dtype']}[{shape}] @{value['offset']}"


def _joined(items: Iterable[str]) -> str:
    return ", ".join(items)
