"""A registry, and a client of it. The registry is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.oci.registry.client import Client
from tests.unit.oci.standin import Registry, client


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def remote(registry: Registry) -> Iterator[Client]:
    with client(registry) as remote:
        yield remote
