"""An ensemble, or the BLS that walks such steps itself, and the models of the steps: what a server
compares when it loads an ensemble, and what would fail each request of the BLS."""

from collections.abc import Mapping

from inflight.check.findings import Finding, Level
from inflight.check.pbtxt import Message, is_placeholder, one, parameters


def check_ensemble(name: str, config: Message, models: Mapping[str, Message]) -> list[Finding]:
    """`models`: configurations of all that the repository has, by name."""
    steps = one(config, "ensemble_scheduling", {}).get("step", [])
    if not steps:
        return [Finding(Level.error, name, "an ensemble without steps")]
    return _check_steps(name, config, steps, models)


def check_bls(name: str, config: Message, models: Mapping[str, Message]) -> list[Finding]:
    """Its steps stand in its parameters: backend/triton/bls_settings.h."""
    given = parameters(config)
    steps = []
    for step in ("preprocessing", "tensorrt_llm", "postprocessing"):
        maps = {field: given.get(f"{step}_{field}s", "").split() for field in ("input", "output")}
        if empty := [f"{step}_{field}s" for field, links in maps.items() if not links]:
            text = f"the parameter {' and '.join(empty)} is missing: it will not load"
            return [Finding(Level.error, name, text)]
        model_name = given.get(f"{step}_model_name") or step
        entries = {f"{field}_map": list(map(_entry, links)) for field, links in maps.items()}
        steps.append({"model_name": [model_name], **entries})
    return _check_steps(name, config, steps, models)


def _entry(link: str) -> Message:
    """model_tensor=bls_tensor, or one name for both."""
    at, _, tensor = link.partition("=")
    return {"key": [at], "value": [tensor or at]}


def _check_steps(
    name: str, config: Message, steps: list[Message], models: Mapping[str, Message]
) -> list[Finding]:
    findings = []
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
