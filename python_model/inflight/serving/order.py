"""Whether a server hands a model's responses on in the order of its requests."""

import json


def check_keeps_order(model_config: str) -> None:
    """Raises ValueError unless the model has one instance and no dynamic batching, or preserves the
    order. An ensemble counts a step's responses: one that comes too early counts as the one before,
    so that pieces of text change places, and the texts of a batch get each other's index.
    """
    config = json.loads(model_config)
    batching = config.get("dynamic_batching")
    if batching is not None and batching.get("preserve_ordering", False):
        return
    count = sum(group.get("count", 1) for group in config.get("instance_group", []))
    if batching is None and count <= 1:
        return
    raise ValueError(
        f"{'dynamic_batching' if batching is not None else f'{count} instances'} without "
        "preserve_ordering: texts would lose their order; expected one instance without "
        "dynamic_batching, or dynamic_batching { preserve_ordering: true }"
    )
