"""The KV cache and the scheduler through the server's doors: who shares, whose turn it is, what is
preempted, and what a router is told."""

import json
import random
import time
from typing import Any

import numpy as np
import pytest
from triton_server import TIGHT_BLOCKS, Answer, Server, Stream, ask, llm_request, overridden
from tritonclient.utils import InferenceServerException

BLOCK = 32  # tokens


def ids(count: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(3, 259) for _ in range(count)]


def counter(server: Server, family: str, category: str, model: str = "tensorrt_llm") -> float:
    for line in server.metrics_page().splitlines():
        if line.startswith(family + "{") and f'"{category}"' in line and f'model="{model}"' in line:
            return float(line.split()[-1])
    raise AssertionError(f"no {family} {category} of {model}")


def hit_tokens(server: Server, model: str = "tensorrt_llm") -> float:
    return counter(server, "nv_llm_prefix_cache_metrics", "hit_tokens", model)


def blocks_of(answer: Answer) -> tuple[int, int]:
    """(allocated, reused) for the prompt."""
    names = ("kv_cache_alloc_new_blocks", "kv_cache_reused_blocks")
    return tuple(answer.outputs[name].item() for name in names)


# --- sharing


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble", "tensorrt_llm_bls"])
def test_only_equal_salts_share(server: Server, model: str) -> None:
    if model == "tensorrt_llm":
        request = llm_request(ids(100, seed=1), 2, return_perf_metrics=True)
    else:
        text = "".join(random.Random(model).choices("abcdefgh", k=100))
        request = {"text_input": text, "max_tokens": 2, "return_perf_metrics": True}
    ask(server, model, **request)  # without a salt, which is another one
    before = hit_tokens(server)
    for salt, is_hit in (("a", False), ("a", True), ("b", False), ("a", True), ("b", True)):
        answer = ask(server, model, **request, cache_salt=f"{model} {salt}")[0]
        # The last block is begun alike, and copied.
        assert blocks_of(answer) == ((1, 4) if is_hit else (4, 0)), salt
    server.wait_until_idle()
    assert hit_tokens(server) - before == 3 * 99


def test_a_salt_is_not_endless(server: Server) -> None:
    ask(server, "tensorrt_llm", **llm_request([5], 1, cache_salt="x" * 1024))
    with pytest.raises(InferenceServerException, match="cache_salt has 1025 bytes; at most 1024"):
        ask(server, "tensorrt_llm", **llm_request([5], 1, cache_salt="x" * 1025))


@pytest.mark.parametrize("reuse", [True, False])
def test_reuse_may_be_switched_off(server: Server, reuse: bool) -> None:
    request = llm_request(ids(100, seed=8), 2, return_perf_metrics=True)
    with overridden(server, "second", parameters={"enable_kv_cache_reuse": str(reuse)}):
        told = [blocks_of(ask(server, "second", **request)[0]) for _ in range(2)]
    assert told == [(4, 0), (1, 4) if reuse else (4, 0)]


def fill(server: Server, model: str) -> None:
    """15 blocks of prompts of nobody's."""
    for seed in (3, 4, 5):
        ask(server, model, **llm_request(ids(5 * BLOCK - 1, seed), 1))


def kept(server: Server, model: str, prompt: list[int]) -> int:
    """Blocks of it that are there."""
    (answer,) = ask(server, model, **llm_request(prompt, 1, return_perf_metrics=True))
    return blocks_of(answer)[1]


FEW = {"max_tokens_in_paged_kv_cache": str(12 * BLOCK)}
WHOLE_PROMPT = {"retention_token_range_starts": [0], "retention_token_range_ends": [-1]}


@pytest.mark.parametrize(("duration", "num_kept"), [(-1, 3), (50, 0)])
def test_a_prompt_outlives_others_for_as_long_as_is_wished(
    server: Server, duration: int, num_kept: int
) -> None:
    """Of 12 blocks two prompts have 3 each, then others want 15."""
    wishes = {**WHOLE_PROMPT, "retention_token_range_durations_ms": [duration]}
    prompts = [ids(3 * BLOCK, seed) for seed in (1, 2)]
    with overridden(server, "second", parameters=FEW):
        for prompt, priority in zip(prompts, (100, 10), strict=True):
            wishes["retention_token_range_priorities"] = [priority]
            ask(server, "second", **llm_request(prompt, 1, **wishes))
        time.sleep(0.1)
        fill(server, "second")
        assert [kept(server, "second", prompt) for prompt in prompts] == [num_kept, 0]


