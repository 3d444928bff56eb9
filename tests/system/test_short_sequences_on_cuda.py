"""Steps of short sequences alone have narrow tables and an attention of their own: what they answer is
what the same sequences answer beside a long one, before and after they have grown too long."""

import random
from pathlib import Path

import pytest
from dummy_llama import ON_CUDA, VOCABULARY, answers, check_alike, load, write_model
from inflight import SamplingParams

pytestmark = ON_CUDA
PARAMS = SamplingParams(max_tokens=40, ignore_eos=True, logprobs=8, detokenize=False)


@pytest.mark.parametrize("heads", [16, 8], ids=["heads of 64", "heads of 128"])
def test_as_beside_a_long_one(tmp_path: Path, heads: int):
    shape = {"hidden": 1024, "inner": 2816, "layers": 6, "heads": heads, "kv_heads": heads // 4}
    draw = random.Random(heads)
    lengths = (3, 200, 490, 17, 90, 300, 11, 31, 60)  # and the third then passes 512 keys
    prompts = [draw.choices(range(VOCABULARY), k=length) for length in lengths]
    long = draw.choices(range(VOCABULARY), k=900)
    with load(write_model(tmp_path / "model", **shape), 8192) as llm:
        for _ in range(3):  # called, recorded and run from the recording
            got = answers(llm, prompts, PARAMS)
        want = answers(llm, [*prompts, long], PARAMS)[:-1]
    check_alike(got, want)
