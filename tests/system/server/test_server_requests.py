"""Requests of every kind to a real tritonserver."""

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tritonclient.grpc as grpc
from inflight.text.tokenizer import Tokenizer
from triton_server import Server, ask, ask_text, llm_request, overridden, tensors, unary

PROMPT = [5, 17, 200, 33, 90, 91, 4]


def test_greedy_ids_equal_transformers(server: Server, greedy) -> None:
    draw = random.Random(3)
    for length in (1, 2, 31, 32, 33, 120, 300):
        prompt = [draw.randrange(3, 259) for _ in range(length)]
        (answer,) = ask(server, "tensorrt_llm", **llm_request(prompt, 24))
        assert answer.ids == prompt + greedy(prompt, 24)
        assert answer.outputs["output_ids"].shape == (1, 1, length + 24)
        assert answer.outputs["sequence_length"].tolist() == [[length + 24]]
        assert list(answer.outputs) == ["output_ids", "sequence_length"]


def test_not_decoupled(server: Server, greedy) -> None:
    outputs = unary(server, "plain", **llm_request(PROMPT, 10))
    assert outputs["output_ids"].reshape(-1).tolist() == PROMPT + greedy(PROMPT, 10)


def test_streamed_ids(server: Server, greedy) -> None:
    answers = ask(server, "tensorrt_llm", **llm_request(PROMPT, 20, streaming=True))
    assert sum((answer.ids for answer in answers), []) == greedy(PROMPT, 20)
    assert [answer.final for answer in answers] == [False] * (len(answers) - 1) + [True]
    for answer in answers:
        assert answer.outputs["sequence_length"].item() == len(answer.ids)


def test_only_listed_outputs(server: Server) -> None:
    request = llm_request(PROMPT, 3, return_log_probs=True)
    (answer,) = ask(server, "tensorrt_llm", outputs=["sequence_length", "output_ids"], **request)
    assert set(answer.outputs) == {"output_ids", "sequence_length"}


