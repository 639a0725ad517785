"""What this ring shares: images, built once into the tests' own store, a cluster, and the proof that nothing is left behind."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from tests.cluster.lab import Killed, Lab, found, kill_at_every_step
from tests.conftest import Slipway

PROJECT = Path(__file__).parents[2]
GREETING = "It's <b>here</b>"
SECRET = "hunter2-in-the-environment"
GIVEN = ("-e", f"Greeting={GREETING}", "-e", f"DbPassword={SECRET}")

SHARING = ("test_run.py", "test_apps.py", "test_members.py", "test_operate.py")
"""Files that use one cluster, in the order in which they leave it fit for the next."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    items.sort(key=lambda item: SHARING.index(item.path.name) + 1 if item.path.parent == here and item.path.name in SHARING else 0)


@pytest.fixture(scope="session", autouse=True)
def swept(slipway: Slipway) -> None:
    """Removes the machines of runs of these tests that were killed."""
    for group in json.loads(slipway("nodes", "list", "--output", "json").stdout):
        owner = re.fullmatch(r"test-(?:run|share|faults|file|upgrade|distribution)-(\d+)", group["name"])
        if owner and not Path("/proc", owner[1]).exists():
            slipway("nodes", "down", group["name"])


@pytest.fixture(scope="session")
def kubernetes(slipway: Slipway) -> str:
    """The base CloudImage; building it is quick when nothing has changed."""
    slipway("build", "-t", "kubernetes", PROJECT / "kubefiles/kubernetes")
    return "kubernetes:latest"


@pytest.fixture(scope="session")
def web(slipway: Slipway, kubernetes: str) -> str:
    assert kubernetes
    slipway("build", "-t", "web", PROJECT / "kubefiles/web")
    return "web:latest"


@dataclasses.dataclass(frozen=True)
class Made:
    """How the cluster came to be that the files ``SHARING`` share."""

    lab: Lab
    untouched: dict[str, str]
    """What each machine was like before, by address."""
    killed: Killed


@pytest.fixture(scope="session")
def made(slipway: Slipway, web: str) -> Iterator[Made]:
    """A master and a worker that run the image, made by a command that was killed at every step; and a machine to spare."""
    lab = Lab(slipway, "test-run", 1, 1, spares=1)
    try:
        untouched = {address: found(lab.at(address)) for address in (*lab.addresses, *lab.spares)}
        yield Made(lab, untouched, kill_at_every_step(lab.words(web, *GIVEN)))
    finally:
        lab.down()


@pytest.fixture(scope="session")
def lab(made: Made) -> Lab:
    return made.lab


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
