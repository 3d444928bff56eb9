"""Engines of one GPU: one of them at a time may launch grids whose thread blocks wait for each
other, and the next one may when that one has gone. Either way they answer the same."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from dummy_llama import ON_CUDA, load, write_model
from inflight import LLM, SamplingParams

pytestmark = ON_CUDA
PROMPT = [5, 9, 2, 40, 7, 300, 21]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", hidden=512, inner=1024, layers=4, heads=8, kv_heads=8)


def answer(llm: LLM) -> tuple[list[int], list[dict[int, float]]]:
    """Of a request alone, the third time: generation steps run from recordings by then."""
    params = SamplingParams(max_tokens=12, ignore_eos=True, logprobs=2, detokenize=False)
    for _ in range(3):
        output = llm.generate(PROMPT, params).outputs[0]
    return output.token_ids, output.logprobs


@contextmanager
def lease_of(folder: Path) -> Iterator[bool]:
    """Whether the test got it, for the block."""
    (file,) = folder.glob("inflight-*.lock")
    descriptor = os.open(file, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield True
    except BlockingIOError:
        yield False
    finally:
        os.close(descriptor)


def test_the_next_engine_gets_the_lease(model: Path, runtime_directory: Path):
    first = load(model, 4096)
    if not list(runtime_directory.iterdir()):
        first.shutdown()
        pytest.skip("no engine of this GPU has such grids")
    with lease_of(runtime_directory) as is_free:
        assert not is_free
    with load(model, 4096) as second:
        before = answer(second)
        together = answer(first)
        assert len(before[0]) == len(together[0]) == 12
        first.shutdown()
        with lease_of(runtime_directory) as is_free:
            assert is_free  # the second one asks when it launches a step
            assert answer(second) == before
        time.sleep(1.1)  # it asks no more often than each second
        assert answer(second) == together
        with lease_of(runtime_directory) as is_free:
            assert not is_free
    with lease_of(runtime_directory) as is_free:
        assert is_free


def test_float32_needs_none(model: Path, runtime_directory: Path):
    with load(model, 4096, "float32") as llm:
        answer(llm)
    assert not list(runtime_directory.iterdir())
