"""Writes a model repository: config.pbtxt files from the schema, model.py files, version folders.

With real paths for a server to load, or with `${…}` placeholders: the `model_repository` folder of
the source tree.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inflight.serving.pbtxt import ModelConfig, render
from inflight.serving.schema import (
    BLS,
    ENSEMBLE,
    ENSEMBLE_STEPS,
    POSTPROCESSING,
    PREPROCESSING,
    RELAY,
    RELAYED_ENSEMBLE_STEPS,
    TENSORRT_LLM,
)
from inflight.serving.tensors import Link, Model, Step

BACKEND = "inflight"
_MODEL_FILES = Path(__file__).parent / "model_files"


@dataclass(frozen=True)
class RepositorySettings:
    """What the models are told; texts go into config.pbtxt as they are. Without a tokenizer (an
    empty `tokenizer_dir`) there is `tensorrt_llm` alone."""

    engine_dir: str = "${engine_dir}"
    tokenizer_dir: str = "${tokenizer_dir}"
    max_batch_size: int = 64
    decoupled: bool = True
    llm_parameters: Mapping[str, str] = field(default_factory=dict)
    preprocessing_instances: int = 1  # each a process
    accumulate_tokens: str = "false"  # every piece of a stream by the BLS is the whole text so far
    # Of the process that makes text, as nice(1) counts: an engine on the CPU needs the same cores.
    text_niceness: int = 0
    # For the Python models: an environment's folder, and where the package lies if not in it.
    python_environment: str = ""
    package_path: str = ""


def write_repository(output: str | Path, settings: RepositorySettings) -> Path:
    """Writes or rewrites the models under `output`; other files there are left alone."""
    root = Path(output)
    for model, config, steps in _models(settings):
        if model is not TENSORRT_LLM and not settings.tokenizer_dir:
            continue
        version_dir = root / model.name / "1"
        version_dir.mkdir(parents=True, exist_ok=True)
        (root / model.name / "config.pbtxt").write_text(render(model, config, steps))
        source = _MODEL_FILES / f"{model.name}.py"
        if source.is_file():
            shutil.copyfile(source, version_dir / "model.py")
        else:  # nothing to hold, but the server wants the folder, and git a file in it
            (version_dir / ".keep").touch()
    return root


def _models(settings: RepositorySettings) -> list[tuple[Model, ModelConfig, tuple[Step, ...]]]:
    size = settings.max_batch_size
    python = {"tokenizer_dir": settings.tokenizer_dir}
    if settings.package_path:
        python["package_path"] = settings.package_path
    if settings.python_environment:
        python["EXECUTION_ENV_PATH"] = settings.python_environment
    return [
        (
            PREPROCESSING,
            ModelConfig(
                backend="python",
                max_batch_size=size,
                instances=settings.preprocessing_instances,
                parameters={**python, "add_special_tokens": "true"},
            ),
            (),
        ),
        (
            TENSORRT_LLM,
            ModelConfig(
                backend=BACKEND,
                max_batch_size=size,
                decoupled=settings.decoupled,
                parameters={
                    "gpt_model_type": "inflight_fused_batching",
                    "gpt_model_path": settings.engine_dir,
                    **settings.llm_parameters,
                },
            ),
            (),
        ),
        (
            # One instance: the server keeps its order.
            RELAY,
            ModelConfig(backend=BACKEND, max_batch_size=size, parameters={"role": "relay"}),
            (),
        ),
        (
            # One instance and no dynamic batching: the server then keeps a stream's chunks in
            # order and lets a cancelled request's next chunk reach the model.
            POSTPROCESSING,
            ModelConfig(
                backend="python",
                max_batch_size=size,
                parameters={
                    **python,
                    "tensorrt_llm_model_name": TENSORRT_LLM.name,
                    "skip_special_tokens": "true",
                    "include_stop_words": "true",
                    "niceness": str(settings.text_niceness),
                },
            ),
            (),
        ),
        (ENSEMBLE, ModelConfig(max_batch_size=size), RELAYED_ENSEMBLE_STEPS),
        (
            BLS,
            ModelConfig(
                backend=BACKEND,
                max_batch_size=size,
                decoupled=settings.decoupled,
                parameters={
                    "role": "bls",
                    "accumulate_tokens": settings.accumulate_tokens,
                    "tensorrt_llm_draft_model_name": "",
                    "multimodal_encoders_name": "",
                    **_steps_of_bls(),
                },
            ),
            (),
        ),
    ]


def _steps_of_bls() -> dict[str, str]:
    """What it walks: the ensemble's steps, as backend/triton/bls_settings.h reads them."""
    parameters = {}
    for step in ENSEMBLE_STEPS:
        name = step.model.name
        parameters[f"{name}_model_name"] = name
        parameters[f"{name}_inputs"] = _links(step.inputs)
        parameters[f"{name}_outputs"] = _links(step.outputs)
    return parameters


def _links(links: tuple[Link, ...]) -> str:
    return " ".join(
        link.model_tensor
        if link.model_tensor == link.ensemble_tensor
        else f"{link.model_tensor}={link.ensemble_tensor}"
        for link in links
    )
