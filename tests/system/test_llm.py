"""`LLM` over the real engine: texts with the demo model, numbers with tiny ones."""

from __future__ import annotations

import asyncio
import gc
import random
import shutil
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from inflight import LLM, SamplingParams
from inflight._core import InflightError
from inflight.llm import KvCacheConfig
from random_llamas import make_case, make_model

DEMO_MODEL = Path(__file__).resolve().parents[2] / "demo_model"
PROMPTS = ["ROMEO:\n", "JULIET:\nO ", "First Citizen:\nBefore we", "KING RICHARD III:\nNow is the"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, device: str) -> Path:
    from inflight.builder import build_engine

    # On a GPU other kernels serve other batches: in float32 that changes no token.
    return build_engine(
        DEMO_MODEL,
        tmp_path_factory.mktemp("engine") / "demo",
        dtype="float32" if device == "cuda" else "auto",
        max_batch_size=8,
        max_num_tokens=64,
    )


@pytest.fixture(scope="module")
def llm(engine: Path, device: str) -> Iterator[LLM]:
    with LLM(engine, device=device, kv_cache_config=KvCacheConfig(max_tokens=8192)) as llm:
        yield llm


def text(output) -> str:
    return output.outputs[0].text


def test_forms_of_prompts_agree(llm: LLM):
    ids = llm.tokenizer.encode(PROMPTS[0])
    forms = [PROMPTS[0], ids, tuple(ids), np.array(ids), {"prompt": PROMPTS[0]}]
    answers = [llm.generate(form) for form in forms]
    assert len({text(answer) for answer in answers}) == 1
    assert answers[0].prompt == PROMPTS[0] and answers[1].prompt is None
    assert all(answer.prompt_token_ids == ids for answer in answers)
    assert all(len(answer.outputs[0].token_ids) == 32 for answer in answers)  # the default
    assert [text(o) for o in llm.generate([PROMPTS[0], ids], use_tqdm=False)] == [
        text(answers[0])
    ] * 2
    assert llm.generate([]) == []


def test_chat(llm: LLM, monkeypatch: pytest.MonkeyPatch):
    """The answer to what the template makes of the messages, special tokens and all."""
    template = (
        "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    conversations = [
        [{"role": "user", "content": "to be"}],
        [{"role": "system", "content": "rhyme"}, {"role": "user", "content": "or not"}],
    ]
    params = SamplingParams(max_tokens=6, end_id=-1)
    outputs = llm.chat(conversations, params, use_tqdm=False, chat_template=template)
    bos = llm.tokenizer.bos_token or ""
    for output, messages in zip(outputs, conversations, strict=True):
        prompt = bos + "".join(f"{m['role']}: {m['content']}\n" for m in messages) + "assistant:"
        ids = llm.tokenizer.encode(prompt, add_special_tokens=False)
        assert (output.prompt, output.prompt_token_ids) == (prompt, ids)
        assert text(output) == text(llm.generate(ids, params))
    alone = llm.chat(conversations[1], params, chat_template=template)
    assert text(alone) == text(outputs[1])
    monkeypatch.setattr(llm.tokenizer, "chat_template", None)
    with pytest.raises(ValueError, match="no chat template"):
        llm.chat(conversations[0], params)
    with pytest.raises(ValueError, match="conversation 1 of 2: .*at least one message"):
        llm.chat([conversations[0], []], params, chat_template=template)


def test_answers_come_in_the_order_of_the_prompts(llm: LLM):
    lengths = [30, 1, 12, 5]
    params = [SamplingParams(max_tokens=length) for length in lengths]
    together = llm.generate(PROMPTS, params, use_tqdm=False)
    alone = [llm.generate(p, c) for p, c in zip(PROMPTS, params, strict=True)]
    assert [text(output) for output in together] == [text(output) for output in alone]
    assert [len(output.outputs[0].token_ids) for output in together] == lengths
    assert [output.prompt for output in together] == PROMPTS


def test_text_is_that_of_the_tokens(llm: LLM):
    output = llm.generate(PROMPTS[1], SamplingParams(max_tokens=50, temperature=1.5, seed=3))
    both = llm.tokenizer.decode(output.prompt_token_ids + output.outputs[0].token_ids)
    assert PROMPTS[1] + text(output) == both
    shown = llm.generate(
        PROMPTS[1],
        SamplingParams(max_tokens=50, temperature=1.5, seed=3, exclude_input_from_output=False),
    )
    assert text(shown) == both
    assert shown.outputs[0].token_ids == output.prompt_token_ids + output.outputs[0].token_ids


