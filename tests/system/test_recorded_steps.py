"""Steps that generate are recorded, those whose tokens are all greedy with the choice of these: called,
recorded and run from the recording, whatever other steps come between, they give the same tokens."""

from pathlib import Path

from dummy_llama import ON_CUDA
from inflight import LLM, SamplingParams
from inflight.builder import build_engine

pytestmark = ON_CUDA
DEMO_MODEL = Path(__file__).parents[2] / "demo_model"
COMMON = {"ignore_eos": True, "detokenize": False}
# Of each request of a wave, in the order of waves: tokens to generate, and how they are chosen.
GREEDY = [{"max_tokens": 12}, {"max_tokens": 9}, {"max_tokens": 5}]
ONE_DRAWN = [
    {"max_tokens": 12},
    {"max_tokens": 7, "temperature": 0.9, "seed": 5},
    {"max_tokens": 4},
]
PENALISED = [{"max_tokens": 10, "repetition_penalty": 1.3}, {"max_tokens": 12}]
WITH_LOGPROBS = [{"max_tokens": 6, "logprobs": 2}, {"max_tokens": 11}]
WAVES = [GREEDY, GREEDY, ONE_DRAWN, GREEDY, PENALISED, ONE_DRAWN, WITH_LOGPROBS, PENALISED, GREEDY]


def tokens_of(llm: LLM) -> list[list[list[int]]]:
    waves = []
    for wave in WAVES:
        prompts = [[3 + (i * i + 7 * n) % 500 for i in range(20 + n)] for n in range(len(wave))]
        params = [SamplingParams(**{"temperature": 0.0, **COMMON, **each}) for each in wave]
        waves.append([output.outputs[0].token_ids for output in llm.generate(prompts, params)])
    return waves


def test_the_same_tokens_each_time(tmp_path: Path):
    limits = {"max_batch_size": 8, "max_num_tokens": 400, "max_seq_len": 512}
    engine = build_engine(DEMO_MODEL, tmp_path / "engine", dtype="float32", **limits)
    with LLM(engine, device="cuda", enable_cuda_graphs=False) as llm:
        expected = tokens_of(llm)
    with LLM(engine, device="cuda") as llm:
        for _ in range(2):
            assert tokens_of(llm) == expected
    assert expected[0] == expected[1] == expected[-1]
    assert expected[2] != expected[0]
    assert expected[4][0] != expected[0][0][:10]
