"""Who belongs to a cluster that is there: as it keeps it itself, as this machine remembers it, and as its balancers know it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.clusterfile import MASTER, NODE, ApplicationDocument, Clusterfile, Host
from harness.clusterfile import write as generate
from harness.clusterfile.parse import parse
from harness.errors import CheckError, CommandError, NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access
from harness.lifecycle.cluster.record import CONFIG_MAP, access_entry
from harness.lifecycle.kube import drain, objects, readiness
from harness.lifecycle.provision import ipvs, node_files, registry
from harness.nodes import LONG_TIMEOUT, Login, Machine, Node, each
from harness.nodes.files import STATE, install_files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.runtimes import kubeadm
from harness.runtimes.kubeadm import KUBECTL

_PLACE = ("configmap", CONFIG_MAP, "--namespace=kube-system")
_LEFT = "left"
"""Addresses and names of machines that were removed while they did not answer: they still hold what they held."""
_ATTEMPTS = 5


@dataclasses.dataclass(frozen=True)
class Record:
    """What a cluster keeps about itself."""

    image: str
    digest: str
    clusterfile: Clusterfile
    registry: str = "own"
    """``own`` or ``elsewhere``."""
    left: frozenset[str] = frozenset()
    version: str = ""

    @classmethod
    def of(cls, config_map: Mapping[str, Any]) -> Record:
        """Raises InputError when the stored Clusterfile is none."""
        data = config_map["data"]
        return cls(
            str(data.get("image") or ""),
            str(data.get("digest") or ""),
            parse(data.get("Clusterfile") or "", "the stored Clusterfile", stored=True),
            str(data.get("registry") or "own"),
            frozenset(str(data.get(_LEFT) or "").split()),
            str(config_map["metadata"].get("resourceVersion") or ""),
        )

    @property
    def masters(self) -> tuple[str, ...]:
        return self.clusterfile.cluster.masters if self.clusterfile.cluster else ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return self.clusterfile.cluster.nodes if self.clusterfile.cluster else ()

    def with_members(self, masters: Iterable[str], nodes: Iterable[str], described: Iterable[Host] = ()) -> Record:
        """With more machines; those that are in it already stay what they are. ``described`` says more about some of the new ones."""
        cluster = self.clusterfile.cluster
        if cluster is None:
            return self
        described = tuple(described)
        hosts, known = list(cluster.hosts), {*self.masters, *self.nodes}
        for role, addresses in ((MASTER, masters), (NODE, nodes)):
            special = {address: host for host in described for address in host.ips if not _is_plain(host)}
            new = [address for address in addresses if address not in known]
            hosts += [dataclasses.replace(special[address], ips=(address,)) for address in new if address in special]
            added = tuple(address for address in new if address not in special)
            plain = next((index for index, host in enumerate(hosts) if _is_plain(host) and host.roles == (role,)), None)
            if added and plain is not None:
                hosts[plain] = dataclasses.replace(hosts[plain], ips=(*hosts[plain].ips, *added))
            elif added:
                hosts.append(Host(added, (role,), cluster.ssh))
        hosts.sort(key=lambda host: not host.is_master)
        return self._with(hosts, self.left)

    def without(self, addresses: Iterable[str], left: Iterable[str] = (), back: Iterable[str] = ()) -> Record:
        """Without some machines. ``left``: addresses and names of those that could not be cleaned; ``back``: of those that are by now."""
        gone = set(addresses)
        hosts = list(self.clusterfile.cluster.hosts if self.clusterfile.cluster else ())
        fewer = [dataclasses.replace(host, ips=tuple(address for address in host.ips if address not in gone)) for host in hosts]
        return self._with([host for host in fewer if host.ips], (self.left - {*gone, *back}) | frozenset(left))

    def _with(self, hosts: Sequence[Host], left: frozenset[str]) -> Record:
        cluster = self.clusterfile.cluster
        if cluster is None:
            return dataclasses.replace(self, left=left)
        changed = dataclasses.replace(self.clusterfile, cluster=dataclasses.replace(cluster, hosts=tuple(hosts)))
        return dataclasses.replace(self, clusterfile=changed, left=left)


def _is_plain(host: Host) -> bool:
    """Whether nothing is said about machines but what they are."""
    return host == Host(host.ips, host.roles[:1], host.ssh)


def read(kubectl: NodeKubectl) -> Record:
    """What the cluster keeps about itself. Raises CheckError when it keeps nothing: it was not made by us, or not to its end."""
    try:
        return Record.of(objects.config_map(kubectl.run("get", *_PLACE, "--output=json"), where=kubectl.where))
    except CommandError as error:
        if "NotFound" not in (error.details or ""):
            raise
        raise CheckError(
            "this cluster has no record of slipway", hint="finish it first with the command that began it: slipway run"
        ) from error


def proxy_mode(kubectl: NodeKubectl) -> str | None:
    """kube-proxy's mode as the cluster has it; None where it has no kube-proxy."""
    text = kubectl.run("get", "configmap", "kube-proxy", "--namespace=kube-system", "--ignore-not-found", "--output=json")
    if not text.strip():
        return None
    found = objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where, "config.conf")
    return str(found.get("mode") or "iptables")


