"""Finding a tritonserver that can run."""

import sys
from pathlib import Path

import pytest
from inflight.serving import installation


def test_a_missing_libpython_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(installation.sysconfig, "get_config_var", lambda name: str(tmp_path))
    monkeypatch.setattr(installation, "find_library", lambda name: None)
    with pytest.raises(FileNotFoundError, match="libpython3.11.so.1.0 is missing"):
        installation._check_libpython("3.11")
    installation._check_libpython("3.13")  # its stub has its own
    (tmp_path / "libpython3.11.so.1.0").touch()
    installation._check_libpython("3.11")


def test_a_stub_finds_this_pythons_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stub of Python 3.13 asks for a library that the wheel renamed."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    renamed = f"libpython3-0123abcd.{sys.version_info.minor}.so.1.0"
    lib, wheel, python = (tmp_path / name for name in ("lib", "wheel", "python"))
    for folder in (lib, wheel, python):
        folder.mkdir()
    for path in (lib / f"libpython{version}.so.1.0", wheel / renamed, wheel / "stub"):
        path.touch()
    monkeypatch.setattr(installation.sysconfig, "get_config_var", lambda name: str(lib))
    monkeypatch.setattr(installation, "backend_library", lambda: wheel)
    found = installation.Installation(wheel / "server", (python,), wheel / "stub", (wheel,))
    backends = installation.write_backends(tmp_path / "backends", found)
    assert not (backends / "python" / "stub").is_symlink()  # else the wheel's library is nearer
    assert (backends / "python" / renamed).resolve().parent == lib
    searched = found.environment(backends)["LD_LIBRARY_PATH"].split(":")
    assert searched[0] == str(backends / "python")