def test_log_probs(server: Server, setup) -> None:
    import torch
    from transformers import LlamaForCausalLM

    request = llm_request(PROMPT, 6, return_log_probs=True, exclude_input_in_output=True)
    (answer,) = ask(server, "tensorrt_llm", **request)
    model = LlamaForCausalLM.from_pretrained(setup.checkpoint, dtype="float32").eval()
    ids = PROMPT + answer.ids
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    expected = [log_probs[at - 1, ids[at]].item() for at in range(len(PROMPT), len(ids))]
    assert answer.outputs["output_log_probs"].shape == (1, 1, 6)
    np.testing.assert_allclose(answer.outputs["output_log_probs"][0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(answer.outputs["cum_log_probs"], [[sum(expected)]], atol=1e-3)


def test_sampling_parameters_take_effect(server: Server, greedy) -> None:
    def sampled(**options) -> list[int]:
        request = llm_request(PROMPT, 24, exclude_input_in_output=True, **options)
        return ask(server, "tensorrt_llm", **request)[0].ids

    plain = greedy(PROMPT, 24)
    assert sampled() == plain
    assert sampled(temperature=2.0) == plain  # a temperature alone does not sample
    assert sampled(runtime_top_k=1, runtime_top_p=0.0) == plain
    assert sampled(runtime_top_p=-1.0) == plain
    hot = {"runtime_top_k": 50, "temperature": 3.0}
    assert sampled(**hot, seed=1) == sampled(**hot, random_seed=1) != sampled(**hot, seed=2)
    assert sampled(**hot) == sampled(**hot, seed=0) != plain
    assert sampled(runtime_top_p=1.0, temperature=3.0) != plain
    assert sampled(runtime_top_p=1.0, temperature=1e-4) == plain
    assert sampled(runtime_top_k=50, temperature=0.0) == plain
    assert sampled(**hot, min_p=1.0) == plain
    sevens = {"embedding_bias": np.array([[0.0] * 7 + [60.0]], np.float32)}
    assert sampled(**sevens) == [7] * 24
    assert len(set(sampled(**sevens, repetition_penalty=1e9))) == 24
    assert len(set(sampled(**sevens, presence_penalty=1e9))) == 24
    assert sampled(**sevens, presence_penalty=25.0) == [7] * 24  # counted once
    assert sampled(**sevens, frequency_penalty=25.0)[:4].count(7) in (2, 3)


def test_ends(server: Server, greedy) -> None:
    plain = greedy(PROMPT, 24)

    def told(**options) -> list[int]:
        request = llm_request(PROMPT, 24, exclude_input_in_output=True, **options)
        return ask(server, "tensorrt_llm", **request)[0].ids

    end = plain[5]
    first = plain.index(end)
    assert told(end_id=end) == plain[:first]
    assert told(end_id=-1) == plain
    assert len(told(end_id=end, min_tokens=first + 3)) >= first + 3
    assert len(told(end_id=end, min_length=first + 3)) >= first + 3
    word = np.array([[[plain[3], plain[4], 7], [2, 3, -1]]], np.int32)
    at = next(i for i in range(1, 24) if plain[i - 1 : i + 1] == plain[3:5])
    sevens = plain.index(7) if 7 in plain else 24
    assert told(stop_words_list=word) == plain[: min(at, sevens) + 1]
    bad = np.array([[[plain[0]], [1]]], np.int32)
    assert plain[0] not in told(bad_words_list=bad)
    # Of several tokens only the last is banned, where the others stand before it.
    bad = np.array([[plain[2:5], [3, -1, -1]]], np.int32)
    without = told(bad_words_list=bad)
    assert without[:4] == plain[:4] and without[4] != plain[4]
    assert plain[2:5] not in [without[at : at + 3] for at in range(22)]


def test_ensemble_equals_ids(server: Server, tokenizer: Tokenizer, greedy) -> None:
    prompt = "To be, or not to be: 東"
    expected = greedy(tokenizer.encode(prompt), 40)
    without_end = {"end_id": -1}
    (whole,) = ask(server, "ensemble", text_input=prompt, max_tokens=40, **without_end)
    assert whole.text == prompt + tokenizer.decode(expected)
    assert whole.outputs["text_output"].shape == (1,)
    (alone,) = ask(
        server,
        "ensemble",
        text_input=prompt,
        max_tokens=40,
        exclude_input_in_output=True,
        **without_end,
    )
    assert alone.text == tokenizer.decode(expected)
    pieces = ask(server, "ensemble", text_input=prompt, max_tokens=40, stream=True, **without_end)
    assert "".join(piece.text for piece in pieces) == tokenizer.decode(expected)


def test_end_id_of_the_ensemble(server: Server, tokenizer: Tokenizer, greedy) -> None:
    prompt = "abc"
    ids = greedy(tokenizer.encode(prompt), 30)
    at = next(i for i in range(1, 30) if ids[i] not in ids[:i])
    told = ask_text(server, prompt, 30, end_id=ids[at], exclude_input_in_output=True)
    assert told == tokenizer.decode(ids[:at])


@pytest.mark.parametrize("stream", [False, True])
def test_stop_words_at_any_place(server: Server, stream: bool) -> None:
    """Any piece of the text stops it there, however it is cut into tokens and chunks."""
    prompt, options = "Whether 'tis nobler", {"end_id": -1, "exclude_input_in_output": True}
    whole = ask_text(server, prompt, 60, **options)
    for begin in range(0, 40, 3):
        for length in (1, 2, 5):
            word = whole[begin : begin + length]
            if not word.strip() or "\ufffd" in word:
                continue
            told = ask_text(server, prompt, 60, stop_words=[word, ""], stream=stream, **options)
            assert told == whole[: whole.index(word) + len(word)]


def test_bad_words(server: Server) -> None:
    options = {"end_id": -1, "exclude_input_in_output": True}
    whole = ask_text(server, "abc", 30, **options)
    letter = next(c for c in whole if c.isascii() and c.isalnum())
    assert letter not in ask_text(server, "abc", 30, bad_words=[letter], **options)


def test_several_instances_share_the_requests(server: Server) -> None:
    """Each with an engine of its own: the one that there was, and two more."""
    requests = [llm_request([5 + number] * 9, 30) for number in range(16)]
    expected = [ask(server, "tensorrt_llm", **request)[0].ids for request in requests]
    several = [{"count": 3, "kind": "KIND_CPU"}]
    line = "scratch memory of ops"  # of what the log says of an engine's memory
    loaded = server.log.read_text().count(line)
    with overridden(server, "plain", instance_group=several), ThreadPoolExecutor(8) as pool:
        assert server.log.read_text().count(line) == loaded + 2
        answers = list(pool.map(lambda request: unary(server, "plain", **request), requests))
    assert [answer["output_ids"].reshape(-1).tolist() for answer in answers] == expected


def test_two_engines_and_two_versions(server: Server) -> None:
    request = llm_request(PROMPT, 20)
    (first,) = ask(server, "tensorrt_llm", **request)
    (second,) = ask(server, "second", **request)
    assert first.ids != second.ids
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        for version, expected in (("1", first.ids), ("2", second.ids)):
            assert client.is_model_ready("versions", version)
            got = []
            client.start_stream(lambda result, error, got=got: got.append((result, error)))
            client.async_stream_infer("versions", tensors(**request), model_version=version)
            client.stop_stream()
            result, error = got[0]
            assert error is None
            assert result.as_numpy("output_ids").reshape(-1).tolist() == expected
