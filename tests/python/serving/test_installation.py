"""Finding a tritonserver that can run."""

import sys
from pathlib import Path

import pytest
from inflight.cli.main import app
from inflight.serving import installation
from typer.testing import CliRunner


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


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "libtriton_inflight.so").write_text("ours")
    (folder / "libother.so").write_text("beside it")
    monkeypatch.setattr(installation, "backend_library", lambda: folder)
    return folder


def test_installs_under_any_name(library: Path, tmp_path: Path) -> None:
    for _ in range(2):  # a second time in place of the first
        target = installation.install_backend(tmp_path / "backends", "tensorrtllm")
        assert target == tmp_path / "backends" / "tensorrtllm"
        assert (target / "libtriton_tensorrtllm.so").read_text() == "ours"
        assert {path.name for path in target.iterdir()} == {
            "libtriton_tensorrtllm.so",
            "libother.so",
            "compiler.txt",
        }
        python, package = (target / "compiler.txt").read_text().splitlines()
        assert python == sys.executable
        assert Path(package, "inflight", "__init__.py").is_file()
        (library / "libtriton_inflight.so").write_text("ours")


def test_overwrites_no_other_backend(library: Path, tmp_path: Path) -> None:
    former = tmp_path / "tensorrtllm" / "libtriton_tensorrtllm.so"
    former.parent.mkdir()
    former.write_text("theirs")
    with pytest.raises(ValueError, match="another backend's: move .*tensorrtllm away first"):
        installation.install_backend(tmp_path, "tensorrtllm")
    assert former.read_text() == "theirs"


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_odd_names(library: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be called"):
        installation.install_backend(tmp_path, name)
    assert list(tmp_path.iterdir()) == [library]


def test_the_command(library: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    arguments = ["install", "--as", "tensorrtllm", "--backend-directory", str(tmp_path)]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0
    assert 'backend: "tensorrtllm"' in done.output
    assert (tmp_path / "tensorrtllm" / "libtriton_tensorrtllm.so").is_file()
    missing = runner.invoke(app, ["install", "--backend-directory", str(tmp_path / "none")])
    assert missing.exit_code == 1
    assert "--backend-directory" in missing.output
