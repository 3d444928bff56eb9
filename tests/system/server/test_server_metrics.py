"""The metrics page and the statistics line of the log, against loads whose numbers are known."""

import json
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import accumulate

import numpy as np
import pytest
from triton_server import Server, Setup, Stream, ask, llm_request

LINE = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$")
LENGTHS = [10, 50, 100, 500, 1000]  # bounds of the token lengths' buckets
TIMES = [
    "nv_llm_queue_time_seconds",
    "nv_llm_time_to_first_token_seconds",
    "nv_llm_time_per_output_token_seconds",
    "nv_llm_e2e_request_latency_seconds",
]
# What the statistics line calls each gauge, by label and category.
KEYS = {
    "request_type=context": "Context Requests",
    "request_type=scheduled": "Scheduled Requests",
    "request_type=max": "Max Request Count",
    "request_type=active": "Active Request Count",
    "request_type=waiting": "Waiting Requests",
    "memory_type=pinned": "Runtime Pinned Memory Usage",
    "memory_type=gpu": "Runtime GPU Memory Usage",
    "memory_type=cpu": "Runtime CPU Memory Usage",
    "kv_cache_block_type=tokens_per": "Tokens per KV cache block",
    "kv_cache_block_type=used": "Used KV cache blocks",
    "kv_cache_block_type=free": "Free KV cache blocks",
    "kv_cache_block_type=max": "Max KV cache blocks",
    "kv_cache_block_type=reused": "Reused KV cache blocks",
    "kv_cache_block_type=fraction": "Fraction used KV cache blocks",
    "inflight_batcher_specific_metric=total_context_tokens": "Total Context Tokens",
    "inflight_batcher_specific_metric=micro_batch_id": "MicroBatch ID",
    "inflight_batcher_specific_metric=generation_requests": "Generation Requests",
    "inflight_batcher_specific_metric=paused_requests": "Paused Requests",
    "v1_specific_metric=total_context_tokens": "Total Context Tokens",
    "v1_specific_metric=total_generation_tokens": "Total Generation Tokens",
    "v1_specific_metric=empty_generation_slots": "Empty Generation Slots",
    "general_type=iteration_counter": "Iteration Counter",
    "general_type=timestamp": "Timestamp",
    "disaggregated_serving_type=kv_cache_transfer_ms": "KV cache transfer time",
    "disaggregated_serving_type=request_count": "Request count",
}

Page = dict[tuple[str, str], str]  # (name, labels as they stand there) -> value


def read_page(server: Server) -> Page:
    found = (LINE.match(line) for line in server.metrics_page().splitlines())
    return {(m[1], m[2]): m[3] for m in found if m}


def of_model(page: Page, name: str, model: str = "tensorrt_llm") -> float:
    """The value of a metric that has no labels but the model's."""
    return float(page[name, f'model="{model}",version="1"'])


def buckets(page: Page, name: str, category: str) -> list[int]:
    """Bucket by bucket as they stand, each with all below it; the labels in the known order."""
    labels = f'model="tensorrt_llm",response_metric_type="{category}",version="1",le="{{}}"'
    bounds = [*LENGTHS, "+Inf"]
    return [int(page[name + "_bucket", labels.format(bound)]) for bound in bounds]


def expected_buckets(lengths: list[int]) -> list[int]:
    counts = [0] * (len(LENGTHS) + 1)
    for length in lengths:
        counts[bisect_left(LENGTHS, length)] += 1
    return list(accumulate(counts))


def differences(after: list[int], before: list[int]) -> list[int]:
    return [a - b for a, b in zip(after, before, strict=True)]


@pytest.fixture
def verbose(server: Server) -> Iterator[None]:
    assert server.post("/v2/logging", {"log_verbose_level": 1})[0] == 200
    yield
    assert server.post("/v2/logging", {"log_verbose_level": 0})[0] == 200


def last_statistics(server: Server) -> dict:
    for line in reversed(server.log.read_text().splitlines()):
        if "Active Request Count" in line:
            return json.loads(re.search(r"({.*})", line)[1].replace('\\"', '"'))
    raise AssertionError("no statistics in the log")


