"""A store with a CloudImage for two platforms, and key pairs."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness.cloudimage import CloudImage
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust.keys import PrivateKey
from tests.unit.cloudimage.examples import AMD64, ARM64, platform_image, write


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of a home of our own, where no policy of this machine counts."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("SLIPWAY_POLICY", "SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return Store(tmp_path / "home/store")


@pytest.fixture
def image(store: Store) -> CloudImage:
    return write(store, platform_image(store, AMD64), platform_image(store, ARM64), name="web")


@pytest.fixture
def attachments(store: Store) -> LocalReferrers:
    return LocalReferrers(store, Reference.parse("web"))


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return PrivateKey("ours.key", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(scope="session")
def other() -> PrivateKey:
    return PrivateKey("other.key", ec.generate_private_key(ec.SECP256R1()))
