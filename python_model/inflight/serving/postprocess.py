"""Ids to text: what the `postprocessing` model does with one response. Knows no Triton.

The text of a chunk depends on its inputs alone: the engine sends along every id it has sent
before. What was worked out for a request's earlier chunks is remembered under the engine's request
id, but only to save work; forgetting it changes nothing.
"""

import json
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inflight.text.detokenizer import Detokenizer
from inflight.text.stop_strings import StopStrings
from inflight.text.tokenizer import Tokenizer

Tensors = dict[str, np.ndarray]

_MAX_REMEMBERED = 4096  # streams; beyond that the one unused for longest is worked out again


@dataclass
class _Stream:
    """A request's text so far."""

    detokenizer: Detokenizer
    stop: StopStrings
    num_ids: int = 0

    def feed(self, ids: list[int], final: bool) -> str:
        text = self.detokenizer.feed(ids)
        if final:
            text += self.detokenizer.finish()
        self.num_ids += len(ids)
        told = self.stop.feed(text)
        return told + self.stop.finish() if final else told


@dataclass(frozen=True)
class Text:
    texts: list[str]  # one a beam of each row
    stop_engine_request: int | None = None  # this request has said a stop word: end it
    # Of a stream that goes on: its number and how many of its generated ids are text by now.
    receipt: tuple[int, int] | None = None
    is_last: bool = True  # no more comes of this sequence
    # Given where the request asked for them; empty while the sequence goes on.
    finish_reason: str | None = None
    stop_reason: str | None = None

    def tensors(self) -> Tensors:
        """Those of POSTPROCESSING's outputs that there are."""
        tensors = {"OUTPUT": np.array([text.encode() for text in self.texts], np.object_)}
        if self.finish_reason is not None:
            tensors["FINISH_REASON_OUT"] = np.array([[self.finish_reason.encode()]], np.object_)
        if self.stop_reason is not None:
            tensors["STOP_REASON_OUT"] = np.array([[self.stop_reason.encode()]], np.object_)
        return tensors


class Postprocessor:
    """`include_stop_words`: a stop word that ends a text is part of it, as in the token ids."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool = True,
        include_stop_words: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._include_stop_words = include_stop_words
        self._streams: OrderedDict[int, _Stream] = OrderedDict()

    def process(self, inputs: Mapping[str, np.ndarray | None]) -> Text:
        """Tensors of POSTPROCESSING; absent ones are None or missing. TOKENS_BATCH [B, beams,
        longest] and SEQUENCE_LENGTH [B, beams]; the rest is the engine's account of one sequence
        (B = beams = 1). Without it every row is decoded on its own. Raises ValueError if shapes do
        not fit.
        """
        tokens, lengths = inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"]
        text_context = inputs.get("TEXT_CONTEXT")
        previous_ids = inputs.get("PREVIOUS_IDS")
        response_state = inputs.get("RESPONSE_STATE")
        if lengths.size != math.prod(tokens.shape[:-1]):
            raise ValueError(
                f"SEQUENCE_LENGTH has {lengths.size} lengths, but TOKENS_BATCH of shape "
                f"{list(tokens.shape)} has {math.prod(tokens.shape[:-1])} rows"
            )
        if text_context is None or response_state is None or text_context.size == 0:
            rows = tokens.reshape(lengths.size, tokens.shape[-1])
            return Text([self._decode(row[:n]) for row, n in zip(rows, lengths.flat, strict=True)])
        if lengths.size != 1 or response_state.size != 3:
            raise ValueError(
                f"RESPONSE_STATE is of one row and beam and has 3 numbers; TOKENS_BATCH has "
                f"{lengths.size} rows, RESPONSE_STATE {response_state.size} numbers"
            )
        ids = tokens.reshape(-1)[: int(lengths.flat[0])].tolist()
        num_previous = 0 if previous_ids is None else previous_ids.size
        request_id, final, num_new = (int(value) for value in response_state.flat)
        prompt, new_ids = ids[: len(ids) - num_new], ids[len(ids) - num_new :]

        stream = self._streams.pop(request_id, None)
        if stream is None or stream.num_ids != num_previous:
            stream = self._stream(text_context)
            if num_previous:
                stream.feed(previous_ids.reshape(-1).tolist(), final=False)
        stopped_before = stream.stop.matched is not None
        # Of the same detokenizer, for a character may begin there; no stop word is searched in it.
        text = stream.detokenizer.feed(prompt) if prompt else ""
        text += stream.feed(new_ids, final=bool(final))
        finish_reason = _string(inputs.get("FINISH_REASON"))
        stop_reason = _string(inputs.get("STOP_REASON"))
        if final:
            if stream.stop.matched is not None:  # whichever way the engine came to its end
                finish_reason = finish_reason and "stop"
                stop_reason = stop_reason if stop_reason is None else stream.stop.matched
            return Text([text], finish_reason=finish_reason, stop_reason=stop_reason)
        self._streams[request_id] = stream
        if len(self._streams) > _MAX_REMEMBERED:
            self._streams.popitem(last=False)
        stops_now = stream.stop.matched is not None and not stopped_before
        stopped = request_id if stops_now else None
        receipt = (request_id, stream.num_ids)
        return Text(
            [text],
            stop_engine_request=stopped,
            receipt=receipt,
            is_last=False,
            finish_reason=finish_reason,
            stop_reason=stop_reason,
        )

    def _stream(self, text_context: np.ndarray) -> _Stream:
        context = json.loads(text_context.tobytes())
        include_stop = context.get("include_stop", self._include_stop_words)
        detokenizer = self._tokenizer.detokenizer(skip_special_tokens=self._skip_special_tokens)
        return _Stream(detokenizer, StopStrings(context.get("stop", []), include_stop))

    def _decode(self, ids: list[int] | np.ndarray) -> str:
        return self._tokenizer.decode([int(i) for i in ids], self._skip_special_tokens)


def _string(tensor: np.ndarray | None) -> str | None:
    return None if tensor is None or tensor.size == 0 else tensor.flat[0].decode()
