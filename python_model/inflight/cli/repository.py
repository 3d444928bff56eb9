"""`inflight repository`: a model repository for those who run tritonserver themselves."""

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inflight.builder.cache import engine_dir_for
from inflight.builder.engine_file import EngineFile
from inflight.cli.build import Dtype, LoadFormat
from inflight.cli.option_groups import INT32_MAX, INT64_MAX, MAX_THREADS, with_groups
from inflight.config import ProblemsError
from inflight.llm.devices import runs_on_cpu
from inflight.serving.installation import package_path, python_environment
from inflight.serving.repository import RepositorySettings, write_repository
from inflight.text.tokenizer import has_tokenizer


class BatchSchedulerPolicy(str, Enum):
    guaranteed_no_evict = "guaranteed_no_evict"
    max_utilization = "max_utilization"
    static_batch = "static_batch"


@dataclass(frozen=True)
class ServingOptions:
    """What `inflight serve` can be told of the model, too."""

    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "auto"
    load_format: Annotated[
        LoadFormat, typer.Option(help="dummy: random weights, config.json is enough.")
    ] = LoadFormat.auto
    decoupled: Annotated[
        bool, typer.Option(help="Several responses a request: streaming needs it.")
    ] = True
    exclude_input_in_output: Annotated[
        bool, typer.Option(help="Leave the prompt out of answers, unless a request says otherwise.")
    ] = False
    use_model_end_ids: Annotated[
        bool,
        typer.Option(help="A request that ends at one of the model's end ids ends at any of them."),
    ] = True
    max_queue_size: Annotated[
        int, typer.Option(min=0, max=INT32_MAX, help="Requests that may wait; 0 = any number.")
    ] = 0
    request_timeout_ms: Annotated[
        int,
        typer.Option(min=0, max=INT32_MAX, help="For requests that bring no timeout_ms; 0 = none."),
    ] = 0
    queue_timeout_ms: Annotated[
        int,
        typer.Option(
            min=0,
            max=INT32_MAX,
            help="How long a request may wait for its first step; 0 = any time.",
        ),
    ] = 0
    step_timeout_ms: Annotated[
        int,
        typer.Option(
            min=0,
            max=INT32_MAX,
            help="A step that takes longer ends the engine, which hangs; 0 = never.",
        ),
    ] = 0
    kv_cache_max_tokens: Annotated[
        int | None, typer.Option(min=1, max=INT64_MAX, help="Cap of the KV cache in tokens.")
    ] = None
    kv_cache_max_bytes: Annotated[
        int | None, typer.Option(min=1, max=INT64_MAX, help="Cap of the KV cache in bytes.")
    ] = None
    kv_cache_host_bytes: Annotated[
        int,
        typer.Option(
            min=0, max=INT64_MAX, help="Host memory for blocks that the KV cache has no room for."
        ),
    ] = 0
    max_logits_bytes: Annotated[
        int,
        typer.Option(
            min=0,
            max=INT64_MAX,
            help="Host memory that logits of requests under way may take together; 0 = a quarter "
            "of what is free.",
        ),
    ] = 0
    kv_cache_event_buffer_max_size: Annotated[
        int,
        typer.Option(
            min=0, max=INT64_MAX, help="Events of the KV cache that are kept for routers; 0 = none."
        ),
    ] = 0
    batch_scheduler_policy: Annotated[
        BatchSchedulerPolicy,
        typer.Option(help="Who may hold cache; max_utilization preempts when blocks run out."),
    ] = BatchSchedulerPolicy.guaranteed_no_evict
    max_time_per_output_token_ms: Annotated[
        float,
        typer.Option(
            min=0, help="What a token may take while prompts are read beside it; 0 = no bound."
        ),
    ] = 0
    cuda_graphs: Annotated[
        bool,
        typer.Option(
            help="On a GPU, steps that only generate, and short prompts, run from recordings."
        ),
    ] = True
    num_threads: Annotated[
        int, typer.Option(min=0, max=MAX_THREADS, help="Of CPU work; 0 = as many as allowed.")
    ] = 0


# A prompt takes one about half a millisecond: a hundred at once should not wait for one core.
_MAX_PROCESSES = 4
_CORES_EACH = 4

# Of the text of an engine on the CPU. What waits joins, so the engine is slowed less and a stream's
# pieces get longer.
_TEXT_NICENESS = 19


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _unless(value: str, default: str) -> str | None:
    return None if value == default else value


def repository_settings(engine_dir: Path, options: ServingOptions) -> RepositorySettings:
    """Of a repository that this machine's server can load as it is."""
    load_format = options.load_format
    has_text = load_format != LoadFormat.dummy or has_tokenizer(engine_dir)
    max_batch_size = EngineFile.read(engine_dir).settings.max_batch_size
    assert max_batch_size is not None  # an engine's limits are settled
    num_processes = max(1, min(_MAX_PROCESSES, _num_cores() // _CORES_EACH))
    given = {
        "device": options.device,
        "load_format": None if load_format == LoadFormat.auto else load_format.value,
        "max_tokens_in_paged_kv_cache": options.kv_cache_max_tokens,
        "kv_cache_max_bytes": options.kv_cache_max_bytes,
        "kv_cache_host_memory_bytes": options.kv_cache_host_bytes or None,
        "max_logits_bytes": options.max_logits_bytes or None,
        "kv_cache_event_buffer_max_size": options.kv_cache_event_buffer_max_size or None,
        "batch_scheduler_policy": _unless(
            options.batch_scheduler_policy.value, "guaranteed_no_evict"
        ),
        "max_time_per_output_token_ms": options.max_time_per_output_token_ms or None,
        "cuda_graph_mode": None if options.cuda_graphs else "false",
        "num_threads": options.num_threads or None,
        "max_queue_size": options.max_queue_size or None,
        "request_timeout_ms": options.request_timeout_ms or None,
        "queue_timeout_ms": options.queue_timeout_ms or None,
        "step_timeout_ms": options.step_timeout_ms or None,
        "use_model_end_ids": str(options.use_model_end_ids).lower(),
        "exclude_input_in_output": str(options.exclude_input_in_output).lower(),
    }
    return RepositorySettings(
        engine_dir=str(engine_dir.resolve()),
        tokenizer_dir=str(engine_dir.resolve()) if has_text else "",
        max_batch_size=max_batch_size,
        decoupled=options.decoupled,
        llm_parameters={key: str(value) for key, value in given.items() if value is not None},
        preprocessing_instances=num_processes,
        text_niceness=_TEXT_NICENESS if runs_on_cpu(options.device) else 0,
        python_environment=python_environment(),
        package_path=package_path(),
    )


@with_groups
def repository(
    model: Annotated[Path, typer.Argument(help="An engine directory or a checkpoint folder.")],
    output: Annotated[Path, typer.Option(help="Folder of the repository.")],
    dtype: Annotated[
        Dtype, typer.Option(help="Of an engine to be built from a checkpoint.")
    ] = Dtype.auto,
    *,
    options: ServingOptions,
) -> None:
    """Write a model repository without starting a server."""
    try:
        settings = repository_settings(
            engine_dir_for(model, dtype=dtype.value, load_format=options.load_format.value),
            options,
        )
        write_repository(output, settings)
    except (OSError, ProblemsError, ValueError) as error:
        typer.echo(f"inflight repository: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(
        f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}\n"
        "Where `inflight install` has put the backend into a server, start it with\n\n"
        f"  tritonserver --model-repository={output} --disable-auto-complete-config\n"
    )
