"""Bodies of clients to requests of the engine. What a model cannot do is refused here, by field."""

from __future__ import annotations

import asyncio
import secrets
from array import array
from dataclasses import dataclass

from inflight.openai.engine_request import EngineRequest
from inflight.openai.errors import ApiError, bad_value, not_supported
from inflight.openai.protocol import MAX_CHOICES, ChatBody, CompletionBody, SamplingBody
from inflight.openai.served_model import ServedModel

_COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions
_MANY_MESSAGES = 500  # more are not rendered in the event loop's thread
_LONG_TEXT = 20_000  # characters; longer ones are not tokenised in the event loop's thread


@dataclass(frozen=True)
class Prompt:
    ids: list[int]
    text: str | None = None  # where the client gave text


@dataclass(frozen=True)
class ChoiceRequest:
    """One choice of the answer: n a prompt, in order."""

    prompt: Prompt
    engine: EngineRequest
    stop: tuple[str, ...]
    end_ids: frozenset[int]
    min_tokens: int = 0
    echo: bool = False


def check_model(model: ServedModel, name: str) -> None:
    if name != model.name:
        message = f"the model {name!r} does not exist; this server has {model.name!r}"
        raise ApiError(message, status=404, param="model", code="model_not_found")


async def chat_choices(model: ServedModel, body: ChatBody) -> list[ChoiceRequest]:
    if body.top_logprobs and not body.logprobs:
        raise bad_value("top_logprobs", "top_logprobs needs logprobs: true")
    if None not in (body.max_tokens, body.max_completion_tokens):
        raise bad_value(
            "max_tokens", "max_tokens and max_completion_tokens are one option: give one of them"
        )
    if model.tokenizer.chat_template is None:
        raise ApiError(
            f"the model {model.name!r} has no chat template: use /v1/completions, or start the "
            "endpoint with --chat-template",
            param="messages",
            code="no_chat_template",
        )
    if len(body.messages) >= model.max_seq_len:  # each is a token at least
        raise ApiError(
            f"this model's maximum context length is {model.max_seq_len} tokens; the request has "
            f"{len(body.messages)} messages",
            param="messages",
            code="context_length_exceeded",
        )
    messages = [
        {"role": message.role, "content": message.text, **({"name": message.name} if message.name else {})}
        for message in body.messages
    ]  # fmt: skip
    try:
        text = await _render(model, messages)
    except ValueError as error:  # templates refuse roles and orders that they do not know
        raise bad_value("messages", str(error)) from error
    ids = await _encode(model, text, add_special_tokens=False)
    prompt = _checked(model, Prompt(ids, text), "messages")
    room = model.max_seq_len - len(prompt.ids)
    asked = body.max_completion_tokens or body.max_tokens
    name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
    return _choices(model, body, [prompt], _checked_length(model, prompt, asked or room, name))


async def completion_choices(model: ServedModel, body: CompletionBody) -> list[ChoiceRequest]:
    if body.echo and body.logprobs is not None:
        raise not_supported(
            "echo",
            "echo together with logprobs is not supported: prompts have no log-probabilities",
        )
    if len(body.prompts) * body.num_choices > MAX_CHOICES:
        raise bad_value(
            "n", f"{len(body.prompts)} prompts times n = {body.num_choices} are more than "
            f"{MAX_CHOICES} choices"
        )  # fmt: skip
    prompts = []
    for given in body.prompts:
        if isinstance(given, str):
            prompt = Prompt(await _encode(model, given, add_special_tokens=True), given)
        else:
            prompt = Prompt(given)
        prompts.append(_checked(model, prompt, "prompt"))
    asked = body.max_tokens or _COMPLETION_TOKENS
    if body.max_tokens is None:  # the default gives way where a prompt leaves less
        asked = min([asked, *(model.max_seq_len - len(prompt.ids) for prompt in prompts)])
    for prompt in prompts:
        _checked_length(model, prompt, asked, "max_tokens")
    return _choices(model, body, prompts, asked, echo=bool(body.echo))


async def _render(model: ServedModel, messages: list[dict[str, str]]) -> str:
    render = model.tokenizer.apply_chat_template
    if len(messages) <= _MANY_MESSAGES:
        return render(messages)
    return await asyncio.to_thread(render, messages)


async def _encode(model: ServedModel, text: str, add_special_tokens: bool) -> list[int]:
    encode = model.tokenizer.encode
    if len(text) < _LONG_TEXT:
        return encode(text, add_special_tokens)
    async with model.long_texts:
        return await asyncio.to_thread(encode, text, add_special_tokens)


