"""What this ring shares: the base image, built once into the tests' own store, and the proof that nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from tests.conftest import Slipway

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def kubernetes(slipway: Slipway) -> str:
    """The base CloudImage; building it is quick when nothing has changed."""
    slipway("build", "-t", "kubernetes", PROJECT / "kubefiles/kubernetes")
    return "kubernetes:latest"


def leftovers() -> set[str]:
    """Containers and networks of builds that exist now."""
    found = set()
    for kind, name in (("container", "{{.Names}}"), ("network", "{{.Name}}")):
        listed = process.run(["docker", kind, "ls", *(["--all"] if kind == "container" else []), "--format", name])
        found |= {f"{kind} {line}" for line in listed.stdout.split() if line.startswith("slipway-") and line.split("-")[1].isdigit()}
    return found


@pytest.fixture
def clean() -> Iterator[None]:
    """Fails a test that leaves a container or a network of a build behind."""
    before = leftovers()
    yield
    assert leftovers() <= before
