"""Fixtures of the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.oci.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store.default()