def _checked(model: ServedModel, prompt: Prompt, param: str) -> Prompt:
    if not prompt.ids:
        raise bad_value(param, f"{param} is empty: it has no tokens")
    if len(prompt.ids) >= model.max_seq_len:
        raise _too_long(model, prompt, None, param)
    for index, id in enumerate(prompt.ids):
        if id >= model.vocab_size:
            raise bad_value(
                param,
                f"{param} holds token id {id} (number {index}), outside the vocabulary "
                f"[0, {model.vocab_size})",
            )
    return prompt


def _checked_length(model: ServedModel, prompt: Prompt, max_tokens: int, param: str) -> int:
    if len(prompt.ids) + max_tokens > model.max_seq_len:
        raise _too_long(model, prompt, max_tokens, param)
    return max_tokens


def _too_long(model: ServedModel, prompt: Prompt, max_tokens: int | None, param: str) -> ApiError:
    asked = f" and {max_tokens} of the answer" if max_tokens is not None else ""
    return ApiError(
        f"this model's maximum context length is {model.max_seq_len} tokens; the request has "
        f"{len(prompt.ids)} tokens of the prompt{asked}",
        param=param,
        code="context_length_exceeded",
    )


def _choices(
    model: ServedModel,
    body: SamplingBody,
    prompts: list[Prompt],
    max_tokens: int,
    echo: bool = False,
) -> list[ChoiceRequest]:
    if body.stream_options is not None and not body.stream:
        raise bad_value("stream_options", "stream_options needs stream: true")
    if (body.min_tokens or 0) > max_tokens:
        raise bad_value(
            "min_tokens", f"min_tokens is {body.min_tokens}, more than the {max_tokens} tokens that "
            "the answer may have"
        )  # fmt: skip
    stop = tuple(body.stop_strings)
    if not all(stop):
        raise bad_value("stop", "stop holds an empty string")
    end_ids = frozenset() if body.ignore_eos else frozenset(model.end_ids)
    # A choice without a seed of its own differs from every other.
    seed = body.seed if body.seed is not None else secrets.randbits(63)
    numbers, counts = _sampling(body)
    bias = _bias(model, body.logit_bias) if body.logit_bias else b""
    # An answer that may end before the engine sees it is read as it grows.
    streaming = bool(body.stream or stop or len(end_ids) > 1)
    return [
        ChoiceRequest(
            prompt=prompt,
            engine=EngineRequest(
                prompt_ids=prompt.ids,
                max_tokens=max_tokens,
                streaming=streaming,
                end_id=None if body.ignore_eos else next(iter(model.end_ids), None),
                numbers=numbers,
                counts=counts,
                seed=(seed + index) % 2**64,
                log_probs=body.num_logprobs is not None,
                num_top_log_probs=min(body.num_logprobs or 0, model.vocab_size),
                bias=bias,
                cache_salt=body.cache_salt or "",
                tenant=body.tenant or "",
            ),
            stop=stop,
            end_ids=end_ids,
            min_tokens=body.min_tokens or 0,
            echo=echo,
        )
        for prompt in prompts
        for index in range(body.num_choices)
    ]


def _bias(model: ServedModel, given: dict[str, float]) -> bytes:
    """Of every id. Keys of JSON are text."""
    bias = array("f", bytes(4 * model.vocab_size))
    for key, value in given.items():
        if not _is_id(key, model.vocab_size):
            raise bad_value(
                "logit_bias",
                f"logit_bias names {key!r}, which is no token id of [0, {model.vocab_size})",
            )
        bias[int(key)] = value
    return bias.tobytes()


def _is_id(key: str, vocab_size: int) -> bool:
    """Python makes numbers of longer keys and of other digits than JSON's, or fails at them."""
    return len(key) < 10 and key.isascii() and key.isdecimal() and int(key) < vocab_size


def _sampling(body: SamplingBody) -> tuple[dict[str, float], dict[str, int]]:
    """Tensors by name. To the engine a request without top_k, top_p and min_p is greedy, to OpenAI
    one of temperature 0 is, and one of top_p 0."""
    temperature = 1.0 if body.temperature is None else body.temperature
    numbers = {
        "repetition_penalty": body.repetition_penalty,
        "presence_penalty": body.presence_penalty,
        "frequency_penalty": body.frequency_penalty,
    }
    counts = {"min_tokens": body.min_tokens, "priority": body.priority}
    if temperature > 0 and body.top_p != 0:
        numbers |= {
            "temperature": temperature,
            "runtime_top_p": 1.0 if body.top_p is None else body.top_p,
            "min_p": body.min_p,
        }
        counts["runtime_top_k"] = body.top_k
    given = lambda values: {name: value for name, value in values.items() if value is not None}  # noqa: E731
    return given(numbers), given(counts)
