"""The official client against a real server: what it sends is honoured, what it reads is there."""

import asyncio
import math
import time

import numpy as np
import pytest
from inflight.text.tokenizer import Tokenizer
from openai_endpoint import KEY, MAX_SEQ_LEN, MODEL, Endpoint

openai = pytest.importorskip("openai")
grpcclient = pytest.importorskip("tritonclient.grpc")

PROMPT = "ROMEO:\nWhat light through yonder window"
MESSAGES = [{"role": "user", "content": "What light through yonder window breaks?"}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from openai_endpoint import ROOT

    return Tokenizer.load(ROOT / MODEL)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("another")


def test_a_completion_is_the_servers_own(
    client: openai.OpenAI, endpoint: Endpoint, tokenizer: Tokenizer
) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 20}
    narrow = client.completions.create(**options, top_p=0)
    got = client.completions.create(**options, temperature=0)
    assert got.choices[0].text == narrow.choices[0].text
    assert got.choices[0].text == endpoint.ensemble(text_input=PROMPT, max_tokens=20)
    assert got.choices[0].finish_reason == "length"
    assert got.usage.prompt_tokens == len(tokenizer.encode(PROMPT))
    assert got.usage.completion_tokens == 20
    assert got.usage.total_tokens == got.usage.prompt_tokens + 20


def test_sampling_is_the_servers_own(client: openai.OpenAI, endpoint: Endpoint) -> None:
    """Every number arrives where it belongs: alone it changes the answer, and as the server's own
    tensor it gives the same one."""
    base = {"temperature": 0.9, "seed": 11}
    others = {
        "top_p": 0.6,
        "frequency_penalty": 1.5,
        "presence_penalty": 1.5,
        "repetition_penalty": 1.5,
        "top_k": 3,
        "min_p": 0.2,
        "seed": 12,
        "temperature": 0.4,
    }
    ours = {"repetition_penalty", "top_k", "min_p"}  # not in OpenAI's signature
    texts = set()
    for name, value in [("seed", 11), *others.items()]:
        given = {**base, name: value}
        text = (
            client.completions.create(
                model=MODEL,
                prompt=PROMPT,
                max_tokens=60,
                extra_body={k: v for k, v in given.items() if k in ours},
                **{k: v for k, v in given.items() if k not in ours},
            )
            .choices[0]
            .text
        )
        expected = endpoint.ensemble(
            **{"text_input": PROMPT, "max_tokens": 60, "top_p": 1.0, **given}
        )
        assert text == expected, name
        texts.add(text)
    assert len(texts) == 1 + len(others)


def test_answers_without_a_seed_differ(client: openai.OpenAI) -> None:
    ask = lambda: client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=30)  # noqa: E731
    assert ask().choices[0].text != ask().choices[0].text


def test_n_choices_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    ask = lambda: client.chat.completions.create(  # noqa: E731
        model=MODEL, messages=MESSAGES, n=3, seed=5, max_completion_tokens=20
    )
    first, second = ask(), ask()
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in second.choices]
    assert first.usage.completion_tokens == 60


def test_a_chat_is_its_template_completed(client: openai.OpenAI, endpoint: Endpoint) -> None:
    got = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=12, temperature=0
    )
    rendered = f"ROMEO:\n{MESSAGES[0]['content']}\n\nJULIET:\n"
    assert got.choices[0].message.role == "assistant"
    assert got.choices[0].message.content == endpoint.ensemble(text_input=rendered, max_tokens=12)


