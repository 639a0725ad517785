"""The members of a running cluster: in its record, in the cache of this machine, and in the configuration of its balancers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.clusterfile import CONTROL_PLANE, WORKER, ApplicationDocument, Clusterfile, Host
from harness.errors import CheckError, CommandError, NodeError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access, lease, owner, record
from harness.lifecycle.cluster.record import ClusterRecord
from harness.lifecycle.kube import drain, objects, readiness
from harness.lifecycle.provision import ipvs, node_files, registry
from harness.nodes import LONG_TIMEOUT, Login, Machine, Node, each
from harness.nodes.files import STATE, install_files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.runtimes.kubeadm import KUBECTL
from harness.runtimes.kubeconfig import administrator

_ATTEMPTS = 5


def with_members(
    clusterfile: Clusterfile,
    control_plane: Iterable[str],
    workers: Iterable[str],
    described: Iterable[Host] = (),
    ssh_hosts: Mapping[str, str] | None = None,
) -> Clusterfile:
    """Add nodes to a Clusterfile by address; those that it has stay as they are. ``described`` has more about some of the new ones,
    ``ssh_hosts`` the names that SSH connects to.
    """
    cluster = clusterfile.cluster
    if cluster is None:
        return clusterfile
    special = {address: host for host in described for address in host.ips if not _is_plain(host)}
    hosts, members = list(cluster.hosts), {*cluster.control_plane, *cluster.workers}
    for role, addresses in ((CONTROL_PLANE, control_plane), (WORKER, workers)):
        new = [address for address in addresses if address not in members]
        hosts += [dataclasses.replace(special[address], ips=(address,)) for address in new if address in special]
        added = tuple(address for address in new if address not in special)
        plain = next((index for index, host in enumerate(hosts) if _is_plain(host) and host.roles == (role,)), None)
        if added and plain is not None:
            hosts[plain] = dataclasses.replace(hosts[plain], ips=(*hosts[plain].ips, *added))
        elif added:
            hosts.append(Host(added, (role,), cluster.ssh))
    hosts.sort(key=lambda host: not host.is_control_plane)
    listed = {address for host in hosts for address in host.ips}
    names = {address: name for address, name in {**cluster.ssh_hosts, **(ssh_hosts or {})}.items() if address in listed}
    return dataclasses.replace(clusterfile, cluster=dataclasses.replace(cluster, hosts=tuple(hosts), ssh_hosts=names))


def without_members(clusterfile: Clusterfile, addresses: Collection[str]) -> Clusterfile:
    """Remove nodes from a Clusterfile by address."""
    cluster = clusterfile.cluster
    if cluster is None:
        return clusterfile
    fewer = [dataclasses.replace(host, ips=tuple(address for address in host.ips if address not in addresses)) for host in cluster.hosts]
    names = {address: name for address, name in cluster.ssh_hosts.items() if address not in addresses}
    left = dataclasses.replace(cluster, hosts=tuple(host for host in fewer if host.ips), ssh_hosts=names)
    return dataclasses.replace(clusterfile, cluster=left)


def _is_plain(host: Host) -> bool:
    """Return True for a host with nothing but addresses, one role and a login."""
    return host == Host(host.ips, host.roles[:1], host.ssh)


def update(
    node: Node,
    control_plane: Iterable[str] = (),
    workers: Iterable[str] = (),
    gone: Iterable[str] = (),
    left: Iterable[str] = (),
    back: Iterable[str] = (),
    described: Iterable[Host] = (),
    ssh_hosts: Mapping[str, str] | None = None,
) -> ClusterRecord:
    """Record which nodes joined (``control_plane``, ``workers``) and left (``gone``); retried when another command writes at the same time.

    ``left``: addresses and names of nodes that could not be cleaned; ``back``: of those that are clean by now.
    """
    control_plane, workers, described, removed = tuple(control_plane), tuple(workers), tuple(described), frozenset(gone)
    for attempt in range(_ATTEMPTS):
        before = record.read(NodeKubectl(node))
        clusterfile = with_members(without_members(before.clusterfile, removed), control_plane, workers, described, ssh_hosts)
        uncleaned = (before.left - {*removed, *back}) | frozenset(left)
        if (clusterfile, uncleaned) == (before.clusterfile, before.left):
            break
        after = dataclasses.replace(before.with_clusterfile(clusterfile), left=uncleaned)
        try:
            record.replace(node, after)
        except CommandError as error:
            if "Conflict" not in (error.details or "") or attempt == _ATTEMPTS - 1:
                raise
        else:
            return after
    return before


def set_apps(node: Node, apps: tuple[ApplicationDocument, ...]) -> None:
    """Record which applications the Clusterfile has now."""
    before = record.read(NodeKubectl(node))
    record.replace(node, before.with_clusterfile(dataclasses.replace(before.clusterfile, apps=apps)))


def proxy_mode(kubectl: NodeKubectl) -> str | None:
    """Return the mode of kube-proxy in the cluster; None when the cluster has no kube-proxy."""
    text = kubectl.run("get", "configmap", "kube-proxy", "--namespace=kube-system", "--ignore-not-found", "--output=json")
    if not text.strip():
        return None
    configuration = objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where, "config.conf")
    return str(configuration.get("mode") or "iptables")


# ---- the machines -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Open connections to the members of a cluster, and to other machines that a command names."""

    state: ClusterState
    record: ClusterRecord
    ssh: SshConnections
    first: SshNode
    """A control-plane node whose API answers."""
    control_plane: tuple[SshNode, ...]
    """All in the record, also the unreachable ones."""
    workers: tuple[SshNode, ...]
    others: tuple[SshNode, ...]
    """Machines that were named and are not in the record."""
    errors: Mapping[str, NodeError]
    """Why machines are unreachable, by address."""
    names: Mapping[str, str]
    """Names of the nodes in the cluster, by address."""

    @property
    def members(self) -> tuple[SshNode, ...]:
        return (*self.control_plane, *self.workers)

    def name(self, node: Node) -> str:
        return self.names.get(node.address, node.name)

    def alive(self, nodes: Iterable[SshNode]) -> tuple[SshNode, ...]:
        return tuple(node for node in nodes if node.address not in self.errors)


