"""`inflight install`: our library into a server's folder of backends."""

from pathlib import Path
from typing import Annotated

import typer

from inflight.serving.installation import install_backend

_DEFAULT = Path("/opt/tritonserver/backends")


def install(
    name: Annotated[
        str,
        typer.Option(
            "--as",
            help="The backend's name in config.pbtxt: inflight, or tensorrtllm to serve the "
            "repositories of TensorRT-LLM's backend as they are.",
        ),
    ] = "inflight",
    backend_directory: Annotated[
        Path, typer.Option(help="The server's folder of backends (its --backend-directory).")
    ] = _DEFAULT,
) -> None:
    """Install the backend into a tritonserver."""
    if not backend_directory.is_dir():
        typer.echo(
            f"inflight install: no folder {backend_directory}; name the server's folder of "
            "backends with --backend-directory",
            err=True,
        )
        raise typer.Exit(1)
    try:
        folder = install_backend(backend_directory, name)
    except (FileNotFoundError, ValueError, OSError) as error:
        typer.echo(f"inflight install: {error}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f'{folder}: config.pbtxt names it as backend: "{name}"')
