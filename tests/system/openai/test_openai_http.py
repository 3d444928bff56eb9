"""The endpoint below the official client: keys, limits, errors, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from http.client import HTTPResponse
from pathlib import Path

import pytest
from openai_endpoint import KEY, MAX_BODY_MIB, MODEL, Endpoint, end, start, wait_until_ready

COMPLETION = {"model": MODEL, "prompt": "ROMEO:", "max_tokens": 4}


@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "x", "anothér"])
def test_without_the_key_nothing_is_told(endpoint: Endpoint, key: str | None) -> None:
    request = urllib.request.Request(f"{endpoint.url}/v1/models")
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}".encode().decode("latin-1"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 401
    assert json.loads(refused.value.read())["error"]["code"] == "invalid_api_key"


def test_each_key_of_the_file_opens(endpoint: Endpoint) -> None:
    assert endpoint.post("/v1/completions", COMPLETION, key="another")[0] == 200
    assert endpoint.post("/v1/completions", COMPLETION, key=KEY)[0] == 200


def test_health_and_metrics_need_no_key(endpoint: Endpoint) -> None:
    with urllib.request.urlopen(f"{endpoint.url}/health", timeout=10) as answer:
        assert answer.status == 200
    head = urllib.request.Request(f"{endpoint.url}/health", method="HEAD")
    with urllib.request.urlopen(head, timeout=10) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{endpoint.url}/metrics", timeout=10) as ours:
        page = ours.read().decode()
        assert ours.headers["Content-Type"].startswith("text/plain")
    assert "nv_trt_llm_kv_cache_block_metrics" in page


@pytest.mark.parametrize(
    ("path", "change", "param", "code"),
    [
        ("completions", {"max_tokenz": 3}, "max_tokenz", "unknown_parameter"),
        ("completions", {"prompt": None}, "prompt", "string_type"),
        ("completions", {"prompt": []}, "prompt", "too_short"),
        ("completions", {"prompt": ""}, "prompt", "invalid_value"),
        ("completions", {"prompt": [5, 99999]}, "prompt", "invalid_value"),
        ("completions", {"prompt": [5, -1]}, "prompt", "greater_than_equal"),
        ("completions", {"prompt": [5] * 600}, "prompt", "context_length_exceeded"),
        ("completions", {"max_tokens": 0}, "max_tokens", "greater_than_equal"),
        ("completions", {"max_tokens": 2**40}, "max_tokens", "context_length_exceeded"),
        ("completions", {"max_tokens": "4"}, "max_tokens", "int_type"),
        ("completions", {"temperature": -1}, "temperature", "greater_than_equal"),
        ("completions", {"top_p": -0.1}, "top_p", "greater_than_equal"),
        ("completions", {"top_k": 2**31}, "top_k", "less_than_equal"),
        ("completions", {"repetition_penalty": 1e300}, "repetition_penalty", "less_than_equal"),
        ("completions", {"repetition_penalty": 1e-300}, "repetition_penalty",
         "greater_than_equal"),
        ("completions", {"n": 129}, "n", "less_than_equal"),
        ("completions", {"n": 100, "prompt": ["a", "b"]}, "n", "invalid_value"),
        ("completions", {"stop": ["a", ""]}, "stop", "invalid_value"),
        ("completions", {"stop": ["x"] * 17}, "stop", "too_long"),
        ("completions", {"min_tokens": 5}, "min_tokens", "invalid_value"),
        ("completions", {"best_of": 2}, "best_of", "unsupported_parameter"),
        ("completions", {"suffix": "end"}, "suffix", "unsupported_parameter"),
        ("completions", {"echo": True, "logprobs": 0}, "echo", "unsupported_parameter"),
        ("completions", {"stream_options": {}}, "stream_options", "invalid_value"),
        ("completions", {"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ("completions", {"logit_bias": {"5": "1"}}, "logit_bias", "invalid_value"),
        ("completions", {"stream": True, "stream_options": {"include_obfuscation": True}},
         "stream_options", "unsupported_parameter"),
        ("completions", {"logit_bias": {"1024": 1}}, "logit_bias", "invalid_value"),
        ("completions", {"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ("completions", {"logit_bias": {"9" * 5000: 1}}, "logit_bias", "invalid_value"),
        ("completions", {"logit_bias": {"\u0664": 1}}, "logit_bias", "invalid_value"),
        ("completions", {"model": "gpt-4"}, "model", "model_not_found"),
        ("chat/completions", {"messages": []}, "messages", "too_short"),
        ("chat/completions", {"messages": [{"role": "user", "content": ""}] * 512}, "messages",
         "context_length_exceeded"),
        ("chat/completions", {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens",
         "invalid_value"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ("chat/completions", {"response_format": {"type": "json_object"}}, "response_format",
         "unsupported_parameter"),
        ("chat/completions", {"tools": [{}]}, "tools", "unsupported_parameter"),
        ("chat/completions", {"functions": [{}]}, "functions", "unsupported_parameter"),
        ("chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "messages",
         "literal_error"),
        ("chat/completions", {"messages": [{"role": "user", "content": None}]}, "messages",
         "string_type"),
        ("chat/completions", {"messages": [{"role": "assistant", "content": None,
         "tool_calls": [{}]}]}, "messages", "unsupported_parameter"),
        ("chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url",
         "image_url": {"url": "http://x"}}]}]}, "messages", "unsupported_parameter"),
    ],
)  # fmt: skip
def test_refusals_name_the_field(
    endpoint: Endpoint, path: str, change: dict, param: str, code: str
) -> None:
    base = dict(COMPLETION)
    if path.startswith("chat"):
        base = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    status, body = endpoint.post(f"/v1/{path}", {**base, **change})
    assert status == (404 if code == "model_not_found" else 400), body
    error = body["error"]
    assert (error["param"], error["code"]) == (param, code), error
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_bodies_that_are_no_object(endpoint: Endpoint, body: bytes) -> None:
    status, answer = endpoint.post("/v1/completions", body)
    assert status == 400 and answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("name", ["prompt", "stop", "cache_salt", "user", "model"])
def test_halves_of_utf_16_pairs_are_no_text(endpoint: Endpoint, name: str) -> None:
    """JSON can spell them, and Python's own reader takes them; nothing behind it can."""
    body = json.dumps({**COMPLETION, name: "a\ud83d"}).encode()
    status, answer = endpoint.post("/v1/completions", body)
    assert (status, answer["error"]["code"]) == (400, "invalid_json"), answer
    whole = json.dumps({**COMPLETION, "prompt": "a\U0001f600"}).encode()
    assert b"\\ud83d\\ude00" in whole and endpoint.post("/v1/completions", whole)[0] == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        ({"Content-Type": "text/plain"}, "unsupported_media_type"),
        ({"Content-Encoding": "gzip"}, "unsupported_content_encoding"),
    ],
)
def test_the_header_says_that_it_is_json(endpoint: Endpoint, headers: dict, code: str) -> None:
    """What curl sends unless told otherwise is answered by what to do."""
    request = urllib.request.Request(
        f"{endpoint.url}/v1/completions",
        json.dumps(COMPLETION).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}", **headers},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 415
    assert json.loads(refused.value.read())["error"]["code"] == code


