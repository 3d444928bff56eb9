"""A request of the model `tensorrt_llm` as gRPC carries it, and its answers read back.

Written on the protocol's messages themselves: a part of a stream costs a few microseconds here,
where tritonclient's classes and numpy would take ten times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2 as pb

MODEL = "tensorrt_llm"
_OUTPUTS = ("output_ids", "sequence_length", "finish_reason")
_TOP = ("top_log_prob_ids", "top_log_probs")
_MEMBERS, _BEGINS, _LENGTHS = "group_members", "group_begins", "group_lengths"
_EMPTY_FINAL = "triton_enable_empty_final_response"
_FINAL = "triton_final_response"


@dataclass(frozen=True)
class EngineRequest:
    """One sequence. What is None or empty is not sent: the server's own defaults hold then."""

    prompt_ids: Sequence[int]
    max_tokens: int
    streaming: bool = True
    end_id: int | None = None
    # By name, of tensor names of `tensorrt_llm`; each one element.
    numbers: Mapping[str, float] = field(default_factory=dict)  # FP32
    counts: Mapping[str, int] = field(default_factory=dict)  # INT32
    seed: int | None = None
    log_probs: bool = False
    num_top_log_probs: int = 0  # alternatives beside each token's own; with log_probs
    bias: bytes = b""  # FP32 of every id of the vocabulary, added to the logits of every step
    cache_salt: str = ""
    tenant: str = ""


@dataclass(slots=True)  # a frozen one takes 1 us longer to make
class Part:
    """What is new of a request: ids, and their log-probabilities where asked for."""

    ids: list[int]
    log_probs: list[float]
    final: bool
    finish_reason: str = ""  # of a final one: "stop", "length", "deadline", "cancelled"
    # Of each id the likeliest ones, (id, log-probability), where asked for.
    top_log_probs: list[list[tuple[int, float]]] = field(default_factory=list)
    begin: int = 0  # of a group's request: how many ids came before

    def add(self, later: Part) -> None:
        self.ids += later.ids
        self.log_probs += later.log_probs
        self.top_log_probs += later.top_log_probs
        self.final, self.finish_reason = later.final, later.finish_reason


