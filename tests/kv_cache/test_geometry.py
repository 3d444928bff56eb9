"""Slot and block arithmetic against counting on a list of slots."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inflight._core import InvalidArgumentError
from inflight._core.kv_cache import Geometry


@given(st.integers(1, 40), st.integers(0, 200), st.data())
def test_arithmetic_equals_counting(tokens_per_block: int, num_tokens: int, data: st.DataObject):
    geometry = Geometry(tokens_per_block)
    slots_of_blocks = [
        [block * tokens_per_block + offset for offset in range(tokens_per_block)]
        for block in range(num_tokens // tokens_per_block + 2)
    ]
    table = data.draw(st.permutations(range(len(slots_of_blocks))))
    slots = [slot for block in table for slot in slots_of_blocks[block]]
    for position in range(num_tokens):
        block = table[geometry.block_index(position)]
        assert geometry.slot(block, position) == slots[position]
        assert slots_of_blocks[block][geometry.offset_in_block(position)] == slots[position]
    used = {table[position // tokens_per_block] for position in range(num_tokens)}
    assert geometry.num_blocks(num_tokens) == len(used)
    borders = [p for p in range(num_tokens + 1) if p % tokens_per_block == 0]
    assert geometry.round_down(num_tokens) == borders[-1]


def test_largest_slot_fits_in_int32():
    for tokens_per_block in (1, 7, 32, 128):
        geometry = Geometry(tokens_per_block)
        last_block = geometry.max_pool_blocks() - 1
        assert 0 < geometry.slot(last_block, tokens_per_block - 1) < 2**31


@pytest.mark.parametrize("tokens_per_block", [0, -1])
def test_refuses_empty_blocks(tokens_per_block: int):
    with pytest.raises(InvalidArgumentError, match=f"tokens_per_block {tokens_per_block} < 1"):
        Geometry(tokens_per_block)