@pytest.mark.parametrize("stop", [None, "\n\n", ["lo", "the ", "!"]])
def test_streams_end_where_whole_answers_do(llm: LLM, stop):
    # At this temperature bytes come that are no characters yet.
    params = [
        SamplingParams(max_tokens=60, temperature=1.8, seed=seed, stop=stop) for seed in range(12)
    ]
    whole = llm.generate([PROMPTS[0]] * 12, params, use_tqdm=False)
    streams = [llm.generate_async(PROMPTS[0], choice, streaming=True) for choice in params]
    for expected, stream in zip(whole, streams, strict=True):
        joined, ids = "", []
        for output in stream:
            joined += output.outputs[0].text_diff
            ids += output.outputs[0].token_ids_diff
            assert output.outputs[0].text == joined
        assert output.finished and joined == text(expected)
        assert ids == expected.outputs[0].token_ids
        assert output.outputs[0].finish_reason == expected.outputs[0].finish_reason


def test_stop_strings_cut_the_text(llm: LLM):
    params = SamplingParams(max_tokens=80)
    plain = text(llm.generate(PROMPTS[0], params))
    for stop in (["\n\n"], [plain[17:22]], [plain[30:33], plain[3:5]], ["never said"]):
        ends = [plain.find(string) + len(string) for string in stop if string in plain]
        for include in (False, True):
            output = llm.generate(
                PROMPTS[0],
                SamplingParams(max_tokens=80, stop=stop, include_stop_str_in_output=include),
            ).outputs[0]
            if not ends:
                assert (output.text, output.finish_reason) == (plain, "length")
                continue
            assert output.finish_reason == "stop"
            shown = plain[: min(ends)]
            assert output.text == (shown if include else shown[: -len(output.stop_reason)])
            # The tokens reach just as far as the stop string.
            assert len(llm.tokenizer.decode(output.token_ids[:-1])) < min(ends)


def test_a_text_stop_frees_the_engine(llm: LLM):
    before = llm.get_stats().generated_tokens
    llm.generate([PROMPTS[0]] * 8, SamplingParams(max_tokens=400, stop="\n"), use_tqdm=False)
    for _ in range(200):
        stats = llm.get_stats()
        # blocks are held until the step in flight that names them is done
        if stats.active_requests == 0 and stats.used_blocks == 0:
            break
        threading.Event().wait(0.01)
    assert stats.active_requests == 0 and stats.used_blocks == 0
    assert stats.generated_tokens - before < 8 * 400 / 2


def test_stop_token_ids(llm: LLM):
    ids = llm.generate(PROMPTS[0], SamplingParams(max_tokens=20)).outputs[0].token_ids
    stop = ids[7]
    first = ids.index(stop)
    output = llm.generate(PROMPTS[0], SamplingParams(max_tokens=20, stop_token_ids=[stop]))
    assert output.outputs[0].token_ids == ids[:first]
    assert (output.outputs[0].finish_reason, output.outputs[0].stop_reason) == ("stop", stop)
    output = llm.generate(
        PROMPTS[0],
        SamplingParams(max_tokens=20, stop_token_ids=[stop], include_stop_str_in_output=True),
    )
    assert output.outputs[0].token_ids == ids[: first + 1]


def test_end_ids_and_min_tokens(llm: LLM):
    ids = llm.generate(PROMPTS[0], SamplingParams(max_tokens=20)).outputs[0].token_ids
    end, first = ids[5], ids.index(ids[5])
    ended = llm.generate(PROMPTS[0], SamplingParams(max_tokens=20, end_id=end)).outputs[0]
    assert ended.token_ids == ids[:first]
    assert (ended.finish_reason, ended.stop_reason) == ("stop", None)
    longer = llm.generate(
        PROMPTS[0], SamplingParams(max_tokens=20, end_id=end, min_tokens=first + 2)
    ).outputs[0]
    assert longer.token_ids[:first] == ids[:first] and len(longer.token_ids) >= first + 2
    assert end not in longer.token_ids


def test_bad_words_are_not_said(llm: LLM):
    plain = text(llm.generate(PROMPTS[0], SamplingParams(max_tokens=60)))
    word = next(w for w in plain.split() if w.isalpha() and len(w) > 2)
    other = text(llm.generate(PROMPTS[0], SamplingParams(max_tokens=60, bad=word)))
    assert word in plain.split() and word not in other.split()
    ids = llm.tokenizer.encode(plain)
    barred = llm.generate(PROMPTS[0], SamplingParams(max_tokens=60, bad_token_ids=ids))
    assert not set(barred.outputs[0].token_ids) & set(ids)


def test_seeds(llm: LLM):
    params = [SamplingParams(max_tokens=40, temperature=1.0, seed=seed) for seed in (1, 2, 1)]
    together = [text(o) for o in llm.generate([PROMPTS[0]] * 3, params, use_tqdm=False)]
    assert together[0] == together[2] != together[1]
    assert text(llm.generate(PROMPTS[0], params[1])) == together[1]
    free = SamplingParams(max_tokens=40, temperature=1.0)
    assert len({text(o) for o in llm.generate([PROMPTS[0]] * 4, free, use_tqdm=False)}) == 4


