"""Where applications go: a cluster of ours, one that somebody else has made, or one of which nothing but a kubeconfig is here.

They differ in how container images get to the nodes. A cluster of ours has registries, which take more. Into others they are imported,
node by node; the way there is SSH, or the engine of this machine when the nodes are its containers (kind).
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from harness import log, untrusted
from harness.errors import CheckError, CommandError, NodeError, UsageError
from harness.host import paths
from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
from harness.lifecycle.cluster import lease, membership
from harness.lifecycle.kube import objects
from harness.lifecycle.provision.rootfs import MARK
from harness.nodes import Login, Machine, Node, together
from harness.nodes.files import STATE
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.local import LocalNode
from harness.nodes.ssh import SshConnections
from harness.oci.model import Platform
from harness.runtimes import ROOTFS
from harness.runtimes.kubeconfig import ADMIN

REGISTRY, SITE, IMPORT, NOTHING = "registry", "site", "import", "nothing"
"""How images get to the nodes: by the cluster's own registries, by one of the site that has them, node by node, or not by us."""

_KIND = "kind://"
_PROGRAMS = "PATH=$PATH:/usr/local/bin"


@dataclasses.dataclass(frozen=True)
class Where:
    """The cluster that a command line names."""

    name: str | None = None
    masters: tuple[Machine, ...] = ()
    """Of a cluster of which this machine remembers nothing."""
    kubeconfig: Path | None = None
    login: Login = dataclasses.field(default_factory=Login)
    """The way into the nodes of a cluster that is not ours."""
    bring: bool = True
    """Whether container images are brought to the nodes."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A cluster, opened."""

    name: str
    kubectl: NodeKubectl
    first: Node
    """Where launch commands run."""
    nodes: tuple[Node, ...]
    """Those that answer, the first one among them where it is a node."""
    way: str
    root: str
    """The folder for applications on the first machine."""
    kubernetes: str
    """The version of the API server."""
    platforms: Mapping[str, Platform]
    """Of the nodes, by address."""
    exclusive: Callable[[], AbstractContextManager[None]]
    """To be entered while the cluster is changed."""
    image: str = ""
    """The digest of the image that the cluster runs, where it is ours."""
    holders: tuple[Node, ...] = ()
    """The machines with a registry of ours."""
    masters: tuple[Node, ...] = ()
    """Those that may have files of applications."""
    away: tuple[str, ...] = ()
    """Names of members that do not answer."""
    path: str = "$PATH"
    """What launch commands find programs in, behind those of the image."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What templates may name of the cluster: PodCIDR, SvcCIDR."""

    @property
    def ours(self) -> bool:
        return self.way in (REGISTRY, SITE)


@contextmanager
def opened(where: Where, *, nodes: bool = True, home: Path | None = None) -> Iterator[Target]:
    """Open a cluster. Without ``nodes`` only what is needed to ask it: a foreign one's machines are not connected to.

    Raises UsageError when nothing names it, NodeError when its machines cannot be reached, CheckError when its API does not answer.
    """
    if where.kubeconfig is not None:
        with _by_kubeconfig(where, nodes, home) as target:
            yield target
        return
    name = where.name or DEFAULT_NAME
    if where.masters:
        where, owner = _looked_at(where, home)
        if owner is None:
            with _foreign(where, nodes, home) as target:
                yield target
            return
        name = where.name or owner
    with _ours(name, where, home) as target:
        yield target


# ---- ours -------------------------------------------------------------------------------------------------------------


@contextmanager
def _ours(name: str, where: Where, home: Path | None) -> Iterator[Target]:
    with membership.gathered(name, via=where.masters, password=where.login.password, home=home) as found:
        masters = found.alive(found.masters)
        kubectl = NodeKubectl(found.first, tuple(node for node in masters if node is not found.first))
        own = found.record.registry == "own"
        holding = membership.holders(found) if own else frozenset()
        listed = _nodes(kubectl)
        for node in found.members:
            if node.address in found.errors:
                log.warning(f"{found.name(node)} does not answer: it is told nothing; the same command again does that later")

        @contextmanager
        def exclusive() -> Iterator[None]:
            with found.state.lock(), lease.held(found.first, name):
                yield

        yield Target(
            name=name,
            kubectl=kubectl,
            first=found.first,
            nodes=found.alive(found.members),
            # A cluster that was taken over has no image of ours, and nothing of ours on its nodes.
            way=NOTHING if not where.bring else REGISTRY if own else SITE if found.record.digest else IMPORT,
            root=f"{STATE}/apps",
            kubernetes=_version(kubectl),
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=exclusive,
            image=found.record.digest,
            holders=tuple(node for node in masters if node.address in holding),
            masters=masters,
            away=tuple(found.name(node) for node in found.members if node.address in found.errors),
            path=f"{ROOTFS}/bin:$PATH:/usr/local/bin",
            facts=_facts(kubectl),
        )


# ---- somebody else's --------------------------------------------------------------------------------------------------


def _looked_at(where: Where, home: Path | None) -> tuple[Where, str | None]:
    """With the masters first that answer; and the name of the cluster of ours that they belong to, None when it is somebody else's.

    Raises NodeError when none answers.
    """
    with _connections(where, where.masters, home) as ssh:
        good, errors = ssh.reachable()
        if not good:
            raise together(list(errors.values()))
        answering = tuple(node.machine for node in good)
        rest = tuple(machine for machine in where.masters if machine not in answering)
        marks = [node.run(f"cat {MARK} 2>/dev/null || true").stdout.split() for node in good]
    owner = next((mark[0] for mark in marks if mark), None)
    return dataclasses.replace(where, masters=(*answering, *rest)), owner


