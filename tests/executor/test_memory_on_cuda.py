"""The memory plan of an engine on a GPU: what is printed adds up, what does not fit fails at load."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from inflight import _core
from inflight.builder import build_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]
GiB = 1 << 30


def config(**changes: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 4096,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 1 << 20,
        "dtype": "bfloat16",
    } | changes


@pytest.fixture
def engine(tmp_path: Path) -> Callable[..., str]:
    def make(**changes: int) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config(**changes)))
        return str(build_engine(tmp_path, tmp_path / "engine", load_format="dummy"))

    return make


def test_the_plan_adds_up(engine: Callable[..., str]) -> None:
    folder = engine()
    with _core.Engine(folder, load_format="dummy") as loaded:  # auto finds the device
        info, plan = loaded.info, loaded.memory_plan
    assert info.device == "cuda:0"
    assert info.weight_bytes_mapped == 0
    assert info.weight_bytes_allocated > 2 * 4 * 512 * (4 * 512 + 3 * 1024)
    assert info.reserved_bytes >= GiB // 2
    rows = [line.split("  ")[0] for line in plan.splitlines()]
    assert rows == ["weights", "arena", "workspace", "KV cache", "reserve", "free"]
    with _core.Engine(folder, device="cuda:0", load_format="dummy") as again:
        # nothing of the first one was kept: the pool takes as much as it did
        assert again.info.num_blocks == pytest.approx(info.num_blocks, rel=0.01)


def test_caps(engine: Callable[..., str]) -> None:
    folder = engine()
    settings = {"device": "cuda", "load_format": "dummy"}
    with _core.Engine(folder, kv_cache_max_tokens=640, **settings) as by_tokens:
        assert by_tokens.info.num_blocks == 20
        block = by_tokens.info.kv_cache_bytes // 20
    with _core.Engine(folder, kv_cache_max_bytes=block * 7 + 1, **settings) as by_bytes:
        assert by_bytes.info.num_blocks == 7
    shares = []
    for fraction in (0.1, 0.2):
        options = {"kv_cache_free_memory_fraction": fraction, "kv_cache_max_tokens": 1 << 40}
        with _core.Engine(folder, **options, **settings) as by_share:
            shares.append(by_share.info.num_blocks)
    assert shares[1] == pytest.approx(2 * shares[0], rel=0.02)


def test_what_does_not_fit_fails_at_load(engine: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="fraction is 1e-09: .* bytes free on cuda:0 are less"):
        _core.Engine(engine(), load_format="dummy", kv_cache_free_memory_fraction=1e-9)
    with pytest.raises(RuntimeError, match="the weights need .* bytes, CUDA device 0 has .* free"):
        _core.Engine(engine(vocab_size=1 << 28), device="cuda", load_format="dummy")
    with pytest.raises(ValueError, match="device is 'cuda:64': there is no CUDA device 64"):
        _core.Engine(engine(), device="cuda:64", load_format="dummy")
