"""What a device does once for a size of step is done when an engine is loaded, not while it serves."""

from pathlib import Path

import pytest
from dummy_llama import ON_CUDA, load, write_model
from inflight import SamplingParams

pytestmark = ON_CUDA


def test_no_request_times_algorithms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tactics = tmp_path / "tactics"
    monkeypatch.setenv("INFLIGHT_TACTICS", str(tactics))
    model = write_model(tmp_path / "model", hidden=1024, inner=2048, layers=2, heads=8, kv_heads=4)
    with load(model, 40_000, max_batch_size=160, max_num_tokens=2048, max_seq_len=4096) as llm:
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
