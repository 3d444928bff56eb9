"""One server and endpoint for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from openai_endpoint import KEY, Endpoint, end, start, wait_until_ready

if TYPE_CHECKING:
    import openai


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    endpoint = start(tmp_path_factory.mktemp("openai"))
    try:
        wait_until_ready(endpoint)
        yield endpoint
    finally:
        assert end(endpoint) == 0, endpoint.log.read_text()[-4000:]


@pytest.fixture
def endpoint(running: Endpoint) -> Iterator[Endpoint]:
    """No test leaves a request behind in the engine."""
    yield running
    running.wait_until_idle()


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[openai.OpenAI]:
    official = pytest.importorskip("openai")
    with official.OpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client