@pytest.mark.parametrize(
    ("wishes", "num_kept"),
    [
        ({"retention_decode_priority": 100}, 3),
        ({"retention_decode_priority": 100, "retention_decode_duration_ms": 50}, 1),
        ({"retention_decode_priority": 0}, 1),
    ],
    ids=str,
)
def test_what_was_generated_may_be_kept_with_its_prompt(
    server: Server, wishes: dict[str, int], num_kept: int
) -> None:
    wishes = {**WHOLE_PROMPT, "retention_token_range_priorities": [100], **wishes}
    with overridden(server, "second", parameters=FEW):
        (answer,) = ask(server, "second", **llm_request(ids(BLOCK, 9), 2 * BLOCK + 1, **wishes))
        time.sleep(0.1)
        fill(server, "second")
        assert kept(server, "second", answer.ids[: 3 * BLOCK]) == num_kept


def test_samples_of_a_prompt_share_its_blocks(server: Server) -> None:
    request = llm_request(
        ids(100, seed=2), 8, num_return_sequences=4, return_perf_metrics=True,
        runtime_top_p=1.0, temperature=5.0, cache_salt="samples",
    )  # fmt: skip
    answers = ask(server, "tensorrt_llm", **request)
    by_index = {answer.outputs["sequence_index"].item(): answer for answer in answers}
    assert [blocks_of(by_index[index]) for index in range(4)] == [(4, 0), (1, 4), (1, 4), (1, 4)]
    assert len({tuple(answer.ids) for answer in answers}) == 4


def test_requests_of_one_prompt_share_its_blocks(server: Server) -> None:
    """As the OpenAI endpoint sends its n choices: nobody says that they are alike."""
    before = counter(server, "nv_llm_token_count", "prompt")
    prompt = ids(1000, seed=3)  # takes several steps
    request = llm_request(prompt, 4, return_perf_metrics=True, cache_salt="requests")
    with Stream(server, "tensorrt_llm") as stream:
        for _ in range(4):
            stream.send(**request)
        answers = [stream.next() for _ in range(4)]
    assert sorted(map(blocks_of, answers)) == [(1, 32)] * 3 + [(32, 0)]
    assert len({tuple(answer.ids) for answer in answers}) == 1
    server.wait_until_idle()
    # Each but the first runs the last token of the prompt alone.
    assert counter(server, "nv_llm_token_count", "prompt") - before == 1003


# --- turns


def order_of(server: Server, tenants: dict[str, str | None]) -> list[str]:
    """In which requests began to run of which the first runs while the others come; one runs at a time.
    By the engine's clock: on their way to a client, responses of several requests change places."""
    begun: dict[str, int] = {}
    num_ended = 0
    with Stream(server, "short_queue") as stream:
        for index, (name, tenant) in enumerate(tenants.items()):
            parameters = None if tenant is None else {"tenant": tenant}
            request = llm_request(ids(20, seed=index), 300 if index == 0 else 3)
            request |= {"streaming": index == 0, "return_perf_metrics": True}
            stream.send(name, parameters=parameters, **request)
            if index == 0:
                stream.next()
        while num_ended < len(tenants):
            result, error = stream.answers.get(timeout=60)
            assert error is None
            response = result.get_response()
            begun[response.id] = result.as_numpy("first_scheduled_time_ns").item()
            num_ended += response.parameters["triton_final_response"].bool_param
    return sorted(begun, key=begun.__getitem__)


def test_tenants_take_turns(server: Server) -> None:
    names = ["first", "second", "other"]
    assert order_of(server, dict.fromkeys(names)) == names
    tenants = {"first": "a", "second": "a", "other": "b"}
    assert order_of(server, tenants) == ["first", "other", "second"]


@pytest.mark.parametrize("model", ["tensorrt_llm", "ensemble", "tensorrt_llm_bls"])
def test_a_tenant_reaches_the_engine(server: Server, model: str) -> None:
    """Shown by its limit, which is the engine's."""
    request: dict[str, Any] = {"text_input": "To be", "max_tokens": 1}
    if model == "tensorrt_llm":
        request = llm_request([5], 1)
    message = "tenant has 257 bytes; at most 256 are possible"
    with Stream(server, model) as stream:
        stream.send(parameters={"tenant": "x" * 256}, **request)
        while not stream.next().final:
            pass
        stream.send(parameters={"tenant": "x" * 257}, **request)
        with pytest.raises(InferenceServerException, match=message):
            stream.next()
    if model != "tensorrt_llm":
        body = {**request, "tenant": "x" * 257}
        status, page = server.post(f"/v2/models/{model}/generate", body)
        assert status >= 400 and message in page