def test_events_of_the_cache(engine: Path, device: str):
    config = KvCacheConfig(max_tokens=8192, event_buffer_max_size=1000)
    with LLM(engine, device=device, kv_cache_config=config) as llm:
        prompt = [1 + i % 50 for i in range(100)]
        llm.generate(prompt, SamplingParams(max_tokens=1))
        created, stored = llm.get_kv_cache_events()
        assert created["data"]["type"] == "created" and created["event_id"] == 0
        assert stored["data"]["parent_hash"] is None
        told = [token["token_id"] for b in stored["data"]["blocks"] for token in b["tokens"]]
        assert told == prompt[: 100 - 100 % llm.info.tokens_per_block]
        assert llm.get_kv_cache_events(timeout=0.01) == []


def test_async_clients(llm: LLM):
    """64 streams that start at random times, each as it would be alone."""
    draw = random.Random(5)
    wanted = [
        (draw.choice(PROMPTS), SamplingParams(max_tokens=draw.randint(1, 60)), draw.random() * 0.3)
        for _ in range(64)
    ]
    alone = {
        (prompt, params.max_tokens): text(llm.generate(prompt, params))
        for prompt, params, _ in wanted
    }

    async def client(prompt: str, params: SamplingParams, delay: float) -> str:
        await asyncio.sleep(delay)
        joined = ""
        async for output in llm.generate_async(prompt, params, streaming=True):
            joined += output.outputs[0].text_diff
        assert output.finished
        return joined

    async def all_clients() -> list[str]:
        return await asyncio.gather(*(client(*one) for one in wanted))

    for (prompt, params, _), joined in zip(wanted, asyncio.run(all_clients()), strict=True):
        assert joined == alone[prompt, params.max_tokens]


def test_timeout(llm: LLM):
    """One that is too short for any token is an error; else the answer ends with what it has."""
    room = llm.info.max_seq_len - 200
    plain = SamplingParams(max_tokens=room, ignore_eos=True)
    for timeout_ms in (2**i for i in range(14)):
        try:
            output = llm.generate(PROMPTS[0], replace(plain, timeout_ms=timeout_ms)).outputs[0]
        except InflightError as error:
            assert "Request timeout expired" in str(error)
            continue
        assert output.finish_reason == "deadline" and len(output.token_ids) < room
        whole = replace(plain, max_tokens=len(output.token_ids))
        assert output.token_ids == llm.generate(PROMPTS[0], whole).outputs[0].token_ids
        break
    else:
        raise AssertionError("every timeout was too short")


def test_abort(llm: LLM):
    other = llm.generate_async(PROMPTS[1], SamplingParams(max_tokens=100))
    stream = llm.generate_async(PROMPTS[0], SamplingParams(max_tokens=400), streaming=True)
    next(stream)
    stream.abort()
    output = stream.result(timeout=20)
    assert output.outputs[0].finish_reason == "cancelled"
    assert 1 <= len(output.outputs[0].token_ids) < 400
    whole = text(llm.generate(PROMPTS[0], SamplingParams(max_tokens=400)))
    assert whole.startswith(text(output))
    assert text(other.result()) == text(llm.generate(PROMPTS[1], SamplingParams(max_tokens=100)))


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "empty|at least 1"),
        ([5] * 600, {}, "600.*51[12]"),
        ([1, 10**6], {}, "1000000"),
        ([1, -3], {}, "-3|-1"),
        (PROMPTS[0], {"stop_token_ids": [10**6]}, "1000000"),
        (PROMPTS[0], {"bad_token_ids": [-5]}, "-5"),
        (PROMPTS[0], {"temperature": 1.0, "top_p": 0.5, "logprobs": 10**6}, "1000000"),
    ],
)
def test_bad_requests_name_value_and_limit(llm: LLM, prompt, params: dict, message: str):
    with pytest.raises(ValueError, match=message):
        llm.generate([PROMPTS[0], prompt], SamplingParams(**params), use_tqdm=False)
    assert len(text(llm.generate(PROMPTS[0]))) > 0


def test_a_bad_prompt_among_others_is_named(llm: LLM):
    with pytest.raises(ValueError, match="prompt 1 of 3"):
        llm.generate([PROMPTS[0], [10**6], PROMPTS[1]], use_tqdm=False)


