"""From what the user gives to what the engine takes. Pure: no engine here."""

from __future__ import annotations

import operator
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from inflight.llm.sampling_params import SamplingParams
from inflight.text.tokenizer import Tokenizer

Prompt = str | Sequence[int] | dict[str, Any]
"""Text, ids, or {"prompt": text} / {"prompt_token_ids": ids}."""


def is_single(inputs: Any) -> bool:
    """One prompt, or a list of them? An empty list is a list of none."""
    if isinstance(inputs, (str, dict)):
        return True
    return len(inputs) > 0 and not isinstance(inputs[0], (str, dict)) and not _has_rows(inputs)


def params_for(
    prompts: Sequence[Prompt], given: SamplingParams | Sequence[SamplingParams] | None
) -> list[SamplingParams]:
    if given is None:
        given = SamplingParams()
    if isinstance(given, SamplingParams):
        return [given] * len(prompts)
    if len(given) != len(prompts):
        raise ValueError(f"{len(given)} sampling_params for {len(prompts)} prompts")
    return list(given)


def encode_prompts(
    prompts: Sequence[Prompt], params: Sequence[SamplingParams], tokenizer: Tokenizer | None
) -> Iterator[tuple[str | None, list[int]]]:
    """(text or None, ids) of each prompt. Texts are tokenized together; ids are looked at one by
    one, so that the first prompt need not wait for the last."""
    prompts = [_from_dict(prompt) if isinstance(prompt, dict) else prompt for prompt in prompts]
    tokenized: dict[int, list[int]] = {}
    for add_special_tokens in (True, False):
        rows = [
            row
            for row, prompt in enumerate(prompts)
            if isinstance(prompt, str) and params[row].add_special_tokens == add_special_tokens
        ]
        if rows:
            batch = _needed(tokenizer, "a text prompt").encode_batch(
                [prompts[row] for row in rows], add_special_tokens
            )
            tokenized.update(zip(rows, batch, strict=True))
    for row, prompt in enumerate(prompts):
        yield (prompt, tokenized[row]) if isinstance(prompt, str) else (None, _token_ids(prompt))


def engine_arguments(
    params: SamplingParams,
    prompt_len: int,
    eos_token_ids: Sequence[int],
    max_seq_len: int,
    tokenizer: Tokenizer | None,
) -> dict[str, Any]:
    """The parameters as `_core.Engine.submit` wants them."""
    if params.stop_list:
        _needed(tokenizer, f"stop={params.stop!r}")
    max_tokens = params.max_tokens
    if max_tokens is None:  # a prompt without room is refused by the engine
        max_tokens = max(1, max_seq_len - prompt_len)
    end_ids: Sequence[int] = ()
    if not params.ignore_eos:
        end_ids = eos_token_ids if params.end_id is None else (params.end_id,)
        if params.end_ids is not None:
            end_ids = params.end_ids
    arguments: dict[str, Any] = {
        "max_new_tokens": max_tokens,
        "min_new_tokens": params.min_tokens,
        "end_ids": [id for id in end_ids if id != -1],
        "stop_words": [[id] for id in params.stop_token_ids or ()],
        "bad_words": _bad_words(params, tokenizer),
        "num_logprobs": -1 if params.logprobs is None else params.logprobs,
        "normalize_log_probs": params.normalize_log_probs,
        "return_context_logits": params.return_context_logits or params.prompt_logprobs is not None,
        "return_generation_logits": params.return_generation_logits,
    }
    wanted: dict[str, Any] = {
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "prompt_ignore_length": params.prompt_ignore_length,
        "no_repeat_ngram_size": params.no_repeat_ngram_size,
        "embedding_bias": params.embedding_bias,
        "logit_bias": params.logit_bias,
        "timeout_ms": params.timeout_ms,
    }
    if params.is_greedy:
        wanted["greedy"] = True
    else:
        wanted["temperature"] = params.temperature
        wanted["top_k"] = params.top_k
        wanted["top_p"] = params.top_p
        wanted["min_p"] = params.min_p
        wanted["top_p_decay"] = params.top_p_decay
        wanted["top_p_min"] = params.top_p_min
        wanted["top_p_reset_ids"] = params.top_p_reset_ids
        wanted["seed"] = secrets.randbits(63) if params.seed is None else params.seed
    arguments.update({name: value for name, value in wanted.items() if value is not None})
    return arguments


def _bad_words(params: SamplingParams, tokenizer: Tokenizer | None) -> list[list[int]]:
    words = [[id] for id in params.bad_token_ids or ()]
    for text in params.bad_list:
        for variant in (text, " " + text):
            ids = _needed(tokenizer, f"bad={params.bad!r}").encode(
                variant, add_special_tokens=False
            )
            if ids and ids not in words:
                words.append(ids)
    return words


def _needed(tokenizer: Tokenizer | None, what: str) -> Tokenizer:
    if tokenizer is None:
        raise ValueError(
            f"{what} needs a tokenizer, and this model was loaded without one "
            "(skip_tokenizer_init=True, or dummy weights in a folder without a tokenizer); "
            "give prompt ids"
        )
    return tokenizer


def _has_rows(inputs: Sequence[Any]) -> bool:
    return hasattr(inputs[0], "__len__") and getattr(inputs[0], "ndim", 1) > 0


def _from_dict(prompt: dict[str, Any]) -> str | Sequence[int]:
    if len(prompt) != 1 or next(iter(prompt)) not in ("prompt", "prompt_token_ids"):
        raise ValueError(
            f"a prompt's dict has one key, prompt or prompt_token_ids; this one has {list(prompt)}"
        )
    return next(iter(prompt.values()))


def _token_ids(prompt: Sequence[int]) -> list[int]:
    try:
        return list(map(operator.index, prompt))
    except TypeError:
        raise ValueError(f"a prompt is a text or token ids, not {prompt!r:.100}") from None
