"""The administrator's access as it is read from a control-plane node. Nodes are stand-ins."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from harness.errors import NodeError
from harness.runtimes.kubeadm import Kubeadm
from harness.runtimes.kubeconfig import ADMIN, administrator
from tests.unit.runtimes.machines import cluster, machine


def test_kubeconfig_server_is_address_of_control_plane_node() -> None:
    of = cluster(1)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.certify(of.control_plane[0])
    found = yaml.safe_load(kubeadm.kubeconfig("10.0.0.1"))
    assert found["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"
    assert found["current-context"] == "kubernetes-admin@lab"
    ipv6 = yaml.safe_load(kubeadm.kubeconfig("fd00::1"))
    assert ipv6["clusters"][0]["cluster"]["server"] == "https://[fd00::1]:6443"


HOSTILE: dict[str, dict[str, dict[str, Any]]] = {
    "exec": {"user": {"exec": {"command": "sh", "args": ["-c", "touch /tmp/x"], "apiVersion": "client.authentication.k8s.io/v1"}}},
    "auth-provider": {"user": {"auth-provider": {"name": "gcp", "config": {"cmd-path": "sh"}}}},
    "token-file": {"user": {"tokenFile": "/root/.ssh/id_rsa", "client-key": "/root/.ssh/id_rsa"}},
    "proxy-url": {"cluster": {"proxy-url": "http://10.9.9.9:1", "tls-server-name": "x", "insecure-skip-tls-verify": True}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_kubeconfig_of_node_keeps_certificates_and_key_only(what: str) -> None:
    of = cluster(1)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.certify(of.control_plane[0])
    node = machine(of.control_plane[0])
    theirs = yaml.safe_load(node.get(ADMIN))
    theirs["users"][0]["user"].update(HOSTILE[what].get("user", {}))
    theirs["clusters"][0]["cluster"].update(HOSTILE[what].get("cluster", {}))
    theirs["users"].append({"name": "other", "user": {"exec": {"command": "sh"}}})
    theirs["preferences"] = theirs["extensions"] = {"x": "y"}
    node.put(yaml.safe_dump(theirs).encode(), ADMIN)
    found = yaml.safe_load(kubeadm.kubeconfig("10.0.0.1"))
    assert found["clusters"] == [
        {
            "name": "lab",
            "cluster": {
                "certificate-authority-data": theirs["clusters"][0]["cluster"]["certificate-authority-data"],
                "server": "https://10.0.0.1:6443",
            },
        }
    ]
    assert [set(user["user"]) for user in found["users"]] == [{"client-certificate-data", "client-key-data"}]
    assert set(found) == {"apiVersion", "kind", "clusters", "contexts", "current-context", "preferences", "users"}


def test_kubeconfig_of_other_ca_is_refused() -> None:
    of, other = cluster(1), cluster(1)
    mine, theirs = Kubeadm(of), Kubeadm(other)
    for kubeadm, where in ((mine, of), (theirs, other)):
        kubeadm.prepare()
        kubeadm.certify(where.control_plane[0])
    machine(of.control_plane[0]).put(machine(other.control_plane[0]).get(ADMIN), ADMIN)
    with pytest.raises(NodeError, match="is not the CA of cluster lab"):
        mine.kubeconfig("10.0.0.1")
    assert administrator(of.control_plane[0].node, "10.0.0.1", "lab", theirs.authority())


@pytest.mark.parametrize("text", ["", "[]", "a: &a [*a]", "clusters: 5", "\xff", "{" * 2000])
def test_administrator_invalid_kubeconfig_reports_machine_and_path(text: str) -> None:
    of = cluster(1)
    machine(of.control_plane[0]).put(text.encode("latin-1"), ADMIN)
    with pytest.raises(NodeError, match=rf"control-plane-1: {ADMIN}"):
        administrator(of.control_plane[0].node, "10.0.0.1", "lab")