@contextmanager
def _connections(where: Where, machines: Sequence[Machine], home: Path | None) -> Iterator[SshConnections]:
    """The way into machines; host keys are pinned as for a cluster of that name."""
    with SshConnections(_state(where, home).folder, machines) as ssh:
        yield ssh


def _state(where: Where, home: Path | None) -> ClusterState:
    """Where the host keys of a cluster are pinned that has no name here: by the first of its masters."""
    address = min(machine.address for machine in where.masters)
    return ClusterState.of(where.name or f"at-{re.sub('[.:]+', '-', address).strip('-')}", home)


@contextmanager
def _foreign(where: Where, nodes: bool, home: Path | None) -> Iterator[Target]:
    login = where.masters[0].login
    with ExitStack() as stack:
        (first,) = stack.enter_context(_connections(where, where.masters[:1], home)).connect()
        config = next((path for path in (ADMIN, "/etc/rancher/k3s/k3s.yaml") if first.run(f"[ -f {path} ]", check=False).ok), None)
        if config is None:
            raise CheckError(f"{first.name}: there is no {ADMIN}", hint="name a master, or give --kubeconfig FILE")
        kubectl = NodeKubectl(first, kubeconfig=config, program=f"{_PROGRAMS} kubectl", home="/tmp")
        listed = _nodes(kubectl)
        connected: tuple[Node, ...] = (first,)
        if nodes and where.bring:
            machines = [Machine(address, login) for address in listed]
            connected = _reached(stack.enter_context(_connections(where, machines, home)))
        state = _state(where, home)

        @contextmanager
        def exclusive() -> Iterator[None]:
            with state.lock(), lease.claimed([first], state.name):
                yield

        yield Target(
            name=where.name or first.name,
            kubectl=kubectl,
            first=first,
            nodes=connected,
            way=IMPORT if where.bring else NOTHING,
            root=f"{STATE}/apps",
            kubernetes=_version(kubectl),
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=exclusive,
            masters=(first,),
            path="$PATH:/usr/local/bin",
            facts=_facts(kubectl),
        )


@contextmanager
def _by_kubeconfig(where: Where, nodes: bool, home: Path | None) -> Iterator[Target]:
    """Launch commands run on this machine."""
    assert where.kubeconfig is not None
    here = LocalNode()
    if not here.run("command -v kubectl", check=False).ok:
        raise UsageError("kubectl is needed here for --kubeconfig, and is not on PATH", hint="--masters IP runs it on a master")
    kubectl = NodeKubectl(here, kubeconfig=str(where.kubeconfig.absolute()), program="kubectl", home=str(Path.home()))
    version, listed = _version(kubectl), _nodes(kubectl)
    answer = kubectl.run("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")[:8]
    uid = untrusted.name(answer, what="the uid of the namespace kube-system", error=CheckError)
    state = ClusterState(f"of-kubeconfig-{uid}", (home or paths.home()) / "clusters" / f"of-kubeconfig-{uid}")
    with ExitStack() as stack:
        connected: list[Node] = []
        if nodes and where.bring:
            connected += [
                LocalNode(address, _container(provider)) for address, (_, _, provider) in listed.items() if provider.startswith(_KIND)
            ]
            others = [Machine(address, where.login) for address, (_, _, provider) in listed.items() if not provider.startswith(_KIND)]
            if others:
                connected += _reached(stack.enter_context(SshConnections(state.folder, others)))
        yield Target(
            name=where.name or where.kubeconfig.name,
            kubectl=kubectl,
            first=here,
            nodes=tuple(connected),
            way=IMPORT if where.bring else NOTHING,
            root=str(state.folder / "apps"),
            kubernetes=version,
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=state.lock,
            masters=(here,),
            facts=_facts(kubectl),
        )


def _container(provider: str) -> str:
    """The container of the engine here that a node of kind is: ``kind://docker/CLUSTER/CONTAINER``."""
    return untrusted.name(provider.rpartition("/")[2], what="the providerID of a node", error=CheckError)


def _reached(ssh: SshConnections) -> tuple[Node, ...]:
    try:
        return ssh.connect()
    except NodeError as error:
        hint = "images are imported on each node; --user and --key say how to get there, --no-images does without"
        raise NodeError(error.message, hint=hint, details=error.details) from error


# ---- asking -----------------------------------------------------------------------------------------------------------


def _nodes(kubectl: NodeKubectl) -> dict[str, tuple[str, Platform, str]]:
    """The nodes by address: name, platform, and what made them."""
    found: dict[str, tuple[str, Platform, str]] = {}
    for item in objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where):
        name, info = str(item["metadata"]["name"]), item["status"].get("nodeInfo") or {}
        addresses = objects.internal_addresses(item)
        platform = Platform(str(info.get("operatingSystem") or "linux"), str(info.get("architecture") or "amd64"))
        found[(addresses or (name,))[0]] = (name, platform, str(item["spec"].get("providerID") or ""))
    return found


def _version(kubectl: NodeKubectl) -> str:
    """Raises CheckError when the API does not answer."""
    try:
        return objects.version(kubectl.run("version", "--output=json"), where=kubectl.where, error=CommandError)
    except CommandError as error:
        details = error.details or error.message
        raise CheckError("the API of the cluster does not answer", hint="slipway status says more", details=details) from error


def _facts(kubectl: NodeKubectl) -> dict[str, str]:
    """The networks of a cluster that kubeadm knows; of others nothing."""
    with contextlib.suppress(CommandError, NodeError, KeyError, ValueError, TypeError, AttributeError):
        text = kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
        networking = objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where)["networking"]
        known = {"PodCIDR": networking.get("podSubnet"), "SvcCIDR": networking.get("serviceSubnet")}
        return {name: str(value) for name, value in known.items() if value}
    return {}
