"""The parts of the base image kubefiles/kubernetes that can be left out. Nothing is built."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import build, untrusted
from harness.build.options import BuildOptions
from harness.errors import InputError

BASE = Path(__file__).parents[2] / "kubefiles/kubernetes"
NOTHING = {"NETWORK": "none", "STORAGE": "none", "METRICS": "none", "POLICY": "none"}


def images(**arguments: str) -> set[str]:
    """What files of the image declare, without tags."""
    found = build.check(BuildOptions(BASE, "base", build_args=arguments))
    return {image["name"].rpartition(":")[0] for image in found["images"]}


@pytest.mark.parametrize(
    ("argument", "value", "image"),
    [
        ("NETWORK", "flannel", "docker.io/flannel/flannel"),
        ("STORAGE", "local-path", "docker.io/rancher/local-path-provisioner"),
        ("METRICS", "metrics-server", "registry.k8s.io/metrics-server/metrics-server"),
        ("POLICY", "kube-network-policies", "registry.k8s.io/networking/kube-network-policies"),
    ],
)
def test_base_part_is_in_image_only_when_chosen(argument: str, value: str, image: str) -> None:
    assert images(**NOTHING | {argument: value}) == {image}
    assert image not in images(**{argument: "none"})


def test_base_without_arguments_includes_all_parts_but_policies() -> None:
    assert {name.rpartition("/")[2] for name in images()} == {"flannel", "local-path-provisioner", "metrics-server"}


def test_base_invalid_argument_values_report_allowed_values() -> None:
    with pytest.raises(InputError) as caught:
        images(NETWORK="calico", STORAGE="longhorn")
    assert [(fault.message, fault.hint) for fault in caught.value.faults] == [
        ("NETWORK=calico: not an allowed value", "one of flannel, none"),
        ("STORAGE=longhorn: not an allowed value", "one of local-path, none"),
    ]


def manifests() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(BASE.glob("parts/*/addons/*.yaml")):
        for document in untrusted.yaml_documents(path.read_text(), what=path.name):
            yield path.stem, document


def test_base_addon_objects_have_addon_label() -> None:
    found = list(manifests())
    assert {addon for addon, _ in found} == {"network", "storage", "metrics", "policy"}
    assert [document["metadata"]["name"] for addon, document in found if document["metadata"]["labels"]["slipway.dev/addon"] != addon] == []
