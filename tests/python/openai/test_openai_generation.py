"""A generation against an engine under the test's hands: nothing goes on after its end."""

import asyncio

import pytest
from inflight.openai.engine_request import EngineRequest, Part
from inflight.openai.errors import ApiError
from inflight.openai.generation import ClientLeft, Generation
from inflight.openai.served_model import ServedModel
from inflight.openai.translate import ChoiceRequest, Prompt
from openai_tokenizers import byte_level


class ScriptedEngine:
    """Keeps what it was asked; the test calls the sinks."""

    def __init__(self) -> None:
        self.sinks: dict = {}
        self.stopped: list[str] = []

    def submit(self, request: EngineRequest, request_id: str, sink) -> None:
        self.sinks[request_id] = sink

    def stop(self, request_id: str) -> None:
        self.stopped.append(request_id)


def generation_of(engine: ScriptedEngine, count: int, max_seconds: float = 60, stop=()):
    tokenizer = byte_level()
    model = ServedModel("m", tokenizer, tokenizer.vocab_size, 4096)
    prompt = Prompt([5, 6])
    requests = [
        ChoiceRequest(prompt, EngineRequest(prompt.ids, 3), tuple(stop), frozenset())
        for _ in range(count)
    ]
    return Generation(model, engine, requests, "id", max_seconds)


async def collect(generation: Generation) -> list:
    return [
        (index, delta.text, delta.finish_reason)
        async for news in generation.news()
        for index, delta in news.items()
    ]


def ids_of(text: str) -> list[int]:
    return byte_level().encode(text, add_special_tokens=False)


def test_choices_come_with_their_numbers_and_usage_counts_the_prompt_once() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        generation = generation_of(engine, 2)
        task = asyncio.create_task(collect(generation))
        await asyncio.sleep(0)
        assert list(engine.sinks) == ["id-0", "id-1"]
        engine.sinks["id-1"](Part(ids_of("b"), [], False))
        engine.sinks["id-0"](Part(ids_of("abc"), [], True, "length"))
        engine.sinks["id-1"](Part([], [], True, "stop"))
        # What has come by the time it is looked at is one delta a choice.
        assert await task == [(1, "b", "stop"), (0, "abc", "length")]
        assert generation.usage == {
            "prompt_tokens": 2,
            "completion_tokens": 4,
            "total_tokens": 6,
        }

    asyncio.run(main())


def test_a_stop_string_ends_the_engines_request() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        generation = generation_of(engine, 2, stop=["b"])
        task = asyncio.create_task(collect(generation))
        await asyncio.sleep(0)
        engine.sinks["id-0"](Part(ids_of("ab"), [], False))
        await asyncio.sleep(0.01)
        assert engine.stopped == ["id-0"] and not task.done()
        engine.sinks["id-0"](Part(ids_of("c"), [], True, "stop"))  # was on its way
        engine.sinks["id-1"](Part(ids_of("c"), [], True, "stop"))
        assert await task == [(0, "a", "stop"), (1, "c", "stop")]

    asyncio.run(main())


@pytest.mark.parametrize("how", ["left", "time", "error", "closed"])
def test_every_way_out_stops_what_runs(how: str) -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        generation = generation_of(engine, 2, max_seconds=0.02 if how == "time" else 60)
        all_news = generation.news()
        first = asyncio.create_task(anext(all_news))
        await asyncio.sleep(0)
        engine.sinks["id-0"](Part(ids_of("a"), [], False))
        assert (await first)[0].text == "a"
        assert engine.stopped == []
        if how == "left":
            generation.leave()
            with pytest.raises(ClientLeft):
                await anext(all_news)
        elif how == "time":
            with pytest.raises(ApiError, match="longer than 0.02 s"):
                await anext(all_news)
        elif how == "error":
            engine.sinks["id-1"](ApiError("the engine says no"))
            with pytest.raises(ApiError, match="says no"):
                await anext(all_news)
        else:
            await all_news.aclose()
        assert engine.stopped == ["id-0", "id-1"]

    asyncio.run(main())


def test_a_slow_reader_gets_all_that_came_meanwhile() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        generation = generation_of(engine, 2)
        all_news = generation.news()
        first = asyncio.create_task(anext(all_news))
        await asyncio.sleep(0)
        a, b, c, d = ids_of("abcd")
        engine.sinks["id-0"](Part([a], [], False))
        assert (await first)[0].text == "a"
        for id in (b, c):
            engine.sinks["id-0"](Part([id], [], False))
        engine.sinks["id-1"](Part([d], [], False))
        engine.sinks["id-0"](Part([d], [], False))
        news = await anext(all_news)
        assert {index: delta.text for index, delta in news.items()} == {0: "bcd", 1: "d"}
        await all_news.aclose()

    asyncio.run(main())


def test_what_came_before_an_error_is_told_first() -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        generation = generation_of(engine, 2)
        all_news = generation.news()
        first = asyncio.create_task(anext(all_news))
        await asyncio.sleep(0)
        engine.sinks["id-0"](Part(ids_of("a"), [], False))
        engine.sinks["id-1"](Part([], [], True, "cancelled"))
        engine.sinks["id-0"](Part(ids_of("b"), [], False))  # after it
        assert {index: delta.text for index, delta in (await first).items()} == {0: "a"}
        with pytest.raises(ApiError, match="cancelled"):
            await anext(all_news)
        assert set(engine.stopped) == {"id-0", "id-1"}

    asyncio.run(main())
