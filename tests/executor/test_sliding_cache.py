"""Layers that see a window keep no more than it, and nothing else changes: tokens equal those of the
same engine with everything kept, whatever the chunks, the company, the pools and the policy."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_client import TINY, Client
from inflight import _core
from inflight.builder import build_engine

WINDOW, NUM_SINKS, BLOCK, LONGEST = 16, 5, 8, 400
FAMILIES: dict[str, dict[str, Any]] = {
    "Mistral": {},
    "Ministral": {
        "num_hidden_layers": 3,
        "head_dim": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def keep_everything(engine: Path) -> None:
    """One group of layers, none of which gives a block back; the ops see their windows still."""
    path = engine / "engine.json"
    document = json.loads(path.read_text())
    for layer in document["kv_cache"]["layers"]:
        layer.pop("window", None)
        layer.pop("num_sinks", None)
    for row in document["ranks"][0]["plan"]:
        row["inputs"] |= {key: key for key in ("slots", "block_tables") if key in row["inputs"]}
    path.write_text(json.dumps(document))


def add_sinks(engine: Path) -> None:
    """No model asks for them yet: the first tokens stay in sight of all layers with a window."""
    path = engine / "engine.json"
    document = json.loads(path.read_text())
    for layer in document["kv_cache"]["layers"]:
        layer["num_sinks"] = NUM_SINKS
    for row in document["ranks"][0]["plan"]:
        if "window" in row["attributes"]:
            row["attributes"]["num_sinks"] = NUM_SINKS
    path.write_text(json.dumps(document))


@pytest.fixture(scope="module", params=[*FAMILIES, "Mistral with sinks"])
def engines(request: pytest.FixtureRequest, tmp_path_factory) -> tuple[Path, Path]:
    """An engine with windows, and the same with everything kept."""
    import torch
    import transformers

    torch.manual_seed(3)
    family = request.param.split()[0]
    config = {**TINY, "sliding_window": WINDOW, **FAMILIES[family]}
    model = getattr(transformers, f"{family}ForCausalLM")(
        getattr(transformers, f"{family}Config")(**config)
    )
    folder = tmp_path_factory.mktemp(family)
    model.float().save_pretrained(folder / "checkpoint")
    limits = {"max_batch_size": 6, "max_num_tokens": 64, "max_seq_len": LONGEST}
    made = [
        build_engine(folder / "checkpoint", folder / name, tokens_per_block=BLOCK, **limits)
        for name in ("windows", "everything")
    ]
    if request.param != family:
        for engine in made:
            add_sinks(engine)
    keep_everything(made[1])
    return made[0], made[1]


def requests() -> list[tuple[list[int], int]]:
    draw = random.Random(5)
    lengths = [(1, 90), (5, 40), (15, 20), (16, 60), (17, 3), (64, 30), (150, 25), (90, 100)]
    return [([draw.randrange(320) for _ in range(prompt)], output) for prompt, output in lengths]


def run(client: Client, together: bool = True) -> list[list[int]]:
    answers = []
    for prompt, output in requests():
        _, answer = client.submit(prompt, max_new_tokens=output)
        answers.append(answer)
        assert together or answer.done.wait(60)
    for answer in answers:
        assert answer.done.wait(60)
        assert answer.error is None
    client.assert_all_free()
    return [answer.token_ids for answer in answers]


@pytest.fixture(scope="module")
def make_client(device: str) -> Iterator[Callable[..., Client]]:
    clients: list[Client] = []

    def make(engine: Path, **settings: Any) -> Client:
        clients.append(Client(engine, device=device, **settings))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def expected(engines: tuple[Path, Path], make_client: Callable[..., Client]) -> list[list[int]]:
    """One by one, everything kept."""
    tokens = run(make_client(engines[1]), together=False)
    assert [len(one) for one in tokens] == [output for _, output in requests()]
    assert len({tuple(one) for one in tokens}) == len(tokens)
    return tokens


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_tokens": 7},
        {"max_batch_size": 1},
        {"kv_cache_max_bytes": 90_000},
        {"kv_cache_max_bytes": 75_000, "max_num_tokens": 9, "max_batch_size": 3},
        {"kv_cache_max_bytes": 75_000, "batch_scheduler_policy": "max_utilization"},
        {"kv_cache_max_bytes": 90_000, "batch_scheduler_policy": "static_batch"},
        {"num_threads": 3},
    ],
    ids=str,
)
def test_tokens_are_those_with_everything_kept(
    engines: tuple[Path, Path],
    make_client: Callable[..., Client],
    expected: list[list[int]],
    settings: dict[str, Any],
) -> None:
    assert run(make_client(engines[0], **settings)) == expected


def test_the_memory_of_a_sequence_is_bounded(
    engines: tuple[Path, Path],
    make_client: Callable[..., Client],
    expected: list[list[int]],
    device: str,
) -> None:
    """All layers with a window: a pool of two windows and a step takes a sequence twenty windows long."""
    if "Ministral" in str(engines[0]):
        pytest.skip("a layer that sees everything keeps everything")
    text = (engines[0] / "engine.json").read_text()
    blocks = 6 + ('"num_sinks"' in text)  # those sinks have one of their own
    if device != "cpu":
        blocks += 2  # for the second step in flight
    client = make_client(engines[0], kv_cache_max_tokens=blocks * BLOCK, max_num_tokens=16)
    assert client.engine.info.num_blocks == blocks
    most = LONGEST - 5
    long = client.generate([1, 2, 3, 4, 5], max_new_tokens=most).token_ids
    assert len(long) == most > 20 * WINDOW
    whole = make_client(engines[1]).generate([1, 2, 3, 4, 5], max_new_tokens=most)
    assert long == whole.token_ids
    assert run(client) == expected
    stats = client.engine.stats()
    assert (stats.max_blocks, stats.free_blocks) == (blocks, blocks)
    fewer = make_client(engines[0], kv_cache_max_tokens=(blocks - 1) * BLOCK, max_num_tokens=16)
    message = f"layers with a window of 16 tokens, there are {blocks - 1}"
    with pytest.raises(ValueError, match=message):
        fewer.generate([1], max_new_tokens=300)


def test_an_engine_whose_cache_keeps_less_than_its_ops_see_is_refused(
    engines: tuple[Path, Path], tmp_path: Path
) -> None:
    document = json.loads((engines[0] / "engine.json").read_text())

    def refuses(match: str) -> None:
        (tmp_path / "engine.json").write_text(json.dumps(document))
        with pytest.raises(_core.InvalidArgumentError, match=match):
            _core.plan.EngineFile(tmp_path)

    layer = next(layer for layer in document["kv_cache"]["layers"] if "window" in layer)
    for other in document["kv_cache"]["layers"]:
        if "window" in other:
            other["window"] = WINDOW - 1
    refuses(
        "a window of 16 tokens .0: all. and . sinks is more than the cache of layer . keeps, 15"
    )
    for other in document["kv_cache"]["layers"]:
        if "window" in other:
            other["window"] = WINDOW
    layer["num_sinks"] = NUM_SINKS + 2  # a group of its own, whose tables the plan does not name
    refuses("is not that of layer ., (slots|block_tables)")


def test_prefixes_go_to_no_other_engine(
    engines: tuple[Path, Path], make_client: Callable[..., Client]
) -> None:
    client, everything = make_client(engines[0]), make_client(engines[1])
    prompt = list(range(100))
    answers = [one.generate(prompt, max_new_tokens=5).token_ids for one in (client, everything)]
    assert answers[0] == answers[1]
    exported = everything.engine.export_prefix(prompt)
    assert len(exported.token_ids) >= 96
    message = "layers that see sliding windows can be neither exported nor imported"
    with pytest.raises(NotImplementedError, match=message):
        client.engine.import_prefix(exported)
    with pytest.raises(NotImplementedError, match=message):
        client.engine.export_prefix(prompt)


def turns() -> list[list[int]]:
    """Three conversations of four turns, several windows long, in turns; each begins with all before."""
    draw = random.Random(8)
    system = [draw.randrange(320) for _ in range(45)]
    chats = [system + [draw.randrange(320) for _ in range(20)] for _ in range(3)]
    prompts = []
    for _ in range(4):
        for chat in chats:
            chat += [draw.randrange(320) for _ in range(draw.randrange(3, 30))]
            prompts.append(list(chat))
    return prompts


def alike(one: list[int], other: list[int]) -> int:
    """Tokens that both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize(
    "settings",
    [{}, {"kv_cache_max_bytes": 75_000, "max_num_tokens": 16}, {"max_num_tokens": 9}],
    ids=str,
)
def test_prompts_that_begin_alike_are_found(
    engines: tuple[Path, Path],
    make_client: Callable[..., Client],
    settings: dict[str, Any],
    at_once: int,
) -> None:
    plain = make_client(engines[1], enable_kv_cache_reuse=False)
    client = make_client(engines[0], **settings)
    assert client.engine.info.enable_kv_cache_reuse
    prompts = turns()
    expected = [plain.generate(prompt, max_new_tokens=12).token_ids for prompt in prompts]
    for first in range(0, len(prompts), at_once):
        together = prompts[first : first + at_once]
        answers = [client.submit(prompt, max_new_tokens=12)[1] for prompt in together]
        for answer, tokens in zip(answers, expected[first : first + at_once], strict=True):
            assert answer.done.wait(60) and answer.error is None
            assert answer.token_ids == tokens
    client.assert_all_free()
    stats = client.engine.stats()
    assert stats.prefix_queried_tokens == sum(map(len, prompts))
    assert stats.prefix_hit_tokens == BLOCK * stats.reused_blocks and stats.copied_blocks == 0
    if not settings and at_once == 1:  # there is room for all that was ever run
        run = [prompt + tokens[:-1] for prompt, tokens in zip(prompts, expected, strict=True)]
        longest = [
            max((alike(prompt[:-1], before) for before in run[:i]), default=0)
            for i, prompt in enumerate(prompts)
        ]
        assert stats.prefix_hit_tokens == sum(length // BLOCK * BLOCK for length in longest)
    if not settings:
        assert stats.prefix_hit_tokens > stats.prefix_queried_tokens // 2
