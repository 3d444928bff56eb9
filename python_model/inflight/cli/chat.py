"""`inflight chat`: a conversation with a running server, in a terminal."""

import contextlib
import os
import sys
import time
from typing import Annotated

import typer

from inflight.client.chat_stream import ChatClient, ServerError

_HELP = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C ends an answer"


def chat(
    url: Annotated[str, typer.Option(help="Of the OpenAI endpoint.")] = "http://localhost:9000",
    model: Annotated[str, typer.Option(help="Else the first that the server has.")] = "",
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, help="0 is greedy.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Likeliest tokens up to p together.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same answers.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an answer.")] = None,
) -> None:
    """Talk to a running server (`inflight serve MODEL --openai-port 9000`).

    The key, where one is needed, comes from the variable OPENAI_API_KEY.
    """
    client = ChatClient(url, os.environ.get("OPENAI_API_KEY", ""))
    options = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "stop": stop or None,
    }
    try:
        model = model or client.models()[0]
    except ServerError as error:
        typer.echo(f"inflight chat: {error}", err=True)
        raise typer.Exit(1) from None
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited
        typer.echo(f"{model} at {url}. {_HELP}.", err=True)
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    while (line := _read_line(is_terminal)) is not None:
        text = line.strip()
        if text in ("/exit", "/quit"):
            break
        if text == "/reset":
            messages = list(start)
        elif text.startswith("/"):
            typer.echo(_HELP, err=True)
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                messages.append(
                    {"role": "assistant", "content": _answer(client, model, messages, options)}
                )
            except ServerError as error:
                del messages[-1]
                typer.echo(f"inflight chat: {error}", err=True)
                if not is_terminal:
                    raise typer.Exit(1) from None


def _read_line(is_terminal: bool) -> str | None:
    try:
        return input("> " if is_terminal else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        typer.echo("", err=True)
        return ""


def _answer(client: ChatClient, model: str, messages: list, options: dict) -> str:
    """Prints the answer as it comes; figures go to standard error. Ctrl-C keeps what came."""
    pieces: list[str] = []
    usage = None
    started = time.perf_counter()
    first = None
    events = client.stream(model, messages, options)
    try:
        for event in events:
            if isinstance(event, dict):
                usage = event
                continue
            first = first or time.perf_counter()
            pieces.append(event)
            typer.echo(event, nl=False)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    finally:
        events.close()
    ended = time.perf_counter()
    typer.echo("")
    if usage and first:
        count = usage["completion_tokens"]
        # Over all of the time: behind the first piece there may be nothing, where pieces are joined.
        rate = f"{count / (ended - started):,.0f} tokens/s in all"
        figures = f"[{count} tokens, the first after {1e3 * (first - started):.0f} ms, {rate}]"
        typer.secho(figures, dim=True, err=True)
    return "".join(pieces)
