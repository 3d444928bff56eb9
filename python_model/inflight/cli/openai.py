"""`inflight openai`: the OpenAI endpoint in front of a running server."""

import gc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from inflight.cli.option_groups import with_groups
from inflight.cli.ports import MAX_PORT, check_ports

_KEYS = "INFLIGHT_API_KEYS"


@dataclass(frozen=True)
class EndpointOptions:
    """What `inflight serve` can be told of the endpoint, too."""

    openai_host: Annotated[str, typer.Option(help="Address that the endpoint listens at.")] = (
        "0.0.0.0"
    )
    model_name: Annotated[
        str, typer.Option(help="As clients say it; else the name of the model's folder.")
    ] = ""
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja file in the place of the model's own template.")
    ] = None
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"Keys, one a line; also the variable {_KEYS}. Without any: no key."),
    ] = None
    max_body_mib: Annotated[int, typer.Option(min=1, help="Longest body of a request.")] = 16
    max_answer_seconds: Annotated[
        float, typer.Option(min=0.001, help="Longest time of an answer.")
    ] = 600


def api_keys(file: Path | None) -> tuple[str, ...]:
    """Of the file and the environment. Raises ValueError for a file without any key."""
    lines = os.environ.get(_KEYS, "").replace(",", "\n").splitlines()
    if file is not None:
        in_file = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not in_file:
            raise ValueError(f"{file} holds no key")
        lines += in_file
    return tuple(line.strip() for line in lines if line.strip())


@with_groups
def openai(
    model: Annotated[Path, typer.Argument(help="The engine directory that the server has.")],
    port: Annotated[
        int, typer.Option(min=1, max=MAX_PORT, help="HTTP port of the endpoint.")
    ] = 9000,
    grpc_url: Annotated[str, typer.Option(help="The server's gRPC.")] = "localhost:8001",
    metrics_url: Annotated[str, typer.Option(help="The server's metrics.")] = (
        "http://localhost:8002/metrics"
    ),
    *,
    options: EndpointOptions,
) -> None:
    """Put OpenAI's HTTP interface in front of a running server, until SIGINT or SIGTERM."""
    import uvicorn

    from inflight.builder.cache import engine_dir_for
    from inflight.openai.app import EndpointSettings, make_app
    from inflight.openai.served_model import ServedModel

    try:
        keys = api_keys(options.api_key_file)
        name = options.model_name or model.resolve().name
        served = ServedModel.load(engine_dir_for(model), name, options.chat_template)
        check_ports([("--port", options.openai_host, port)])
    except (OSError, ValueError) as error:
        typer.echo(f"inflight openai: {error}", err=True)
        raise typer.Exit(1) from error
    settings = EndpointSettings(
        grpc_url=grpc_url,
        metrics_url=metrics_url,
        api_keys=keys,
        max_body_bytes=options.max_body_mib << 20,
        max_answer_seconds=options.max_answer_seconds,
    )
    served.prepare()
    app = make_app(served, settings)
    gc.freeze()  # what is here stays: no collection need look through it again
    uvicorn.run(
        app,
        host=options.openai_host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=25,  # the server itself gives its requests 30
    )
