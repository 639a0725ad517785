"""What this ring needs on the machine: installed when it is missing and we may, never skipped."""

from __future__ import annotations

import pytest

from harness.host import apt


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """A real registry, a real client of registries and a real container runtime, from the package archive."""
    apt.ensure("docker-registry", "docker-registry")
    apt.ensure("skopeo", "skopeo")
    apt.ensure("containerd", "containerd")
