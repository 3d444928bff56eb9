"""The model that is ours: what the C++ backend makes of its configuration, and what memory it takes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inflight import _core
from inflight.builder.cache import engine_dir_for
from inflight.builder.engine_file import EngineFile, EngineFileError
from inflight.builder.memory import EngineMemory, engine_memory
from inflight.check.findings import Finding, Level
from inflight.check.pbtxt import Message, number, one, parameters
from inflight.config import ProblemsError


@dataclass(frozen=True)
class Parameter:
    """`source`: "config.pbtxt", "default", "no effect" (accepted, changes nothing), "unknown"."""

    key: str
    value: str
    source: str


@dataclass(frozen=True)
class MemoryPlan:
    """Before anything is loaded: bytes of weights and arena from the engine file, the KV pool out of
    what this machine has free now. Workspace of ops is not in it."""

    device: str
    memory: EngineMemory
    free_bytes: int  # beside weights and arena
    num_blocks: int
    num_host_blocks: int
    bytes_per_block: int
    cache_bytes: int
    windows: tuple[tuple[int, int, int, int], ...]  # window, sinks, layers, blocks of its pool
    tokens_per_block: int
    max_seq_len: int
    max_batch_size: int
    max_num_tokens: int

    @property
    def num_tokens(self) -> int:
        return self.num_blocks * self.tokens_per_block


@dataclass(frozen=True)
class LlmReport:
    name: str
    version: int
    parameters: tuple[Parameter, ...]
    plan: MemoryPlan | None  # None: an error is among the findings
    findings: tuple[Finding, ...]


def check_llm(
    name: str, version: int, version_dir: Path, config: Message, backend: str = "inflight"
) -> LlmReport:
    """Of a version of a model whose backend is ours, under the name that config.pbtxt gives it."""
    findings: list[Finding] = []

    def add(level: Level, text: str) -> None:
        findings.append(Finding(level, name, text))

    if "dynamic_batching" in config:
        add(
            Level.warning,
            "dynamic_batching: the engine batches by itself, and Triton's dynamic batcher damages the "
            "server's heap under load (docs/server_faults.md); leave it out, and give the queue's bound as "
            "the parameter max_queue_size",
        )
    if one(config, "max_batch_size", 0) == 0:
        add(Level.warning, "max_batch_size is 0: requests of the clients have a batch dimension")
    if not one(one(config, "model_transaction_policy", {}), "decoupled", False):
        add(Level.note, "not decoupled: requests that stream, or have several rows, are refused")
    _check_instances(config, add)
    try:
        settings = _core.read_model_config(
            _as_json(config), name, version, str(version_dir), backend
        )
    except _core.InflightError as error:
        add(Level.error, str(error))
        return LlmReport(name, version, (), None, tuple(findings))
    for text in settings["warnings"]:
        add(Level.warning, text)
    read = tuple(Parameter(*row) for row in settings["parameters"])
    plan = None
    try:
        given = Path(settings["engine_dir"])
        engine_dir = engine_dir_for(given, **settings["build_options"])
        if engine_dir != given.absolute():
            add(Level.note, f"gpt_model_path is a checkpoint; its engine is {engine_dir}")
        plan = plan_memory(engine_dir, _as_json(config), name, version_dir, backend)
    except (OSError, ProblemsError, ValueError, EngineFileError, _core.InflightError) as error:
        add(Level.error, str(error))
    else:
        findings += doubts_of(plan, name)
    return LlmReport(name, version, read, plan, tuple(findings))


def check_engine(engine_dir: Path, device: str) -> LlmReport:
    """An engine directory, as `inflight serve` would serve it."""
    config: Message = {
        "max_batch_size": [1],
        "parameters": [
            {"key": [key], "value": [{"string_value": [value]}]}
            for key, value in (("gpt_model_path", str(engine_dir.resolve())), ("device", device))
        ],
        "model_transaction_policy": [{"decoupled": [True]}],
    }
    return check_llm("tensorrt_llm", 1, engine_dir, config)


def plan_memory(
    engine_dir: Path, config_json: str, name: str, version_dir: Path, backend: str
) -> MemoryPlan:
    """Raises what the backend raises at load of an engine that does not fit the configuration."""
    memory = engine_memory(EngineFile.read(engine_dir))
    forecast = _core.forecast_kv_cache(
        config_json,
        name,
        str(version_dir),
        backend,
        str(engine_dir),
        taken_bytes=memory.weight_bytes + memory.arena_bytes,
        mapped_bytes=memory.mapped_bytes,
    )
    return MemoryPlan(memory=memory, **forecast)


def doubts_of(plan: MemoryPlan, name: str) -> list[Finding]:
    """What of a plan that holds is probably not meant."""
    findings = []
    if plan.windows:
        findings.append(
            Finding(
                Level.note,
                name,
                "blocks of layers with a sliding window stay in the KV pool: "
                "kv_cache_host_memory_bytes has no effect",
            )
        )
    if 0 not in plan.memory.layer_windows:  # a window's pool holds longer sequences, too
        return findings
    blocks_per_sequence = -(-(plan.max_seq_len - 1) // plan.tokens_per_block)
    if plan.num_blocks < blocks_per_sequence:
        findings.append(
            Finding(
                Level.warning,
                name,
                f"the KV cache holds {plan.num_tokens} tokens, less than one sequence of max_seq_len "
                f"{plan.max_seq_len}: longer requests will be refused",
            )
        )
    elif plan.num_blocks < blocks_per_sequence * min(4, plan.max_batch_size):
        at_once = plan.num_blocks // blocks_per_sequence
        findings.append(
            Finding(
                Level.note,
                name,
                f"the KV cache holds {at_once} sequences of max_seq_len {plan.max_seq_len} at once; "
                f"max_batch_size is {plan.max_batch_size}",
            )
        )
    return findings


def _check_instances(config: Message, add: Any) -> None:
    groups = config.get("instance_group", [])
    count = sum(number(group, "count", 1) for group in groups) if groups else 1
    if count > 1:
        add(
            Level.warning,
            f"instance_group: {count} instances are {count} engines, each with weights and a KV cache "
            "of its own; one batches all requests",
        )
    if any(one(group, "kind", "KIND_CPU") != "KIND_CPU" for group in groups):
        add(Level.note, "instance_group: the engine owns its GPU (parameter device); use KIND_CPU")


def _as_json(config: Message) -> str:
    """As the server hands it to a backend, as far as ours reads it."""
    policy = one(one(config, "dynamic_batching", {}), "default_queue_policy", {})
    document: dict[str, Any] = {
        "max_batch_size": number(config, "max_batch_size", 0),
        "parameters": {k: {"string_value": v} for k, v in parameters(config).items()},
        "model_transaction_policy": {
            "decoupled": one(one(config, "model_transaction_policy", {}), "decoupled") is True
        },
        "output": [
            {"name": one(output, "name", ""), "data_type": one(output, "data_type", "TYPE_FP32")}
            for output in config.get("output", [])
        ],
    }
    if policy:
        size = number(policy, "max_queue_size", 0)
        document["dynamic_batching"] = {"default_queue_policy": {"max_queue_size": size}}
    return json.dumps(document)
