"""config.pbtxt files from the schema table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from inflight.serving.tensors import Model, Step, Tensor


@dataclass(frozen=True)
class ModelConfig:
    """What a config.pbtxt holds beside the tensors. No model has Triton's dynamic batching: the
    engine batches by itself, and the batcher damages the server's heap (docs/server_faults.md)."""

    backend: str | None = None  # None: an ensemble
    max_batch_size: int = 1
    decoupled: bool = False
    instances: int = 1
    parameters: Mapping[str, str] = field(default_factory=dict)
    versions: tuple[int, ...] = ()  # served side by side; empty: the latest


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _tensor(tensor: Tensor, is_input: bool) -> str:
    lines = [
        f"    name: {_quoted(tensor.name)}",
        f"    data_type: TYPE_{tensor.dtype}",
        f"    dims: [ {', '.join(map(str, tensor.dims))} ]",
    ]
    if tensor.scalar:
        lines.append("    reshape: { shape: [ ] }")
    if is_input and tensor.ragged:
        lines.append("    allow_ragged_batch: true")
    if is_input and tensor.optional:
        lines.append("    optional: true")
    return "  {\n" + "\n".join(lines) + "\n  }"


def _tensors(kind: str, tensors: tuple[Tensor, ...]) -> str:
    rows = ",\n".join(_tensor(tensor, kind == "input") for tensor in tensors)
    return f"{kind} [\n{rows}\n]"


def _step(step: Step) -> str:
    lines = [f"      model_name: {_quoted(step.model.name)}", "      model_version: -1"]
    for kind, links in (("input_map", step.inputs), ("output_map", step.outputs)):
        lines += [
            f"      {kind} {{ key: {_quoted(link.model_tensor)} "
            f"value: {_quoted(link.ensemble_tensor)} }}"
            for link in links
        ]
    return "    {\n" + "\n".join(lines) + "\n    }"


def render(model: Model, config: ModelConfig, steps: tuple[Step, ...] = ()) -> str:
    """The text of the model's config.pbtxt; `steps` make it an ensemble."""
    parts = [f"name: {_quoted(model.name)}"]
    parts.append('platform: "ensemble"' if steps else f"backend: {_quoted(config.backend or '')}")
    parts.append(f"max_batch_size: {config.max_batch_size}")
    if config.versions:
        listed = ", ".join(map(str, config.versions))
        parts.append(f"version_policy: {{ specific {{ versions: [ {listed} ] }} }}")
    if config.decoupled and not steps:
        parts.append("model_transaction_policy {\n  decoupled: true\n}")
    parts += [_tensors("input", model.inputs), _tensors("output", model.outputs)]
    if steps:
        rows = ",\n".join(_step(step) for step in steps)
        parts.append(f"ensemble_scheduling {{\n  step [\n{rows}\n  ]\n}}")
    else:
        count = f"    count: {config.instances}\n"
        parts.append(f"instance_group [\n  {{\n{count}    kind: KIND_CPU\n  }}\n]")
    for key, value in config.parameters.items():
        parts.append(
            f"parameters: {{\n  key: {_quoted(key)}\n"
            f"  value: {{ string_value: {_quoted(value)} }}\n}}"
        )
    return "\n".join(parts) + "\n"
