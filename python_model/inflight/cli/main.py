"""The `inflight` command: one file per sub-command."""

import sys

import typer

from inflight.cli import (
    bench,
    build,
    chat,
    check,
    generate,
    inspect,
    install,
    openai,
    repository,
    serve,
)

app = typer.Typer(
    name="inflight",
    help="Serve large language models inside tritonserver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its tables cut the names of options short in a terminal of 80 columns
)

app.command("bench")(bench.bench)
app.command("build")(build.build)
app.command("check")(check.check)
app.command("chat")(chat.chat)
app.command("generate")(generate.generate)
app.command("install")(install.install)
app.command("inspect")(inspect.inspect)
app.command("serve")(serve.serve)
app.command("openai")(openai.openai)
app.command("repository")(repository.repository)


def main() -> None:
    """What a machine has no room for, or does not let through, is said in a line."""
    try:
        app()
    except (OSError, MemoryError) as error:
        typer.echo(f"inflight: {str(error) or 'out of memory'}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
