"""Tiny real engines and clients of them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_client import TINY, Client
from inflight import _core
from inflight.builder import build_engine


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that this machine and build have."""
    if request.param not in _core.op_devices():
        pytest.skip(f"no {request.param} on this machine or in this build")
    return request.param


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    folder = tmp_path_factory.mktemp("checkpoint")
    LlamaForCausalLM(LlamaConfig(**TINY)).float().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_engine(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """tiny_engine(tokens_per_block) -> engine directory, built once for each."""
    folder = tmp_path_factory.mktemp("engines")

    def engine(tokens_per_block: int = 8) -> Path:
        target = folder / str(tokens_per_block)
        if not target.exists():
            build_engine(
                tiny_checkpoint,
                target,
                max_batch_size=16,
                max_seq_len=128,
                max_num_tokens=256,
                tokens_per_block=tokens_per_block,
            )
        return target

    return engine


@pytest.fixture
def make_client(tiny_engine: Callable[[int], Path], device: str) -> Iterator[Callable[..., Client]]:
    """make_client(tokens_per_block=8, **engine settings) -> Client, closed after the test."""
    clients: list[Client] = []

    def make(tokens_per_block: int = 8, **settings: Any) -> Client:
        clients.append(Client(tiny_engine(tokens_per_block), **{"device": device} | settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def client(tiny_engine: Callable[[int], Path], device: str) -> Iterator[Client]:
    client = Client(tiny_engine(8), device=device)
    yield client
    client.close()
