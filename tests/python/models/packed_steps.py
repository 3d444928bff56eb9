"""Logits of a compiled graph next to those of a transformers model."""

from typing import Any

import numpy as np
from inflight.ir.interpreter import Interpreter


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    # transformers keeps norms and rope tables in float32 whatever the model's dtype
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(np.abs(theirs).max(), 1))


def check_packed_steps(model: Any, compiled: Any, workload: Any) -> None:
    """Of the last rows of each step, which has chunks of several sequences."""
    import torch

    with torch.no_grad():
        expected = [
            model(torch.tensor([tokens])).logits[0].numpy() for tokens in workload.sequences
        ]
    interpreter = Interpreter(compiled.graph, compiled.weights, workload.num_blocks, np.float64)
    for step in workload.steps:
        logits = interpreter.run(step.inputs)["logits"]
        for row, (sequence, position) in enumerate(step.last):
            assert_close(logits[row], expected[sequence][position])
