"""What tests of command lines share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.cli import app
from harness.host.cluster_cache import ClusterState


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def prod(home: Path) -> None:
    """A cluster of this name is known."""
    ClusterState.of("prod", home).remember({"controlPlane": [{"address": "10.0.0.1"}]})


@pytest.fixture
def contents(tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """Return all files of the test's folder, by path."""
    return lambda: {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.fixture
def refused(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Sequence[str], str], None]:
    """Run a command line that is wrong, and expect its message before anything is done."""

    def run(words: Sequence[str], message: str) -> None:
        assert app.execute(list(words)) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (home / "clusters").exists()

    return run