def test_paths_and_methods(endpoint: Endpoint) -> None:
    assert endpoint.post("/v1/nothing", {})[1]["error"]["code"] == "not_found"
    assert endpoint.post("/v1/models", {})[1]["error"]["code"] == "method_not_allowed"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{endpoint.url}/", b"", timeout=10)
    assert refused.value.code == 405 and "GET" in refused.value.headers["Allow"]


def test_a_body_may_not_be_too_long(endpoint: Endpoint) -> None:
    """Its length is enough."""
    with socket.create_connection(("localhost", endpoint.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nAuthorization: Bearer %s\r\n\r\n{"
            % ((MAX_BODY_MIB << 20) + 1, KEY.encode())
        )
        answer = HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["code"] == "request_too_large"


@pytest.mark.parametrize(("key", "expected"), [(KEY, 413), ("wrong", 401)])
def test_one_who_sends_it_all_hears_why_it_is_refused(
    endpoint: Endpoint, key: str, expected: int
) -> None:
    """urllib wants the connection closed, and looks at the answer after its last byte."""
    long = b" " * (3 * MAX_BODY_MIB << 20)
    for _ in range(5):
        assert endpoint.post("/v1/completions", long, key)[0] == expected


def test_a_body_without_a_length_may_not_be_too_long(endpoint: Endpoint) -> None:
    """In chunks, of which so many are read that the answer is not lost."""
    with socket.create_connection(("localhost", endpoint.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
        )
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        for _ in range((MAX_BODY_MIB << 10) + 200):
            connection.sendall(chunk)
        assert b" 413 " in connection.recv(4096).split(b"\r\n")[0]


def test_the_server_is_not_stopped_by_a_client_that_ends_amid_its_body(endpoint: Endpoint) -> None:
    with socket.create_connection(("localhost", endpoint.port)) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
            b"Authorization: Bearer " + KEY.encode() + b'\r\n\r\n{"model"'
        )
    assert endpoint.post("/v1/completions", COMPLETION)[0] == 200


def test_time_and_a_dead_server(tmp_path: Path) -> None:
    """One server of its own: an answer takes too long; then tritonserver dies under the endpoint."""
    endpoint = start(tmp_path, "--max-answer-seconds=0.5")
    try:
        wait_until_ready(endpoint)
        long = {**COMPLETION, "max_tokens": 400, "n": 16}
        status, body = endpoint.post("/v1/completions", long)
        assert status == 504 and body["error"]["code"] == "timeout"
        endpoint.wait_until_idle(seconds=2)
        request = urllib.request.Request(
            f"{endpoint.url}/v1/completions",
            json.dumps({**long, "stream": True}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=20) as stream:
            events = [line for line in stream.read().decode().split("\n\n") if line]
        assert len(events) > 2
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        assert events[-1] == "data: [DONE]"

        servers = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(endpoint.process.pid)],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        server = next(int(line.split()[0]) for line in servers if "tritonserver" in line)
        os.kill(server, signal.SIGKILL)
        assert endpoint.process.wait(60) != 0  # and takes the endpoint along
        with pytest.raises(OSError):
            urllib.request.urlopen(f"{endpoint.url}/health", timeout=2)
    finally:
        if endpoint.process.poll() is None:
            end(endpoint)


def test_answers_under_way_are_finished_at_the_end(tmp_path: Path) -> None:
    endpoint = start(tmp_path)
    try:
        wait_until_ready(endpoint)
        request = urllib.request.Request(
            f"{endpoint.url}/v1/completions",
            json.dumps({**COMPLETION, "max_tokens": 500, "n": 4, "stream": True}).encode(),
            {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
        )
        with urllib.request.urlopen(request, timeout=60) as stream:
            assert stream.readline() and stream.readline() == b"\n"
            asked = time.monotonic()
            endpoint.process.send_signal(signal.SIGTERM)
            events = [line for line in stream.read().decode().split("\n\n") if line]
        assert events[-1] == "data: [DONE]"
        reasons = [
            json.loads(event.removeprefix("data: "))["choices"][0]["finish_reason"]
            for event in events[:-1]
        ]
        assert reasons.count("length") == 4, endpoint.log.read_text()[-3000:]
        assert endpoint.process.wait(60) == 0
        assert time.monotonic() - asked < 40
    finally:
        if endpoint.process.poll() is None:
            end(endpoint)
