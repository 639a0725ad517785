"""A store, keys, and sites of its images."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.oci.store import Store
from harness.trust.keys import PrivateKey


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a home of its own, where no policy of this machine counts."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SLIPWAY_POLICY", raising=False)
    return Store(tmp_path / "home/store")


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return PrivateKey("/home/me/release.key", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def other() -> PrivateKey:
    return PrivateKey("other.key", ec.generate_private_key(ec.SECP256R1()))
