"""The live line of `inflight serve`, of pages served by a thread."""

import io
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from inflight.cli import live_line
from inflight.cli.live_line import Activity, LiveLine
from inflight.serving.metrics_page import parse, total

PAGE = """\
# HELP nv_trt_llm_request_metrics Requests in the engine
# TYPE nv_trt_llm_request_metrics gauge
nv_trt_llm_request_metrics{{model="a",request_type="scheduled",version="1"}} 3
nv_trt_llm_request_metrics{{model="b",request_type="scheduled",version="1"}} 1
nv_trt_llm_request_metrics{{model="a",request_type="waiting",version="1"}} 7
nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="used",model="a",version="1"}} 16
nv_trt_llm_kv_cache_block_metrics{{kv_cache_block_type="max",model="a",version="1"}} 64
nv_llm_token_count{{model="a",token_type="generated",version="1"}} {generated}
nv_llm_token_count{{model="a",token_type="prompt",version="1"}} 500
nv_llm_queue_time_seconds_bucket{{model="a",version="1",le="+Inf"}} 2
nv_gpu_odd{{name="a \\"quoted\\", one"}} 1.5e+03
"""


def test_page() -> None:
    samples = parse(PAGE.format(generated=1e6))
    assert len(samples) == 9
    assert total(samples, "nv_trt_llm_request_metrics", "scheduled") == 4
    assert total(samples, "nv_llm_token_count", "generated") == 1e6
    assert total(samples, "nv_llm_token_count", "a") == 0
    assert samples[-1].labels == {"name": 'a \\"quoted\\", one'}
    assert samples[-1].value == 1500


def test_text() -> None:
    earlier = Activity.of(parse(PAGE.format(generated=1000)))
    later = Activity.of(parse(PAGE.format(generated=5000)))
    assert later.text(earlier, 2.0) == (
        "running 4 · waiting 7 · 2,000 tokens/s (+ 0 of prompts) · cache 25 %"
    )
    reloaded = Activity.of(parse(PAGE.format(generated=10)))
    assert "· 0 tokens/s" in reloaded.text(later, 2.0)


@pytest.fixture
def metrics_port() -> Iterator[int]:
    class Page(BaseHTTPRequestHandler):
        generated = 0

        def do_GET(self) -> None:
            Page.generated += 100
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PAGE.format(generated=Page.generated).encode())

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("localhost", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_line_stays_below_the_log(metrics_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_line, "_INTERVAL", 0.05)
    terminal = io.StringIO()
    line = LiveLine(metrics_port, terminal)
    deadline = time.monotonic() + 10
    while "running" not in terminal.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    line.forward(io.BytesIO(b"one\nnot utf-8 \xff\n"))
    while "utf-8" not in terminal.getvalue() and time.monotonic() < deadline:
        time.sleep(0.01)
    line.close()
    shown = terminal.getvalue()
    above, below = shown.split("one\n")
    assert above.endswith("\r\x1b[K")  # the line was there, and was taken away
    assert below.startswith("running 4 · waiting 7")
    assert "not utf-8 �\nrunning 4" in below
    assert shown.endswith("\r\x1b[K")  # nothing is left of it
    assert "\n" not in shown.replace("one\n", "").replace("�\n", "")


def test_no_line_without_a_terminal() -> None:
    assert live_line.for_terminal(1) is None  # pytest's standard error is a file