def write(master: Node, record: Record) -> None:
    """Keep a record in place of the one that it was made of. Raises CommandError when that has changed meanwhile."""
    patch = {
        "metadata": {"resourceVersion": record.version},
        "data": {"Clusterfile": generate.redacted(record.clusterfile), _LEFT: " ".join(sorted(record.left))},
    }
    # By standard input: the text may be long, and nobody need see it in a list of processes.
    path = f"{STATE}/record.json"
    master.put(json.dumps(patch).encode(), path, 0o600)
    master.run(
        f'{KUBECTL} patch {" ".join(_PLACE)} --type=merge -p "$(cat {path})" > /dev/null; code=$?; rm -f {path}; exit $code', timeout=60
    )


def update(
    master: Node,
    masters: Iterable[str] = (),
    nodes: Iterable[str] = (),
    gone: Iterable[str] = (),
    left: Iterable[str] = (),
    back: Iterable[str] = (),
    described: Iterable[Host] = (),
) -> Record:
    """Note who came and who went; tried again when somebody else writes at the same time."""
    for attempt in range(_ATTEMPTS):
        before = read(NodeKubectl(master))
        after = before.without(gone, left, back).with_members(masters, nodes, tuple(described))
        if after == before:
            break
        try:
            write(master, after)
        except CommandError as error:
            if "Conflict" not in (error.details or "") or attempt == _ATTEMPTS - 1:
                raise
        else:
            return after
    return before


def set_apps(master: Node, apps: tuple[ApplicationDocument, ...]) -> None:
    """Note which applications the Clusterfile has now."""
    before = read(NodeKubectl(master))
    write(master, dataclasses.replace(before, clusterfile=dataclasses.replace(before.clusterfile, apps=apps)))


# ---- the machines -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Open connections to a cluster and to machines that have to do with it."""

    state: ClusterState
    record: Record
    ssh: SshConnections
    first: SshNode
    """A master whose API answers."""
    masters: tuple[SshNode, ...]
    """All of the record, also those that do not answer."""
    workers: tuple[SshNode, ...]
    others: tuple[SshNode, ...]
    """Machines that were named and are not in the record."""
    errors: Mapping[str, NodeError]
    """Why some do not answer, by address."""
    names: Mapping[str, str]
    """What the cluster calls its nodes, by address."""

    @property
    def members(self) -> tuple[SshNode, ...]:
        return (*self.masters, *self.workers)

    def name(self, node: Node) -> str:
        return self.names.get(node.address, node.name)

    def alive(self, nodes: Iterable[SshNode]) -> tuple[SshNode, ...]:
        return tuple(node for node in nodes if node.address not in self.errors)


@contextmanager
def gathered(
    name: str, named: Sequence[Machine] = (), *, via: Sequence[Machine] = (), password: str | None = None, home: Path | None = None
) -> Iterator[Gathered]:
    """Connect to a cluster, of which this machine remembers something or ``via`` are masters, and to the machines ``named``.

    Raises UsageError when nothing is known of it, NodeError when no master answers, CheckError when no API does or it keeps no record.
    """
    found = access.known(name, via, home=home)
    known = [_with_password(machine, password) for machine in (*found.masters, *found.nodes)]
    machines = {machine.address: machine for machine in (*named, *known)}
    ssh = SshConnections(found.state.folder, list(machines.values()))
    try:
        _, errors = ssh.reachable()
        first = answering([node for node in _among(ssh, [machine.address for machine in found.masters]) if node not in errors], errors)
        record = read(NodeKubectl(first))
        listed = (*record.masters, *record.nodes)
        unknown = [address for address in listed if address not in machines]
        if unknown:
            # Somebody else has changed the cluster since this machine has.
            login = known[0].login
            ssh = SshConnections(found.state.folder, [*machines.values(), *(Machine(address, login) for address in unknown)])
            _, errors = ssh.reachable()
            first = _among(ssh, [first.address])[0]
        yield Gathered(
            state=found.state,
            record=record,
            ssh=ssh,
            first=first,
            masters=_among(ssh, record.masters),
            workers=_among(ssh, record.nodes),
            others=_among(ssh, [machine.address for machine in named if machine.address not in listed]),
            errors={node.address: error for node, error in errors.items()},
            names=drain.names(readiness.get(NodeKubectl(first), "nodes")),
        )
    finally:
        ssh.close()


