"""The bodies of answers: whole ones and the chunks of streams, of chats and of completions.

A format is told of every delta in order and keeps what the answer needs of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from inflight import __version__
from inflight.openai.choice import Delta, TokenLogProb
from inflight.openai.generation import Generation

Json = dict[str, Any]


class AnswerFormat(ABC):
    """Of one HTTP request. Either `chunks_of` each delta between `first_chunks` and `last_chunks`, or
    `add` each and then `whole`."""

    whole_object: str
    chunk_object: str

    def __init__(
        self, generation: Generation, head: Json, includes_usage: bool, wants_log_probs: bool
    ):
        """`head`: id, created and model."""
        self._generation = generation
        self._head = {**head, "system_fingerprint": f"inflight-{__version__}"}
        self._includes_usage = includes_usage
        self._wants_log_probs = wants_log_probs

    @abstractmethod
    def first_chunks(self) -> Iterator[Json]:
        """Of a stream, before any delta."""

    @abstractmethod
    def chunks_of(self, index: int, delta: Delta) -> Iterator[Json]: ...

    @abstractmethod
    def whole(self, collected: list[Delta]) -> Json:
        """`collected`: everything of each choice."""

    def last_chunks(self) -> Iterator[Json]:
        if self._includes_usage:
            yield self._body(self.chunk_object, [], usage=self._generation.usage)

    def _chunk(self, choice: Json) -> Json:
        extra = {"usage": None} if self._includes_usage else {}
        return self._body(self.chunk_object, [choice], **extra)

    def _body(self, object: str, choices: list[Json], **extra: Any) -> Json:
        return {**self._head, "object": object, "choices": choices, **extra}


class ChatFormat(AnswerFormat):
    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def first_chunks(self) -> Iterator[Json]:
        for index in range(len(self._generation.choices)):
            yield self._chunk(self._choice(index, {"role": "assistant", "content": ""}, [], None))

    def chunks_of(self, index: int, delta: Delta) -> Iterator[Json]:
        if delta.text or delta.log_probs:
            yield self._chunk(self._choice(index, {"content": delta.text}, delta.log_probs, None))
        if delta.finish_reason:
            yield self._chunk(self._choice(index, {}, [], delta.finish_reason))

    def _choice(
        self, index: int, delta: Json, log_probs: list[TokenLogProb], reason: str | None
    ) -> Json:
        return {
            "index": index,
            "delta": delta,
            "logprobs": self._log_probs(log_probs) if log_probs else None,
            "finish_reason": reason,
        }

    def whole(self, collected: list[Delta]) -> Json:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": all.text, "refusal": None},
                "logprobs": self._log_probs(all.log_probs) if self._wants_log_probs else None,
                "finish_reason": all.finish_reason,
            }
            for index, all in enumerate(collected)
        ]
        return self._body(self.whole_object, choices, usage=self._generation.usage)

    @staticmethod
    def _log_probs(tokens: list[TokenLogProb]) -> Json:
        content = [
            {**_spelt(one), "top_logprobs": [_spelt(other) for other in one.top]} for one in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionFormat(AnswerFormat):
    whole_object = chunk_object = "text_completion"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._offsets = [len(choice.echo()) for choice in self._generation.choices]  # of tokens

    def first_chunks(self) -> Iterator[Json]:
        for index, choice in enumerate(self._generation.choices):
            if text := choice.echo():
                yield self._chunk(self._choice(index, Delta(text)))

    def chunks_of(self, index: int, delta: Delta) -> Iterator[Json]:
        if delta.text or delta.log_probs or delta.finish_reason:
            yield self._chunk(self._choice(index, delta))

    def _choice(self, index: int, delta: Delta) -> Json:
        wanted = self._wants_log_probs and delta.log_probs
        return {
            "index": index,
            "text": delta.text,
            "logprobs": self._log_probs(index, delta.log_probs) if wanted else None,
            "finish_reason": delta.finish_reason,
        }

    def whole(self, collected: list[Delta]) -> Json:
        choices = []
        for index, all in enumerate(collected):
            choice = self._choice(index, all)
            choice["text"] = self._generation.choices[index].echo() + choice["text"]
            choices.append(choice)
        return self._body(self.whole_object, choices, usage=self._generation.usage)

    def _log_probs(self, index: int, tokens: list[TokenLogProb]) -> Json:
        offsets = []
        for one in tokens:
            offsets.append(self._offsets[index])
            self._offsets[index] += len(one.token)
        return {
            "tokens": [one.token for one in tokens],
            "token_logprobs": [one.log_prob for one in tokens],
            # By spelling, of which two ids may have the same: the likelier one stays.
            "top_logprobs": [
                {other.token: other.log_prob for other in reversed(one.top)} for one in tokens
            ]
            if any(one.top for one in tokens)
            else None,
            "text_offset": offsets,
        }


def _spelt(one: TokenLogProb) -> Json:
    return {"token": one.token, "logprob": one.log_prob, "bytes": list(one.bytes)}
