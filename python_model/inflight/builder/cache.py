"""Engines built on the way: a checkpoint given where an engine is wanted."""

import hashlib
import json
import os
from pathlib import Path

from inflight.builder.build import build_engine
from inflight.builder.engine_file import ENGINE_FILE, FORMAT_VERSION

# Raised when the same checkpoint compiles to another plan, so that cached engines are built anew.
# Engines that a user built are read as long as FORMAT_VERSION is theirs.
PLAN_VERSION = 6
_READ_BY_BUILD = ("*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt")


def cache_folder() -> Path:
    """Where engines are kept that nobody named a folder for."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "inflight" / "engines"


def engine_dir_for(
    model: str | Path,
    *,
    dtype: str = "auto",
    max_batch_size: int | None = None,
    max_seq_len: int | None = None,
    max_num_tokens: int | None = None,
    load_format: str = "auto",
    cache: str | Path | None = None,
) -> Path:
    """`model` itself if it is an engine directory, else one built from that checkpoint folder.

    A build is found again as long as the checkpoint's files and the options are the same. Raises
    FileNotFoundError if `model` is neither, and what `build_engine` raises.
    """
    folder = Path(model).absolute()
    if (folder / ENGINE_FILE).is_file():
        return folder
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is neither an engine directory ({ENGINE_FILE}) nor a checkpoint folder "
            "(config.json)"
        )
    options: dict[str, int | str | None] = {
        "dtype": dtype,
        "max_batch_size": max_batch_size,
        "max_seq_len": max_seq_len,
        "max_num_tokens": max_num_tokens,
    }
    if load_format != "auto":
        options["load_format"] = load_format
    base = Path(cache) if cache is not None else cache_folder()
    target = base / f"{folder.name}-{_fingerprint(folder, options)}"
    if (target / ENGINE_FILE).is_file():
        return target
    base.mkdir(parents=True, exist_ok=True)
    return build_engine(folder, target, **options)


def _fingerprint(folder: Path, options: dict[str, int | str | None]) -> str:
    """Of the options and of each file's name, size and time of change; contents are not read."""
    files = sorted({path for pattern in _READ_BY_BUILD for path in folder.glob(pattern)})
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    facts = json.dumps(
        [FORMAT_VERSION, PLAN_VERSION, str(folder.resolve()), options, stats], sort_keys=True
    )
    return hashlib.sha256(facts.encode()).hexdigest()[:16]