def _with_password(machine: Machine, password: str | None) -> Machine:
    login: Login = machine.login
    return machine if password is None or login.key else dataclasses.replace(machine, login=dataclasses.replace(login, password=password))


def _among(ssh: SshConnections, addresses: Sequence[str]) -> tuple[SshNode, ...]:
    by_address = {node.address: node for node in ssh.nodes}
    return tuple(by_address[address] for address in addresses)


def answering(masters: Sequence[SshNode], errors: Mapping[SshNode, NodeError]) -> SshNode:
    """The first of the masters whose API answers. Raises NodeError when there is no master, CheckError when no API answers."""
    if not masters:
        raise NodeError(
            "\n".join(error.message for error in errors.values()) or "there is no master", hint="a cluster is reached through its masters"
        )
    probe = f"{KUBECTL} --request-timeout=5s get --raw /readyz"
    results = each(masters, lambda node: node.run(probe, check=False, timeout=30))
    for node, result in zip(masters, results, strict=True):
        if result.ok:
            return node
    said = "\n".join(f"{node.name}: {result.output.strip()[-300:]}" for node, result in zip(masters, results, strict=True))
    raise CheckError(
        "no API of the cluster answers", hint="slipway status says more; with most masters gone, restore a backup", details=said
    )


# ---- what the others know ---------------------------------------------------------------------------------------------


def remember(found: Gathered, record: Record, *, kubeconfig_from: Node) -> None:
    """What this machine keeps: the way into each member, and a kubeconfig that leads to a master that lives."""
    server = kubeconfig_from.address
    found.state.write("kubeconfig", kubeadm.administrator(kubeconfig_from, server, found.state.name, found.state.authority()).decode())
    by_address = {node.address: node for node in found.ssh.nodes}
    entries = {
        kind: [{**access_entry(by_address[address]), "name": found.name(by_address[address])} for address in addresses]
        for kind, addresses in (("masters", record.masters), ("nodes", record.nodes))
    }
    found.state.remember({"name": found.state.name, "image": record.image, "digest": record.digest, **entries})


def holders(found: Gathered) -> frozenset[str]:
    """Addresses of the masters that hold images. One that does not answer is taken for one if the first ones are."""
    if found.record.registry != "own":
        return frozenset(node.address for node in found.masters[: registry.MOST])
    live = found.alive(found.masters)
    has = each(live, lambda node: node.run(f"[ -e {STATE}/registry.yaml ]", check=False).ok)
    sure = {node.address for node, yes in zip(live, has, strict=True) if yes}
    return frozenset(sure | {node.address for node in found.masters[: registry.MOST] if node not in live})


def requires_login(found: Gathered) -> bool:
    """Whether a registry of the cluster requires the login: then every member has it."""
    return any(each(found.alive(found.masters), lambda node: node.run(registry.REQUIRES_LOGIN, check=False).ok))


def tell_balancer(node: Node, text: str) -> bool:
    """Give a balancer other masters; whether that was news to it. Connections that it has go on."""
    changed = install_files(node, node_files.balancer_files(text))
    if any(path.endswith((".service", ".sh")) for path in changed):
        # Of an earlier slipway, which could not be told.
        node.run("systemctl daemon-reload; systemctl restart slipway-balancer", timeout=LONG_TIMEOUT)
    elif changed:
        node_files.start_balancer(node, text)
    return bool(changed)


def balancers(found: Gathered, masters: Sequence[tuple[str, str]], holding: frozenset[str]) -> dict[str, str]:
    """The configuration, by address, of every balancer of the members when these are the masters (names and addresses)."""
    images = [(name, address) for name, address in masters if address in holding]
    led = ipvs.as_it_is(ipvs.ask(found.alive(found.members)))

    def text(node: Node, masters: Sequence[tuple[str, str]]) -> str:
        virtual_ip = led.of(node.address)
        if virtual_ip is None:
            return node_files.balancing(masters, images)
        return ipvs.config(virtual_ip, node.address, [address for _, address in masters], [address for _, address in images])

    texts = {node.address: text(node, masters) for node in found.workers}
    return texts | {node.address: text(node, []) for node in found.masters if node.address not in holding and images}
