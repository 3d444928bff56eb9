"""What a request may ask of its tokens, through the engine and next to `generate` of transformers.

Many requests at once, on a GPU with steps that overlap: the newest token is on the device only.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from inflight import LLM, SamplingParams
from inflight.builder import build_engine
from random_llamas import make_case, make_model

CASE = make_case(1, num_prompts=6)
NUM_TOKENS = 48
VOCAB = CASE.config["vocab_size"]
# A few ids over and over: n-grams repeat, words match.
PROMPTS = [[id % 7 for id in prompt] for prompt in CASE.prompts]


@pytest.fixture(scope="module")
def model():
    model = make_model(CASE)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def llm(model, tmp_path_factory: pytest.TempPathFactory, device: str) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("features")
    model.save_pretrained(folder / "checkpoint")
    engine = build_engine(folder / "checkpoint", folder / "engine", **CASE.build)
    with LLM(engine, device=device, skip_tokenizer_init=True) as llm:
        yield llm


def generated(model, prompt: list[int], num_tokens: int = NUM_TOKENS, **options) -> list[int]:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
    ids = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=num_tokens,
        pad_token_id=0,
        **options,
    )
    return ids[0, len(prompt) :].tolist()


def answers(llm: LLM, params: SamplingParams) -> list[list[int]]:
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    return [output.outputs[0].token_ids for output in outputs]


BIASES = {5: 4.0, 17: 3.5, 40: float("-inf"), 100: -2.0}
WAYS = [
    ({"no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 1}),
    ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    (
        {"no_repeat_ngram_size": 3, "repetition_penalty": 0.6},
        {"no_repeat_ngram_size": 3, "repetition_penalty": 0.6},
    ),
    ({"logit_bias": BIASES}, {"sequence_bias": [[[id], bias] for id, bias in BIASES.items()]}),
]


@pytest.mark.usefixtures("one_torch_thread")
@pytest.mark.parametrize(("ours", "theirs"), WAYS, ids=[", ".join(ours) for ours, _ in WAYS])
def test_greedy_tokens_are_those_of_generate(llm: LLM, model, ours: dict, theirs: dict) -> None:
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, **ours)
    expected = [generated(model, prompt, **theirs) for prompt in PROMPTS]
    assert answers(llm, params) == expected
    assert expected != answers(llm, SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True))


@pytest.mark.usefixtures("one_torch_thread")
def test_bad_words_are_those_of_generate(llm: LLM, model) -> None:
    plain = answers(llm, SamplingParams(max_tokens=8, ignore_eos=True))
    first, second = plain[0][:2], plain[1]
    words = [[first[0]], second[2:4], [9, 9, 9]]
    for prompt in PROMPTS[:2]:
        theirs = generated(model, prompt, 12, bad_words_ids=words)
        ours = llm._engine.submit(
            prompt, tag=1, max_new_tokens=12, bad_words=words, greedy=True, end_ids=[]
        )
        tokens: list[int] = []
        while not tokens:
            for response in llm._engine.next_responses(10.0) or ():
                assert response.id == ours and response.error is None
                tokens = response.token_ids
        assert tokens == theirs and first[0] not in tokens


def test_a_dense_bias_is_a_sparse_one(llm: LLM) -> None:
    dense = np.zeros(VOCAB, np.float32)
    for id, bias in BIASES.items():
        dense[id] = bias
    sparse = answers(llm, SamplingParams(max_tokens=20, ignore_eos=True, logit_bias=BIASES))
    params = SamplingParams(max_tokens=20, ignore_eos=True, embedding_bias=dense)
    assert answers(llm, params) == sparse
    first = SamplingParams(max_tokens=20, ignore_eos=True, embedding_bias=dense[: max(BIASES) + 1])
    assert answers(llm, first) == sparse
    with pytest.raises(ValueError, match=f"has {VOCAB + 1} values; it must have at most {VOCAB}"):
        llm.generate(PROMPTS[0], SamplingParams(embedding_bias=np.zeros(VOCAB + 1)))
    with pytest.raises(ValueError, match=f"logit_bias holds token id {VOCAB}"):
        llm.generate(PROMPTS[0], SamplingParams(logit_bias={VOCAB: 1.0}))


def test_a_nucleus_that_decays_ends_in_greed(llm: LLM) -> None:
    """Soon nothing but the likeliest is left, but for tokens after a reset."""
    way = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 3.0, "seed": 4}
    decaying = SamplingParams(**way, top_p=0.9, top_p_decay=1e-6)
    for output, prompt in zip(answers(llm, decaying), PROMPTS, strict=True):
        greedy = llm.generate(prompt + output[:1], SamplingParams(max_tokens=47, ignore_eos=True))
        assert output[1:] == greedy.outputs[0].token_ids
    never = SamplingParams(**way, top_p=0.9)
    assert answers(llm, never) != answers(llm, decaying)
    assert answers(llm, SamplingParams(**way, top_p=0.9, top_p_decay=1.0)) == answers(llm, never)
    # Not below the least: which is where it began.
    least = SamplingParams(**way, top_p=0.9, top_p_decay=1e-6, top_p_min=0.9)
    assert answers(llm, least) == answers(llm, never)


def test_a_reset_gives_the_next_token_the_first_nucleus(llm: LLM) -> None:
    prompt = PROMPTS[0]
    way = {"max_tokens": 12, "ignore_eos": True, "temperature": 3.0, "top_p": 0.9}
    decaying = {**way, "top_p_decay": 1e-6}
    num_different = 0
    for seed in range(10):
        plain = llm.generate(prompt, SamplingParams(**decaying, seed=seed)).outputs[0].token_ids
        at = next(i for i in range(1, 12) if plain[i] not in plain[:i])
        params = SamplingParams(**decaying, seed=seed, top_p_reset_ids=plain[at])
        ours = llm.generate(prompt, params).outputs[0].token_ids
        assert ours[: at + 1] == plain[: at + 1]
        num_different += ours != plain
    assert num_different > 0


def test_log_probs_of_greedy_answers_are_true(llm: LLM, model) -> None:
    import torch
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    params = SamplingParams(max_tokens=10, ignore_eos=True, logprobs=3)
    for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, params, use_tqdm=False), strict=True):
        answer = output.outputs[0]
        model.model.rotary_emb = LlamaRotaryEmbedding(model.config)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer.token_ids])).logits[0, len(prompt) - 1 :]
        expected = torch.log_softmax(logits, -1)
        for row, (token, entry) in enumerate(zip(answer.token_ids, answer.logprobs, strict=True)):
            assert entry[token].logprob == pytest.approx(float(expected[row, token]), abs=1e-4)
            assert entry[token].rank == 1 and len(entry) == 3
        total = sum(
            entry[token].logprob
            for token, entry in zip(answer.token_ids, answer.logprobs, strict=True)
        )
        assert answer.cumulative_logprob == pytest.approx(total, abs=1e-4)
        assert total < 0


def test_log_probs_before_the_filters(llm: LLM) -> None:
    way = {"max_tokens": 6, "ignore_eos": True, "top_k": 4, "temperature": 1.5, "seed": 3}
    one = llm.generate(PROMPTS[2], SamplingParams(**way, logprobs=6)).outputs[0]
    other = llm.generate(
        PROMPTS[2], SamplingParams(**way, logprobs=6, normalize_log_probs=False)
    ).outputs[0]
    assert one.token_ids == other.token_ids
    for token, kept, all_ids in zip(one.token_ids, one.logprobs, other.logprobs, strict=True):
        assert len(kept) == 4 and len(all_ids) >= 6
        assert sum(np.exp(entry.logprob) for entry in kept.values()) == pytest.approx(1, abs=1e-4)
        assert sum(np.exp(entry.logprob) for entry in all_ids.values()) < 1
        # The same but for what the filter dropped.
        shift = kept[token].logprob - all_ids[token].logprob
        for id, entry in kept.items():
            assert entry.logprob - all_ids[id].logprob == pytest.approx(shift, abs=1e-4)


def test_any_of_several_end_ids_ends_it(llm: LLM) -> None:
    plain = answers(llm, SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True))
    for prompt, tokens in zip(PROMPTS, plain, strict=True):
        ends = [tokens[9], tokens[30], VOCAB - 1]
        at = min(tokens.index(end) for end in ends if end in tokens)
        output = llm.generate(prompt, SamplingParams(max_tokens=NUM_TOKENS, end_ids=ends))
        assert output.outputs[0].token_ids == tokens[:at]
        assert output.outputs[0].finish_reason == "stop"
        assert (
            llm.generate(
                prompt, SamplingParams(max_tokens=NUM_TOKENS, end_ids=ends, ignore_eos=True)
            )
            .outputs[0]
            .token_ids
            == tokens
        )
        later = llm.generate(
            prompt, SamplingParams(max_tokens=NUM_TOKENS, end_ids=ends, min_tokens=at + 3)
        ).outputs[0]
        assert len(later.token_ids) >= at + 3
        assert not set(later.token_ids[: at + 3]) & set(ends)
