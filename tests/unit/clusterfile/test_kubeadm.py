"""kubeadm's documents, merged."""

from __future__ import annotations

from typing import Any

from harness.clusterfile.kubeadm import merge_kubeadm

from .reading import faults, read

DEFAULT: dict[str, Any] = {
    "apiVersion": "kubeadm.k8s.io/v1beta2",
    "kind": "ClusterConfiguration",
    "kubernetesVersion": "v1.20.2",
    "apiServer": {"certSANs": ["127.0.0.1", "api"], "extraArgs": {"a": "1", "b": "2"}},
    "etcd": {"local": {"dataDir": "/var/lib/etcd", "serverCertSANs": ["x"]}},
}


def merged(kind: str, *documents: dict[str, Any], defaults: tuple[dict[str, Any], ...] = (DEFAULT,)) -> dict[str, Any]:
    found = merge_kubeadm(defaults, documents[:1], documents[1:])
    return next(document for document in found if document["kind"] == kind)


def of(version: str = "v1beta3", kind: str = "ClusterConfiguration", **values: Any) -> dict[str, Any]:
    return {"apiVersion": f"kubeadm.k8s.io/{version}", "kind": kind, **values}


def test_clusterfile_wins_over_image_and_image_over_defaults() -> None:
    image = of(clusterName="image", networking={"podSubnet": "1", "dnsDomain": "d"})
    own = of(clusterName="own", networking={"podSubnet": "2"})
    found = merged("ClusterConfiguration", image, own)
    assert found["clusterName"] == "own"
    assert found["networking"] == {"podSubnet": "2", "dnsDomain": "d"}
    assert found["kubernetesVersion"] == "v1.20.2"


def test_names_for_certificates_are_united() -> None:
    image = of(apiServer={"certSANs": ["api", "b"]}, etcd={"local": {"serverCertSANs": ["y"], "peerCertSANs": ["p"]}})
    own = of(apiServer={"certSANs": ["c"]})
    found = merged("ClusterConfiguration", image, own)
    assert found["apiServer"]["certSANs"] == ["127.0.0.1", "api", "b", "c"]
    assert found["etcd"]["local"] == {"dataDir": "/var/lib/etcd", "serverCertSANs": ["x", "y"], "peerCertSANs": ["p"]}


def test_the_version_is_that_of_the_defaults_and_arguments_take_its_form() -> None:
    own = of("v1beta4", apiServer={"extraArgs": [{"name": "b", "value": "3"}, {"name": "c", "value": "4"}]})
    found = merged("ClusterConfiguration", own)
    assert found["apiVersion"] == "kubeadm.k8s.io/v1beta2"
    assert found["apiServer"]["extraArgs"] == {"a": "1", "b": "3", "c": "4"}
    newer = {**DEFAULT, "apiVersion": "kubeadm.k8s.io/v1beta4"}
    found = merged("ClusterConfiguration", of(apiServer={"extraArgs": {"b": "3"}}), defaults=(newer,))
    assert found["apiServer"]["extraArgs"] == [{"name": "a", "value": "1"}, {"name": "b", "value": "3"}]


def test_arguments_given_several_times_stay_several() -> None:
    several = [{"name": "issuer", "value": "a"}, {"name": "issuer", "value": "b"}, {"name": "x", "value": "1"}]
    found = merged("ClusterConfiguration", of("v1beta4", apiServer={"extraArgs": several}), defaults=())
    assert found["apiServer"]["extraArgs"] == several


def test_environments_are_joined_by_name_and_other_lists_replaced() -> None:
    one = of(
        "v1beta4", apiServer={"extraEnvs": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}], "extraVolumes": [{"name": "v"}]}
    )
    two = of("v1beta4", apiServer={"extraEnvs": [{"name": "B", "value": "2"}], "extraVolumes": []})
    found = merged("ClusterConfiguration", one, two, defaults=())
    assert found["apiServer"] == {"extraEnvs": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}], "extraVolumes": []}


def test_kinds_that_only_one_side_has_are_kept_in_order() -> None:
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 250}
    init = of(kind="InitConfiguration", nodeRegistration={"kubeletExtraArgs": {"v": "4"}, "taints": []})
    found = merge_kubeadm([DEFAULT], [init], [kubelet, {**kubelet, "maxPods": 300}])
    assert [document["kind"] for document in found] == ["ClusterConfiguration", "InitConfiguration", "KubeletConfiguration"]
    assert found[2] == {**kubelet, "maxPods": 300}
    assert list(found[1]) == ["apiVersion", "kind", "nodeRegistration"]


def test_nothing_that_is_merged_is_changed() -> None:
    own = of(apiServer={"certSANs": ["c"], "extraArgs": {"z": "1"}})
    merge_kubeadm([DEFAULT], [], [own])
    assert DEFAULT["apiServer"] == {"certSANs": ["127.0.0.1", "api"], "extraArgs": {"a": "1", "b": "2"}}
    assert own["apiServer"] == {"certSANs": ["c"], "extraArgs": {"z": "1"}}


def test_documents_pass_through_a_clusterfile_as_plain_data() -> None:
    text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailSwapOn: off\nany: {thing: [1, 2m0s, 0.5]}\n"
    assert read(text).kubeadm == (
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failSwapOn": False,
            "any": {"thing": [1, "2m0s", 0.5]},
        },
    )


def test_a_socket_of_docker_is_refused() -> None:
    text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: JoinConfiguration\nnodeRegistration:\n  criSocket: unix:///run/cri-dockerd.sock\n"
    assert faults(text) == [
        ("4 .nodeRegistration.criSocket", "unix:///run/cri-dockerd.sock is docker's, which is not a container runtime here")
    ]
