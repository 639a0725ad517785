"""Documents of kubeadm, kubelet and kube-proxy that image and Clusterfile bring: what of them counts, and where."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import yaml
from cryptography import x509

from harness.runtimes import RuntimeCluster
from harness.runtimes.kubeadm import Kubeadm, kubelet_flags, master_config, worker_kubelet
from harness.runtimes.pki import FOLDER, Pki, covers, master_certificates
from tests.unit.runtimes.test_kubeadm import Machine, cluster

OURS = {"apiVersion": "kubeadm.k8s.io/v1beta2"}


def written(found: Any) -> dict[str, dict[str, Any]]:
    text = master_config(found, found.masters[0], initial=True)
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_what_documents_say_is_joined_with_ours_and_the_last_one_counts() -> None:
    documents = (
        {**OURS, "kind": "ClusterConfiguration", "apiServer": {"certSANs": ["a.example.com"], "extraArgs": {"profiling": "false"}}},
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 50},
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 60},
        {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"},
    )
    found = written(cluster(1, 1, documents=documents))
    assert {"a.example.com", "10.0.0.1"} <= set(found["ClusterConfiguration"]["apiServer"]["certSANs"])
    assert found["ClusterConfiguration"]["apiServer"]["extraArgs"] == [{"name": "profiling", "value": "false"}]
    assert (found["KubeletConfiguration"]["maxPods"], found["KubeletConfiguration"]["failSwapOn"]) == (60, False)
    assert (found["KubeProxyConfiguration"]["mode"], found["KubeProxyConfiguration"]["conntrack"]) == ("ipvs", {"maxPerCore": 0})


def test_names_for_certificates_are_in_the_certificates_that_we_make() -> None:
    documents = (
        {
            **OURS,
            "kind": "ClusterConfiguration",
            "apiServer": {"certSANs": ["a.example.com", "10.9.9.9"]},
            "etcd": {"local": {"serverCertSANs": ["etcd.example.com"]}},
        },
    )
    runtime = Kubeadm(cluster(documents=documents))
    runtime.prepare()
    master = runtime.first
    runtime.certify(master)
    assert isinstance(master.node, Machine)
    for name, hosts in (("apiserver", ["a.example.com", "10.9.9.9", "10.0.0.1"]), ("etcd/server", ["etcd.example.com", "10.0.0.1"])):
        assert covers(master.node.files[f"{FOLDER}/{name}.crt"][0], hosts)


def test_what_image_and_machines_decide_no_document_changes() -> None:
    documents = (
        {
            **OURS,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": "v1.33.8",
            "imageRepository": "sea.hub:5000/library",
            "controlPlaneEndpoint": "elsewhere:6443",
            "networking": {"podSubnet": "10.1.0.0/16"},
            "etcd": {"external": {"endpoints": ["https://10.9.9.9:2379"]}},
        },
        {
            **OURS,
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"bindPort": 7443},
            "nodeRegistration": {"criSocket": "/docker", "name": "x"},
        },
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": "/elsewhere",
            "containerRuntimeEndpoint": "unix:///run/crio/crio.sock",
        },
    )
    plain, found = written(cluster(1, 1)), written(cluster(1, 1, documents=documents))
    assert found == plain


def test_workers_read_the_same_and_what_is_said_of_those_that_join() -> None:
    documents = (
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 60, "clusterDNS": ["10.9.9.9"]},
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "JoinConfiguration",
            "nodeRegistration": {
                "kubeletExtraArgs": [{"name": "v", "value": "4"}],
                "taints": [{"key": "new", "value": "yes", "effect": "NoSchedule"}],
            },
        },
    )
    found = cluster(1, 1, documents=documents)
    configuration = worker_kubelet(found, found.workers[0])
    assert (configuration["maxPods"], configuration["clusterDNS"]) == (60, ["10.96.0.10"])
    flags = kubelet_flags(found, found.workers[0])
    assert "--v=4" in flags
    assert "--register-with-taints=new=yes:NoSchedule" in flags


def test_taints_of_masters_are_the_documents_to_choose() -> None:
    taints = [{"key": "mine", "effect": "NoSchedule"}]
    found = cluster(1, 1, documents=({**OURS, "kind": "InitConfiguration", "nodeRegistration": {"taints": taints}},))
    assert written(found)["InitConfiguration"]["nodeRegistration"]["taints"] == taints


def test_certificates_are_good_for_as_long_as_asked_and_no_authority_ends_before_them() -> None:
    days = 36500
    pki = Pki.make(days=days)
    pairs = master_certificates(pki, "master-1", ["10.0.0.1"], ["127.0.0.1"], days)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days - 1)
    for pair in pairs.values():
        assert x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc > end
    asked, usual = (written(cluster(certificate_days=days))["ClusterConfiguration"]["controllerManager"] for days in (90, None))
    assert {"name": "cluster-signing-duration", "value": "2160h"} in asked["extraArgs"]
    assert "cluster-signing-duration" not in str(usual)


def test_the_certificates_of_masters_hold_the_address_by_which_kernels_lead_to_them() -> None:
    found = cluster(3, 1, virtual_ip="10.103.97.2")
    assert "10.103.97.2" in written(found)["ClusterConfiguration"]["apiServer"]["certSANs"]
    assert "10.103.97.2" not in written(cluster(3, 1))["ClusterConfiguration"]["apiServer"]["certSANs"]


def test_the_mode_of_kube_proxy_is_what_all_machines_can_do_unless_it_is_asked_for() -> None:
    def mode(of: RuntimeCluster) -> str:
        return str(written(of)["KubeProxyConfiguration"]["mode"])

    def all_can(of: RuntimeCluster) -> RuntimeCluster:
        return dataclasses.replace(of, members=tuple(dataclasses.replace(one, nftables=True) for one in of.members))

    able = all_can(cluster(3, 2))
    assert mode(able) == "nftables"
    one_cannot = (*able.members[:-1], dataclasses.replace(able.members[-1], nftables=False))
    assert mode(dataclasses.replace(able, members=one_cannot)) == "iptables"
    # A cluster keeps the one that it has.
    assert mode(dataclasses.replace(able, proxy_mode="iptables")) == "iptables"
    assert mode(dataclasses.replace(able, members=one_cannot, proxy_mode="nftables")) == "nftables"
    asked = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}
    assert mode(dataclasses.replace(able, documents=(asked,))) == "ipvs"


def test_kube_proxy_leaves_rules_alone_that_are_not_its_own() -> None:
    def ipvs(of: Any) -> Any:
        return written(of)["KubeProxyConfiguration"].get("ipvs")

    proxy = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}
    documents = ({**proxy, "ipvs": {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24"]}},)
    found = ipvs(cluster(1, 1, documents=documents, virtual_ip="10.103.97.2"))
    assert found == {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24", "10.103.97.2/32"]}
    assert ipvs(cluster(1, 1, documents=(proxy,), virtual_ip="fd00::2")) == {"excludeCIDRs": ["fd00::2/128"]}
    assert ipvs(cluster(1, 1, documents=(proxy,))) is None
    assert ipvs(cluster(1, 1, virtual_ip="10.103.97.2")) is None