@contextmanager
def gathered(
    name: str, named: Sequence[Machine] = (), *, via: Sequence[Machine] = (), password: str | None = None, home: Path | None = None
) -> Iterator[Gathered]:
    """Connect to the members of a cluster, found by the cache or by its control-plane nodes ``via``, and to the machines ``named``.

    Raises UsageError when the cluster is not cached and ``via`` is empty, NodeError when no control-plane node is reachable, CheckError
    when no API answers or the cluster has no record.
    """
    cluster = access.known(name, via, home=home)
    members = [_with_password(machine, password) for machine in (*cluster.control_plane, *cluster.workers)]
    machines = {machine.address: machine for machine in (*named, *members)}
    ssh = SshConnections(cluster.state.folder, list(machines.values()))
    try:
        _, errors = ssh.reachable()
        control_plane = _among(ssh, [machine.address for machine in cluster.control_plane])
        first = answering([node for node in control_plane if node not in errors], errors)
        stored = record.read(NodeKubectl(first))
        listed = (*stored.control_plane, *stored.workers)
        unknown = [address for address in listed if address not in machines]
        if unknown:
            # Another machine has changed the cluster since this one did.
            login = members[0].login
            ssh.close()
            hosts = stored.clusterfile.cluster.ssh_hosts if stored.clusterfile.cluster else {}
            more = (Machine(address, login, hosts.get(address)) for address in unknown)
            ssh = SshConnections(cluster.state.folder, [*machines.values(), *more])
            _, errors = ssh.reachable()
            first = _among(ssh, [first.address])[0]
        members_reached = [node for node in _among(ssh, listed) if node not in errors]
        lost = owner.taken(members_reached, first)
        errors |= {node: lost[node.address] for node in members_reached if node.address in lost}
        yield Gathered(
            state=cluster.state,
            record=stored,
            ssh=ssh,
            first=first,
            control_plane=_among(ssh, stored.control_plane),
            workers=_among(ssh, stored.workers),
            others=_among(ssh, [machine.address for machine in named if machine.address not in listed]),
            errors={node.address: error for node, error in errors.items()},
            names=drain.names(readiness.get(NodeKubectl(first), "nodes")),
        )
    finally:
        ssh.close()


@contextmanager
def changing(cluster: Gathered) -> Iterator[None]:
    """Hold the lease of a cluster. Raises UsageError when another command holds it, or has changed the cluster since it was read."""
    with cluster.state.lock(), lease.held(cluster.first, cluster.state.name):
        require_unchanged(cluster.first, cluster.record.version, cluster.state.name)
        yield


def require_unchanged(node: Node, version: str, name: str) -> None:
    """Raises UsageError when the record of a cluster is not the version that was read before the lease was held."""
    if record.read(NodeKubectl(node)).version != version:
        raise UsageError(
            f"another command has changed the cluster {name} meanwhile; this one has changed nothing", hint="run the same command again"
        )


