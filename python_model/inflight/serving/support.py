"""Refuses what a request asks for in vain, by the schema table."""

from collections.abc import Mapping

import numpy as np

from inflight.serving.tensors import Model, Support


def refuse_unsupported(model: Model, inputs: Mapping[str, np.ndarray | None]) -> None:
    """Raises ValueError naming the first tensor that has no support and neither is empty nor holds
    its default; absent ones are None or missing."""
    for tensor in model.inputs:
        given = inputs.get(tensor.name)
        if tensor.support is not Support.REFUSED or given is None or given.size == 0:
            continue
        if tensor.dtype == "STRING" and all(not text for text in given.reshape(-1)):
            continue
        if tensor.default is not None and np.all(given == tensor.default):
            continue
        raise ValueError(f"input tensor {tensor.name} is not supported yet")