def test_preemptions_are_counted(server: Server) -> None:
    """Four that need 20 blocks of 12, and are answered as by a model with room for all."""
    requests = [llm_request(ids(60, seed), 90, exclude_input_in_output=True) for seed in range(4)]
    expected = [ask(server, "tensorrt_llm", **request)[0].ids for request in requests]
    before = counter(server, "nv_llm_preemption_count", "no_free_blocks", "tight")
    with Stream(server, "tight") as stream:
        for index, request in enumerate(requests):
            stream.send(str(index), **request)
        got = {}
        for _ in requests:
            result, error = stream.answers.get(timeout=60)
            assert error is None
            response = result.get_response()
            got[int(response.id)] = result.as_numpy("output_ids").reshape(-1).tolist()
    assert [got[index] for index in range(4)] == expected
    server.wait_until_idle("tight")
    assert counter(server, "nv_llm_preemption_count", "no_free_blocks", "tight") > before
    assert counter(server, "nv_llm_preemption_count", "no_free_blocks") == 0


# --- events


def events_after(server: Server, after: int, model: str = "tight") -> list[dict[str, Any]]:
    question = {
        "input_lengths": 0,
        "request_output_len": 0,
        "kv_cache_events_after": np.array([[after]], np.int64),
    }
    (answer,) = ask(server, model, **question)
    assert answer.final and set(answer.outputs) == {"kv_cache_events"}
    return json.loads(answer.outputs["kv_cache_events"].item())