def to_message(
    request: EngineRequest, request_id: str, group: int, member: int
) -> pb.ModelInferRequest:
    """What is new of the streams of a group comes in one response a step, under their numbers."""
    message = _message(request_id)
    prompt = request.prompt_ids
    _add(message, "input_ids", "INT32", len(prompt), struct.pack(f"<{len(prompt)}i", *prompt))
    _add(message, "input_lengths", "INT32", 1, struct.pack("<i", len(prompt)))
    _add(message, "request_output_len", "INT32", 1, struct.pack("<i", request.max_tokens))
    _add(message, "exclude_input_in_output", "BOOL", 1, b"\1")
    _add(message, "return_finish_reason", "BOOL", 1, b"\1")
    if request.streaming:
        _add(message, "streaming", "BOOL", 1, b"\1")
        _add(message, "response_group", "INT64", 2, struct.pack("<qq", group, member))
    if request.end_id is not None:
        _add(message, "end_id", "INT32", 1, struct.pack("<i", request.end_id))
    for name, number in request.numbers.items():
        _add(message, name, "FP32", 1, struct.pack("<f", number))
    for name, count in request.counts.items():
        _add(message, name, "INT32", 1, struct.pack("<i", count))
    if request.seed is not None:
        _add(message, "seed", "UINT64", 1, struct.pack("<Q", request.seed))
    if request.bias:
        _add(message, "embedding_bias", "FP32", len(request.bias) // 4, request.bias)
    if request.log_probs:
        _add(message, "return_log_probs", "BOOL", 1, b"\1")
    if request.num_top_log_probs:
        count = struct.pack("<i", request.num_top_log_probs)
        _add(message, "num_top_log_probs", "INT32", 1, count)
    if request.cache_salt:
        salt = request.cache_salt.encode()
        _add(message, "cache_salt", "BYTES", 1, struct.pack("<I", len(salt)) + salt)
    if request.tenant:
        message.parameters["tenant"].string_param = request.tenant
    for name in _OUTPUTS:
        message.outputs.add(name=name)
    for name in ("output_log_probs",) * request.log_probs + _TOP * bool(request.num_top_log_probs):
        message.outputs.add(name=name)
    return message


def stop_message(request_id: str) -> pb.ModelInferRequest:
    """Ends the request of that id; its other tensors are dummies."""
    message = _with_dummies(request_id)
    _add(message, "stop", "BOOL", 1, b"\1")
    return message


def events_message(
    after: int, request_id: str = "", streaming: bool = False
) -> pb.ModelInferRequest:
    """Asks for the KV cache's events after the one of this id; -1: for all that are kept. Streaming:
    and for those to come."""
    message = _with_dummies(request_id)
    if streaming:
        _add(message, "streaming", "BOOL", 1, b"\1")
    _add(message, "kv_cache_events_after", "INT64", 1, struct.pack("<q", after))
    message.outputs.add(name="kv_cache_events")
    return message


def events_of(response: pb.ModelInferResponse) -> bytes:
    """JSON, of an answer to events_message."""
    [raw] = response.raw_output_contents
    return raw[4:]  # a length comes first


def read_response(response: pb.ModelInferResponse) -> Part | dict[int, Part]:
    """Of one request, or of members of a group by their numbers, none of them final. A member that
    asked for no log-probabilities has zeros if another did. Raises ValueError if it is no answer of
    the model."""
    flag = response.parameters.get(_FINAL)
    final = flag is not None and flag.bool_param
    raw = {
        output.name: data
        for output, data in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    if not raw:  # the flag alone
        return Part([], [], final)
    if "output_ids" not in raw:
        raise ValueError(f"a response without output_ids, with {sorted(raw)}")
    ids = memoryview(raw["output_ids"]).cast("i").tolist()
    part = Part(
        ids,
        memoryview(raw["output_log_probs"]).cast("f").tolist() if "output_log_probs" in raw else [],
        final,
        # Four bytes of a length come first.
        raw.get("finish_reason", b"")[4:].decode() if final else "",
        _top_of(raw, len(ids)) if _TOP[0] in raw else [],
    )
    begins = memoryview(raw.get(_BEGINS, b"")).cast("i").tolist()
    if _MEMBERS not in raw:
        part.begin = begins[0] if begins else 0
        return part
    members = memoryview(raw[_MEMBERS]).cast("q").tolist()
    lengths = memoryview(raw[_LENGTHS]).cast("i").tolist()
    return _by_member(part, members, begins, lengths)


def _by_member(
    all: Part, members: list[int], begins: list[int], lengths: list[int]
) -> dict[int, Part]:
    parts, first = {}, 0
    for member, begin, length in zip(members, begins, lengths, strict=True):
        end = first + length
        log_probs, top = all.log_probs[first:end], all.top_log_probs[first:end]
        parts[member] = Part(all.ids[first:end], log_probs, False, "", top, begin)
        first = end
    return parts


def _top_of(raw: dict[str, bytes], num_ids: int) -> list[list[tuple[int, float]]]:
    ids = memoryview(raw[_TOP[0]]).cast("i").tolist()
    values = memoryview(raw[_TOP[1]]).cast("f").tolist()
    count = len(ids) // num_ids if num_ids else 0
    pairs = list(zip(ids, values, strict=True))
    return [
        [pair for pair in pairs[at * count : (at + 1) * count] if pair[0] >= 0]
        for at in range(num_ids)
    ]


def _with_dummies(request_id: str) -> pb.ModelInferRequest:
    """With the tensors that the model requires of every request."""
    message = _message(request_id)
    _add(message, "input_ids", "INT32", 1, struct.pack("<i", 0))
    for name in ("input_lengths", "request_output_len"):
        _add(message, name, "INT32", 1, struct.pack("<i", 0))
    return message


def _message(request_id: str) -> pb.ModelInferRequest:
    message = pb.ModelInferRequest(model_name=MODEL, id=request_id)
    message.parameters[_EMPTY_FINAL].bool_param = True
    return message


def _add(message: pb.ModelInferRequest, name: str, datatype: str, length: int, raw: bytes) -> None:
    message.inputs.add(name=name, datatype=datatype, shape=[1, length])
    message.raw_input_contents.append(raw)
