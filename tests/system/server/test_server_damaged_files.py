"""Engines whose files have flipped bits, lost ends and other numbers, loaded by a running server: it
serves the model or says why not, and goes on.

`INFLIGHT_FUZZ_CASES` is the number of engines (default 100), `INFLIGHT_FUZZ_SEED` draws others. The
parsers by themselves, under sanitizers, meet more of them in tests/cpp/malformed_files.cc.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections import Counter
from pathlib import Path
from statistics import median

import pytest
import tritonclient.grpc as grpc
from inflight.builder import build_engine
from triton_server import Server, ask, llm_request

NUM_CASES = int(os.environ.get("INFLIGHT_FUZZ_CASES", "100"))
SEED = int(os.environ.get("INFLIGHT_FUZZ_SEED", "0"))
NUMBERS = (b"0", b"1", b"-1", b"7", b"4294967296", b"1000000000", b"9223372036854775807", b"1e9")
SYNTAX = b'0123456789[]{},:"-.eE null'
MODEL = "second"  # is free to be loaded with anything
ALLOWED = 16 << 20  # bytes that the second half may add


@pytest.fixture(scope="module")
def packed_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights beside it, so that both files can be damaged; small, to be loaded often."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
    )
    scratch = tmp_path_factory.mktemp("packed")
    LlamaForCausalLM(config).save_pretrained(scratch / "checkpoint")
    return build_engine(
        scratch / "checkpoint", scratch / "engine", pack=True, max_batch_size=4, max_num_tokens=64
    )


def damaged(whole: bytes, length: int, draw: random.Random) -> bytes:
    """`whole` with one change within its first `length` bytes."""
    where = draw.randrange(length)
    kind = draw.randrange(6)
    if kind == 0:
        return whole[:where]
    if kind == 1:
        return whole[:where] + bytes([whole[where] ^ (1 << draw.randrange(8))]) + whole[where + 1 :]
    if kind == 2:
        return whole[:where] + bytes(draw.choices(SYNTAX, k=draw.randint(1, 4))) + whole[where:]
    if kind == 3:
        return whole[:where] + whole[where + draw.randint(1, 6) :]
    number = re.compile(rb"\d+").search(whole, where, length)  # to get past the syntax
    if number is None:
        return whole[:-1]
    return whole[: number.start()] + draw.choice(NUMBERS) + whole[number.end() :]


def damage_one_file(engine: Path, draw: random.Random) -> None:
    name = draw.choice(["engine.json", "rank0.safetensors"])
    whole = (engine / name).read_bytes()
    length = len(whole)
    if name != "engine.json" and draw.random() < 0.7:
        length = 8 + int.from_bytes(whole[:8], "little")  # what is read before weights are
    (engine / name).unlink()  # an earlier load may hold the file, which is not to change
    (engine / name).write_bytes(damaged(whole, length, draw))


def load(server: Server, config: str) -> tuple[int, str]:
    path = f"/v2/repository/models/{MODEL}/load"
    return server.post(path, {"parameters": {"config": config}})


def test_damaged_engines(server: Server, packed_engine: Path, tmp_path: Path) -> None:
    (expected,) = ask(server, "tensorrt_llm", **llm_request([5, 17, 60], 12))
    status, original = server.get(f"/v2/models/{MODEL}/config")
    assert status == 200, original
    config = json.loads(original)
    counts: Counter[str] = Counter()
    sizes = []
    with grpc.InferenceServerClient(f"localhost:{server.grpc_port}") as client:
        for number in range(NUM_CASES):
            engine = tmp_path / str(number)
            shutil.copytree(packed_engine, engine)
            damage_one_file(engine, random.Random(f"{SEED} {number}"))
            config["parameters"]["gpt_model_path"] = {"string_value": str(engine)}
            client.unload_model(MODEL)
            status, page = load(server, json.dumps(config))
            if status != 200:
                counts["not loaded"] += 1
                assert len(json.loads(page)["error"]) > 20, page
            else:
                try:
                    (answer,) = ask(server, MODEL, **llm_request([5, 17, 60], 4))
                    assert len(answer.ids) <= 3 + 4
                    counts["answered"] += 1
                except grpc.InferenceServerException as error:
                    counts["refused"] += 1
                    assert error.message(), number
            assert server.process.poll() is None, (SEED, number)
            sizes.append(server.resident_bytes())
            shutil.rmtree(engine)
    assert load(server, original)[0] == 200
    print(f"{counts}, resident {sizes[len(sizes) // 2] >> 10} to {sizes[-1] >> 10} KiB")
    assert counts["not loaded"] > NUM_CASES // 5 and counts["answered"] > NUM_CASES // 20, counts
    half = len(sizes) // 2
    last = median(sizes[-half // 4 :])
    assert last - median(sizes[half : half + half // 4]) < ALLOWED, sizes
    (again,) = ask(server, "tensorrt_llm", **llm_request([5, 17, 60], 12))
    assert again.ids == expected.ids