class Router:
    """What docs/kv_cache.md tells a router to do."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.after = -1
        self.blocks: dict[int, tuple[int | None, tuple[int, ...], int]] = {}  # by hash
        self.kinds: set[str] = set()

    def follow(self) -> None:
        while events := events_after(self.server, self.after):
            for event in events:
                assert self.after < 0 or event["event_id"] == self.after + 1
                self.after = event["event_id"]
                self.apply(event["data"])

    def apply(self, data: dict[str, Any]) -> None:
        self.kinds.add(data["type"])
        if data["type"] == "stored":
            parent = data["parent_hash"]
            for block in data["blocks"]:
                tokens = tuple(token["token_id"] for token in block["tokens"])
                self.blocks[block["block_hash"]] = (parent, tokens, block["cache_level"])
                parent = block["block_hash"]
        elif data["type"] == "removed":
            for removed in data["block_hashes"]:
                del self.blocks[removed]
        elif data["type"] == "updated":
            parent, tokens, level = self.blocks[data["block_hash"]]
            assert level == data["cache_level"]["old_value"]
            moved = (parent, tokens, data["cache_level"]["new_value"])
            self.blocks[data["block_hash"]] = moved

    def matched(self, prompt: list[int], levels: tuple[int, ...]) -> int:
        """Tokens of the blocks that the prompt begins with."""
        at = {
            (parent, tokens): (key, level) for key, (parent, tokens, level) in self.blocks.items()
        }
        parent, count = None, 0
        while count + BLOCK < len(prompt):
            found = at.get((parent, tuple(prompt[count : count + BLOCK])))
            if found is None or found[1] not in levels:
                break
            parent, count = found[0], count + BLOCK
        return count


def test_a_router_knows_what_the_cache_holds(server: Server) -> None:
    router = Router(server)
    router.follow()
    shared = ids(70, seed=5)
    for seed in range(12):
        prompt = shared[: 70 * (seed % 3 > 0)] + ids(100, seed=10 + seed % 7)
        least, most = router.matched(prompt, (0,)), router.matched(prompt, (0, 1))
        before = hit_tokens(server, "tight")
        ask(server, "tight", **llm_request(prompt, 1))
        server.wait_until_idle("tight")
        found = int(hit_tokens(server, "tight") - before) // BLOCK * BLOCK
        assert least <= found <= most, seed  # from host memory only where that is quicker
        router.follow()
        num_on_device = sum(level == 0 for _, _, level in router.blocks.values())
        assert num_on_device <= TIGHT_BLOCKS
    assert {"stored", "updated"} <= router.kinds
    assert counter(server, "nv_llm_kv_cache_block_count", "offloaded", "tight") > 0
    # Another reader is told the same, and a salted prompt is nobody else's.
    later = events_after(server, router.after)
    assert later == []
    again = ids(40, seed=50)
    for salt in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}):
        ask(server, "tight", **llm_request(again, 1), **salt)
    server.wait_until_idle("tight")
    told = events_after(server, router.after)
    assert told == events_after(server, router.after)
    stored = [event["data"] for event in told if event["data"]["type"] == "stored"]
    assert stored[0]["parent_hash"] is None
    parents = [data["parent_hash"] for data in stored]
    hashes = [data["blocks"][0]["block_hash"] for data in stored]
    assert len(set(parents)) == len(set(hashes)) == 3


def test_events_by_http(server: Server) -> None:
    ask(server, "tight", **llm_request(ids(40, seed=60), 1))
    server.wait_until_idle("tight")
    question = {"input_lengths": 0, "request_output_len": 0, "kv_cache_events_after": -1}
    status, page = server.post("/v2/models/tight/generate", question)
    assert status == 200
    told = json.loads(json.loads(page)["kv_cache_events"])
    assert told == events_after(server, -1) and told
    status, page = server.post("/v2/models/tensorrt_llm/generate", question)
    assert status >= 400
    assert "kv_cache_event_buffer_max_size is 0: no events are kept" in page


def test_events_as_they_come(server: Server) -> None:
    """One follower from the start, one from now on, which its time ends; a stop ends the other."""
    follow = {"input_lengths": 0, "request_output_len": 0, "streaming": True}
    kept = events_after(server, -1)
    newest = kept[-1]["event_id"] if kept else -1

    def after(event: int) -> np.ndarray:
        return np.array([[event]], np.int64)

    def told(answer: Answer) -> list[dict[str, Any]]:
        return json.loads(answer.outputs["kv_cache_events"].item())

    with Stream(server, "tight") as one, Stream(server, "tight") as other:
        one.send("router", kv_cache_events_after=after(-1), timeout_ms=60_000, **follow)
        other.send(kv_cache_events_after=after(newest), timeout_ms=3000, **follow)
        all_of_one, all_of_other = told(one.next()), told(other.next())
        assert all_of_one[: len(kept)] == kept
        for seed in range(70, 74):
            known = len(all_of_one)
            ask(server, "tight", **llm_request(ids(70, seed), 1))
            while len(all_of_one) == known:
                all_of_one += told(one.next())
        while not (answer := other.next()).final:
            all_of_other += told(answer)
        all_of_other += told(answer)
        ask(server, "tight", request_id="router", **llm_request([0], 0, stop=True))
        while not (answer := one.next()).final:
            all_of_one += told(answer)
        all_of_one += told(answer)
    assert all_of_one == events_after(server, -1)
    assert all_of_other == events_after(server, newest)[: len(all_of_other)] != []
    assert [event["event_id"] for event in all_of_other] == [
        *range(all_of_other[0]["event_id"], all_of_other[-1]["event_id"] + 1)
    ]
    for model, options, part in (
        ("tight", {"timeout_ms": 60_001}, "at least 1 and at most 60000"),
        ("plain", {}, "needs a model with decoupled transactions"),
    ):
        with pytest.raises(InferenceServerException, match=part):
            ask(server, model, kv_cache_events_after=after(-1), **follow, **options)


def test_a_follower_holds_an_unload_for_its_time_at_most(server: Server) -> None:
    buffered = {"kv_cache_event_buffer_max_size": "100"}
    with overridden(server, "second", parameters=buffered), Stream(server, "second") as stream:
        stream.send(
            input_lengths=0, request_output_len=0, streaming=True, timeout_ms=1500,
            kv_cache_events_after=np.array([[-1]], np.int64),
        )  # fmt: skip
        assert not stream.next().final
        # The core may not have its instance's thread back yet, and die of that (docs/server_faults.md).
        time.sleep(0.3)
        status, page = server.post("/v2/repository/models/second/unload", {})
        assert status == 200, page
        assert stream.next().final
        deadline = time.monotonic() + 30
        while server.get("/v2/models/second/ready")[0] == 200:
            assert time.monotonic() < deadline
            time.sleep(0.02)
