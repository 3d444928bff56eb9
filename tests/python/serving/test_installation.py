"""Finding a tritonserver that can run."""

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
