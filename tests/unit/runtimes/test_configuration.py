"""Configuration of kubeadm, kubelet and kube-proxy: slipway's own, and what documents of a profile, an image and a Clusterfile change."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
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
def test_kubeadm_config_of_any_kubernetes_version_is_v1beta4(version: str) -> None:
    found = config(cluster(facts=Facts(version)))
    assert {found[kind]["apiVersion"] for kind in ("InitConfiguration", "ClusterConfiguration")} == {"kubeadm.k8s.io/v1beta4"}


def test_etcd_config_initial_cluster_lists_all_members() -> None:
    etcd = config(cluster(3), index=1)["ClusterConfiguration"]["etcd"]["local"]
    assert arguments(etcd["extraArgs"])["initial-cluster"] == (
        "control-plane-1=https://10.0.0.1:2380,control-plane-2=https://10.0.0.2:2380,control-plane-3=https://10.0.0.3:2380"
    )
    assert arguments(etcd["extraArgs"])["initial-cluster-state"] == "new"
    assert etcd["imageTag"] == "3.6.8-0"


def test_etcd_config_uploaded_to_cluster_has_no_extra_args() -> None:
    assert "extraArgs" not in config(cluster(3), initial=False)["ClusterConfiguration"]["etcd"]["local"]


def test_api_server_config_shutdown_delay_is_set_with_several_control_plane_nodes() -> None:
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


def test_kubeadm_config_extra_args_are_name_value_lists() -> None:
    found = config(cluster(3, 1))
    registration = found["InitConfiguration"]["nodeRegistration"]
    assert registration["kubeletExtraArgs"] == [{"name": "node-ip", "value": "10.0.0.1"}]
    local, manager = (found["ClusterConfiguration"]["etcd"]["local"], found["ClusterConfiguration"]["controllerManager"])
    assert {"name": "initial-cluster-state", "value": "new"} in local["extraArgs"]
    assert {"name": "kube-api-qps", "value": "100"} in manager["extraArgs"]


def test_dual_stack_config_has_both_node_ips_and_both_networks() -> None:
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


def test_dual_stack_config_small_ipv6_pod_network_sets_node_cidr_mask_size() -> None:
    found = config(dual("100.64.0.0/10,fd00:10:64::/64"))["ClusterConfiguration"]["controllerManager"]["extraArgs"]
    assert arguments(found)["node-cidr-mask-size-ipv6"] == "80"


def test_cluster_config_has_api_endpoint_and_sans_of_all_control_plane_nodes() -> None:
    found = config(cluster(3, cert_sans=("api.example.com",)))["ClusterConfiguration"]
    assert found["controlPlaneEndpoint"] == "apiserver.cluster.local:6443"
    assert found["apiServer"]["certSANs"] == ["127.0.0.1", "apiserver.cluster.local", "10.0.0.1", "10.0.0.2", "10.0.0.3", "api.example.com"]
    assert found["networking"] == {"podSubnet": "100.64.0.0/10", "serviceSubnet": "10.96.0.0/22", "dnsDomain": "cluster.local"}


def test_init_configuration_taints_are_removed_only_without_workers() -> None:
    assert config(cluster(1))["InitConfiguration"]["nodeRegistration"]["taints"] == []
    assert "taints" not in config(cluster(1, 1))["InitConfiguration"]["nodeRegistration"]


def test_cluster_config_upstream_kubernetes_uses_default_images_of_kubeadm() -> None:
    found = config(cluster(facts=Facts("v1.36.3")))["ClusterConfiguration"]
    assert "imageRepository" not in found
    assert "imageTag" not in found["etcd"]["local"]


def test_kubelet_config_status_frequency_is_raised_in_small_cluster_only() -> None:
    assert config(cluster(1))["KubeletConfiguration"]["nodeStatusUpdateFrequency"] == "2s"
    assert "nodeStatusUpdateFrequency" not in config(cluster(1, 30))["KubeletConfiguration"]


def test_worker_kubelet_cgroup_driver_and_resolv_conf_follow_machine() -> None:
    of = cluster(1, 1)
    old, new = of.workers[0], member(7, "worker", systemd_cgroups=True, resolv_conf="/run/systemd/resolve/resolv.conf")
    assert worker_kubelet(of, old)["cgroupDriver"] == "cgroupfs"
    assert worker_kubelet(of, new)["cgroupDriver"] == "systemd"
    assert worker_kubelet(of, new)["resolvConf"] == "/run/systemd/resolve/resolv.conf"
    assert worker_kubelet(of, old)["clusterDNS"] == ["10.96.0.10"]


@pytest.mark.parametrize("make", [cluster, hardened])
def test_worker_kubelet_authenticates_and_authorizes_every_request(make: Callable[..., RuntimeCluster]) -> None:
    of = make(1, 1)
    kubelet = worker_kubelet(of, of.workers[0])
    authentication = kubelet["authentication"]
    assert authentication["anonymous"] == {"enabled": False}
    assert authentication["webhook"]["enabled"] is True
    assert authentication["x509"] == {"clientCAFile": f"{FOLDER}/ca.crt"}
    assert kubelet["authorization"]["mode"] == "Webhook"
    assert kubelet["rotateCertificates"] is True
    # A configuration file without it means 0: the port is closed.
    assert kubelet.get("readOnlyPort", 0) == 0
    assert kubelet["healthzBindAddress"] == "127.0.0.1"


def test_worker_kubelet_on_cgroup_v1_does_not_fail() -> None:
    of = cluster(1, 1)
    assert worker_kubelet(of, of.workers[0])["failCgroupV1"] is False
    assert "failCgroupV1" not in worker_kubelet(of, member(7, "worker", systemd_cgroups=True))


def test_kubelet_runtime_endpoint_is_in_config_and_not_in_flags() -> None:
    of = cluster(1, 1)
    socket = "unix:///run/containerd/containerd.sock"
    assert kubelet_flags(of, of.workers[0]) == 'KUBELET_KUBEADM_ARGS="--node-ip=10.0.0.101"\n'
    assert worker_kubelet(of, of.workers[0])["containerRuntimeEndpoint"] == socket
    # So it is in what the cluster keeps for nodes that `kubeadm upgrade node` writes anew.
    assert config(of, initial=False)["KubeletConfiguration"]["containerRuntimeEndpoint"] == socket
    assert config(of)["InitConfiguration"]["nodeRegistration"]["criSocket"] == socket


def test_profile_config_overrides_defaults_and_yields_to_documents() -> None:
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


def test_cluster_config_dns_is_disabled_with_own_dns_of_image() -> None:
    assert config(cluster(1))["ClusterConfiguration"]["dns"] == {"disabled": True}
    assert "dns" not in config(cluster(1, own_dns=False))["ClusterConfiguration"]


def test_documents_merge_into_defaults_and_last_document_wins() -> None:
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


def test_documents_cannot_change_settings_of_image_and_machines() -> None:
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


def test_worker_kubelet_follows_kubelet_and_join_documents() -> None:
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


def test_init_configuration_taints_of_document_are_used() -> None:
    taints = [{"key": "mine", "effect": "NoSchedule"}]
    found = cluster(1, 1, documents=({**V1BETA2, "kind": "InitConfiguration", "nodeRegistration": {"taints": taints}},))
    assert config(found)["InitConfiguration"]["nodeRegistration"]["taints"] == taints


def test_certificates_have_requested_validity_and_signing_duration() -> None:
    days = 36500
    pki = Pki.make(days=days)
    pairs = control_plane_certificates(pki, "control-plane-1", ["10.0.0.1"], ["127.0.0.1"], days)
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days - 1)
    for pair in pairs.values():
        assert x509.load_pem_x509_certificate(pair.certificate).not_valid_after_utc > end
    asked, usual = (config(cluster(certificate_days=days))["ClusterConfiguration"]["controllerManager"] for days in (90, None))
    assert {"name": "cluster-signing-duration", "value": "2160h"} in asked["extraArgs"]
    assert "cluster-signing-duration" not in str(usual)


def test_api_server_config_sans_include_virtual_ip() -> None:
    found = cluster(3, 1, virtual_ip="10.103.97.2")
    assert "10.103.97.2" in config(found)["ClusterConfiguration"]["apiServer"]["certSANs"]
    assert "10.103.97.2" not in config(cluster(3, 1))["ClusterConfiguration"]["apiServer"]["certSANs"]


def test_kube_proxy_mode_follows_document_then_former_mode_then_all_nodes() -> None:
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


def test_kube_proxy_ipvs_excludes_virtual_ip() -> None:
    def ipvs(of: Any) -> Any:
        return config(of)["KubeProxyConfiguration"].get("ipvs")

    proxy = {"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": "ipvs"}
    documents = ({**proxy, "ipvs": {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24"]}},)
    found = ipvs(cluster(1, 1, documents=documents, virtual_ip="10.103.97.2"))
    assert found == {"scheduler": "lc", "excludeCIDRs": ["192.0.2.0/24", "10.103.97.2/32"]}
    assert ipvs(cluster(1, 1, documents=(proxy,), virtual_ip="fd00::2")) == {"excludeCIDRs": ["fd00::2/128"]}
    assert ipvs(cluster(1, 1, documents=(proxy,))) is None
    assert ipvs(cluster(1, 1, virtual_ip="10.103.97.2")) is None
