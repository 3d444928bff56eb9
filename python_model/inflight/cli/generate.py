"""`inflight generate`: prompts to answers, without a server."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from inflight.cli.build import Dtype, LoadFormat
from inflight.cli.option_groups import INT32_MAX, MAX_THREADS
from inflight.llm.sampling_params import SamplingParams


def generate(
    model: Annotated[Path, typer.Argument(help="Engine directory or checkpoint folder.")],
    prompt: Annotated[
        list[str], typer.Option(help="What to continue; may be repeated. - reads standard input.")
    ],
    stream: Annotated[bool, typer.Option("--stream", help="Print text as it comes.")] = False,
    chat: Annotated[
        bool, typer.Option("--chat", help="Put each prompt into the model's chat template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option(help="System message before each prompt; implies --chat.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 128,
    min_tokens: Annotated[int, typer.Option(help="No end before so many tokens.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(help="Greedy if none of temperature, top-k, top-p is given.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest tokens; 0: all.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the likeliest tokens that reach p together.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Only tokens of min-p times the best one's probability.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Over prompt and answer; 1: none.")
    ] = None,
    presence_penalty: Annotated[
        float | None, typer.Option(help="Over the answer; 0: none.")
    ] = None,
    frequency_penalty: Annotated[
        float | None, typer.Option(help="Over the answer; 0: none.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same tokens.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text that ends an answer; may be repeated.")
    ] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Go on after the model's end token.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")] = "auto",
    load_format: Annotated[
        LoadFormat, typer.Option(help="dummy: random weights, config.json is enough.")
    ] = LoadFormat.auto,
    dtype: Annotated[Dtype, typer.Option(help="Of an engine built on the way.")] = Dtype.auto,
    max_seq_len: Annotated[
        int | None, typer.Option(help="Prompt and answer together.", min=1, max=INT32_MAX)
    ] = None,
    num_threads: Annotated[
        int, typer.Option(help="Of CPU work; 0: all cores.", min=0, max=MAX_THREADS)
    ] = 0,
) -> None:
    """Continue prompts. Answers go to standard output, figures to standard error."""
    from inflight.llm.llm import LLM

    try:
        params = SamplingParams(
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            seed=seed,
            stop=stop,
            ignore_eos=ignore_eos,
            add_special_tokens=not (chat or system),
        )
        prompts = [sys.stdin.read() if text == "-" else text for text in prompt]
        with LLM(
            model,
            device=device,
            dtype=dtype.value,
            load_format=load_format.value,
            max_seq_len=max_seq_len,
            num_threads=num_threads,
        ) as llm:
            if chat or system:
                prompts = [_conversation(llm, system, text) for text in prompts]
            _answer(llm, prompts, params, stream)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (ValueError, NotImplementedError, RuntimeError, OSError, LookupError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _conversation(llm, system: str | None, text: str) -> str:
    messages = [{"role": "user", "content": text}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return llm.tokenizer.apply_chat_template(messages)


def _answer(llm, prompts: list[str], params: SamplingParams, stream: bool) -> None:
    """All prompts run at once; their answers are printed in the order of the prompts."""
    started = time.perf_counter()
    results = [llm.generate_async(text, params, streaming=stream) for text in prompts]
    num_tokens = 0
    for index, result in enumerate(results):
        if len(results) > 1:
            typer.echo(f"--- answer {index + 1} of {len(results)}")
        for output in result:
            typer.echo(output.outputs[0].text_diff, nl=False)
        typer.echo()
        num_tokens += len(output.outputs[0].token_ids)
    seconds = time.perf_counter() - started
    typer.echo(
        f"{num_tokens} tokens in {seconds:.2f} s, {num_tokens / seconds:.1f} a second", err=True
    )
