"""What Triton's own OpenAI frontend sends for a chat or a completion, and what it counts on.

It asks for no outputs by name, always wants the two counts, sends a temperature, top_p and penalties
always, exclude_input_in_output only where `echo` of a completion is given, so the repository's
default must be true; it reads text_output as exactly one string and adds up num_output_tokens.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from inflight.cli.repository import ServingOptions, repository_settings
from inflight.serving.repository import write_repository
from inflight.text.tokenizer import Tokenizer
from triton_server import Answer, Server, Setup, ask, running

MODELS = ["ensemble", "tensorrt_llm_bls"]


@pytest.fixture(scope="module")
def frontends_server(setup: Setup, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    scratch = tmp_path_factory.mktemp("frontend")
    options = ServingOptions(
        device=setup.device, kv_cache_max_tokens=4096, exclude_input_in_output=True
    )
    engine = setup.checkpoint.parent / "engine"
    write_repository(scratch / "repository", repository_settings(engine, options))
    with running(scratch / "repository", scratch, "--load-model=*") as server:
        yield server


def chat(prompt: str, stream: bool, max_tokens: int, **others: Any) -> dict[str, np.ndarray]:
    return {
        "text_input": np.array([[prompt.encode()]], object),
        "stream": np.array([[stream]]),
        "max_tokens": np.array([[max_tokens]], np.int32),
        "top_p": np.array([[1.0]], np.float32),
        "frequency_penalty": np.array([[0.0]], np.float32),
        "presence_penalty": np.array([[0.0]], np.float32),
        "temperature": np.array([[0.7]], np.float32),
        "return_num_input_tokens": np.array([[True]]),
        "return_num_output_tokens": np.array([[True]]),
        **others,
    }


def counts(answers: list[Answer]) -> tuple[int, int]:
    """(prompt, completion) as the frontend makes its usage of them."""
    for answer in answers:
        for name in ("num_input_tokens", "num_output_tokens"):
            tensor = answer.outputs[name]
            assert (tensor.dtype, tensor.size) == (np.int32, 1)
        assert answer.outputs["text_output"].size == 1
    return (
        answers[0].outputs["num_input_tokens"].item(),
        sum(answer.outputs["num_output_tokens"].item() for answer in answers),
    )


@pytest.mark.parametrize("model", MODELS)
def test_chat(frontends_server: Server, tokenizer: Tokenizer, model: str) -> None:
    prompt = "<|user|>\nTo be?\n<|assistant|>\n"
    seed = {"seed": np.array([[11]], np.uint64)}
    # Tokens that are there before the first response has gone out come with it: many are asked for,
    # so that a quick engine is not done by then.
    whole = ask(frontends_server, model, **chat(prompt, False, 400, **seed))
    assert len(whole) == 1 and whole[0].final
    assert not whole[0].text.startswith("<|user|>")
    streamed = ask(frontends_server, model, **chat(prompt, True, 400, **seed))
    assert len(streamed) > 1
    assert "".join(answer.text for answer in streamed) == whole[0].text
    num_input, num_output = counts(whole)
    assert num_input == len(tokenizer.encode(prompt))
    assert 1 <= num_output <= 400
    assert counts(streamed) == (num_input, num_output)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("echo", [True, False])
def test_completion_with_echo(frontends_server: Server, model: str, echo: bool) -> None:
    request = chat("abc", False, 9, exclude_input_in_output=np.array([[not echo]]))
    (answer,) = ask(frontends_server, model, **request)
    assert answer.text.startswith("abc") == echo


@pytest.mark.parametrize("model", MODELS)
def test_stop_is_a_list(frontends_server: Server, model: str) -> None:
    (whole,) = ask(frontends_server, model, **chat("To be", False, 40))
    words = [whole.text[at : at + 2] for at in (9, 5)]
    stop = {"stop_words": np.array([[word.encode() for word in words]], object)}
    for stream in (False, True):
        told = "".join(
            a.text for a in ask(frontends_server, model, **chat("To be", stream, 40, **stop))
        )
        end = min(whole.text.index(word) + 2 for word in words)
        assert told == whole.text[:end]
