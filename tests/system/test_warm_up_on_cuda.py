"""What a device does once for a size of step is done when an engine is loaded, not while it serves."""

import json
from pathlib import Path

import pytest
from inflight import LLM, SamplingParams, _core
from inflight.llm import KvCacheConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in _core.op_devices(), reason="no CUDA device"),
]
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 4096,
    "hidden_size": 1024,
    "intermediate_size": 2048,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
}


def test_no_request_times_algorithms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tactics = tmp_path / "tactics"
    monkeypatch.setenv("INFLIGHT_TACTICS", str(tactics))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with LLM(
        tmp_path,
        device="cuda",
        dtype="bfloat16",
        load_format="dummy",
        max_batch_size=160,
        max_num_tokens=2048,
        max_seq_len=4096,
        kv_cache_config=KvCacheConfig(max_tokens=40_000, enable_block_reuse=False),
    ) as llm:
        (file,) = tactics.iterdir()
        known = file.read_text().splitlines()
        params = SamplingParams(max_tokens=4, ignore_eos=True)
        for count, length in (
            (1, 33),
            (1, 300),
            (1, 2048),
            (1, 3000),
            (40, 21),
            (160, 9),
            (3, 555),
        ):
            prompts = [[1 + (i + j) % 4000 for j in range(length)] for i in range(count)]
            outputs = llm.generate(prompts, params)
            assert all(len(output.outputs[0].token_ids) == 4 for output in outputs)
            added = set(file.read_text().splitlines()[:-1]) - set(known)
            assert not added, (count, length)
