"""Blocks copied inside the pool and between its tiers, against numpy on the documented layout."""

import itertools
import random

import numpy as np
import pytest
from inflight import _core

TOKENS = 4
Place = tuple[str, int]
Copy = tuple[Place, Place, int]


def token_of_byte(layers: list[tuple[int, int]], dtype: str) -> np.ndarray:
    """For each byte of a block the offset of the token it belongs to; TOKENS for padding.

    A block is [layer][2][num_kv_heads][tokens][head_size]; int8 has float32 scales
    [2][num_kv_heads][tokens] behind each layer, both from multiples of 16 bytes on.
    """
    itemsize = {"float32": 4, "bfloat16": 2, "float8_e4m3fn": 1, "int8": 1}[dtype]
    block: list[int] = []

    def pad() -> None:
        block.extend([TOKENS] * (-len(block) % 16))

    def rows(count: int, token_bytes: int) -> None:
        block.extend(token for _ in range(count) for token in np.repeat(range(TOKENS), token_bytes))

    for num_heads, head_size in layers:
        rows(2 * num_heads, head_size * itemsize)
        if dtype == "int8":
            pad()
            rows(2 * num_heads, 4)
            pad()
    return np.array(block)


class Model:
    """Tiers as numpy arrays; -1 is a byte that the copies leave undefined."""

    def __init__(self, storage: "_core.kv_cache.KvStorage", tokens: np.ndarray, counts) -> None:
        self.storage = storage
        self.tokens = tokens
        rng = np.random.default_rng(0)
        self.tiers = {
            tier: rng.integers(0, 256, (count, storage.block_bytes))
            for tier, count in counts.items()
        }
        for place in self.places():
            storage.write(place, self.tiers[place[0]][place[1]].astype(np.uint8))

    def places(self) -> list[Place]:
        return [(tier, i) for tier, blocks in self.tiers.items() for i in range(len(blocks))]

    def copy(self, copies: list[Copy]) -> None:
        for (from_tier, source), (to_tier, target), num_tokens in copies:
            block = self.tiers[from_tier][source].copy()
            block[(self.tokens >= num_tokens) & (self.tokens < TOKENS)] = -1
            block[self.tokens == TOKENS] = -1  # padding
            self.tiers[to_tier][target] = block
        self.storage.copy(copies)

    def check(self) -> None:
        for tier, block in self.places():
            expected = self.tiers[tier][block]
            known = expected >= 0
            found = self.storage.read((tier, block))
            np.testing.assert_array_equal(found[known], expected[known], err_msg=f"{tier} {block}")


LAYERS = {
    "alike": [(2, 16)] * 3,
    "odd": [(1, 3)],
    "different": [(2, 3), (1, 8), (1, 8), (3, 5)],
}


@pytest.fixture
def model(device: str, request: pytest.FixtureRequest) -> Model:
    layers, dtype = request.param
    if device not in _core.op_devices():
        pytest.skip(f"no {device} on this machine or in this build")
    tokens = token_of_byte(LAYERS[layers], dtype)
    storage = _core.kv_cache.KvStorage(
        LAYERS[layers],
        tokens_per_block=TOKENS,
        dtype=dtype,
        num_blocks=9,
        num_host_blocks=4,
        device=device,
        num_threads=2,
    )
    assert storage.block_bytes == len(tokens)
    return Model(storage, tokens, {"device": 9, "host": 4})


FORMATS = ["float32", "bfloat16", "float8_e4m3fn", "int8"]
ALL = pytest.mark.parametrize(
    "model", list(itertools.product(LAYERS, FORMATS)), indirect=True, ids=lambda p: "-".join(p)
)


@ALL
def test_inside_the_pool(model: Model) -> None:
    model.copy([(("device", i), ("device", i + 4), i + 1) for i in range(4)])
    model.check()


@ALL
def test_between_the_tiers(model: Model) -> None:
    out = [(("device", i), ("host", 3 - i), TOKENS) for i in range(4)]
    back = [(("host", 3 - i), ("device", i + 4), TOKENS) for i in range(4)]
    model.copy(out)
    model.copy(back)
    model.check()


@ALL
def test_any_list_in_order(model: Model) -> None:
    """Chains, blocks written over, blocks moved out, reused and brought back, in one launch each."""
    rng = random.Random(1)
    places = model.places()
    for _ in range(30):
        copies = []
        while len(copies) < 12:
            source, target = rng.sample(places, 2)
            if source[0] == target[0] == "host":
                continue
            is_whole = source[0] != target[0] or rng.random() < 0.5
            copies.append((source, target, TOKENS if is_whole else rng.randint(1, TOKENS)))
        model.copy(copies)
        model.check()


def test_more_copies_than_a_launch_takes(device: str) -> None:
    if device not in _core.op_devices():
        pytest.skip(f"no {device} on this machine or in this build")
    storage = _core.kv_cache.KvStorage(
        [(1, 4)], tokens_per_block=TOKENS, num_blocks=2000, device=device
    )
    tokens = token_of_byte([(1, 4)], "float32")
    model = Model(storage, tokens, {"device": 2000})
    model.copy([(("device", i), ("device", 1999 - i), 1 + i % TOKENS) for i in range(1000)])
    model.check()


@pytest.mark.parametrize(
    ("copy", "message"),
    [
        ((("device", 0), ("device", 2), 1), "copy 0 is from block 0 to 2 of a pool of 2"),
        ((("device", -1), ("device", 1), 1), "from block -1"),
        ((("device", 1), ("device", 1), 1), "from block 1 to itself"),
        ((("device", 0), ("device", 1), 5), "copy 0 is of 5 tokens, a block has 4"),
        ((("device", 0), ("device", 1), 0), "copy 0 is of 0 tokens"),
        ((("device", 2), ("host", 0), 4), "device block 2 of 2"),
        ((("device", 0), ("host", 1), 4), "host block 1 of 1"),
        ((("host", 0), ("host", 0), 4), "from host block 0 to host block 0"),
    ],
)
def test_impossible_copies(copy: Copy, message: str) -> None:
    storage = _core.kv_cache.KvStorage(
        [(1, 4)], tokens_per_block=TOKENS, num_blocks=2, num_host_blocks=1
    )
    with pytest.raises(Exception, match=message):
        storage.copy([copy])
    with pytest.raises(
        Exception, match="have failed before"
    ):  # what is where is not known any more
        storage.copy([(("device", 0), ("device", 1), 4)])
