"""The CA that this machine knows of a cluster: no verb takes access from a control-plane node with another one."""

from __future__ import annotations

import base64
import contextlib
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.clusterfile import ClusterDocument, Clusterfile, SshSettings
from harness.errors import NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import adopt, restore
from harness.lifecycle.cluster import access, certificates, kubeconfig, membership
from harness.lifecycle.cluster.access import Access, Known
from harness.lifecycle.cluster.backup import Contents
from harness.lifecycle.cluster.membership import Gathered
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections
from harness.runtimes import kubeconfig as runtimes_kubeconfig
from harness.runtimes.pki import Authority
from tests.unit.lifecycle.cluster.test_membership import record
from tests.unit.lifecycle.standin import StandIn


@functools.cache
def authority(name: str) -> Authority:
    return Authority.make(name)


def admin_conf(of: Authority) -> bytes:
    """A file as kubeadm leaves it on control-plane nodes, with a new certificate."""
    pair = of.issue("kubernetes-admin", organizations=["system:masters"])
    data = {"client-certificate-data": pair.certificate, "client-key-data": pair.key}
    credentials = {name: base64.b64encode(value).decode() for name, value in data.items()}
    return runtimes_kubeconfig.kubeconfig("lab", of.certificate, "kubernetes-admin", credentials).encode()


class ControlPlaneNode(StandIn):
    """Its administrator's kubeconfig is of the CA ``of``."""

    def __init__(self, of: Authority) -> None:
        super().__init__("10.0.0.1", "one")
        self.machine = Machine(self.address)
        self._admin = admin_conf(of)

    def get(self, path: str) -> bytes:
        return {runtimes_kubeconfig.ADMIN: self._admin}[path]


class Cluster:
    """The cluster ``lab``, of whose CA ``known`` this machine keeps a kubeconfig; ``node`` is its control-plane node."""

    def __init__(self, home: Path, known: Authority, of: Authority) -> None:
        node: Any = ControlPlaneNode(of)
        self.node = node
        self.authority = known
        self.state = ClusterState.of("lab", home)
        access.remember(self.state, [self.node], [])
        self.state.write("kubeconfig", admin_conf(known).decode())

    @property
    def kubeconfig(self) -> bytes:
        return self.state.kubeconfig.read_bytes()

    @property
    def access(self) -> Access:
        known = Known(self.state, (self.node.machine,), ())
        return Access(known, SshConnections(self.state.folder, known.control_plane), (self.node,), (), {})


def fetch(cluster: Cluster) -> None:
    config = kubeconfig.fetch("lab")
    kubeconfig.write(config, cluster.state.kubeconfig)


def remember_members(cluster: Cluster) -> None:
    nodes = (cluster.node,)
    ssh: Any = SshConnections(cluster.state.folder, ())
    stored = record()
    stored = stored.with_clusterfile(membership.without_members(stored.clusterfile, [*stored.control_plane, *stored.workers]))
    members = Gathered(cluster.state, stored, ssh, cluster.node, nodes, (), (), {}, {cluster.node.address: cluster.node.name})
    membership.remember(members, stored, kubeconfig_from=cluster.node)


def renew_certificates(cluster: Cluster) -> None:
    certificates._remember_access(cluster.access)


def restore_backup(cluster: Cluster) -> None:
    """The last step of a restore in place; the backup has the CA of the cluster."""
    contents = Contents({"etcd": {"image": "etcd"}}, {"ca.crt": cluster.authority.certificate}, "", {})
    (last,) = [step for step in restore._in_place(cluster.access, restore._Source(contents, io.BytesIO()), 600) if step.id == "record"]
    action: Any = last.action
    action()


def adopt_cluster(cluster: Cluster) -> None:
    node = cluster.node
    node.answers = {"sha256sum": f"{'0' * 64}  ca.crt\n"}
    connections: Any = SimpleNamespace(connect=lambda: (node,), nodes=(node,), known_hosts=cluster.state.folder / "none")
    document = ClusterDocument(name="lab", image="web:1", hosts=(), ssh=SshSettings())
    adopt.adopt(adopt.Taken(Clusterfile("", cluster=document), "v1.36.3", ""), connections, (node.machine,), ())


VERBS: dict[str, Callable[[Cluster], None]] = {
    "kubeconfig": fetch,
    "join": remember_members,
    "certs renew": renew_certificates,
    "restore": restore_backup,
    "generate --adopt": adopt_cluster,
}


@pytest.fixture
def connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Cluster]:
    """Makes a cluster which verbs find below the home of this machine, with its stand-ins in place of connections."""

    def connect(**authorities: Authority) -> Cluster:
        cluster = Cluster(tmp_path, **authorities)

        @contextlib.contextmanager
        def opened(*_: object, **__: object) -> Iterator[Access]:
            yield cluster.access

        monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
        monkeypatch.setattr(access, "opened", opened)
        return cluster

    return connect


@pytest.mark.parametrize("verb", VERBS)
def test_access_from_node_of_other_ca_is_refused_and_kubeconfig_kept(connected: Callable[..., Cluster], verb: str) -> None:
    cluster = connected(known=authority("kubernetes"), of=authority("other"))
    before = cluster.kubeconfig
    with pytest.raises(NodeError, match=r"one: the CA in its /etc/kubernetes/admin\.conf is not the CA of cluster lab"):
        VERBS[verb](cluster)
    assert cluster.kubeconfig == before


def test_adopt_known_host_keys_are_kept_and_new_ones_added(connected: Callable[..., Cluster]) -> None:
    cluster = connected(known=authority("kubernetes"), of=authority("kubernetes"))
    cluster.state.write("known_hosts", "10.0.0.1 ssh-ed25519 A\n10.0.0.9 ssh-ed25519 B\n")
    cluster.state.write("none", "10.0.0.2 ssh-ed25519 C\n")
    adopt_cluster(cluster)
    assert cluster.state.known_hosts.read_text() == "10.0.0.1 ssh-ed25519 A\n10.0.0.9 ssh-ed25519 B\n10.0.0.2 ssh-ed25519 C\n"


@pytest.mark.parametrize("verb", VERBS)
def test_access_from_node_of_known_ca_replaces_kubeconfig(connected: Callable[..., Cluster], verb: str) -> None:
    cluster = connected(known=authority("kubernetes"), of=authority("kubernetes"))
    before = cluster.kubeconfig
    VERBS[verb](cluster)
    assert cluster.kubeconfig != before
    assert cluster.state.authority() == cluster.authority.certificate
