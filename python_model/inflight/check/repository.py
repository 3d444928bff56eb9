"""A model repository: its models one by one, and what they are to each other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from inflight.check.ensemble import check_bls, check_ensemble
from inflight.check.findings import Finding, Level
from inflight.check.llm import LlmReport, check_llm
from inflight.check.pbtxt import (
    Message,
    PbtxtError,
    is_placeholder,
    number,
    one,
    parameters,
    parse,
    placeholders,
    refused_by_schema,
)
from inflight.text.tokenizer import has_tokenizer

OUR_BACKENDS = ("inflight", "tensorrtllm")


@dataclass(frozen=True)
class ModelFiles:
    name: str  # of its folder
    folder: Path
    config: Message

    @property
    def backend(self) -> str:
        if one(self.config, "platform") == "ensemble" or "ensemble_scheduling" in self.config:
            return "ensemble"
        return str(one(self.config, "backend", ""))

    @property
    def versions(self) -> list[int]:
        """That a server loads: those the policy names, or the newest."""
        there = sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit())
        policy = one(self.config, "version_policy", {})
        if "all" in policy:
            return there
        asked = one(policy, "specific", {}).get("versions")
        if asked:
            return [int(version) for version in asked]
        newest = number(one(policy, "latest", {}), "num_versions", 1)
        return there[-newest:]


@dataclass(frozen=True)
class RepositoryReport:
    models: tuple[ModelFiles, ...]
    llms: tuple[LlmReport, ...]
    findings: tuple[Finding, ...]  # those of the LLMs among them


def is_repository(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*/config.pbtxt"))


def check_repository(root: Path) -> RepositoryReport:
    findings: list[Finding] = []
    models = []
    for path in sorted(root.glob("*/config.pbtxt")):
        name = path.parent.name
        try:
            text = path.read_text(encoding="utf-8")
            models.append(ModelFiles(name, path.parent, parse(text)))
            if refused := refused_by_schema(text):
                findings.append(Finding(Level.error, name, f"config.pbtxt: {refused}"))
        except (PbtxtError, UnicodeDecodeError) as error:
            findings.append(Finding(Level.error, name, f"config.pbtxt: {error}"))
    configs = {model.name: model.config for model in models}
    llms = []
    for model in models:
        findings += _check_model(model)
        role = parameters(model.config).get("role") if model.backend in OUR_BACKENDS else None
        if role == "relay":
            findings += _check_relay(model)
        elif role == "bls":
            findings += check_bls(model.name, model.config, configs)
        elif model.backend in OUR_BACKENDS:
            for version in model.versions:
                folder = model.folder / str(version)
                llms.append(check_llm(model.name, version, folder, model.config, model.backend))
                findings += llms[-1].findings
        elif model.backend == "ensemble":
            findings += check_ensemble(model.name, model.config, configs)
        elif model.backend == "python":
            findings += _check_python(model)
    if not llms:
        text = f"no model has the backend {' or '.join(OUR_BACKENDS)}"
        findings.append(Finding(Level.error, root.name, text))
    return RepositoryReport(tuple(models), tuple(llms), tuple(findings))


def _collector(model: ModelFiles) -> tuple[list[Finding], Callable[[Level, str], None]]:
    findings: list[Finding] = []
    return findings, lambda level, text: findings.append(Finding(level, model.name, text))


def _check_model(model: ModelFiles) -> list[Finding]:
    findings, add = _collector(model)
    declared = one(model.config, "name", model.name)
    if declared != model.name:
        add(Level.error, f"config.pbtxt names the model {declared!r}, its folder {model.name!r}")
    if not model.backend:
        add(Level.error, "config.pbtxt has neither backend nor platform")
    for field in placeholders(model.config):
        add(Level.error, f"unfilled placeholder, with which a server refuses the file: {field}")
    if unfilled := [k for k, v in parameters(model.config).items() if is_placeholder(v)]:
        add(Level.note, f"unfilled placeholders, as if absent: {', '.join(unfilled)}")
    missing = [v for v in model.versions if not (model.folder / str(v)).is_dir()]
    if missing or not model.versions:
        folders = ", ".join(map(str, missing)) or "1"
        add(Level.error, f"no version folder {folders}: a server needs it, though it be empty")
    return findings


def _num_instances(model: ModelFiles) -> int:
    groups = model.config.get("instance_group", [])
    return sum(number(group, "count", 1) for group in groups) if groups else 1


def _check_relay(model: ModelFiles) -> list[Finding]:
    findings, add = _collector(model)
    count = _num_instances(model)
    if count > 1 or one(model.config, "dynamic_batching") is not None:
        why = f"{count} instances" if count > 1 else "dynamic_batching"
        add(
            Level.error, f"a relay with {why} does not keep the order of a stream: it will not load"
        )
    return findings


def _check_python(model: ModelFiles) -> list[Finding]:
    findings, add = _collector(model)
    given = {k: v for k, v in parameters(model.config).items() if v and not is_placeholder(v)}
    is_text = model.name in ("preprocessing", "postprocessing")
    tokenizer = given.get("tokenizer_dir")
    if tokenizer is not None and not has_tokenizer(Path(tokenizer)):
        add(Level.error, f"tokenizer_dir: {tokenizer} holds no tokenizer")
    elif tokenizer is None and is_text:
        add(Level.error, "the parameter tokenizer_dir is missing")
    environment = given.get("EXECUTION_ENV_PATH")
    if environment is not None and not Path(environment).exists():
        add(Level.error, f"EXECUTION_ENV_PATH: {environment} does not exist")
    if model.versions and not (model.folder / str(model.versions[-1]) / "model.py").is_file():
        add(Level.error, f"no model.py in version {model.versions[-1]}")
    batching = one(model.config, "dynamic_batching")
    if batching is not None:
        unheard = (
            ", and drops what is left of a cancelled request, so that the engine may not hear of it"
        )
        add(
            Level.warning,
            "dynamic_batching: Triton's batcher damages the server's heap under load"
            f"{unheard if model.name == 'postprocessing' else ''} (docs/server_faults.md); leave it out",
        )
    count = _num_instances(model)
    keeps_order = batching is not None and one(batching, "preserve_ordering", False)
    if model.name == "postprocessing" and not keeps_order and (batching is not None or count > 1):
        why = "with dynamic_batching" if batching is not None else f"with {count} instances"
        add(
            Level.warning,
            f"{why} and without preserve_ordering a server may hand the pieces of a streamed text on "
            "in the wrong order, and the texts of a batch under each other's index: give it one "
            "instance and no dynamic_batching (ours does not load otherwise)",
        )
    return findings
