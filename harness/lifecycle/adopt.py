"""``slipway generate --from-cluster``: a cluster of kubeadm's, by whatever hand, as a Clusterfile; with ``--adopt`` it is one of ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from harness import assets
from harness.clusterfile import CONTROL_PLANE, ROLES, WORKER, ClusterDocument, Clusterfile, Host, SshSettings, Taint, validators, write
from harness.errors import CheckError, NodeError
from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
from harness.lifecycle.cluster import access, owner, record
from harness.lifecycle.cluster.record import ELSEWHERE, ClusterRecord
from harness.lifecycle.kube import objects
from harness.lifecycle.provision.rootfs import MARK
from harness.nodes import Machine, Node, each
from harness.nodes.files import STATE
from harness.nodes.ssh import SshConnections as Connections
from harness.runtimes import API_NAME, ROOTFS
from harness.runtimes.kubeconfig import ADMIN, administrator
from harness.runtimes.pki import FOLDER as PKI

_ROLE = "node-role.kubernetes.io/"
_KUBECTL = f"HOME=/tmp KUBECONFIG={ADMIN} PATH={ROOTFS}/bin:$PATH:/usr/local/bin kubectl --request-timeout=20s"


@dataclasses.dataclass(frozen=True)
class Taken:
    """A cluster as it was found."""

    clusterfile: Clusterfile
    kubernetes: str
    text: str
    """The Clusterfile, to be written to a file."""


def read(node: Node, name: str | None, ssh: SshSettings, image: str | None = None) -> Taken:
    """The cluster of a control-plane node. ``ssh``: the way in, for all; ``image``: what it is to be counted as.

    Raises CheckError when there is no cluster of kubeadm's, or its API does not answer.
    """
    asked = node.run(f"{_KUBECTL} get nodes --output=json", check=False, timeout=60)
    if not asked.ok:
        raise CheckError(
            f"{node.name}: no cluster answers",
            hint=f"name a control-plane node whose {ADMIN} is the administrator's",
            details=asked.output,
        )
    configuration = _configuration(node)
    nodes = objects.objects(asked.stdout, where=node.name)
    if not nodes:
        raise CheckError(f"{node.name}: its cluster has no nodes", hint="is its kubelet running?")
    version = str(configuration.get("kubernetesVersion") or nodes[0]["status"]["nodeInfo"]["kubeletVersion"])
    networking = configuration.get("networking") or {}
    hosts = _hosts(nodes, ssh)
    own = {address for host in hosts for address in host.ips} | {"127.0.0.1", API_NAME}
    sans = [str(san) for san in _list((configuration.get("apiServer") or {}).get("certSANs")) if str(san) not in own]
    cluster = ClusterDocument(
        name=name or _name(str(configuration.get("clusterName") or "")),
        image=image or f"kubernetes:{version}",
        hosts=hosts,
        ssh=ssh,
        pod_cidr=networking.get("podSubnet"),
        svc_cidr=networking.get("serviceSubnet"),
        cert_sans=tuple(sans),
    )
    clusterfile = Clusterfile("", cluster=cluster)
    return Taken(clusterfile, version, write.write(clusterfile))


def _configuration(node: Node) -> Mapping[str, Any]:
    """kubeadm's ClusterConfiguration as the cluster keeps it; empty where it was made otherwise."""
    asked = node.run(f"{_KUBECTL} --namespace kube-system get configmap kubeadm-config --output=json", check=False, timeout=60)
    if not asked.ok:
        raise CheckError(
            f"{node.name}: the cluster was not made by kubeadm: it keeps no kubeadm-config in kube-system",
            hint="slipway manages clusters of kubeadm",
            details=asked.output,
        )
    return objects.configuration(objects.config_map(asked.stdout, where=node.name), node.name)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _name(text: str) -> str:
    """A name that a Clusterfile may have."""
    return text if re.fullmatch(validators.CLUSTER_NAME, text) and text != "kubernetes" else DEFAULT_NAME


