"""Engines of one GPU: one of them at a time may launch grids whose thread blocks wait for each
other, and the next one may when that one has gone. Either way they answer the same."""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams, _core
from inflight.llm import KvCacheConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]
PROMPT = [5, 9, 2, 40, 7, 300, 21]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
}


@pytest.fixture
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runtime"
    folder.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return folder


def new_engine(folder: Path, dtype: str = "bfloat16") -> LLM:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    cache = KvCacheConfig(max_tokens=1024, enable_block_reuse=False)
    return LLM(folder, device="cuda", dtype=dtype, load_format="dummy", kv_cache_config=cache)


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


def test_the_next_engine_gets_the_lease(tmp_path: Path, runtime_directory: Path):
    first = new_engine(tmp_path / "model")
    if not list(runtime_directory.iterdir()):
        first.shutdown()
        pytest.skip("no engine of this GPU has such grids")
    with lease_of(runtime_directory) as is_free:
        assert not is_free
    with new_engine(tmp_path / "model") as second:
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


def test_float32_needs_none(tmp_path: Path, runtime_directory: Path):
    with new_engine(tmp_path / "model", "float32") as llm:
        answer(llm)
    assert not list(runtime_directory.iterdir())
