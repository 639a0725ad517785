"""kubeadm alone on every kind of node: of a cluster that slipway has made, and a control-plane node of kubeadm's own beside slipway's.

Each test goes on where the one before has left it.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator

import pytest

from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from tests.cluster.lab import CRICTL, MEMBERS, Lab, kubeadm_resets, kubeadm_upgrades, until
from tests.conftest import KUBERNETES, Slipway
from tests.waiting import HANG

pytestmark = pytest.mark.long

HEALTH = MEMBERS.replace("member list", "endpoint health --cluster")
MEMBER = re.compile(r"^\w+, started, [^,]+, [^,]+, https://([\d.]+):2379, false$", re.MULTILINE)
"""A member of etcd that votes; its address."""
CERTIFICATE = "/etc/kubernetes/pki/apiserver.crt"


@pytest.fixture(scope="module")
def lab(slipway: Slipway, kubernetes: str) -> Iterator[Lab]:
    made = Lab(slipway, "test-kubeadm", 3, 1, spares=1)
    try:
        made.run(kubernetes)
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def joined(lab: Lab) -> SshNode:
    """The machine that slipway does not know, a control-plane node by kubeadm."""
    (address,) = lab.spares
    plain = lab.equip(address, lab.control_plane[1])
    # As its preflight would.
    plain.run(f"kubeadm config images pull --kubernetes-version {KUBERNETES}", timeout=HANG)
    said = lab.first.run("kubeadm init phase upload-certs --upload-certs", timeout=HANG).stdout
    (key,) = re.findall(r"^[0-9a-f]{64}$", said, re.MULTILINE)
    lab.kubeadm_join(address, "--control-plane", "--certificate-key", key)
    return plain


def members(lab: Lab) -> set[str]:
    return set(MEMBER.findall(lab.first.run(MEMBERS, check=False).stdout))


def is_well(lab: Lab, *more: str) -> None:
    """Wait until the cluster is healthy with its nodes and, at ``more``, further control-plane nodes; these are all in etcd."""
    until(lambda: lab.nodes() == {lab.host(address): True for address in (*lab.addresses, *more)})
    until(lambda: members(lab) == {*lab.control_plane, *more})
    until(lambda: lab.first.run(HEALTH, check=False).output.count(" is healthy") == len(members(lab)))
    until(lambda: lab.status()["healthy"])


def served(address: str) -> bytes:
    """The certificate that the API server of a control-plane node shows; empty while there is none."""
    with contextlib.suppress(OSError):
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((address, 6443), timeout=HANG))
    return b""


def test_kubeadm_join_of_control_plane_node_makes_it_member_of_etcd(lab: Lab, joined: SshNode) -> None:
    is_well(lab, joined.address)
    (roles,) = (node["roles"] for node in lab.status()["nodes"] if node["name"] == lab.host(joined.address))
    assert roles == ["control-plane"]
    # Its own server answers, and knows the others.
    answer = NodeKubectl(joined).run("--server", f"https://{joined.address}:6443", "get", "nodes", "--output=name")
    assert set(answer.split()) == {f"node/{lab.host(address)}" for address in (*lab.addresses, joined.address)}


def test_kubeadm_certs_renew_on_joined_control_plane_node_changes_served_certificate(lab: Lab, joined: SshNode) -> None:
    before = joined.get(CERTIFICATE)
    for _ in range(2):
        checked = joined.run("kubeadm certs check-expiration").stdout
        assert "front-proxy-client" in checked
        assert "invalid" not in checked
        assert "Done renewing certificates" in joined.run("kubeadm certs renew all").stdout
    renewed = joined.get(CERTIFICATE)
    assert renewed != before
    # What runs has read the former ones.
    joined.run(f"{CRICTL} --timeout 60s rmp --force $({CRICTL} pods --quiet --label tier=control-plane)")
    until(lambda: served(joined.address) == ssl.PEM_cert_to_DER_cert(renewed.decode()))
    is_well(lab, joined.address)


def test_kubeadm_upgrade_node_on_each_kind_of_node_keeps_cluster_healthy(lab: Lab, joined: SshNode) -> None:
    for machine in (lab.at(lab.control_plane[2]), lab.worker, joined):
        kubeadm_upgrades(machine)
        is_well(lab, joined.address)


def test_kubeadm_reset_of_joined_control_plane_node_takes_it_out_of_etcd(lab: Lab, joined: SshNode) -> None:
    kubeadm_resets(joined)
    lab.kubectl("delete", "node", lab.host(joined.address))
    is_well(lab)
    assert joined.run("ls -A /etc/kubernetes/manifests /etc/kubernetes/pki").stdout.split() == [
        "/etc/kubernetes/manifests:",
        "/etc/kubernetes/pki:",
    ]


def test_kubeadm_reset_of_worker_of_slipway_moves_its_pods_and_keeps_cluster_healthy(lab: Lab) -> None:
    worker, host = lab.worker, lab.host(lab.workers[0])
    NodeKubectl(lab.first).run("drain", host, "--ignore-daemonsets", "--delete-emptydir-data", timeout=HANG)
    kubeadm_resets(worker)
    lab.kubectl("delete", "node", host)
    lab.workers = []
    is_well(lab)

    def places() -> set[str]:
        return {pod["spec"].get("nodeName", "") for pod in lab.json("get", "pods", "--all-namespaces")["items"]}

    # Those of a node that is no more are forgotten after a while.
    until(lambda: places() == {lab.host(address) for address in lab.control_plane})
