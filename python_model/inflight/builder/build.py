"""Checkpoint -> graph -> passes -> engine directory."""

import contextlib
import errno
import fnmatch
import os
import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from inflight.builder.assemble import packed_weight, write_packed
from inflight.builder.engine_file import ENGINE_FILE, CheckpointFile, EngineFile
from inflight.checkpoint.mapping import CheckpointMapping
from inflight.checkpoint.model_config import read_model_config
from inflight.checkpoint.reader import CheckpointReader
from inflight.checkpoint.safetensors_file import SafetensorsFile
from inflight.config import (
    DEFAULT_TOKENS_PER_BLOCK,
    LOAD_FORMATS,
    BuildConfig,
    ModelConfig,
    ProblemsError,
)
from inflight.ir.graph import Graph
from inflight.models.registry import FAMILIES
from inflight.passes.lower import lower
from inflight.passes.pipeline import optimize
from inflight.passes.plan_memory import plan_memory

_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
    "chat_template*",
    "*.model",
    "vocab.json",
    "merges.txt",
)
_PACKED = "rank*.safetensors"


def build_engine(
    checkpoint: str | Path,
    output: str | Path,
    *,
    dtype: str = "auto",
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    max_num_tokens: int | None = None,
    tokens_per_block: int = DEFAULT_TOKENS_PER_BLOCK,
    pack: bool = False,
    load_format: str = "auto",
) -> Path:
    """Compiles a checkpoint folder into an engine directory and answers its path.

    Reads the headers of the weights only, unless `pack` is asked. Raises ProblemsError with
    everything that is wrong with the checkpoint or the limits. An engine that is already at
    `output` is replaced once the new one is whole.

    With load_format "dummy" config.json alone is read, and the engine can be loaded with dummy
    weights only.
    """
    if load_format not in LOAD_FORMATS:
        raise ValueError(f"load_format is {load_format!r}, must be {' or '.join(LOAD_FORMATS)}")
    is_dummy = load_format == "dummy"
    if is_dummy and pack:
        raise ValueError("pack=True assembles weights, load_format='dummy' has none")
    request = BuildConfig(
        dtype=dtype,
        max_batch_size=max_batch_size,
        max_seq_len=max_seq_len,
        max_num_tokens=max_num_tokens,
        tokens_per_block=tokens_per_block,
        pack=pack,
    )
    target = Path(output).absolute()
    _check_target(target)
    reader = CheckpointReader.open(checkpoint, config_only=is_dummy)
    compiled = compile_checkpoint(reader, request)
    # Never met before: another thread may build the same, and a killed process may have had our
    # number.
    staging = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    staging.mkdir(parents=True)
    try:
        _write(staging, reader, compiled)
        _move_into_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


@dataclass(frozen=True)
class Compiled:
    """What a build decides before it writes: facts, settled limits, the optimised graph."""

    model: ModelConfig
    settings: BuildConfig
    graph: Graph


def compile_checkpoint(reader: CheckpointReader, request: BuildConfig) -> Compiled:
    """Raises ProblemsError with every problem of configuration, limits and tensors. A reader without
    files was opened for the configuration only."""
    problems: list[str] = []
    model, config_problems = read_model_config(reader.config, reader.generation_config)
    family = FAMILIES.get(model.architecture)
    if family is None:
        problems.append(
            f"architecture {model.architecture!r} is not supported, known are {', '.join(FAMILIES)}"
        )
        if model.quantization_method is not None:
            problems.append(f"quantization {model.quantization_method!r} is not supported")
        raise ProblemsError(f"{reader.path} cannot be built", problems)
    problems += config_problems + family.unsupported(model)
    mapping = family.mapping(model)
    if reader.files:
        model, mapping = _settle_tying(reader, model, mapping)
    settings = BuildConfig(dtype="float32")  # stands in: names and shapes depend on no limit
    try:
        settings = request.resolve(model, _stored_dtype(reader))
    except ProblemsError as error:
        problems += error.problems
    # names and shapes mean nothing where the configuration is wrong or packs its weights
    if not config_problems and model.quantization_method is None:
        graph = family.graph(model, mapping, settings.dtype, settings.tokens_per_block)
        if reader.files:
            problems += mapping.problems(graph.weights.values(), reader.tensors)
    if problems:
        raise ProblemsError(f"{reader.path} cannot be built", problems)
    return Compiled(model, settings, optimize(graph))


def model_graph(model: ModelConfig, settings: BuildConfig) -> Graph:
    """The graph as the model's family writes it, before any pass; needs no checkpoint."""
    family = FAMILIES[model.architecture]
    mapping = family.mapping(model)
    return family.graph(model, mapping, settings.dtype, settings.tokens_per_block)


def _settle_tying(
    reader: CheckpointReader, model: ModelConfig, mapping: CheckpointMapping
) -> tuple[ModelConfig, CheckpointMapping]:
    """Tied embeddings as transformers takes them: one of the two tensors is enough, and two that
    differ are not tied whatever the configuration says."""
    if not model.tie_word_embeddings:
        return model, mapping
    table, head = mapping.names["embedding.weight"], mapping.names["lm_head.weight"]
    if head in reader.tensors and table not in reader.tensors:
        return model, replace(mapping, names={**mapping.names, "embedding.weight": head})
    if head in reader.tensors and not reader.same_content(table, head):
        return replace(model, tie_word_embeddings=False), mapping
    return model, mapping


def _stored_dtype(reader: CheckpointReader) -> str:
    """The dtype of the first tensor that has one of ours."""
    return next((i.dtype for i in reader.tensors.values() if i.dtype is not None), "float32")


def _write(folder: Path, reader: CheckpointReader, compiled: Compiled) -> None:
    settings, graph = compiled.settings, compiled.graph
    for path in sorted(reader.path.iterdir()):
        if path.is_file() and any(fnmatch.fnmatch(path.name, p) for p in _COPIED):
            shutil.copyfile(path, folder / path.name)
    files = reader.files.values()
    source = str(reader.path)
    if settings.pack:
        packed = folder / "rank0.safetensors"
        write_packed(reader, graph.weights, packed)
        weights = {name: packed_weight(name, weight) for name, weight in graph.weights.items()}
        graph = replace(graph, weights=weights)
        files, source = [SafetensorsFile.open(packed)], "."
    memory = plan_memory(graph, settings.max_num_tokens, settings.max_batch_size)
    EngineFile(
        model=compiled.model,
        settings=settings,
        checkpoint_path=source,
        checkpoint_files=tuple(CheckpointFile(f.path.name, f.size, f.fingerprint()) for f in files),
        ranks=(lower(graph, memory),),
    ).write(folder)


def _check_target(target: Path) -> None:
    """Only an engine or nothing may be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(f"{target} exists and is not a folder")
    known = (*_COPIED, _PACKED, ENGINE_FILE)
    names = sorted(path.name for path in target.iterdir())
    foreign = [name for name in names if not any(fnmatch.fnmatch(name, p) for p in known)]
    if foreign or (names and ENGINE_FILE not in names):
        raise FileExistsError(
            f"{target} holds something else than an engine: {', '.join(foreign or names)}"
        )


def _move_into_place(staging: Path, target: Path) -> None:
    """Of builds that end together the last one's engine stays."""
    replaced: list[Path] = []
    while True:
        try:
            staging.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):  # a link
                raise
        old = staging.with_name(f"{staging.name}.{len(replaced)}.old")
        with contextlib.suppress(FileNotFoundError):  # another build has just moved it away
            target.rename(old)
            replaced.append(old)
    for old in replaced:
        if old.is_symlink():
            old.unlink()
        else:
            shutil.rmtree(old)
