"""Finds a tritonserver and lays out a backends folder for it."""

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path

import inflight

_LIBRARY = "libtriton_inflight.so"
_COMPILER_NOTE = "compiler.txt"  # read by backend/triton/engine_builder.cc


@dataclass(frozen=True)
class Installation:
    binary: Path
    backends: tuple[Path, ...]  # folders of backends to show to the server
    stub: Path | None  # of the running Python's version, where the python backend has none
    library_path: tuple[Path, ...]

    def environment(self, backends: Path) -> dict[str, str]:
        """Of the server's process: the shared libraries it and Python models need."""
        earlier = os.environ.get("LD_LIBRARY_PATH", "")
        folders = (backends.resolve() / "python", *self.library_path)
        paths = [*map(str, folders), *([earlier] if earlier else [])]
        return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(paths)}


def find_installation(root: str | Path | None = None) -> Installation:
    """`root` or /opt/tritonserver if there is a server, else the wheel nvidia-pytriton.

    Raises FileNotFoundError saying where was looked.
    """
    folders = [Path(root)] if root is not None else [Path("/opt/tritonserver")]
    for folder in folders:
        if (folder / "bin" / "tritonserver").is_file():
            backends = tuple(sorted(path for path in (folder / "backends").iterdir()))
            library_path = (folder / "lib", Path(sysconfig.get_config_var("LIBDIR")))
            return Installation(folder / "bin" / "tritonserver", backends, None, library_path)
    wheel = importlib.util.find_spec("pytriton") if root is None else None
    if wheel is None or wheel.origin is None:
        raise FileNotFoundError(
            f"no tritonserver in {folders[0]}, and the wheel nvidia-pytriton is not installed"
        )
    package = Path(wheel.origin).parent
    triton = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise FileNotFoundError(f"nvidia-pytriton has no stub for Python {version}: {stub}")
    _check_libpython(version)
    library_path = (
        package.parent / "nvidia_pytriton.libs",
        Path(sysconfig.get_config_var("LIBDIR")),
    )
    return Installation(
        triton / "bin" / "tritonserver", (triton / "backends" / "python",), stub, library_path
    )


def _check_libpython(version: str) -> None:
    """The stubs load it; that of Python 3.13 has its own."""
    name = f"libpython{version}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR"))
    if version == "3.13" or (folder / name).is_file() or find_library(f"python{version}"):
        return
    raise FileNotFoundError(
        f"{folder / name} is missing, which Python models need: Debian and Ubuntu have it in the "
        f"package libpython{version}, a Python of your own is configured with --enable-shared"
    )


def backend_library() -> Path:
    """The folder of our shared library. Raises FileNotFoundError if it was not built."""
    folder = Path(inflight.__file__).parent / "lib"
    if not (folder / _LIBRARY).is_file():
        raise FileNotFoundError(f"{folder / _LIBRARY} is missing: build the C++ part first")
    return folder


def install_backend(backends: str | Path, name: str = "inflight") -> Path:
    """Copies our library into a server's folder of backends, under any name of a backend; answers
    its folder there. The library is told how to call the compiler, for checkpoints it is to serve.

    Raises FileNotFoundError if the library was not built, ValueError if `name` is no folder's name
    or the folder holds another backend, and OSError if it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"a backend cannot be called {name!r}: letters, digits, _ and - only")
    source = backend_library()
    target = Path(backends) / name
    library = target / f"libtriton_{name}.so"
    note = target / _COMPILER_NOTE
    if library.exists() and not note.exists():
        raise ValueError(f"{library} is another backend's: move {target} away first")
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        copy = library if path.name == _LIBRARY else target / path.name
        # A server that has the old file open keeps it.
        shutil.copy(path, copy.with_suffix(".new"))
        copy.with_suffix(".new").replace(copy)
    note.write_text(f"{sys.executable}\n{package_path()}\n")
    return target


def write_backends(output: str | Path, installation: Installation) -> Path:
    """A backends folder, mostly of links: the server's own backends and ours."""
    root = Path(output)
    for folder in installation.backends:
        target = root / folder.name
        target.mkdir(parents=True, exist_ok=True)
        files = [path for path in folder.iterdir() if path.name != "__pycache__"]
        for path in files:
            _link(target / path.name, path)
        if folder.name == "python" and installation.stub is not None:
            _place_stub(target, installation)
    _link(root / "inflight", backend_library())
    return root


def _place_stub(target: Path, installation: Installation) -> None:
    """The stub of Python 3.13 names a libpython of the wheel, which lacks modules that Debian's
    Python has built in. A copy of the stub does not find the wheel's folder beside itself and takes
    this Python's library, which is linked here by that name.
    """
    stub, version = installation.stub, f"{sys.version_info.major}.{sys.version_info.minor}"
    own = Path(sysconfig.get_config_var("LIBDIR"), f"libpython{version}.so.1.0")
    major, minor = version.split(".")
    pattern = f"libpython{major}-*.{minor}.so.1.0"
    bundled = [path.name for folder in installation.library_path for path in folder.glob(pattern)]
    if bundled and own.is_file():
        shutil.copy(stub, target / stub.name)
        _link(target / bundled[0], own)
    else:
        _link(target / stub.name, stub)


def python_environment() -> str:
    """The folder that makes Python models see this process's packages; "" if none is needed."""
    prefix = Path(sys.prefix)
    return str(prefix) if (prefix / "bin" / "activate").is_file() else ""


def package_path() -> str:
    """The folder that holds the package, for Python models."""
    return str(Path(inflight.__file__).parent.parent)


def _link(link: Path, target: Path) -> None:
    if link.is_symlink() or link.exists():
        link.unlink()
    link.symlink_to(target)
