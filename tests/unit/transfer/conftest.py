"""Two stores and a registry. The registry is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.oci.model import Descriptor
from harness.oci.registry.client import Client
from harness.oci.store import Store
from harness.transfer.push import push
from tests.unit.oci.standin import Registry, client
from tests.unit.transfer.images import AMD64, ARM64, TARGET, make


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of somebody who pulls."""
    return Store(tmp_path / "other")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def remote(registry: Registry) -> Iterator[Client]:
    with client(registry) as found:
        yield found


@pytest.fixture
def image(store: Store, registry: Registry, remote: Client) -> Descriptor:
    """What TARGET means in the registry; nothing was asked yet."""
    found = make(store, platforms=(AMD64, ARM64))
    push(store, "web:1", TARGET, remote)
    registry.asked.clear()
    return found
