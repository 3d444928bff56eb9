"""The `inflight` command: one file per sub-command."""

import typer

app = typer.Typer(
    name="inflight",
    help="Serve large language models inside tritonserver.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
