"""Configuration of kubeadm, kubelet and kube-proxy: slipway's own, and what documents of a profile, an image and a Clusterfile change."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest
from cryptography import x509

from harness.runtimes import ClusterNetwork, Facts, RuntimeCluster
from harness.runtimes.configuration import kubelet_flags, worker_kubelet
from harness.runtimes.pki import FOLDER, Pki, control_plane_certificates
from tests.unit.runtimes.machines import FACTS, arguments, cluster, config, hardened, member

V1BETA2 = {"apiVersion": "kubeadm.k8s.io/v1beta2"}


def dual(pods: str, *, control_plane: int = 1) -> RuntimeCluster:
    """A cluster with addresses of both families, and a worker."""
    members = [member(number + 1, address6=f"fd00::{number + 1}") for number in range(control_plane)]
    network = ClusterNetwork.parse(pods, "10.96.0.0/22,fd00:10:96::/112")
    return RuntimeCluster("lab", FACTS, network, (*members, member(101, "worker", address6="fd00::101")))


@pytest.mark.parametrize("version", ["v1.31.0", "v1.36.3"])
def test_each_kubernetes_gets_the_configuration_that_all_of_them_read(version: str) -> None:
    found = config(cluster(facts=Facts(version)))
    assert {found[kind]["apiVersion"] for kind in ("InitConfiguration", "ClusterConfiguration")} == {"kubeadm.k8s.io/v1beta4"}


def test_all_members_of_etcd_know_each_other_from_the_start() -> None:
    etcd = config(cluster(3), index=1)["ClusterConfiguration"]["etcd"]["local"]
    assert arguments(etcd["extraArgs"])["initial-cluster"] == (
        "control-plane-1=https://10.0.0.1:2380,control-plane-2=https://10.0.0.2:2380,control-plane-3=https://10.0.0.3:2380"
    )
    assert arguments(etcd["extraArgs"])["initial-cluster-state"] == "new"
    assert etcd["imageTag"] == "3.6.8-0"


def test_what_the_cluster_keeps_does_not_bind_control_plane_nodes_that_join_later() -> None:
    assert "extraArgs" not in config(cluster(3), initial=False)["ClusterConfiguration"]["etcd"]["local"]


def test_an_api_server_serves_on_for_a_moment_when_it_ends_where_others_take_over() -> None:
    server = config(cluster(3))["ClusterConfiguration"]["apiServer"]
    assert arguments(server["extraArgs"]) == {"shutdown-delay-duration": "10s", "shutdown-watch-termination-grace-period": "10s"}
    # Control-plane nodes that join by hand do so too.
    assert config(cluster(3), initial=False)["ClusterConfiguration"]["apiServer"] == server
    assert "extraArgs" not in config(cluster(1, 2))["ClusterConfiguration"]["apiServer"]
    asked = {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": [{"name": "shutdown-delay-duration", "value": "60s"}]}}
    found = config(cluster(3, documents=({"apiVersion": "kubeadm.k8s.io/v1beta4", **asked},)))["ClusterConfiguration"]["apiServer"]
    assert arguments(found["extraArgs"])["shutdown-delay-duration"] == "60s"


def test_init_configuration_bootstrap_token_ends_at_once() -> None:
    # No node joins with it: machines get their certificates from slipway. A token of kubeadm's own would live for a day.
    assert config(cluster(3, 1))["InitConfiguration"]["bootstrapTokens"] == [{"ttl": "1s"}]


def test_extra_arguments_are_lists() -> None:
    found = config(cluster(3, 1))
    registration = found["InitConfiguration"]["nodeRegistration"]
    assert registration["kubeletExtraArgs"] == [{"name": "node-ip", "value": "10.0.0.1"}]
    local, manager = (found["ClusterConfiguration"]["etcd"]["local"], found["ClusterConfiguration"]["controllerManager"])
    assert {"name": "initial-cluster-state", "value": "new"} in local["extraArgs"]
    assert {"name": "kube-api-qps", "value": "100"} in manager["extraArgs"]


def test_kubelets_get_both_addresses_of_their_machines_and_kubeadm_both_networks() -> None:
    of = dual("100.64.0.0/10,fd00:10:64::/48")
    found = config(of)
    assert found["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"] == [{"name": "node-ip", "value": "10.0.0.1,fd00::1"}]
    assert found["InitConfiguration"]["localAPIEndpoint"]["advertiseAddress"] == "10.0.0.1"
    assert kubelet_flags(of, of.workers[0]) == 'KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.101,fd00::101"\n'
    assert worker_kubelet(of, of.workers[0])["clusterDNS"] == ["10.96.0.10"]
    networking = found["ClusterConfiguration"]["networking"]
    assert networking["podSubnet"] == "100.64.0.0/10,fd00:10:64::/48"
    assert networking["serviceSubnet"] == "10.96.0.0/22,fd00:10:96::/112"
    assert "node-cidr-mask-size-ipv6" not in arguments(found["ClusterConfiguration"]["controllerManager"]["extraArgs"])


def test_where_the_ipv6_network_of_pods_is_no_usual_one_nodes_get_such_as_kubeadm_takes() -> None:
    found = config(dual("100.64.0.0/10,fd00:10:64::/64"))["ClusterConfiguration"]["controllerManager"]["extraArgs"]
    assert arguments(found)["node-cidr-mask-size-ipv6"] == "80"


def test_the_api_is_called_by_one_name_everywhere_and_by_every_control_plane_node() -> None:
    found = config(cluster(3, cert_sans=("api.example.com",)))["ClusterConfiguration"]
    assert found["controlPlaneEndpoint"] == "apiserver.cluster.local:6443"
    assert found["apiServer"]["certSANs"] == ["127.0.0.1", "apiserver.cluster.local", "10.0.0.1", "10.0.0.2", "10.0.0.3", "api.example.com"]
    assert found["networking"] == {"podSubnet": "100.64.0.0/10", "serviceSubnet": "10.96.0.0/22", "dnsDomain": "cluster.local"}


def test_control_plane_nodes_run_workloads_only_where_there_is_no_worker() -> None:
    assert config(cluster(1))["InitConfiguration"]["nodeRegistration"]["taints"] == []
    assert "taints" not in config(cluster(1, 1))["InitConfiguration"]["nodeRegistration"]


def test_images_of_an_upstream_kubernetes_are_kubeadms_own() -> None:
    found = config(cluster(facts=Facts("v1.36.3")))["ClusterConfiguration"]
    assert "imageRepository" not in found
    assert "imageTag" not in found["etcd"]["local"]


def test_a_small_cluster_sees_its_nodes_sooner_and_a_large_one_asks_less() -> None:
    assert config(cluster(1))["KubeletConfiguration"]["nodeStatusUpdateFrequency"] == "2s"
    assert "nodeStatusUpdateFrequency" not in config(cluster(1, 30))["KubeletConfiguration"]


def test_the_kubelet_follows_the_cgroups_of_its_machine() -> None:
    of = cluster(1, 1)
    old, new = of.workers[0], member(7, "worker", systemd_cgroups=True, resolv_conf="/run/systemd/resolve/resolv.conf")
    assert worker_kubelet(of, old)["cgroupDriver"] == "cgroupfs"
    assert worker_kubelet(of, new)["cgroupDriver"] == "systemd"
    assert worker_kubelet(of, new)["resolvConf"] == "/run/systemd/resolve/resolv.conf"
    assert worker_kubelet(of, old)["clusterDNS"] == ["10.96.0.10"]


def test_a_kubelet_may_run_on_old_cgroups() -> None:
    of = cluster(1, 1)
    assert worker_kubelet(of, of.workers[0])["failCgroupV1"] is False
    assert "failCgroupV1" not in worker_kubelet(of, member(7, "worker", systemd_cgroups=True))


def test_the_runtime_of_a_kubelet_is_configured_and_no_flag() -> None:
    of = cluster(1, 1)
    socket = "unix:///run/containerd/containerd.sock"
    assert kubelet_flags(of, of.workers[0]) == 'KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.101"\n'
    assert worker_kubelet(of, of.workers[0])["containerRuntimeEndpoint"] == socket
    # So it is in what the cluster keeps for nodes that `kubeadm upgrade node` writes anew.
    assert config(of, initial=False)["KubeletConfiguration"]["containerRuntimeEndpoint"] == socket
    assert config(of)["InitConfiguration"]["nodeRegistration"]["criSocket"] == socket


def test_profile_wins_over_slipways_settings_and_below_image_and_user() -> None:
    ours = config(hardened(1, 1))
    server = arguments(ours["ClusterConfiguration"]["apiServer"]["extraArgs"])
    assert server["kubelet-certificate-authority"] == f"{FOLDER}/ca.crt"
    assert arguments(ours["ClusterConfiguration"]["controllerManager"]["extraArgs"])["kube-api-qps"] == "100"
    assert ours["KubeletConfiguration"]["protectKernelDefaults"] is True
    own = (
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": [{"name": "profiling", "value": "true"}],
                "extraVolumes": [{"name": "mine", "hostPath": "/a", "mountPath": "/a"}],
            },
        },
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "podPidsLimit": 100},
    )
    theirs = config(hardened(1, 1, documents=own))
    assert arguments(theirs["ClusterConfiguration"]["apiServer"]["extraArgs"]) == {**server, "profiling": "true"}
    volumes = [volume["name"] for volume in theirs["ClusterConfiguration"]["apiServer"]["extraVolumes"]]
    assert volumes == ["slipway-profile", "slipway-audit", "mine"]
    assert theirs["KubeletConfiguration"]["podPidsLimit"] == 100
    worker = hardened(1, 1, documents=own)
    assert worker_kubelet(worker, worker.workers[0])["podPidsLimit"] == 100
    assert worker_kubelet(worker, worker.workers[0])["seccompDefault"] is True


def test_kubeadm_brings_no_coredns_beside_a_dns_of_the_image() -> None:
    assert config(cluster(1))["ClusterConfiguration"]["dns"] == {"disabled": True}
    assert "dns" not in config(cluster(1, own_dns=False))["ClusterConfiguration"]


def test_settings_of_documents_are_merged_into_slipways_and_the_last_one_wins() -> None:
    documents = (
        {**V1BETA2, "kind": "ClusterConfiguration", "apiServer": {"certSANs": ["a.example.com"], "extraArgs": {"profiling": "false"}}},
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 50},
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 60},
        {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"},
    )
    found = config(cluster(1, 1, documents=documents))
    assert {"a.example.com", "10.0.0.1"} <= set(found["ClusterConfiguration"]["apiServer"]["certSANs"])
    assert found["ClusterConfiguration"]["apiServer"]["extraArgs"] == [{"name": "profiling", "value": "false"}]
    assert (found["KubeletConfiguration"]["maxPods"], found["KubeletConfiguration"]["failSwapOn"]) == (60, False)
    assert (found["KubeProxyConfiguration"]["mode"], found["KubeProxyConfiguration"]["conntrack"]) == ("ipvs", {"maxPerCore": 0})


def test_what_image_and_machines_decide_no_document_changes() -> None:
    documents = (
        {
            **V1BETA2,
            "kind": "ClusterConfiguration",
            "kubernetesVersion": "v1.33.8",
            "imageRepository": "sea.hub:5000/library",
            "controlPlaneEndpoint": "elsewhere:6443",
            "networking": {"podSubnet": "10.1.0.0/16"},
            "etcd": {"external": {"endpoints": ["https://10.9.9.9:2379"]}},
        },
        {
            **V1BETA2,
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
    plain, found = config(cluster(1, 1)), config(cluster(1, 1, documents=documents))
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


def test_taints_of_control_plane_nodes_are_the_documents_to_choose() -> None:
    taints = [{"key": "mine", "effect": "NoSchedule"}]
    found = cluster(1, 1, documents=({**V1BETA2, "kind": "InitConfiguration", "nodeRegistration": {"taints": taints}},))
    assert config(found)["InitConfiguration"]["nodeRegistration"]["taints"] == taints


def test_certificates_are_good_for_as_long_as_asked_and_no_authority_ends_before_them() -> None:
    days = 36500
    pki = Pki.make(days=days)
    pairs = control_plane_certificates(pki, "control-plane-1", ["10.0.0.1"], ["127.0.0.1"], days)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days - 1)
    for pair in pairs.values():
        assert x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc > end
    asked, usual = (config(cluster(certificate_days=days))["ClusterConfiguration"]["controllerManager"] for days in (90, None))
    assert {"name": "cluster-signing-duration", "value": "2160h"} in asked["extraArgs"]
    assert "cluster-signing-duration" not in str(usual)


def test_the_certificates_of_control_plane_nodes_hold_the_address_by_which_kernels_lead_to_them() -> None:
    found = cluster(3, 1, virtual_ip="10.103.97.2")
    assert "10.103.97.2" in config(found)["ClusterConfiguration"]["apiServer"]["certSANs"]
    assert "10.103.97.2" not in config(cluster(3, 1))["ClusterConfiguration"]["apiServer"]["certSANs"]


def test_the_mode_of_kube_proxy_is_what_all_machines_can_do_unless_it_is_asked_for() -> None:
    def mode(of: RuntimeCluster) -> str:
        return str(config(of)["KubeProxyConfiguration"]["mode"])

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
        return config(of)["KubeProxyConfiguration"].get("ipvs")

    proxy = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}
    documents = ({**proxy, "ipvs": {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24"]}},)
    found = ipvs(cluster(1, 1, documents=documents, virtual_ip="10.103.97.2"))
    assert found == {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24", "10.103.97.2/32"]}
    assert ipvs(cluster(1, 1, documents=(proxy,), virtual_ip="fd00::2")) == {"excludeCIDRs": ["fd00::2/128"]}
    assert ipvs(cluster(1, 1, documents=(proxy,))) is None
    assert ipvs(cluster(1, 1, virtual_ip="10.103.97.2")) is None