def _hosts(nodes: Iterable[Mapping[str, Any]], ssh: SshSettings) -> tuple[Host, ...]:
    """The nodes by address, control-plane nodes first; those that are alike together."""
    hosts: list[Host] = []
    for node in nodes:
        metadata, spec = node["metadata"], node.get("spec") or {}
        addresses = objects.internal_addresses(node)
        if not addresses:
            raise CheckError(f"node {metadata['name']} has no internal address", hint="is its kubelet running?")
        labels = metadata.get("labels") or {}
        roles = sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))
        role = CONTROL_PLANE if CONTROL_PLANE in map(ROLES.get, roles) else WORKER
        taints = [Taint(taint["key"], str(taint.get("value") or ""), taint["effect"]) for taint in spec.get("taints") or ()]
        host = Host(
            (addresses[0],),
            (role, *(own for own in roles if own not in ROLES)),
            ssh,
            labels={key: str(value) for key, value in labels.items() if "kubernetes.io/" not in key and "k8s.io/" not in key},
            # Those of Kubernetes' own come and go by themselves.
            taints=tuple(taint for taint in taints if "kubernetes.io/" not in taint.key),
        )
        alike = next(
            (index for index, other in enumerate(hosts) if dataclasses.replace(other, ips=()) == dataclasses.replace(host, ips=())), None
        )
        if alike is None:
            hosts.append(host)
        else:
            hosts[alike] = dataclasses.replace(hosts[alike], ips=(*hosts[alike].ips, addresses[0]))
    return tuple(sorted(hosts, key=lambda host: not host.is_control_plane))


def adopt(existing: Taken, connections: Connections, control_plane: tuple[Machine, ...], workers: tuple[Machine, ...]) -> None:
    """Keep in the cluster, on its machines and here that it is one of ours. Its workloads are not touched; it has no registry of ours.

    ``connections`` hold to the host keys that are known of a cluster of this name.

    Raises NodeError when a machine cannot be reached, or when this machine knows a cluster of the same name with another CA; CheckError
    when one belongs to another cluster of slipway or the cluster has a record.
    """
    cluster = existing.clusterfile.cluster
    assert cluster is not None
    opened = connections.connect()
    first, state = opened[0], ClusterState.of(cluster.name)
    kubeconfig = administrator(first, first.address, cluster.name, state.authority())
    checksum = first.run(f"sha256sum {PKI}/ca.crt").stdout
    if not re.match(r"[0-9a-f]{64}\s", checksum):
        raise NodeError(f"{first.name}: the checksum of {PKI}/ca.crt cannot be read")
    identity = checksum[:16]
    foreign = [
        f"{node.address} belongs to a cluster {mark[0]}"
        for node, mark in zip(opened, each(opened, owner.of), strict=True)
        if mark and mark != (cluster.name, identity)
    ]
    if foreign:
        raise CheckError("\n".join(foreign), hint="delete that one first, or give the name that it has: --cluster")
    script = assets.script("adopt", mark=MARK, owner=f"{cluster.name} {identity}", rootfs=ROOTFS, state=STATE)
    each(opened, lambda node: node.run(script))
    record.apply(first, ClusterRecord(cluster.image, registry=ELSEWHERE).with_clusterfile(existing.clusterfile), _KUBECTL)
    state.write("kubeconfig", kubeconfig.decode())
    _remember(state, cluster, connections, control_plane, workers)


def _remember(
    state: ClusterState,
    cluster: ClusterDocument,
    connections: Connections,
    control_plane: tuple[Machine, ...],
    workers: tuple[Machine, ...],
) -> None:
    by_address = {node.address: node for node in connections.nodes}
    # ssh has compared with the keys that were known, and wrote those of other machines only.
    pins = [line for file in (state.known_hosts, connections.known_hosts) if file.exists() for line in file.read_text().splitlines()]
    state.write("known_hosts", "".join(f"{line}\n" for line in dict.fromkeys(pins)))
    access.remember(
        state,
        [by_address[machine.address] for machine in control_plane],
        [by_address[machine.address] for machine in workers],
        image={"image": cluster.image, "digest": ""},
    )
