"""Who may know whom: every include and import is one of the arrows listed here, or this fails."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
SYSTEM_INCLUDE = re.compile(r"^\s*#\s*include\s+<([^>]+)>", re.MULTILINE)

# Folder -> the folders (or single files) whose headers it may include, beside its own.
CPP_ARROWS = {
    "kernels/core": [],
    "kernels/<op>": ["kernels/core"],
    # The composition of what is one kernel where rows are few.
    "kernels/fused_linear": [
        "kernels/core",
        "kernels/gemm/gemm.h",
        "kernels/rms_norm",
        "kernels/activation",
    ],
    "kernels/rope_attention": [
        "kernels/core",
        "kernels/rope/rope_kv_append.h",
        "kernels/gather_rows",
        "kernels/attention/attention.h",
    ],
    # What a plan begins with, where rows are few.
    "kernels/step_inputs": ["kernels/core", "kernels/embedding", "kernels/rope"],
    # Linears and attention of a step as one kernel, out of their kernels' pieces.
    "kernels/decoder_run": ["kernels/core", "kernels/gemm", "kernels/attention"],
    "kernels/registry": ["kernels"],
    "backend/plan": ["kernels/registry.h", "kernels/step_inputs", "kernels/core"],
    "backend/kv_cache": ["kernels/core", "kernels/kv_cache"],
    "backend/scheduler": [
        "kernels/core/error.h",
        "kernels/core/check.h",
        "backend/kv_cache/geometry.h",
        "backend/kv_cache/window_geometry.h",
    ],
    "backend/planning": [
        "kernels/core/check.h",
        "backend/kv_cache",
        "backend/scheduler",
    ],
    "backend/decoding": ["kernels/core", "kernels/sampling"],
    "backend/executor": [
        "kernels/core",
        "backend/plan",
        "backend/planning",
        "backend/kv_cache",
        "backend/scheduler",
        "backend/decoding",
    ],
    "backend/simulation": [
        "kernels/core",
        "backend/kv_cache",
        "backend/scheduler",
        "backend/planning",
    ],
    "backend/triton": [
        "backend/executor/engine.h",
        "backend/executor/request.h",
        "backend/decoding/sampling_params.h",
        "backend/kv_cache/retention.h",
        "backend/kv_cache/cache_event_json.h",
        "kernels/core/error.h",
        "kernels/core/check.h",
        "kernels/core/log.h",
        "kernels/core/cpu/convert.h",
    ],
    "backend/bindings": ["kernels", "backend"],
}
# Header of a library -> the only folders or files that may include it.
CPP_LIBRARIES = {
    "pybind11/": ["backend/bindings"],
    "nlohmann/": [
        "backend/plan",
        "backend/executor/config",
        "backend/triton/bls_settings",
        "backend/triton/config_parameters",
        "backend/triton/model_config",
    ],
    "cblas.h": ["kernels/gemm"],
}

# Module of the package -> the modules of the package it may import, beside its own.
PYTHON_ARROWS = {
    "config": [],
    "ir": [],
    "text": [],
    "checkpoint": ["ir", "config"],
    "passes": ["ir"],
    "models": ["ir", "config", "checkpoint"],
    "builder": ["config", "ir", "checkpoint", "passes", "models"],
    "llm": ["_core", "config", "text", "builder"],
    "serving": ["config", "text", "builder"],
    "check": ["_core", "text", "builder", "config"],
    "openai": ["builder", "text", "serving"],
    "client": [],
    "bench": ["openai"],
    "simulation": ["_core", "bench", "checkpoint", "config"],
    "cli": [
        *("config", "ir", "passes", "checkpoint", "builder", "llm", "serving", "openai", "text"),
        *("client", "bench", "check"),
    ],
}


def cpp_files() -> list[Path]:
    return sorted(
        path
        for folder in ("kernels", "backend")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".h", ".cc", ".cu", ".cuh"}
    )


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    if parts[0] == "kernels":
        if len(parts) == 2:
            return "kernels/registry"
        room = "/".join(parts[:2])
        return room if room in CPP_ARROWS else "kernels/<op>"
    return "/".join(parts[:2])


def forbidden_includes(path: Path) -> list[str]:
    own = "/".join(path.relative_to(ROOT).parts[:2])
    allowed = CPP_ARROWS[room_of(path)]
    text = path.read_text()
    wrong = []
    for header in INCLUDE.findall(text):
        inside = header == own or header.startswith(own + "/")
        if room_of(path) == "kernels/registry":
            inside = inside or header == "kernels/registry.h"
        if not inside and not any(header == a or header.startswith(a + "/") for a in allowed):
            wrong.append(header)
    return wrong


@pytest.mark.parametrize("path", cpp_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_cpp_arrows(path: Path) -> None:
    assert forbidden_includes(path) == []


@pytest.mark.parametrize("library", CPP_LIBRARIES)
def test_libraries_have_one_room(library: str) -> None:
    for path in cpp_files():
        text = path.read_text()
        if any(h.startswith(library) for h in SYSTEM_INCLUDE.findall(text) + INCLUDE.findall(text)):
            name = str(path.relative_to(ROOT))
            assert any(name.startswith(room) for room in CPP_LIBRARIES[library]), name


def imported_modules(path: Path, package: Path) -> set[str]:
    """First-level modules of the package that a file imports, wherever in the file."""
    modules = set()
    parts = path.relative_to(package).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = ["inflight", *parts[: len(parts) - node.level]]
                base = ".".join([*above, base]).rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("inflight.") and name.split(".")[1] != "__version__":
                modules.add(name.split(".")[1])
    return modules


def test_python_arrows() -> None:
    package = ROOT / "python_model" / "inflight"
    wrong = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).parts
        room = parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        extra = imported_modules(path, package) - {room} - set(PYTHON_ARROWS[room])
        if extra:
            wrong[str(path.relative_to(package))] = sorted(extra)
    assert wrong == {}


def test_model_repository_knows_serving_and_text() -> None:
    for path in sorted((ROOT / "model_repository").rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
        }
        ours = {name for name in names if name.startswith("inflight")}
        assert all(name.startswith(("inflight.serving", "inflight.text")) for name in ours), path


def test_nothing_points_to_tests_or_scripts() -> None:
    for path in cpp_files():
        for header in INCLUDE.findall(path.read_text()):
            assert not header.startswith(("tests/", "scripts/")), path
