"""Clusters as targets of applications: one of slipway, one of another tool, or one known by a kubeconfig only.

They differ in how container images reach the nodes. A cluster of slipway has registries, which store more images. Into others images are
imported node by node: over SSH, or through the local Docker engine when the nodes are its containers (kind). Nodes of a managed cluster
pull from a registry that the user names.
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
from harness.lifecycle.apps import image_policy
from harness.lifecycle.apps.image_policy import SiteRegistry
from harness.lifecycle.cluster import lease, membership, owner
from harness.lifecycle.kube import objects
from harness.nodes import Login, Machine, Node, together
from harness.nodes.files import STATE
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.local import LocalNode
from harness.nodes.ssh import SshConnections
from harness.oci.model import Platform
from harness.runtimes import ROOTFS
from harness.runtimes.kubeconfig import ADMIN

REGISTRY, SITE, IMPORT, POINTED, NOTHING = "registry", "site", "import", "pointed", "nothing"
"""Ways of images to the nodes: by the cluster's registries, by a registry of the site, by import on each node, by a registry of the site
that pods are pointed at, or not by slipway."""

_KIND = "kind://"
_PROGRAMS = "PATH=$PATH:/usr/local/bin"


@dataclasses.dataclass(frozen=True)
class Where:
    """The cluster that a command line selects."""

    name: str | None = None
    control_plane: tuple[Machine, ...] = ()
    """Of a cluster that this machine has no state of."""
    kubeconfig: Path | None = None
    login: Login = dataclasses.field(default_factory=Login)
    """SSH login to the nodes of another tool's cluster."""
    bring: bool = True
    """Container images are sent to the nodes."""
    registry: SiteRegistry | None = None
    """With a kubeconfig: images go to this registry, and pods are pointed at it."""


@dataclasses.dataclass(frozen=True)
class AppTarget:
    """A cluster, opened."""

    name: str
    kubectl: NodeKubectl
    first: Node
    """The node on which launch commands run."""
    nodes: tuple[Node, ...]
    """Nodes that answer; ``first`` is among them where it is a node."""
    way: str
    root: str
    """The folder for applications on the first node."""
    kubernetes: str
    """The version of the API server."""
    platforms: Mapping[str, Platform]
    """Platforms of the nodes, by address."""
    exclusive: Callable[[], AbstractContextManager[None]]
    """Context in which the cluster is changed."""
    image: str = ""
    """Digest of the cluster image, in a cluster of slipway."""
    holders: tuple[Node, ...] = ()
    """Nodes with a registry of slipway."""
    control_plane: tuple[Node, ...] = ()
    """Nodes that may have files of applications."""
    away: tuple[str, ...] = ()
    """Names of nodes that do not answer."""
    path: str = "$PATH"
    """PATH of launch commands, behind the programs of the image."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables of the cluster for templates: PodCIDR, SvcCIDR."""
    registry: SiteRegistry | None = None
    """The registry that pods are pointed at."""
    policy_version: str = ""
    """Version of the API of the policies that point pods at it."""

    @classmethod
    def planned(cls, name: str, first: Node, kubernetes: str, facts: Mapping[str, str], platform: Platform) -> AppTarget:
        """A cluster of which nothing is asked: enough to judge what is to be put into it."""
        way = (name, NodeKubectl(first), first, (), "", "")
        return cls(*way, kubernetes, {first.address: platform}, contextlib.nullcontext, facts=facts)

    @property
    def ours(self) -> bool:
        return self.way in (REGISTRY, SITE)


@contextmanager
def opened(where: Where, *, nodes: bool = True, home: Path | None = None) -> Iterator[AppTarget]:
    """Open a cluster. Without ``nodes``, no connections are made to the nodes of another tool's cluster.

    Raises UsageError when nothing selects it, NodeError when its nodes cannot be reached, CheckError when its API does not answer.
    """
    if where.kubeconfig is not None:
        with _by_kubeconfig(where, nodes, home) as target:
            yield target
        return
    name = where.name or DEFAULT_NAME
    if where.control_plane:
        where, cluster_name = _answering(where, home)
        if cluster_name is None:
            with _foreign(where, nodes, home) as target:
                yield target
            return
        name = where.name or cluster_name
    with _own(name, where, home) as target:
        yield target


