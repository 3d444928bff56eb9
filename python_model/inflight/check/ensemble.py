"""An ensemble and the models of its steps: what a server compares when it loads them."""

from collections.abc import Mapping

from inflight.check.findings import Finding, Level
from inflight.check.pbtxt import Message, is_placeholder, one


def check_ensemble(name: str, config: Message, models: Mapping[str, Message]) -> list[Finding]:
    """`models`: configurations of all that the repository has, by name."""
    findings = []
    steps = one(config, "ensemble_scheduling", {}).get("step", [])
    if not steps:
        findings.append(Finding(Level.error, name, "an ensemble without steps"))
    types = {
        tensor: {kind} for field in ("input", "output") for tensor, kind in _types(config, field)
    }
    for step in steps:
        step_name = one(step, "model_name", "")
        if step_name not in models:
            text = f"its step {step_name!r} is no model of the repository"
            findings.append(Finding(Level.error, name, text))
            continue
        texts = _check_step(step, step_name, config, models[step_name], types)
        findings += [Finding(Level.error, name, text) for text in texts]
    for tensor, kinds in types.items():
        if len(kinds) > 1:
            text = f"its tensor {tensor!r} is {' and '.join(sorted(kinds))} to different models"
            findings.append(Finding(Level.error, name, text))
    return findings


def _check_step(
    step: Message, name: str, ensemble: Message, model: Message, types: dict[str, set[str]]
) -> list[str]:
    """Adds to `types` what its tensors are to this model."""
    texts = []
    sizes = [one(config, "max_batch_size", 0) for config in (ensemble, model)]
    if not any(map(is_placeholder, sizes)) and sizes[0] > sizes[1]:
        texts.append(f"its max_batch_size is {sizes[0]}, that of its step {name!r} only {sizes[1]}")
    for field in ("input", "output"):
        declared = dict(_types(model, field))
        entries = step.get(f"{field}_map", [])
        mapped = {str(one(entry, "key", "")): str(one(entry, "value", "")) for entry in entries}
        for tensor in mapped.keys() & declared.keys():
            types.setdefault(mapped[tensor], set()).add(declared[tensor])
        if unknown := [tensor for tensor in mapped if tensor not in declared]:
            texts.append(f"its step {name!r} has no {field} {', '.join(unknown)}")
    required = [
        str(one(tensor, "name", ""))
        for tensor in model.get("input", [])
        if one(tensor, "optional", False) is not True
    ]
    given = {one(entry, "key", "") for entry in step.get("input_map", [])}
    if missing := [tensor for tensor in required if tensor not in given]:
        texts.append(f"its step {name!r} gets no {', '.join(missing)}, which it requires")
    return texts


def _types(config: Message, field: str) -> list[tuple[str, str]]:
    """Of tensors whose type is filled in."""
    pairs = [(str(one(t, "name", "")), one(t, "data_type", "")) for t in config.get(field, [])]
    return [(tensor, str(kind)) for tensor, kind in pairs if not is_placeholder(kind)]