@pytest.mark.parametrize(("model", "size"), [("tensorrt_llm", 22), ("static", 21)])
@pytest.mark.usefixtures("verbose")
def test_statistics_line_equals_the_page(server: Server, model: str, size: int) -> None:
    for length in (5, 60):
        ask(server, model, **llm_request([5, 17, 200] * length, 20))
    server.wait_until_idle(model)
    time.sleep(0.2)
    line = last_statistics(server)
    page = server.metrics_page()
    shown = {}
    for (name, labels), value in read_page(server).items():
        if name.startswith("nv_trt_llm_") and f'model="{model}"' in labels:
            category = next(
                label for label in labels.replace('"', "").split(",")
                if not label.startswith(("model", "version"))
            )  # fmt: skip
            shown[KEYS[category]] = value
            kind = "counter" if "disaggregated" in name else "gauge"
            assert f"# TYPE {name} {kind}\n" in page
    assert len(line) == size
    assert line.keys() == shown.keys()
    written = datetime.strptime(line.pop("Timestamp"), "%m-%d-%Y %H:%M:%S.%f")
    on_page = int(shown.pop("Timestamp")) / 1e6
    assert abs(written.replace(tzinfo=timezone.utc).timestamp() - on_page) < 1
    assert {key: int(value) for key, value in shown.items()} == line
    assert line["Iteration Counter"] >= 40
    assert line["Used KV cache blocks"] == 0
    assert line["Scheduled Requests"] == 0


def test_token_lengths_and_times_of_a_known_load(server: Server) -> None:
    # A length on each side of a bound and on it, streamed and not, one and many at once.
    prompts = [1, 10, 11, 50, 51, 100, 101, 499, 501, 1001]
    outputs = [1, 9, 10, 11, 49, 50, 51, 99, 100, 101]
    before = read_page(server)
    start = time.monotonic()
    with Stream(server, "tensorrt_llm") as stream:
        for number, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
            ids = [5 + (number + i) % 200 for i in range(prompt)]
            stream.send(**llm_request(ids, output, streaming=number % 2 == 0))
        num_finals = 0
        while num_finals < len(prompts):
            num_finals += stream.next().final
    seconds = time.monotonic() - start
    server.wait_until_idle()
    after = read_page(server)

    for name, category, lengths in (
        ("nv_llm_input_token_len", "total_input_tokens", prompts),
        ("nv_llm_output_token_len", "total_output_tokens", outputs),
    ):
        assert f"# TYPE {name} histogram\n" in server.metrics_page()
        counted = differences(buckets(after, name, category), buckets(before, name, category))
        assert counted == expected_buckets(lengths)
        labels = f'model="tensorrt_llm",response_metric_type="{category}",version="1"'
        for part, value in (("_sum", sum(lengths)), ("_count", len(lengths))):
            key = (name + part, labels)
            assert float(after[key]) - float(before[key]) == value

    def grown(name: str) -> float:
        return of_model(after, name) - of_model(before, name)

    queue, first, between, latency = (grown(name + "_sum") for name in TIMES)
    assert [grown(name + "_count") for name in TIMES] == [10, 10, 9, 10]
    assert 0 < queue <= first <= latency <= len(prompts) * seconds
    assert 0 < between <= latency

    def counted(name: str, category: str) -> float:
        return value_of(after, name, category) - value_of(before, name, category)

    hits = counted("nv_llm_prefix_cache_metrics", "hit_tokens")
    assert counted("nv_llm_token_count", "prompt") == sum(prompts) - hits
    assert counted("nv_llm_token_count", "generated") == sum(outputs)
    assert counted("nv_llm_request_count", "finished") == len(prompts)
    assert counted("nv_llm_request_count", "failed") == 0
    assert counted("nv_llm_prefix_cache_metrics", "queried_tokens") == sum(prompts)
    assert 0 <= hits < 64  # each begins unlike the others


def value_of(page: dict, name: str, category: str) -> float:
    labels = next(
        k for n, k in page if n == name and f'"{category}"' in k and 'model="tensorrt_llm"' in k
    )
    return float(page[name, labels])