# ---- clusters of slipway -------------------------------------------------------------------------------------------------------------


@contextmanager
def _own(name: str, where: Where, home: Path | None) -> Iterator[AppTarget]:
    with membership.gathered(name, via=where.control_plane, password=where.login.password, home=home) as connection:
        control_plane = connection.alive(connection.control_plane)
        kubectl = NodeKubectl(connection.first, tuple(node for node in control_plane if node is not connection.first))
        own = connection.record.registry == "own"
        holding = membership.holders(connection) if own else frozenset()
        listed = _nodes(kubectl)
        for node in connection.members:
            if node.address in connection.errors:
                log.warning(f"{connection.name(node)} is unreachable and was not updated; run the command again once it is back")

        @contextmanager
        def exclusive() -> Iterator[None]:
            with connection.state.lock(), lease.held(connection.first, name):
                yield

        yield AppTarget(
            name=name,
            kubectl=kubectl,
            first=connection.first,
            nodes=connection.alive(connection.members),
            # An adopted cluster has no image of slipway, and no files of it on its nodes.
            way=NOTHING if not where.bring else REGISTRY if own else SITE if connection.record.digest else IMPORT,
            root=f"{STATE}/apps",
            kubernetes=_version(kubectl),
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=exclusive,
            image=connection.record.digest,
            holders=tuple(node for node in control_plane if node.address in holding),
            control_plane=control_plane,
            away=tuple(connection.name(node) for node in connection.members if node.address in connection.errors),
            path=f"{ROOTFS}/bin:$PATH:/usr/local/bin",
            facts=_facts(kubectl),
        )


# ---- clusters of other tools --------------------------------------------------------------------------------------------------


def _answering(where: Where, home: Path | None) -> tuple[Where, str | None]:
    """Put the control-plane nodes that answer first; return also the name of their cluster of slipway, None for another tool's cluster.

    Raises NodeError when none answers.
    """
    with _connections(where, where.control_plane, home) as ssh:
        reachable, errors = ssh.reachable()
        if not reachable:
            raise together(list(errors.values()))
        answering = tuple(node.machine for node in reachable)
        rest = tuple(machine for machine in where.control_plane if machine not in answering)
        marks = [owner.of(node) for node in reachable]
    name = next((mark[0] for mark in marks if mark), None)
    return dataclasses.replace(where, control_plane=(*answering, *rest)), name


@contextmanager
def _connections(where: Where, machines: Sequence[Machine], home: Path | None) -> Iterator[SshConnections]:
    """SSH connections; host keys are pinned as for a cluster of that name."""
    with SshConnections(_state(where, home).folder, machines) as ssh:
        yield ssh


def _state(where: Where, home: Path | None) -> ClusterState:
    """State folder of a cluster without a name on this machine, named after its first control-plane node, for host keys."""
    address = min(machine.address for machine in where.control_plane)
    return ClusterState.of(where.name or f"at-{re.sub('[.:]+', '-', address).strip('-')}", home)


@contextmanager
def _foreign(where: Where, nodes: bool, home: Path | None) -> Iterator[AppTarget]:
    login = where.control_plane[0].login
    with ExitStack() as stack:
        (first,) = stack.enter_context(_connections(where, where.control_plane[:1], home)).connect()
        config = next((path for path in (ADMIN, "/etc/rancher/k3s/k3s.yaml") if first.run(f"[ -f {path} ]", check=False).ok), None)
        if config is None:
            raise CheckError(f"{first.name}: there is no {ADMIN}", hint="name a control-plane node, or give --kubeconfig FILE")
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

        yield AppTarget(
            name=where.name or first.name,
            kubectl=kubectl,
            first=first,
            nodes=connected,
            way=IMPORT if where.bring else NOTHING,
            root=f"{STATE}/apps",
            kubernetes=_version(kubectl),
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=exclusive,
            control_plane=(first,),
            path="$PATH:/usr/local/bin",
            facts=_facts(kubectl),
        )


