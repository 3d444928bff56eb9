"""What clients may send: the request bodies of /v1/chat/completions and /v1/completions.

Fields of OpenAI's that this server cannot honour are declared with `Refused`, so that giving one is
an error that names it, unless it says what happens anyway. Other fields are refused as unknown.

A body may be wrong in a million places, each of which costs microseconds to tell of: lists end at their
first wrong item, and objects have few fields.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_CHOICES = 128  # prompts times n
MAX_STOP = 16
MAX_TOP_LOGPROBS = 20
MAX_FIELDS = 100  # of an object; more than any has
_UINT64_MAX = 2**64 - 1
_INT32_MAX = 2**31 - 1
_FLOAT32_MIN, _FLOAT32_MAX = 2.0**-126, 2.0**127  # no penalty becomes 0 or infinite on its way

# Values of fields that are refused otherwise: they ask for nothing.
_ASKS_FOR_NOTHING: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "function_call": ("none",),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
    "store": (False,),
    "service_tier": ("auto", "default"),
    "parallel_tool_calls": (True, False),
    "use_beam_search": (False,),
    "include_obfuscation": (False,),
    # Of messages: an answer that comes back has them all, with nothing in them.
    "tool_calls": ([],),
    "annotations": ([],),
}


def _refuse(name: str):
    def check(value: Any) -> Any:
        if value is None or any(value == legal for legal in _ASKS_FOR_NOTHING.get(name, ())):
            return None
        raise PydanticCustomError("unsupported_parameter", f"{name} is not supported")

    return check


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            message = f"{len(value)} fields are more than anything here has"
            raise PydanticCustomError("too_many_fields", message)
        return value


def Refused(name: str) -> Any:  # noqa: N802 - a type
    return Annotated[Any, BeforeValidator(_refuse(name))]


def Word(max_bytes: int) -> Any:  # noqa: N802 - a type
    """A text of the caller's own, in UTF-8 not empty and no longer than the engine takes."""

    def check(value: str) -> str:
        size = len(value.encode(errors="surrogatepass"))
        if not 1 <= size <= max_bytes:
            raise PydanticCustomError(
                "invalid_length",
                f"has {size} bytes; at least 1 and at most {max_bytes} are possible",
            )
        return value

    return Annotated[str, AfterValidator(check)]


class StreamOptions(_Body):
    include_usage: bool | None = None
    include_obfuscation: Refused("include_obfuscation") = None


def _check_bias(value: Any) -> Any:
    """By hand, so that the first wrong number is the last that is looked at."""
    for id, bias in value.items() if isinstance(value, dict) else ():
        if type(bias) not in (int, float) or not -100 <= bias <= 100:
            raise PydanticCustomError(
                "invalid_value", f"the bias of {id!r} is no number from -100 to 100"
            )
    return value


def _kind_of_stop(value: Any) -> str:
    return "texts" if isinstance(value, list) else "text"


Stop = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Annotated[list[str], Field(max_length=MAX_STOP, fail_fast=True)], Tag("texts")],
    Discriminator(_kind_of_stop),
]


class SamplingBody(_Body):
    """The fields that both endpoints share."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=_UINT64_MAX)] | None = None
    stop: Stop | None = None
    logit_bias: Annotated[dict[str, float], BeforeValidator(_check_bias)] | None = None
    # Not OpenAI's; names as other servers spell them.
    top_k: Annotated[int, Field(ge=0, le=_INT32_MAX)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=_FLOAT32_MIN, le=_FLOAT32_MAX)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    ignore_eos: bool | None = None
    cache_salt: Word(1024) | None = None  # only requests of equal salt share the KV cache
    priority: Annotated[int, Field(ge=-_INT32_MAX, le=_INT32_MAX)] | None = None  # smaller first
    tenant: Word(256) | None = None  # whose share of the engine it counts for
    # Without effect on an answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    store: Refused("store") = None
    service_tier: Refused("service_tier") = None
    use_beam_search: Refused("use_beam_search") = None

    @property
    def stop_strings(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def num_choices(self) -> int:
        return self.n or 1

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


def _refuse_media(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError(
            "unsupported_parameter", f"content of the type {kind[:40]!r} is not supported"
        )
    return kind


class TextPart(_Body):
    type: Annotated[Literal["text"], BeforeValidator(_refuse_media)]
    text: str


def _kind_of_content(value: Any) -> str:
    return "parts" if isinstance(value, list) else "text"


# Tagged, so that an error speaks of the alternative that was meant.
Content = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Annotated[list[TextPart], Field(min_length=1, fail_fast=True)], Tag("parts")],
    Discriminator(_kind_of_content),
]


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = None
    tool_calls: Refused("tool_calls") = None
    tool_call_id: Refused("tool_call_id") = None
    function_call: Refused("function_call") = None
    refusal: Refused("refusal") = None
    audio: Refused("audio") = None
    annotations: Refused("annotations") = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatBody(SamplingBody):
    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    tools: Refused("tools") = None
    tool_choice: Refused("tool_choice") = None
    parallel_tool_calls: Refused("parallel_tool_calls") = None
    functions: Refused("functions") = None
    function_call: Refused("function_call") = None
    response_format: Refused("response_format") = None
    modalities: Refused("modalities") = None
    audio: Refused("audio") = None
    prediction: Refused("prediction") = None
    reasoning_effort: Refused("reasoning_effort") = None
    verbosity: Refused("verbosity") = None
    web_search_options: Refused("web_search_options") = None
    moderation: Refused("moderation") = None
    prompt_cache_options: Refused("prompt_cache_options") = None

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives wanted beside each token's own; None: no log-probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


def _kind_of_prompt(value: Any) -> str:
    if not isinstance(value, list):
        return "text"
    first = value[0] if value else ""
    return "lists" if isinstance(first, list) else "texts" if isinstance(first, str) else "ids"


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]
Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Ids, Tag("ids")]
    | Annotated[Annotated[list[str], Field(min_length=1, fail_fast=True)], Tag("texts")]
    | Annotated[Annotated[list[Ids], Field(min_length=1, fail_fast=True)], Tag("lists")],
    Discriminator(_kind_of_prompt),
]


class CompletionBody(SamplingBody):
    prompt: Prompts
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None

    best_of: Refused("best_of") = None
    suffix: Refused("suffix") = None
    response_format: Refused("response_format") = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        prompt = self.prompt
        if isinstance(prompt, str) or isinstance(prompt[0], int):
            return [prompt]
        return list(prompt)
