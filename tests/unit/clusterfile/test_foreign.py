"""Files of other tools."""

from __future__ import annotations

import pytest

from harness.clusterfile import foreign
from harness.errors import InputError

from .reading import read

FILES = {
    "sealos": "apiVersion: apps.sealos.io/v1beta1\nkind: Cluster\n"
    "spec: {image: [a, b], hosts: [{ips: ['10.0.0.1:22'], roles: [master, amd64]}]}\n",
    "k0sctl": "apiVersion: k0sctl.k0sproject.io/v1beta1\nkind: Cluster\nspec: {hosts: [{role: controller, ssh: {address: 10.0.0.1}}]}\n",
    "k0s": "apiVersion: k0s.k0sproject.io/v1beta1\nkind: ClusterConfig\nspec: {}\n",
    "KubeKey": "apiVersion: kubekey.kubesphere.io/v1alpha2\nkind: Cluster\n"
    "spec: {hosts: [{name: a, address: 1.2.3.4}], roleGroups: {etcd: [a]}}\n",
    "kind": "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n- role: control-plane\n",
    "k3d": "apiVersion: k3d.io/v1alpha5\nkind: Simple\nservers: 1\n",
    "Cluster API": "apiVersion: infrastructure.cluster.x-k8s.io/v1beta1\nkind: AWSCluster\nspec: {}\n---\n"
    "apiVersion: cluster.x-k8s.io/v1beta1\nkind: Cluster\nspec: {}\n",
    "Rancher": "apiVersion: provisioning.cattle.io/v1\nkind: Cluster\n",
    "eksctl": "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n",
    "kOps": "apiVersion: kops.k8s.io/v1alpha2\nkind: Cluster\n",
    "KubeOne": "apiVersion: kubeone.k8c.io/v1beta2\nkind: KubeOneCluster\n",
    "Talos": "version: v1alpha1\nmachine: {type: controlplane}\ncluster: {}\n",
    "RKE": "nodes: [{address: 1.2.3.4, user: root, role: [etcd]}]\nservices: {etcd: {}}\n",
    "RKE2 or k3s": "token: geheim\ntls-san: [a.example.com]\ncni: calico\n",
    "Ansible": "all:\n  hosts: {node1: {ip: 10.0.0.1}}\n",
}


def test_foreign_examples_cover_all_tools() -> None:
    assert list(FILES) == [tool.name for tool in foreign.TOOLS]


@pytest.mark.parametrize("name", FILES)
def test_parse_file_of_other_tool_reports_tool_and_hint(name: str) -> None:
    with pytest.raises(InputError) as caught:
        read("# mine\n" + FILES[name])
    (fault,) = caught.value.faults
    assert (fault.where, fault.message) == ("Clusterfile:2", f"this is a file of {name}, not a Clusterfile")
    assert fault.hint
    assert fault.hint.startswith("write ")
    assert "geheim" not in str(caught.value)


def test_parse_sealos_file_hint_names_list_of_images() -> None:
    with pytest.raises(InputError) as caught:
        read(FILES["sealos"])
    assert str(caught.value.faults[0].hint).endswith("image: takes a name or a list")
    assert read("apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: x}\nspec: {image: [kubernetes:1, app:2]}\n")


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: slipway.dev/v9\nkind: Cluster\n",
        "apiVersion: sealer.io/v2\nkind: Clster\n",
        "kind: Cluster\n",
        "- a\n",
        "metadata: {name: x}\n",
        "apiVersion: [a]\nkind: Cluster\n",
    ],
)
def test_parse_faulty_clusterfile_is_not_reported_as_other_tool(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert not any("this is a file of" in fault.message for fault in caught.value.faults)
