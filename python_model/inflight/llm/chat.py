"""Conversations to prompts, for `LLM.chat`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from inflight.llm.sampling_params import SamplingParams
from inflight.text.tokenizer import Tokenizer

Conversation = Sequence[dict[str, Any]]
"""Messages of {"role": …, "content": …}."""


def is_one_conversation(messages: Sequence[Any]) -> bool:
    """One conversation, or a list of them?"""
    return len(messages) > 0 and isinstance(messages[0], dict)


def chat_prompts(
    tokenizer: Tokenizer | None, conversations: Sequence[Conversation], **options: Any
) -> list[str]:
    """`options` are those of `Tokenizer.apply_chat_template`. ValueErrors say which conversation."""
    if tokenizer is None:
        raise ValueError(
            "chat needs a tokenizer, and this model was loaded without one; render the "
            "conversation yourself and give generate() its ids"
        )
    prompts = []
    for index, messages in enumerate(conversations):
        try:
            prompts.append(tokenizer.apply_chat_template(messages, **options))
        except ValueError as error:
            if len(conversations) == 1:
                raise
            raise ValueError(f"conversation {index} of {len(conversations)}: {error}") from error
    return prompts


def params_for_chat(
    given: SamplingParams | Sequence[SamplingParams] | None,
) -> SamplingParams | list[SamplingParams]:
    """A rendered conversation holds its special tokens already."""
    if given is None or isinstance(given, SamplingParams):
        return replace(given or SamplingParams(), add_special_tokens=False)
    return [replace(params, add_special_tokens=False) for params in given]