def _with_password(machine: Machine, password: str | None) -> Machine:
    login: Login = machine.login
    return machine if password is None or login.key else dataclasses.replace(machine, login=dataclasses.replace(login, password=password))


def _among(ssh: SshConnections, addresses: Sequence[str]) -> tuple[SshNode, ...]:
    by_address = {node.address: node for node in ssh.nodes}
    return tuple(by_address[address] for address in addresses)


def answering(control_plane: Sequence[SshNode], errors: Mapping[SshNode, NodeError]) -> SshNode:
    """Return the first of ``control_plane`` whose API answers. Raises NodeError when it is empty, CheckError when no API answers."""
    if not control_plane:
        raise NodeError(
            "\n".join(error.message for error in errors.values()) or "there is no control-plane node",
            hint="a cluster is reached through its control-plane nodes",
        )
    probe = f"{KUBECTL} --request-timeout=5s get --raw /readyz"
    results = each(control_plane, lambda node: node.run(probe, check=False, timeout=30))
    for node, result in zip(control_plane, results, strict=True):
        if result.ok:
            return node
    details = "\n".join(f"{node.name}: {result.output.strip()[-300:]}" for node, result in zip(control_plane, results, strict=True))
    raise CheckError(
        "no API of the cluster answers",
        hint="slipway status says more; with most control-plane nodes gone, restore a backup",
        details=details,
    )


# ---- what machines know of the members ---------------------------------------------------------------------------------


def remember(cluster: Gathered, stored: ClusterRecord, *, kubeconfig_from: Node) -> None:
    """Cache on this machine the login of each member, and a kubeconfig for the API of the node ``kubeconfig_from``."""
    state, server = cluster.state, kubeconfig_from.address
    state.write("kubeconfig", administrator(kubeconfig_from, server, state.name, state.authority()).decode())
    access.remember(
        state,
        _among(cluster.ssh, stored.control_plane),
        _among(cluster.ssh, stored.workers),
        image={"image": stored.image, "digest": stored.digest},
        names=cluster.names,
    )


def holders(cluster: Gathered) -> frozenset[str]:
    """Return the addresses of the control-plane nodes with a registry. An unreachable one counts when it is among the first ones."""
    first = cluster.control_plane[: registry.most(cluster.record.clusterfile)]
    if cluster.record.registry != record.OWN:
        return frozenset(node.address for node in first)
    alive = cluster.alive(cluster.control_plane)
    running = each(alive, lambda node: node.run(f"[ -e {STATE}/registry.yaml ]", check=False).ok)
    sure = {node.address for node, runs in zip(alive, running, strict=True) if runs}
    return frozenset(sure | {node.address for node in first if node not in alive})


def requires_login(cluster: Gathered) -> bool:
    """Return True when a registry of the cluster requires the login: then every member has it."""
    return any(each(cluster.alive(cluster.control_plane), lambda node: node.run(registry.REQUIRES_LOGIN, check=False).ok))


def tell_balancer(node: Node, text: str) -> bool:
    """Give a balancer other backends, and return True when they differ from before. Its open connections stay."""
    changed = install_files(node, node_files.balancer_files(text))
    if any(path.endswith((".service", ".sh")) for path in changed):
        # The balancer of an earlier version, which cannot reload.
        node.run("systemctl daemon-reload; systemctl restart slipway-balancer", timeout=LONG_TIMEOUT)
    elif changed:
        node_files.start_balancer(node, text)
    return bool(changed)


def balancers(cluster: Gathered, control_plane: Sequence[tuple[str, str]], holding: frozenset[str]) -> dict[str, str]:
    """Return the configuration of every member's balancer, by address, for these control-plane nodes (names and addresses).

    ``holding``: addresses of those with a registry.
    """
    images = [(name, address) for name, address in control_plane if address in holding]
    balancing = ipvs.as_it_is(ipvs.ask(cluster.alive(cluster.members)))

    def text(node: Node, control_plane: Sequence[tuple[str, str]]) -> str:
        virtual_ip = balancing.of(node.address)
        if virtual_ip is None:
            return node_files.balancing(control_plane, images)
        return ipvs.config(virtual_ip, node.address, [address for _, address in control_plane], [address for _, address in images])

    texts = {node.address: text(node, control_plane) for node in cluster.workers}
    return texts | {node.address: text(node, []) for node in cluster.control_plane if node.address not in holding and images}