def test_memory_is_that_of_the_device(server: Server, setup: Setup) -> None:
    """The KV cache at least: keys and values of 4 layers, 2 heads of 64 float32."""
    gauges = server.gauges()
    kv_bytes = gauges["max"] * gauges["tokens_per"] * 4 * 2 * 2 * 64 * 4
    here, there = ("cpu", "gpu") if setup.device == "cpu" else ("gpu", "cpu")
    assert kv_bytes < gauges[here] < kv_bytes + (64 << 20) and gauges[there] == 0


def test_what_prompts_find_in_the_cache(server: Server) -> None:
    """All of a prompt that comes again, but for its last token."""
    cache = "nv_llm_prefix_cache_metrics"
    prompt = [250 - i for i in range(161)]
    pages = []
    for _ in range(3):
        pages.append(read_page(server))
        ask(server, "tensorrt_llm", **llm_request(prompt, 2, cache_salt="nobody else's"))
        server.wait_until_idle()
    pages.append(read_page(server))
    hits = [value_of(page, cache, "hit_tokens") for page in pages]
    queried = [value_of(page, cache, "queried_tokens") for page in pages]
    assert np.diff(hits).tolist() == [0, 160, 160]
    assert np.diff(queried).tolist() == [161, 161, 161]
    for page, hit, all in zip(pages[1:], hits[1:], queried[1:], strict=True):
        assert value_of(page, cache, "hit_rate") == pytest.approx(hit / all)
    assert value_of(pages[-1], cache, "host_hit_tokens") == 0


def test_times_are_what_a_client_sees(server: Server) -> None:
    """The time to the first token of a lone stream, and between tokens, seen from both sides."""
    before = read_page(server)
    with Stream(server, "tensorrt_llm") as stream:
        start = time.monotonic()
        stream.send(**llm_request([5, 17, 200], 100, streaming=True))
        stream.next()
        first = time.monotonic() - start
        while not stream.next().final:
            pass
        last = time.monotonic() - start
    server.wait_until_idle()
    after = read_page(server)
    told = {
        name: of_model(after, name + "_sum") - of_model(before, name + "_sum") for name in TIMES
    }
    assert told["nv_llm_time_to_first_token_seconds"] <= first
    # The backend's ends when the server has taken the last response: the client may have it by then.
    assert told["nv_llm_e2e_request_latency_seconds"] <= last + 0.1
    # All but the way to and from the client, which takes part of a step.
    assert told["nv_llm_e2e_request_latency_seconds"] >= 0.5 * last
    assert 99 * told["nv_llm_time_per_output_token_seconds"] <= last


@pytest.mark.parametrize("asked", ["ensemble", "tensorrt_llm_bls"])
def test_all_models_of_a_request_count_alike(server: Server, asked: str) -> None:
    models = [asked, "preprocessing", "tensorrt_llm", "postprocessing"]
    before = read_page(server)
    with Stream(server, asked) as stream:
        for number in range(12):
            stream.send(text_input="abc" * (number + 1), max_tokens=10 + number, end_id=-1)
        for _ in range(12):
            stream.next()
    server.wait_until_idle()
    time.sleep(0.2)  # the ensemble's own numbers come after its answer
    after = read_page(server)

    def total(page: Page, metric: str, model: str) -> float:
        """Over the reasons, where failures are told apart."""
        return sum(
            float(value)
            for (name, labels), value in page.items()
            if name == f"nv_inference_{metric}" and f'model="{model}"' in labels
        )

    def grown(metric: str) -> list[float]:
        return [total(after, metric, model) - total(before, metric, model) for model in models]

    assert grown("request_success") == [12] * 4
    assert grown("request_failure") == [0] * 4
    assert grown("count") == [12] * 4
    assert grown("exec_count")[::2] == [12] * 2  # of who was asked and of tensorrt_llm
    assert [total(after, "pending_request_count", model) for model in models] == [0] * 4
    for duration in ("request", "compute_input", "compute_infer", "compute_output"):
        whole, *composing = grown(f"{duration}_duration_us")
        assert whole > 0 or (
            asked != "ensemble" and duration in ("compute_input", "compute_output")
        )
        assert sum(composing) > 0, duration
    assert grown("compute_infer_duration_us")[2] > 0
