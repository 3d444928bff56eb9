"""What the engine promises holds in its definition: batched = alone, chunked = whole."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inflight.ir.interpreter import Chunk, Interpreter, pack


def test_pack_lays_out_a_step() -> None:
    step = pack(
        [Chunk((5, 6, 7), 2, (4, 1), 5), Chunk((9,), 8, (3, 0, 2), 6), Chunk((8,), 0, (5,), 1)], 4
    )
    expected = {
        "input_ids": [5, 6, 7, 9, 8],
        "positions": [2, 3, 4, 8, 0],
        "rope_lengths": [5, 5, 5, 9, 1],
        "slots": [18, 19, 4, 8, 20],
        "query_starts": [0, 3, 4, 5],
        "kv_lengths": [5, 9, 1],
        "block_tables": [[4, 1, 0], [3, 0, 2], [5, 0, 0]],
        "last_rows": [2, 3, 4],
    }
    assert {name: array.tolist() for name, array in step.items()} == expected
    assert all(array.dtype == np.int32 for array in step.values())


@pytest.mark.parametrize("tokens_per_block", [1, 3, 32])
def test_mixed_steps_equal_each_sequence_alone(
    tokens_per_block: int,
    tiny_checkpoint: Path,
    compile_model: Callable[..., Any],
    make_workload: Callable[..., Any],
) -> None:
    compiled = compile_model(tiny_checkpoint, tokens_per_block=tokens_per_block)
    workload = make_workload(12, tokens_per_block=tokens_per_block)
    together = Interpreter(compiled.graph, compiled.weights, workload.num_blocks, np.float64)
    whole = {}
    for i, tokens in enumerate(workload.sequences):
        for end in range(1, len(tokens) + 1):
            alone = Interpreter(compiled.graph, compiled.weights, len(tokens), np.float64)
            blocks = tuple(range(len(tokens)))
            chunk = Chunk(tokens[:end], 0, blocks, workload.prompt_lengths[i])
            whole[i, end - 1] = alone.run(pack([chunk], tokens_per_block))["logits"][0]
    for step in workload.steps:
        logits = together.run(step.inputs)["logits"]
        for row, where in enumerate(step.last):
            np.testing.assert_allclose(logits[row], whole[where], rtol=1e-9, atol=1e-9)