def test_generate_waits_where_generate_async_is_refused(engine: Path, device: str):
    with LLM(engine, device=device, max_queue_size=2, max_batch_size=1) as llm:
        outputs = llm.generate(PROMPTS * 5, SamplingParams(max_tokens=5), use_tqdm=False)
        assert [text(o) for o in outputs] == [text(o) for o in outputs[:4]] * 5
        running = []
        with pytest.raises(RuntimeError, match="(?i)maximum queue size"):
            for _ in range(20):
                running.append(llm.generate_async(PROMPTS[0], SamplingParams(max_tokens=300)))
        for result in running:
            result.abort()


def test_progress_bar(llm: LLM, capsys: pytest.CaptureFixture[str]):
    llm.generate(PROMPTS, SamplingParams(max_tokens=2))
    assert "4/4" in capsys.readouterr().err
    llm.generate(PROMPTS, SamplingParams(max_tokens=2), use_tqdm=False)
    llm.generate(PROMPTS[0], SamplingParams(max_tokens=2))
    assert capsys.readouterr().err == ""


def test_shutdown_ends_everything(engine: Path, device: str):
    llm = LLM(engine, device=device)
    results = [llm.generate_async(PROMPTS[0], SamplingParams(max_tokens=400)) for _ in range(6)]
    llm.shutdown()
    assert {r.result(timeout=5).outputs[0].finish_reason for r in results} <= {
        "cancelled",
        "length",
    }
    with pytest.raises(Exception, match="closed|shut"):
        llm.generate(PROMPTS[0])
    llm.shutdown()


def test_dropping_the_last_reference_ends_the_threads(engine: Path, device: str):
    before = set(threading.enumerate())
    llm = LLM(engine, device=device)
    llm.generate_async(PROMPTS[0], SamplingParams(max_tokens=2)).result()
    (reader,) = set(threading.enumerate()) - before
    gone = weakref.ref(llm)
    del llm
    gc.collect()
    assert gone() is None
    reader.join(timeout=5)
    assert not reader.is_alive()


def test_a_checkpoint_is_built_once_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with LLM(DEMO_MODEL, dtype="float32", max_seq_len=128, max_batch_size=4) as llm:
        first = llm.engine_dir
        assert (llm.info.dtype, llm.info.max_seq_len, llm.info.max_batch_size) == (
            "float32",
            128,
            4,
        )
        answer = text(llm.generate(PROMPTS[0]))
    assert tmp_path in first.parents
    written = (first / "engine.json").stat().st_mtime_ns
    with LLM(DEMO_MODEL, dtype="float32", max_seq_len=128, max_batch_size=4) as llm:
        assert llm.engine_dir == first
        assert text(llm.generate(PROMPTS[0])) == answer
    assert (first / "engine.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="dtype='float16'.*'float32'"):
        LLM(first, dtype="float16")


def test_without_a_tokenizer(engine: Path, tmp_path: Path):
    bare = tmp_path / "bare"
    shutil.copytree(engine, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="no tokenizer in .*skip_tokenizer_init"):
        LLM(bare)
    with LLM(bare, tokenizer=engine) as llm:
        expected = llm.generate(PROMPTS[0])
    with LLM(bare, skip_tokenizer_init=True) as llm:
        output = llm.generate(expected.prompt_token_ids)
        assert output.outputs[0].token_ids == expected.outputs[0].token_ids
        assert text(output) == ""
        with pytest.raises(ValueError, match="needs a tokenizer"):
            llm.generate(PROMPTS[0])
        with pytest.raises(ValueError, match="needs a tokenizer"):
            llm.generate([1], SamplingParams(stop="x"))


def test_a_folder_that_is_neither(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="neither an engine.*nor a checkpoint"):
        LLM(tmp_path)


@pytest.mark.usefixtures("one_torch_thread")
def test_log_probs_equal_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    case = make_case(seed=203, num_prompts=6)  # llama3 rope
    model = make_model(case)
    model.save_pretrained(tmp_path / "checkpoint")
    with LLM(tmp_path / "checkpoint", skip_tokenizer_init=True, max_seq_len=400) as llm:
        prompts = [list(prompt) for prompt in case.prompts]
        params = SamplingParams(max_tokens=20, ignore_eos=True, logprobs=5)
        outputs = llm.generate(prompts, params, use_tqdm=False)
    for output in outputs:
        answer = output.outputs[0]
        ids = torch.tensor([output.prompt_token_ids + answer.token_ids])
        with torch.inference_mode():
            table = model(ids[:, :-1]).logits[0, -20:].log_softmax(-1)
        values, top = table.topk(5)
        total = 0.0
        for position, entry in enumerate(answer.logprobs):
            assert list(entry) == top[position].tolist()
            assert [value.rank for value in entry.values()] == [1, 2, 3, 4, 5]
            np.testing.assert_allclose(
                [value.logprob for value in entry.values()], values[position], atol=2e-4
            )
            total += entry[answer.token_ids[position]].logprob
        assert answer.cumulative_logprob == pytest.approx(total)
