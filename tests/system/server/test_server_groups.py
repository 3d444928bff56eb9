"""Streams of a group at a real server: what is new of them in one response a step, each end by itself."""

import secrets
from collections import defaultdict
from typing import Any

import numpy as np
from triton_server import Server, Stream, ask, llm_request

PROMPTS = ([5, 17, 200, 33], [90, 91, 4], [7, 7, 7, 7, 7])
LENGTH = 60


def stream_request(prompt: list[int], **others: Any) -> dict[str, Any]:
    return llm_request(prompt, LENGTH, streaming=True, **others)


def test_members_get_what_they_get_alone(server: Server) -> None:
    alone = [
        [
            id
            for answer in ask(server, "tensorrt_llm", **stream_request(prompt))
            for id in answer.ids
        ]
        for prompt in PROMPTS
    ]
    group = secrets.randbits(63)
    # By where they begin: the server may let responses of different requests overtake each other.
    pieces: dict[int, dict[int, list[int]]] = defaultdict(dict)
    lengths_in_all: dict[int, int] = {}
    num_responses = 0

    def is_whole(member: int) -> bool:
        return sum(map(len, pieces[member].values())) == lengths_in_all.get(member)

    with Stream(server, "tensorrt_llm") as stream:
        for member, prompt in enumerate(PROMPTS):
            place = np.array([[group, member]], np.int64)
            request = stream_request(prompt, response_group=place, return_finish_reason=True)
            stream.send(str(member), **request)
        while not all(is_whole(member) for member in range(len(PROMPTS))):
            answer = stream.next()
            begins = answer.outputs["group_begins"].reshape(-1).tolist()
            if answer.final:
                assert "group_members" not in answer.outputs
                assert answer.outputs["finish_reason"].item() == b"length"
                pieces[int(answer.id)][begins[0]] = answer.ids
                lengths_in_all[int(answer.id)] = begins[0] + len(answer.ids)
                continue
            num_responses += 1
            members = answer.outputs["group_members"].reshape(-1).tolist()
            lengths = answer.outputs["group_lengths"].reshape(-1).tolist()
            ids = answer.ids
            for member, begin, length in zip(members, begins, lengths, strict=True):
                pieces[member][begin] = ids[:length]
                ids = ids[length:]
            assert ids == []
    for member, expected in enumerate(alone):
        assert [id for _, ids in sorted(pieces[member].items()) for id in ids] == expected
    # One a step: hardly more than one stream has tokens, though they may begin steps apart.
    assert num_responses < 2 * LENGTH


def test_a_stop_ends_one_member(server: Server) -> None:
    group = secrets.randbits(63)
    with Stream(server, "tensorrt_llm") as stream:
        for member, prompt in enumerate(PROMPTS):
            place = np.array([[group, member]], np.int64)
            request = llm_request(prompt, 400, streaming=True, response_group=place)
            stream.send(f"member {member} of {group}", return_finish_reason=True, **request)
        first = stream.next()
        assert not first.final
        stop = llm_request([0], 0, stop=True)
        stream.send(f"member 0 of {group}", **stop)
        reasons = {}
        num_finals = 0
        while num_finals < len(PROMPTS) + 1:  # the stop request's own has no tensors
            answer = stream.next()
            num_finals += answer.final
            if answer.final and "finish_reason" in answer.outputs:
                assert answer.id not in reasons
                reasons[answer.id] = answer.outputs["finish_reason"].item()
    assert [reasons[f"member {member} of {group}"] for member in range(len(PROMPTS))] == [
        b"cancelled", b"length", b"length",
    ]  # fmt: skip
    server.wait_until_idle()