def test_an_answer_comes_back_in_the_next_question(client: openai.OpenAI) -> None:
    """As the official client gives it, with every field that it knows."""
    options = {"model": MODEL, "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(messages=MESSAGES, **options).choices[0].message
    plain = {"role": "assistant", "content": answer.content}
    texts = {
        client.chat.completions.create(messages=[*MESSAGES, said, *MESSAGES], **options)
        .choices[0]
        .message.content
        for said in (plain, answer, answer.to_dict(), answer.model_dump())
    }
    assert len(texts) == 1
    dumped = {**answer.model_dump(), "annotations": [], "tool_calls": []}
    client.chat.completions.create(
        messages=[*MESSAGES, dumped, *MESSAGES], **options, logprobs=False, top_logprobs=0
    )


def test_a_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    options = {"model": MODEL, "messages": MESSAGES, "n": 2, "seed": 3, "max_tokens": 400}
    whole = client.chat.completions.create(**options)
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    *body, last = chunks
    assert not last.choices and last.usage == whole.usage
    assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in body)
    assert len({chunk.id for chunk in chunks}) == 1
    for index, expected in enumerate(whole.choices):
        mine = [chunk.choices[0] for chunk in body if chunk.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(one.delta.content or "" for one in mine) == expected.message.content
        assert [one.finish_reason for one in mine if one.finish_reason] == ["length"]
        assert mine[-1].finish_reason == "length"
        # Beside role and end more than one piece: not the whole at the end. A busy machine puts tokens
        # together.
        assert len(mine) > 3


def test_streamed_usage_is_only_told_when_asked_for(client: openai.OpenAI) -> None:
    chunks = list(client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=3, stream=True))
    assert all(chunk.choices and "usage" not in chunk.model_fields_set for chunk in chunks)
    asked = client.completions.create(
        model=MODEL,
        prompt=PROMPT,
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = asked
    assert all(chunk.choices and "usage" in chunk.model_fields_set for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert not last.choices and last.usage.completion_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text_before_them(client: openai.OpenAI, stream: bool) -> None:
    """Whatever tokens spell them: cut the unstopped answer by hand at each of its words."""
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 40, "temperature": 0}
    free = client.completions.create(**options).choices[0].text
    words = [free[at : at + 4] for at in range(3, len(free) - 8, 9)]
    assert len(words) > 3
    for word in words:
        got = client.completions.create(**options, stop=["never said", word], stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in got]
            text = "".join(chunk.text for chunk in chunks)
            reason = chunks[-1].finish_reason
        else:
            text, reason = got.choices[0].text, got.choices[0].finish_reason
            assert got.usage.completion_tokens < 40
        assert (text, reason) == (free[: free.index(word)], "stop"), word


def test_the_end_token_ends_with_stop(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    """The demo model never says it by itself, so a bias makes it."""
    end = {str(tokenizer.eos_token_id): 100}
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 9, "logit_bias": end}
    got = client.completions.create(**options)
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("", "stop")
    assert got.usage.completion_tokens == 0
    more = client.completions.create(**options, extra_body={"min_tokens": 4})
    assert more.choices[0].finish_reason == "stop" and more.usage.completion_tokens == 4
    ignored = client.completions.create(**options, extra_body={"ignore_eos": True})
    assert ignored.choices[0].finish_reason == "length" and ignored.usage.completion_tokens == 9


def test_another_client_may_end_an_answer(client: openai.OpenAI, endpoint: Endpoint) -> None:
    """By the request's id, which the answer tells, and the number of the choice."""
    for _ in range(20):  # on a busy machine the whole answer may come before the stop is sent
        stream = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=480, stream=True)
        stop_by_grpc(endpoint, f"{next(stream).id}-0")
        try:
            reasons = [chunk.choices[0].finish_reason for chunk in stream]
        except openai.APIError as error:
            assert "the server ended the answer" in str(error)
            return
        assert reasons[-1] == "length"
    pytest.fail("no stop ended an answer")


def stop_by_grpc(endpoint: Endpoint, request_id: str) -> None:
    dummies = {name: np.zeros((1, 1), np.int32) for name in
               ("input_ids", "input_lengths", "request_output_len")}  # fmt: skip
    inputs = []
    for name, array in {**dummies, "stop": np.ones((1, 1), np.bool_)}.items():
        kind = "BOOL" if array.dtype == np.bool_ else "INT32"
        inputs.append(grpcclient.InferInput(name, [1, 1], kind).set_data_from_numpy(array))
    client = grpcclient.InferenceServerClient(f"localhost:{endpoint.grpc_port}")
    client.start_stream(lambda result, error: None)
    client.async_stream_infer("tensorrt_llm", inputs, request_id=request_id)
    client.stop_stream()
    client.close()


