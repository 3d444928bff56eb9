"""One choice of an answer as it grows: ids come in; text, log-probabilities and an end come out."""

from __future__ import annotations

from dataclasses import dataclass, field

from inflight.openai.engine_request import Part
from inflight.openai.errors import ended_early
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest
from inflight.text.stop_strings import StopStrings


@dataclass(frozen=True)
class TokenLogProb:
    token: str
    bytes: bytes
    log_prob: float
    top: list[TokenLogProb] = field(default_factory=list)  # likeliest first


@dataclass
class Delta:
    """What is new of a choice."""

    text: str = ""
    log_probs: list[TokenLogProb] = field(default_factory=list)
    finish_reason: str | None = None  # "stop", "length": nothing comes after it

    def add(self, later: Delta) -> None:
        self.text += later.text
        self.log_probs += later.log_probs
        self.finish_reason = later.finish_reason


class Choice:
    def __init__(self, model: ServedModel, request: ChoiceRequest) -> None:
        self._tokenizer = model.tokenizer
        self._request = request
        self._detokenizer = model.tokenizer.detokenizer(request.prompt.ids)
        self._stop = StopStrings(request.stop)
        self.num_tokens = 0  # generated; the end token is none of them
        self.finish_reason: str | None = None

    def echo(self) -> str:
        """The prompt's text, "" where it is not wanted."""
        prompt = self._request.prompt
        if not self._request.echo:
            return ""
        return self._tokenizer.decode(prompt.ids) if prompt.text is None else prompt.text

    def feed(self, part: Part) -> Delta:
        """Ids after the choice's end are dropped. `finish_reason` is set when this was its end. Raises
        ApiError if the server ended it before that."""
        delta = Delta()
        pieces: list[str] = []
        for index, id in enumerate(part.ids):
            if self.finish_reason is not None:
                break
            if id in self._request.end_ids and self.num_tokens >= self._request.min_tokens:
                self.finish_reason = "stop"
                break
            self.num_tokens += 1
            if part.log_probs:
                one = self._log_prob(id, part.log_probs[index])
                if part.top_log_probs:
                    one.top.extend(self._log_prob(*pair) for pair in part.top_log_probs[index])
                delta.log_probs.append(one)
            pieces.append(self._tell(self._detokenizer.feed((id,))))
        if self.finish_reason is None and part.final:
            if part.finish_reason not in ("stop", "length"):
                raise ended_early(part.finish_reason)
            self.finish_reason = part.finish_reason
        if self.finish_reason is not None and self._stop.matched is None:
            pieces += [self._tell(self._detokenizer.finish()), self._stop.finish()]
        delta.text = "".join(pieces)
        delta.finish_reason = self.finish_reason
        return delta

    def _tell(self, text: str) -> str:
        if self.num_tokens >= self._request.min_tokens:
            text = self._stop.feed(text)
        if self._stop.matched is not None:
            self.finish_reason = "stop"
        return text

    def _log_prob(self, id: int, log_prob: float) -> TokenLogProb:
        spelt = self._tokenizer.token_bytes(id)
        return TokenLogProb(spelt.decode("utf-8", "replace"), spelt, log_prob)
