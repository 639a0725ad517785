"""What the fixtures of the test kit stand on: a cluster that runs one image, made for the tests and gone after them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import testinfra.backend
import testinfra.host

from harness import checks, cloudimage, clusterstate, engine, images, offline, process
from harness.errors import CheckError, CommandError, SlipwayError, UsageError
from harness.lifecycle import run as running
from harness.lifecycle import steps
from harness.nodes import Login, Machine, Node
from harness.nodes.container import IMAGE, ContainerProvider
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import Ssh
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store

Host = testinfra.host.Host

_EVENTS = 15
_count = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What tests run on; those that want the same share a cluster."""

    image: str
    masters: int
    nodes: int


@dataclasses.dataclass(frozen=True)
class Given:
    """Machines that exist already, and how to get into them."""

    masters: tuple[Machine, ...]
    nodes: tuple[Machine, ...]

    @classmethod
    def of(cls, masters: Sequence[str], nodes: Sequence[str], user: str, key: Path | None) -> Given:
        login = Login(user=user, key=key)
        return cls(tuple(Machine(address, login) for address in masters), tuple(Machine(address, login) for address in nodes))


class Kubectl:
    """kubectl on the first master, as the cluster's administrator: ``kubectl("get", "pods")`` gives what it prints."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._plain = NodeKubectl(node)

    def __call__(self, *argv: str, input: str | None = None) -> str:
        """Raises CommandError with both its streams when it fails. ``input`` is for ``-f -``."""
        return self._plain.run(*argv) if input is None else self._fed(argv, input)

    def _fed(self, argv: Sequence[str], text: str) -> str:
        # The words are quoted once more for the shell of the node.
        path = f"/tmp/slipway-test-{os.getpid()}-{next(_count)}"
        self.node.put(text.encode(), path)
        try:
            return self._plain.run(*(path if word == "-" else word for word in argv))
        finally:
            self.node.run(f"rm -f {path}")

    def run(self, *argv: str) -> str:
        """The same, in the words of ``harness.checks``."""
        return self(*argv)

    def json(self, *argv: str) -> dict[str, Any]:
        """The same with ``--output=json``, parsed."""
        return dict(json.loads(self(*argv, "--output=json")))

    def wait(self, *argv: str, timeout: float = 300) -> None:
        """Without words: until every workload is ready and nothing changes any more. With words: ``kubectl wait`` with these.

        ``timeout`` is in seconds. Raises CheckError with the reasons, or CommandError.
        """
        if argv:
            self("wait", f"--timeout={timeout:g}s", *argv)
        else:
            checks.settle(self, timeout=timeout)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster. ``masters`` and ``nodes`` are testinfra hosts, ``nodes`` the workers; ``hosts`` are both, masters first."""

    name: str
    image: str
    digest: str
    embedded: int
    """How many container images the CloudImage brings for this machine's platform."""
    masters: tuple[Host, ...]
    nodes: tuple[Host, ...]
    kubeconfig: Path
    kubectl: Kubectl
    boot_seconds: float
    """From asking for machines until every workload was ready; 0 for a cluster that ran already."""
    machines: tuple[Node, ...]
    ssh_config: Path
    group: str | None
    """The name under which the provider knows the machines; None for given ones."""

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (*self.masters, *self.nodes)

    def run(self, *words: str, check: bool = True, timeout: float | None = None) -> process.Result:
        """The command line: ``cluster.run("check", cluster.name)``. Raises CommandError, unless ``check`` is off."""
        return process.run([sys.executable, "-m", "harness.cli", *words], check=check, timeout=timeout)

    def trouble(self) -> str:
        """What is not ready and why, and what happened last; text for a report. Never raises."""
        try:
            found = [str(problem) for problem in checks.problems(self.kubectl)] or ["every workload is ready"]
            return "\n".join([*found, "", "last events:", *(f"  {line}" for line in self._events())])
        except SlipwayError as error:
            return f"the cluster does not answer: {error}"

    def _events(self) -> list[str]:
        events = checks.get(self.kubectl, "events")

        def when(event: checks.Resource) -> str:
            return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")

        def line(event: checks.Resource) -> str:
            about = event.get("involvedObject") or {}
            place = "/".join(str(about[key]) for key in ("namespace", "name") if about.get(key))
            return f"{when(event)} {event.get('reason')} {about.get('kind')} {place}: {' '.join(str(event.get('message')).split())}"

        return [line(event) for event in sorted(events, key=when)[-_EVENTS:]]

    def prove_offline(self) -> offline.Offline:
        """Raises UsageError for machines that were given, CheckError with what speaks against it."""
        if self.group is None:
            raise UsageError("that nothing leaves machines of yours cannot be proven from here", hint="leave out --masters: nodes are made then")
        proof = offline.Offline(engine.connect(), self.group, self.machines)
        proof.prove()
        return proof

    def reach(self) -> list[str]:
        """How a person gets at a cluster that was left running, tests it again and removes it."""
        addresses = {role: ",".join(host.backend.host.name for host in hosts) for role, hosts in (("masters", self.masters), ("nodes", self.nodes))}
        given = " ".join(f"--{role} {text}" for role, text in addresses.items() if text)
        key = next((node.machine.login.key for node in self.machines if node.machine.login.key), None)  # type: ignore[attr-defined]
        return [
            *(f"ssh -F {self.ssh_config} {node.address}    # {node.name}" for node in self.machines),
            f"export KUBECONFIG={self.kubeconfig}",
            f"pytest --image {self.image} {given}" + (f" --ssh-key {key}" if key else "") + "    # test again on the same cluster",
            f"slipway nodes down {self.group}" if self.group else f"slipway delete {self.name}",
        ]


# ---- making one -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def boot(wanted: Wanted, given: Given | None = None, *, keep: bool = False) -> Iterator[Cluster]:
    """A cluster that runs ``wanted``, on nodes made for it or on the given machines; removed at the end, unless it is to be kept.

    Raises StoreError before anything is made when the image is not here, else whatever ``slipway run`` raises.
    """
    store = Store.default()
    image = cloudimage.read(store, wanted.image)
    with contextlib.ExitStack() as stack:
        if given is None:
            group = stack.enter_context(_nodes(wanted, keep))
            masters, nodes, name = group.masters, group.nodes, group.name
            seconds = 0.0
        else:
            ...
        yield  # type: ignore[misc]
