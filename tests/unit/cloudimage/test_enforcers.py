"""Which programs enforce NetworkPolicies, by the names of images, and what their kernels must have."""

from __future__ import annotations

import pytest

from harness.cloudimage import EmbeddedImage, ImageSet, Info, PlatformImage, enforcers
from harness.cloudimage.listing import describe_platform
from harness.oci.model import Platform


@pytest.mark.parametrize(
    ("image", "names"),
    [
        ("registry.k8s.io/networking/kube-network-policies:v0.8.0", ["kube-network-policies"]),
        ("docker.io/cloudnativelabs/kube-router:v2.1.0", ["kube-router"]),
        ("docker.io/rancher/mirrored-calico-node:v3.30.0", ["calico"]),
        ("registry.example:5000/cilium/cilium@sha256:00", ["cilium"]),
        ("docker.io/weaveworks/scope:1.13", []),
        ("docker.io/flannel/flannel:v0.28.10", []),
        ("docker.io/shop/page:calico", []),
        ("", []),
    ],
)
def test_among_recognizes_enforcer_by_image_name(image: str, names: list[str]) -> None:
    assert [one.name for one in enforcers.among([image])] == names


def test_unserved_reports_only_kernel_features_known_as_missing() -> None:
    found = enforcers.among(["registry.k8s.io/networking/kube-network-policies:v0.8.0", "quay.io/calico/node:v3"])
    assert enforcers.unserved(found, {}) is None
    assert enforcers.unserved(found, {"nft_queue": True, "ip_set": False}) is None
    why = enforcers.unserved(found, {"nft_queue": False})
    assert why == "kube-network-policies enforces nothing there: the kernel has no nft_queue (CONFIG_NFT_QUEUE)"


@pytest.mark.parametrize(
    ("kubernetes", "image", "told"),
    [
        ("v1.36.3", "quay.io/calico/node:v3", ["calico"]),
        ("v1.36.3", "docker.io/flannel/flannel:v1", []),
        (None, "quay.io/calico/node:v3", None),
    ],
)
def test_describe_platform_lists_policy_enforcers_of_cluster_image(kubernetes: str | None, image: str, told: object) -> None:
    embedded = ImageSet((EmbeddedImage(image, "sha256:1", "m", 1, (), ()),))
    found = describe_platform(PlatformImage(Platform("linux", "amd64"), (), (), info=Info(kubernetes=kubernetes), images=embedded))
    assert found["policiesEnforcedBy"] == told


def test_policy_enforcers_are_described_in_words() -> None:
    assert enforcers.told(()) == "stored, not enforced"
    assert enforcers.told(enforcers.among(["calico/node", "kube-router"])) == "enforced by kube-router, calico"
