"""Salts, samples that share, priorities and events of the KV cache at the endpoint."""

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from typing import Any

import pytest
from openai_endpoint import KEY, MODEL, Endpoint

TOKENS_PER_BLOCK = 32


def ids(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(300, 1000) for _ in range(count)]


def metric(endpoint: Endpoint, family: str, category: str) -> float:
    with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=10) as page:
        for line in page.read().decode().splitlines():
            if line.startswith(family + "{") and f'"{category}"' in line:
                return float(line.split()[-1])
    raise AssertionError(f"no {family} {category}")


def complete(endpoint: Endpoint, prompt: list[int], **others: Any) -> dict[str, Any]:
    body = {"model": MODEL, "prompt": prompt, "max_tokens": 2, "ignore_eos": True, **others}
    status, answer = endpoint.post("/v1/completions", body)
    assert status == 200, answer
    endpoint.wait_until_idle()
    return answer


def test_only_equal_salts_share(endpoint: Endpoint) -> None:
    prompt = ids(100, seed=1)
    gained = []
    complete(endpoint, prompt)  # without a salt, which is another one
    for salt in ("a", "a", "b", "a", "b"):
        before = metric(endpoint, "nv_llm_prefix_cache_metrics", "hit_tokens")
        complete(endpoint, prompt, cache_salt=salt)
        gained.append(metric(endpoint, "nv_llm_prefix_cache_metrics", "hit_tokens") - before)
    assert gained == [0, 99, 0, 99, 99]


@pytest.mark.parametrize("stream", [False, True])
def test_choices_share_their_prompt(endpoint: Endpoint, stream: bool) -> None:
    prompt = ids(300, seed=2 + stream)
    tokens = ("nv_llm_token_count", "prompt")
    reused = ("nv_llm_kv_cache_block_count", "reused")
    before = metric(endpoint, *tokens), metric(endpoint, *reused)
    if stream:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 8, "n": 4, "stream": True}
        body["cache_salt"] = "choices"
        data = json.dumps({**body, "ignore_eos": True}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        request = urllib.request.Request(f"{endpoint.url}/v1/completions", data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
        endpoint.wait_until_idle()
    else:
        assert len(complete(endpoint, prompt, n=4, cache_salt="choices")["choices"]) == 4
    # One reads the prompt, the others its last token each.
    assert metric(endpoint, *tokens) - before[0] == 300 + 3
    num_blocks = -(-299 // TOKENS_PER_BLOCK)
    assert metric(endpoint, *reused) - before[1] == 3 * num_blocks


def test_priority_and_tenant_are_taken(endpoint: Endpoint) -> None:
    complete(endpoint, [400, 401], priority=-5, tenant="team")
    for change, param in (
        ({"priority": 2**31}, "priority"),
        ({"tenant": "x" * 257}, "tenant"),
        ({"cache_salt": "x" * 1025}, "cache_salt"),
        ({"cache_salt": ""}, "cache_salt"),
    ):
        body = {"model": MODEL, "prompt": "x", **change}
        status, answer = endpoint.post("/v1/completions", body)
        assert (status, answer["error"]["param"]) == (400, param), answer
    assert "has 0 bytes; at least 1 and at most 1024 are possible" in answer["error"]["message"]


def events(endpoint: Endpoint, query: str = "", post: bool = False, key: str | None = KEY) -> Any:
    request = urllib.request.Request(f"{endpoint.url}/kv_cache_events{query}")
    request.method = "POST" if post else "GET"
    if key:
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        return json.loads(answer.read())


def stored_of(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The only event of that kind. A full pool gives up others' blocks before it."""
    (stored,) = [event for event in told if event["data"]["type"] == "stored"]
    assert all(event["data"]["type"] == "removed" for event in told if event != stored)
    return stored


def test_events(endpoint: Endpoint) -> None:
    while events(endpoint, post=True):
        pass
    prompt = ids(70, seed=5)
    complete(endpoint, prompt)
    event = stored_of(events(endpoint, post=True))  # since the last question
    assert event["data"]["parent_hash"] is None
    told = [token["token_id"] for block in event["data"]["blocks"] for token in block["tokens"]]
    assert told == prompt[:64]
    assert events(endpoint, post=True) == events(endpoint) == []
    # Who says from where takes nothing from the others.
    newest = event["event_id"]
    for post in (False, True):
        assert events(endpoint, f"?after={newest - 1}", post) == [event]
        assert events(endpoint, f"?after={newest}", post) == []
    everything = events(endpoint, "?after=-1")
    assert everything[0]["data"]["type"] == "created" and everything[-1] == event


@pytest.mark.parametrize(
    ("query", "key", "status"),
    [
        ("", None, 401),
        ("?after=-2", KEY, 400),
        ("?after=x", KEY, 400),
        (f"?after={2**63}", KEY, 400),
    ],
)
def test_events_are_not_for_all(
    endpoint: Endpoint, query: str, key: str | None, status: int
) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        events(endpoint, query, key=key)
    assert refused.value.code == status


def followed(endpoint: Endpoint, query: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("localhost", endpoint.port, timeout=60)
    headers = {"Authorization": f"Bearer {KEY}"} | headers
    connection.request("GET", f"/kv_cache_events?stream=true{query}", headers=headers)
    return connection.getresponse()


def next_list(answer: http.client.HTTPResponse) -> tuple[int, list[dict[str, Any]]]:
    """(id of the newest event told, events)."""
    lines = [answer.readline() for _ in range(3)]
    assert lines[0].startswith(b"id: ") and lines[1].startswith(b"data: ") and lines[2] == b"\n"
    return int(lines[0][4:]), json.loads(lines[1][6:])


def test_events_are_followed(endpoint: Endpoint) -> None:
    prompt = ids(70, seed=6)
    with followed(endpoint, "") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        before, none = next_list(answer)
        assert none == []
        complete(endpoint, prompt)
        told: list[dict[str, Any]] = []
        while not any(event["data"]["type"] == "stored" for event in told):
            newest, news = next_list(answer)
            told += news
    assert [event["event_id"] for event in told] == list(range(before + 1, newest + 1))
    event = stored_of(told)
    assert event["data"]["parent_hash"] is None
    stored = [token["token_id"] for block in event["data"]["blocks"] for token in block["tokens"]]
    assert stored == prompt[: len(stored)] != []
    # Who was cut off goes on where he was, by either name of the place; ends by itself in 10 s.
    with followed(endpoint, "", **{"Last-Event-ID": str(before)}) as answer:
        assert next_list(answer)[1][: len(told)] == told
    start = time.monotonic()
    with followed(endpoint, f"&after={before}") as answer:
        assert next_list(answer)[1][: len(told)] == told
        rest = answer.read()
    assert 5 < time.monotonic() - start < 50
    assert rest.endswith(b"data: []\n\n")
    with followed(endpoint, "&after=-2") as answer:
        assert answer.status == 400
