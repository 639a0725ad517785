"""What this ring shares: images, built once into the tests' own store, a cluster, and the proof that nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.host import paths
from tests.cluster.lab import NAMESPACE, Killed, Lab, found, kill_at_every_step
from tests.conftest import Slipway

PROJECT = Path(__file__).parents[2]
GREETING = "It's <b>here</b>"
SECRET = "hunter2-in-the-environment"
GIVEN = ("-e", f"Greeting={GREETING}", "-e", f"DbPassword={SECRET}")

SHARING = ("test_run.py", "test_image_change.py", "test_apps.py", "test_members.py", "test_operate.py")
"""Files that use one cluster, in the order in which they leave it fit for the next."""

GROUPS = (
    SHARING,
    ("test_faults.py",),
    ("test_build.py", "test_platforms.py"),
    ("test_build_on.py",),
    ("test_clusterfile.py",),
    ("test_distribution.py",),
    ("test_change.py",),
    ("test_dual_stack.py",),
    ("test_kubeadm.py",),
    ("test_managed.py",),
    ("test_profile.py",),
    ("test_repository.py",),
    ("test_share.py",),
    ("test_sites.py",),
    ("test_network.py",),
    ("test_upgrade.py",),
    ("test_upstream.py",),
    ("test_values.py",),
    ("test_bench.py",),
)
"""Files that run one after the other, in this order; files of different groups know nothing of each other and may run at the same time.

The groups that take longest come first.
"""


def group_of(name: str) -> str:
    """The group that a file belongs to, named after its first one; a file that is in none is its own."""
    return next((group[0] for group in GROUPS if name in group), name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    order = [name for group in GROUPS for name in group]
    items.sort(key=lambda item: order.index(item.path.name) if item.path.parent == here and item.path.name in order else -1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, hand out whole groups. (``--dist loadgroup`` writes into node ids, which not every pytest lets it do.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0].rpartition("/")[2])

    return Groups(config, log)


@pytest.fixture(scope="session", autouse=True)
def swept(slipway: Slipway) -> None:
    """Removes the machines of runs of these tests that were killed. Those of another container that shares the engine stay."""
    for group in json.loads(slipway("nodes", "list", "--output", "json").stdout):
        owner = re.fullmatch(rf"test-[a-z]+-(\d+)-{NAMESPACE}", group["name"])
        if owner and not Path("/proc", owner[1]).exists():
            slipway("nodes", "down", group["name"])


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process of the ring at a time: what one of them has built the others find."""
    paths.home().mkdir(parents=True, exist_ok=True)
    with (paths.home() / "cluster-ring.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def kubernetes(slipway: Slipway) -> str:
    """The base CloudImage; building it is quick when nothing has changed."""
    with alone():
        slipway("build", "-t", "kubernetes", PROJECT / "kubefiles/kubernetes")
    return "kubernetes:latest"


@pytest.fixture(scope="session")
def web(slipway: Slipway, kubernetes: str) -> str:
    assert kubernetes
    with alone():
        slipway("build", "-t", "web", PROJECT / "kubefiles/web")
    return "web:latest"


@dataclasses.dataclass(frozen=True)
class Made:
    """How the cluster came to be that the files ``SHARING`` share."""

    lab: Lab
    untouched: dict[str, str]
    """What each machine was like before, by address."""
    killed: Killed


_made = pytest.StashKey[Made]()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Remove the shared cluster behind its last test: a fixture of the session would keep it busy until the end of all others."""
    if item.path.name in SHARING and (nextitem is None or nextitem.path.name not in SHARING):
        _remove_shared(item.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """As after Ctrl-C, when there was no last test."""
    _remove_shared(session.config)


def _remove_shared(config: pytest.Config) -> None:
    if _made in config.stash:
        config.stash[_made].lab.down()
        del config.stash[_made]


@pytest.fixture(scope="session")
def made(slipway: Slipway, web: str, pytestconfig: pytest.Config) -> Made:
    """A control-plane node and a worker that run the image, made by a command that was killed at every step; and a machine to spare."""
    lab = Lab(slipway, "test-run", 1, 1, spares=1)
    try:
        untouched = {address: found(lab.at(address)) for address in (*lab.addresses, *lab.spares)}
        made = Made(lab, untouched, kill_at_every_step(lab.words(web, *GIVEN)))
    except BaseException:
        lab.down()
        raise
    pytestconfig.stash[_made] = made
    return made


@pytest.fixture(scope="session")
def lab(made: Made) -> Lab:
    return made.lab


def leftovers() -> set[str]:
    """Containers and networks of builds that exist now, but for builds that another process of the ring is at."""
    found = set()
    for kind, name in (("container", "{{.Names}}"), ("network", "{{.Name}}")):
        listed = process.run(["docker", kind, "ls", *(["--all"] if kind == "container" else []), "--format", name])
        for line in listed.stdout.split():
            owner = re.match(r"slipway-(\d+)(?:-|$)", line)
            if owner and not strange(int(owner[1])):
                found.add(f"{kind} {line}")
    return found


def strange(pid: int) -> bool:
    """Whether a process lives and was not begun by this one."""
    while pid > 1:
        if pid == os.getpid():
            return False
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            return False  # it has ended: what it left is everybody's
    return True


@pytest.fixture
def clean() -> Iterator[None]:
    """Fails a test that leaves a container or a network of a build behind."""
    before = leftovers()
    yield
    assert leftovers() <= before