@contextmanager
def _by_kubeconfig(where: Where, nodes: bool, home: Path | None) -> Iterator[AppTarget]:
    """Open a cluster by its kubeconfig; launch commands run on this machine."""
    assert where.kubeconfig is not None
    local = LocalNode()
    if not local.run("command -v kubectl", check=False).ok:
        raise UsageError(
            "--kubeconfig needs kubectl on the PATH of this machine", hint="--control-plane IP runs it on a control-plane node"
        )
    kubectl = NodeKubectl(local, kubeconfig=str(where.kubeconfig.absolute()), program="kubectl", home=str(paths.user_home()))
    version, listed = _version(kubectl), _nodes(kubectl)
    answer = kubectl.run("get", "namespace", "kube-system", "--output=jsonpath={.metadata.uid}")[:8]
    uid = untrusted.name(answer, what="the uid of the namespace kube-system", error=CheckError)
    state = ClusterState(f"of-kubeconfig-{uid}", (home or paths.home()) / "clusters" / f"of-kubeconfig-{uid}")
    with ExitStack() as stack:
        connected: list[Node] = []
        policy_version = image_policy.version(kubectl) if nodes and where.registry else ""
        if nodes and where.bring and not where.registry:
            connected += [
                LocalNode(address, _container(provider)) for address, (_, _, provider) in listed.items() if provider.startswith(_KIND)
            ]
            others = [Machine(address, where.login) for address, (_, _, provider) in listed.items() if not provider.startswith(_KIND)]
            if others:
                connected += _reached(stack.enter_context(SshConnections(state.folder, others)))
        yield AppTarget(
            name=where.name or where.kubeconfig.name,
            kubectl=kubectl,
            first=local,
            nodes=tuple(connected),
            way=POINTED if where.registry else IMPORT if where.bring else NOTHING,
            root=str(state.folder / "apps"),
            kubernetes=version,
            platforms={address: platform for address, (_, platform, _) in listed.items()},
            exclusive=state.lock,
            control_plane=(local,),
            facts=_facts(kubectl),
            registry=where.registry,
            policy_version=policy_version,
        )


def _container(provider: str) -> str:
    """Name of the local container that a node of kind is: ``kind://docker/CLUSTER/CONTAINER``."""
    return untrusted.name(provider.rpartition("/")[2], what="the providerID of a node", error=CheckError)


def _reached(ssh: SshConnections) -> tuple[Node, ...]:
    try:
        return ssh.connect()
    except NodeError as error:
        hint = "images are imported on each node: --user and --key for its login, --registry for a registry that the nodes pull from"
        raise NodeError(error.message, hint=hint, details=error.details) from error


# ---- queries -----------------------------------------------------------------------------------------------------------


def _nodes(kubectl: NodeKubectl) -> dict[str, tuple[str, Platform, str]]:
    """The nodes by address: name, platform and providerID."""
    nodes: dict[str, tuple[str, Platform, str]] = {}
    for item in objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where):
        name, info = str(item["metadata"]["name"]), item["status"].get("nodeInfo") or {}
        addresses = objects.internal_addresses(item)
        platform = Platform(str(info.get("operatingSystem") or "linux"), str(info.get("architecture") or "amd64"))
        nodes[(addresses or (name,))[0]] = (name, platform, str(item["spec"].get("providerID") or ""))
    return nodes


def _version(kubectl: NodeKubectl) -> str:
    """Raises CheckError when the API does not answer."""
    try:
        return objects.version(kubectl.run("version", "--output=json"), where=kubectl.where, error=CommandError)
    except CommandError as error:
        details = error.details or error.message
        raise CheckError("the API of the cluster does not answer", hint="slipway status shows more", details=details) from error


def seen_from(name: str, node: Node, platform: Platform) -> AppTarget:
    """A cluster as one of its nodes sees it, to judge what is to be installed into it. Raises CheckError when the API does not answer."""
    kubectl = NodeKubectl(node)
    return AppTarget.planned(name, node, _version(kubectl), _facts(kubectl), platform)


def _facts(kubectl: NodeKubectl) -> dict[str, str]:
    """The networks of a cluster of kubeadm; empty for others."""
    with contextlib.suppress(CommandError, NodeError, KeyError, ValueError, TypeError, AttributeError):
        text = kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
        networking = objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where)["networking"]
        cidrs = {"PodCIDR": networking.get("podSubnet"), "SvcCIDR": networking.get("serviceSubnet")}
        return {name: str(value) for name, value in cidrs.items() if value}
    return {}
