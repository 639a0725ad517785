"""kubeadm's documents, merged."""

from __future__ import annotations

from typing import Any

import pytest

from harness.clusterfile.kubeadm import VERSION, gone, merge_kubeadm, modern

from .reading import faults, read

DEFAULT: dict[str, Any] = {
    "apiVersion": "kubeadm.k8s.io/v1beta2",
    "kind": "ClusterConfiguration",
    "kubernetesVersion": "v1.36.3",
    "apiServer": {"certSANs": ["127.0.0.1", "api"], "extraArgs": {"a": "1", "b": "2"}},
    "etcd": {"local": {"dataDir": "/var/lib/etcd", "serverCertSANs": ["x"]}},
}


def merged(kind: str, *documents: dict[str, Any], defaults: tuple[dict[str, Any], ...] = (DEFAULT,)) -> dict[str, Any]:
    found = merge_kubeadm(defaults, documents[:1], documents[1:])
    return next(document for document in found if document["kind"] == kind)


def of(version: str = "v1beta3", kind: str = "ClusterConfiguration", **values: Any) -> dict[str, Any]:
    return {"apiVersion": f"kubeadm.k8s.io/{version}", "kind": kind, **values}


def test_merge_kubeadm_precedence_is_defaults_image_clusterfile() -> None:
    image = of(clusterName="image", networking={"podSubnet": "1", "dnsDomain": "d"})
    own = of(clusterName="own", networking={"podSubnet": "2"})
    found = merged("ClusterConfiguration", image, own)
    assert found["clusterName"] == "own"
    assert found["networking"] == {"podSubnet": "2", "dnsDomain": "d"}
    assert found["kubernetesVersion"] == "v1.36.3"


def test_merge_kubeadm_cert_sans_are_united() -> None:
    image = of(apiServer={"certSANs": ["api", "b"]}, etcd={"local": {"serverCertSANs": ["y"], "peerCertSANs": ["p"]}})
    own = of(apiServer={"certSANs": ["c"]})
    found = merged("ClusterConfiguration", image, own)
    assert found["apiServer"]["certSANs"] == ["127.0.0.1", "api", "b", "c"]
    assert found["etcd"]["local"] == {"dataDir": "/var/lib/etcd", "serverCertSANs": ["x", "y"], "peerCertSANs": ["p"]}


@pytest.mark.parametrize("version", ["v1beta2", "v1beta3", "v1beta4"])
def test_merge_kubeadm_extra_args_of_any_version_become_lists_of_newest_version(version: str) -> None:
    arguments: Any = {"b": "3", "c": "4"}
    if version == "v1beta4":
        arguments = [{"name": name, "value": value} for name, value in arguments.items()]
    found = merged("ClusterConfiguration", of(version, apiServer={"extraArgs": arguments}))
    assert found["apiVersion"] == VERSION
    assert found["apiServer"]["extraArgs"] == [{"name": "a", "value": "1"}, {"name": "b", "value": "3"}, {"name": "c", "value": "4"}]


def test_modern_timeout_for_control_plane_moves_to_init_configuration() -> None:
    old = of(apiServer={"timeoutForControlPlane": "6m0s"}, clusterName="c")
    init, found = modern([old])
    assert init == {"apiVersion": VERSION, "kind": "InitConfiguration", "timeouts": {"controlPlaneComponentHealthCheck": "6m0s"}}
    assert found == {"apiVersion": VERSION, "kind": "ClusterConfiguration", "clusterName": "c"}
    # Names beside it stay.
    assert modern([of(apiServer={"timeoutForControlPlane": "1m", "certSANs": ["a"]})])[1]["apiServer"] == {"certSANs": ["a"]}
    assert modern([init, found]) == [init, found]
    own = of("v1beta4", "InitConfiguration", timeouts={"tlsBootstrap": "2m0s"})
    assert merged("InitConfiguration", old, own)["timeouts"] == {"controlPlaneComponentHealthCheck": "6m0s", "tlsBootstrap": "2m0s"}


