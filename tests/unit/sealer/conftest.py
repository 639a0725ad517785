"""Fixtures of the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.oci.store import Store
from tests.integration import sealer
from tests.integration.registry import Image
from tests.unit.sealer.examples import NAMES, simple


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "store")


@pytest.fixture
def app(store: Store) -> Image:
    image = simple(images=NAMES[:2], labels={"cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15"})
    sealer.put(store, "sealerio/app:v1", image)
    return image
