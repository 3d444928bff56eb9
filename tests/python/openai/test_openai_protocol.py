"""What bodies may hold: each refused field alone, and what asks for nothing anyway."""

from typing import Any

import pytest
from inflight.openai.protocol import (
    _ASKS_FOR_NOTHING,
    ChatBody,
    CompletionBody,
    Message,
    StreamOptions,
)
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsBase as ChatParams,
)
from openai.types.completion_create_params import (
    CompletionCreateParamsBase as CompletionParams,
)
from pydantic import ValidationError

CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
COMPLETION = {"model": "m", "prompt": "x"}
REFUSED_IN_CHATS = {
    "tools": [{"type": "function"}],
    "tool_choice": "auto",
    "functions": [{}],
    "function_call": "auto",
    "response_format": {"type": "json_schema"},
    "modalities": ["text", "audio"],
    "audio": {"voice": "x"},
    "prediction": {"type": "content"},
    "reasoning_effort": "low",
    "verbosity": "low",
    "web_search_options": {},
    "moderation": {"model": "x"},
    "prompt_cache_options": {"mode": "explicit"},
    "store": True,
    "service_tier": "flex",
    "use_beam_search": True,
}
REFUSED_IN_COMPLETIONS = {"best_of": 2, "suffix": "x", "use_beam_search": True}


@pytest.mark.parametrize("name", REFUSED_IN_CHATS)
def test_chats_refuse(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ChatBody.model_validate({**CHAT, name: REFUSED_IN_CHATS[name]})
    (error,) = refused.value.errors()
    assert error["type"] == "unsupported_parameter" and error["loc"] == (name,)
    ChatBody.model_validate({**CHAT, name: None})


@pytest.mark.parametrize("name", REFUSED_IN_COMPLETIONS)
def test_completions_refuse(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is not supported"):
        CompletionBody.model_validate({**COMPLETION, name: REFUSED_IN_COMPLETIONS[name]})


@pytest.mark.parametrize(
    ("body", "params"), [(ChatBody, ChatParams), (CompletionBody, CompletionParams)]
)
def test_every_field_of_the_official_client_is_known(body: type, params: type) -> None:
    """Honoured or refused by its name, but not "unknown"."""
    assert {*params.__annotations__, "stream"} <= set(body.model_fields)


MANY = 100_000
WRONG_EVERYWHERE: dict[str, tuple[type, dict[str, Any]]] = {
    "ids": (CompletionBody, {**COMPLETION, "prompt": [-1] * MANY}),
    "lists of ids": (CompletionBody, {**COMPLETION, "prompt": [[-1] * 2] * MANY}),
    "texts": (CompletionBody, {**COMPLETION, "prompt": ["x", *[1] * MANY]}),
    "fields": (
        CompletionBody,
        {**COMPLETION, **dict.fromkeys(map(str, range(MANY)), 1)},
    ),
    "stop": (CompletionBody, {**COMPLETION, "stop": [1] * MANY}),
    "bias": (
        ChatBody,
        {**CHAT, "logit_bias": dict.fromkeys(map(str, range(MANY)), 1000)},
    ),
    "messages": (ChatBody, {**CHAT, "messages": [{"role": "x"}] * MANY}),
    "parts": (
        ChatBody,
        {**CHAT, "messages": [{"role": "user", "content": [{}] * MANY}]},
    ),
}


@pytest.mark.parametrize("name", WRONG_EVERYWHERE)
def test_a_body_that_is_wrong_everywhere_is_refused_at_once(name: str) -> None:
    """Errors cost microseconds each, for which every stream of the endpoint waits."""
    body, content = WRONG_EVERYWHERE[name]
    with pytest.raises(ValidationError) as refused:
        body.model_validate(content)
    assert refused.value.error_count() <= 3


@pytest.mark.parametrize("name", _ASKS_FOR_NOTHING)
def test_values_that_ask_for_nothing_are_legal(name: str) -> None:
    wholes = [
        (ChatBody, CHAT),
        (CompletionBody, COMPLETION),
        (StreamOptions, {}),
        (Message, {"role": "assistant", "content": "x"}),
    ]
    body, base = next(whole for whole in wholes if name in whole[0].model_fields)
    for value in _ASKS_FOR_NOTHING[name]:
        assert getattr(body.model_validate({**base, name: value}), name) is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("x", ["x"]),
        ([5, 6], [[5, 6]]),
        (["x", "y"], ["x", "y"]),
        ([[5], [6, 7]], [[5], [6, 7]]),
    ],
)
def test_prompts(prompt, prompts) -> None:
    assert CompletionBody.model_validate({"model": "m", "prompt": prompt}).prompts == prompts


def test_parts_of_a_message_are_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    message = {"role": "user", "content": parts}
    assert ChatBody.model_validate({"model": "m", "messages": [message]}).messages[0].text == "ab"
    picture = {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "x"}}],
    }
    with pytest.raises(ValidationError, match="content of the type 'image_url' is not supported"):
        ChatBody.model_validate({"model": "m", "messages": [picture]})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, -0.1, 2.1])
def test_a_temperature_is_a_number_in_its_range(value) -> None:
    with pytest.raises(ValidationError):
        ChatBody.model_validate({**CHAT, "temperature": value})


@pytest.mark.parametrize(("name", "most"), [("cache_salt", 1024), ("tenant", 256)])
def test_words_have_a_length_in_bytes(name: str, most: int) -> None:
    for word in ("x", "x" * most, "é" * (most // 2)):
        assert getattr(ChatBody.model_validate({**CHAT, name: word}), name) == word
    assert getattr(ChatBody.model_validate({**CHAT, name: None}), name) is None
    for word, size in (("", 0), ("é" * (most // 2 + 1), most + 2)):
        message = f"has {size} bytes; at least 1 and at most {most} are possible"
        with pytest.raises(ValidationError, match=message):
            CompletionBody.model_validate({**COMPLETION, name: word})
    with pytest.raises(ValidationError, match="valid string"):
        ChatBody.model_validate({**CHAT, name: 5})


def test_priorities_are_those_of_the_engine() -> None:
    assert ChatBody.model_validate({**CHAT, "priority": -(2**31) + 1}).priority == -(2**31) + 1
    for value in (2**31, -(2**31), 0.5, "1"):
        with pytest.raises(ValidationError):
            ChatBody.model_validate({**CHAT, "priority": value})