def test_modern_removed_fields_are_dropped_and_listed_by_gone() -> None:
    old = of("v1beta2", dns={"type": "CoreDNS", "imageTag": "v1.14.2"}, useHyperKubeImage=True)
    assert gone(old) == ["dns.type", "useHyperKubeImage"]
    assert modern([old]) == [{"apiVersion": VERSION, "kind": "ClusterConfiguration", "dns": {"imageTag": "v1.14.2"}}]
    assert gone(of(dns={"imageTag": "x"})) == []
    assert "dns" not in modern([of(dns={"type": "kube-dns"})])[0]


def test_modern_kubelet_document_keeps_version() -> None:
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 250}
    assert modern([kubelet]) == [kubelet]


def test_merge_kubeadm_repeated_extra_args_are_kept() -> None:
    several = [{"name": "issuer", "value": "a"}, {"name": "issuer", "value": "b"}, {"name": "x", "value": "1"}]
    found = merged("ClusterConfiguration", of("v1beta4", apiServer={"extraArgs": several}), defaults=())
    assert found["apiServer"]["extraArgs"] == several


def test_merge_kubeadm_envs_and_volumes_join_by_name_and_other_lists_are_replaced() -> None:
    # An argument that stays would name a file that a volume which goes no longer brings.
    volumes = [{"name": "v", "hostPath": "/a"}, {"name": "w", "hostPath": "/b"}]
    one = of("v1beta4", apiServer={"extraEnvs": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}], "extraVolumes": volumes})
    two = of("v1beta4", apiServer={"extraEnvs": [{"name": "B", "value": "2"}], "extraVolumes": [{"name": "w", "hostPath": "/c"}]})
    found = merged("ClusterConfiguration", one, two, defaults=())
    assert found["apiServer"] == {
        "extraEnvs": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
        "extraVolumes": [{"name": "v", "hostPath": "/a"}, {"name": "w", "hostPath": "/c"}],
    }
    taints = of(kind="InitConfiguration", nodeRegistration={"taints": [{"key": "a"}]})
    bare = of(kind="InitConfiguration", nodeRegistration={"taints": []})
    assert merged("InitConfiguration", taints, bare)["nodeRegistration"] == {"taints": []}


def test_merge_kubeadm_kinds_of_one_side_are_kept_in_order() -> None:
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 250}
    init = of(kind="InitConfiguration", nodeRegistration={"kubeletExtraArgs": {"v": "4"}, "taints": []})
    found = merge_kubeadm([DEFAULT], [init], [kubelet, {**kubelet, "maxPods": 300}])
    assert [document["kind"] for document in found] == ["ClusterConfiguration", "InitConfiguration", "KubeletConfiguration"]
    assert found[2] == {**kubelet, "maxPods": 300}
    assert list(found[1]) == ["apiVersion", "kind", "nodeRegistration"]


def test_merge_kubeadm_leaves_inputs_unchanged() -> None:
    own = of(apiServer={"certSANs": ["c"], "extraArgs": {"z": "1"}})
    merge_kubeadm([DEFAULT], [], [own])
    assert DEFAULT["apiServer"] == {"certSANs": ["127.0.0.1", "api"], "extraArgs": {"a": "1", "b": "2"}}
    assert own["apiServer"] == {"certSANs": ["c"], "extraArgs": {"z": "1"}}


def test_parse_kubelet_document_is_kept_as_plain_data() -> None:
    text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: off\nany: {thing: [1, 2m0s, 0.5]}\n"
    assert read(text).kubeadm == (
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failSwapOn": False,
            "any": {"thing": [1, "2m0s", 0.5]},
        },
    )


def test_parse_docker_cri_socket_is_refused() -> None:
    text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: JoinConfiguration\nnodeRegistration:\n  criSocket: unix:///run/cri-dockerd.sock\n"
    assert faults(text) == [
        ("4 .nodeRegistration.criSocket", "unix:///run/cri-dockerd.sock is docker's, which is not a container runtime here")
    ]