def test_logit_bias_makes_and_bans_tokens(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
    free = client.completions.create(**options).choices[0].text
    (wanted,) = tokenizer.encode("Z")
    made = client.completions.create(**options, logit_bias={str(wanted): 100})
    assert made.choices[0].text == "ZZZZZ"
    first = str(tokenizer.encode(free)[0])
    banned = client.completions.create(**options, logit_bias={first: -100})
    assert tokenizer.encode(banned.choices[0].text)[0] != int(first)
    assert client.completions.create(**options, logit_bias={}).choices[0].text == free


def test_log_probs(client: openai.OpenAI) -> None:
    options = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    got = client.chat.completions.create(**options, logprobs=True).choices[0]
    tokens = got.logprobs.content
    assert len(tokens) == 12
    assert b"".join(bytes(one.bytes) for one in tokens).decode() == got.message.content
    assert all(one.logprob <= 0 for one in tokens) and any(one.logprob < -0.01 for one in tokens)
    streamed = [
        one
        for chunk in client.chat.completions.create(**options, logprobs=True, stream=True)
        for one in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert [one.token for one in streamed] == [one.token for one in tokens]
    assert all(
        math.isclose(a.logprob, b.logprob, abs_tol=1e-4)
        for a, b in zip(streamed, tokens, strict=True)
    )
    assert client.chat.completions.create(**options).choices[0].logprobs is None


def test_log_probs_of_alternatives(client: openai.OpenAI) -> None:
    """With the whole distribution (temperature 1, no filter) greedy or not."""
    options = {"model": MODEL, "messages": MESSAGES, "max_tokens": 10, "seed": 4}
    got = client.chat.completions.create(**options, logprobs=True, top_logprobs=5).choices[0]
    for one in got.logprobs.content:
        top = [other.logprob for other in one.top_logprobs]
        assert len(top) == 5 and top == sorted(top, reverse=True)
        assert sum(map(math.exp, top)) <= 1 + 1e-4 and one.logprob <= top[0] + 1e-5
        same = [other for other in one.top_logprobs if other.token == one.token]
        assert not same or math.isclose(same[0].logprob, one.logprob, abs_tol=1e-4)
    greedy = (
        client.completions.create(
            model=MODEL, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3
        )
        .choices[0]
        .logprobs
    )
    for token, own, top in zip(
        greedy.tokens, greedy.token_logprobs, greedy.top_logprobs, strict=True
    ):
        assert len(top) == 3 and max(top, key=top.get) == token
        assert math.isclose(top[token], own, abs_tol=1e-5)


def test_log_probs_of_completions(client: openai.OpenAI) -> None:
    got = client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8, logprobs=0).choices[0]
    assert "".join(got.logprobs.tokens) == got.text
    assert len(got.logprobs.token_logprobs) == 8
    starts = got.logprobs.text_offset
    for start, token in zip(starts, got.logprobs.tokens, strict=True):
        assert got.text[start : start + len(token)] == token


def test_echo_and_lists_of_prompts(client: openai.OpenAI, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.encode("JULIET:\n"), tokenizer.encode("ROMEO:\n")]
    options = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    alone = [
        client.completions.create(prompt=text, **options).choices[0].text
        for text in ("JULIET:\n", "ROMEO:\n")
    ]
    for prompt in (["JULIET:\n", "ROMEO:\n"], ids):
        got = client.completions.create(prompt=prompt, echo=True, n=2, **options)
        assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
        assert [choice.text for choice in got.choices] == [
            f"JULIET:\n{alone[0]}", f"JULIET:\n{alone[0]}",
            f"ROMEO:\n{alone[1]}", f"ROMEO:\n{alone[1]}",
        ]  # fmt: skip
        assert got.usage.prompt_tokens == len(ids[0]) + len(ids[1])
        assert got.usage.completion_tokens == 24
    streamed = client.completions.create(prompt=ids[0], echo=True, stream=True, **options)
    assert "".join(chunk.choices[0].text for chunk in streamed) == f"JULIET:\n{alone[0]}"


def test_a_chat_may_use_the_whole_context(client: openai.OpenAI) -> None:
    got = client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0)
    assert got.usage.total_tokens == MAX_SEQ_LEN
    assert got.choices[0].finish_reason == "length"
    of = {"model": MODEL, "prompt": [5] * (MAX_SEQ_LEN - 3), "extra_body": {"ignore_eos": True}}
    assert client.completions.create(**of, max_tokens=3).usage.completion_tokens == 3
    with pytest.raises(
        openai.BadRequestError, match="509 tokens of the prompt and 4 of the answer"
    ):
        client.completions.create(**of, max_tokens=4)
    assert client.completions.create(**of).usage.completion_tokens == 3  # the default gives way
    default = client.completions.create(**{**of, "prompt": [5]})
    assert default.usage.completion_tokens == 16


def test_errors_are_the_clients_own_classes(client: openai.OpenAI, endpoint: Endpoint) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert refused.value.param == "tools" and refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError) as too_long:
        client.completions.create(model=MODEL, prompt=PROMPT, max_tokens=MAX_SEQ_LEN)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="another", prompt="x")


def test_a_client_that_leaves_ends_its_request(client: openai.OpenAI, endpoint: Endpoint) -> None:
    options = {"model": MODEL, "prompt": PROMPT, "max_tokens": 450, "n": 4}
    stream = client.completions.create(**options, stream=True)
    next(stream)
    assert endpoint.num_active() > 0
    stream.close()
    left = time.monotonic()
    endpoint.wait_until_idle(seconds=1)
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.15).completions.create(**options)
    endpoint.wait_until_idle(seconds=1)
    assert time.monotonic() - left < 2.5


def test_many_streams_at_once(endpoint: Endpoint) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key=KEY) as client:

            async def one(seed: int) -> str:
                stream = await client.completions.create(
                    model=MODEL, prompt=PROMPT, max_tokens=24, seed=seed, stream=True
                )
                return "".join([chunk.choices[0].text async for chunk in stream])

            return await asyncio.gather(*(one(seed % 8) for seed in range(48)))

    texts = asyncio.run(main())
    for seed in range(8):  # a request's tokens do not depend on its company
        assert len({text for index, text in enumerate(texts) if index % 8 == seed}) == 1
    assert len(set(texts)) == 8
