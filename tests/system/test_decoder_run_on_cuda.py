"""Steps of few rows run all layers in one launch where the engine holds the GPU's lease: they answer
what another engine's steps, which go op by op, answer."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from dummy_llama import ON_CUDA, VOCABULARY, answers, check_alike, load, write_model
from inflight import LLM, SamplingParams

pytestmark = ON_CUDA
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True, logprobs=8, detokenize=False)


@pytest.fixture
def engines(tmp_path: Path, runtime_directory: Path) -> Iterator[tuple[LLM, LLM]]:
    """One that holds the lease and one that does not."""
    model = write_model(tmp_path / "model", hidden=1024, inner=2816, layers=6, heads=16, kv_heads=4)
    with load(model, 8192) as first:
        first.generate([1, 2, 3], PARAMS)
        if not list(runtime_directory.iterdir()):
            pytest.skip("no engine of this GPU has such grids")
        with load(model, 8192) as second:
            yield first, second


@pytest.mark.parametrize(
    "lengths",
    [(7,), (700,), (40, 1300), (3, 17, 600), (5, 90, 1, 640, 33, 200, 1030, 16)],
    ids=str,
)
def test_it_answers_what_the_ops_answer(engines: tuple[LLM, LLM], lengths: tuple[int, ...]):
    draw = random.Random(len(lengths))
    prompts = [draw.choices(range(VOCABULARY), k=length) for length in lengths]
    for _ in range(3):  # called, recorded and run from the recording
        got = answers(engines[0], prompts, PARAMS)
    want = answers(engines[1], prompts, PARAMS)
    check_alike(got, want)
