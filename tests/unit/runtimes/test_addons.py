"""Manifests of etc/addons: the objects that count, their namespaces and their label."""

from __future__ import annotations

import pytest

from harness.errors import StoreError
from harness.runtimes import addons

NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: web}\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: kube-system}\n"
LIST = """apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: one, namespace: apps}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: two}}
- not an object
"""


def names(*texts: str) -> list[str]:
    return [document["metadata"]["name"] for document in addons.documents(texts)]


def test_documents_list_gives_its_items_one_by_one() -> None:
    assert names(NAMESPACE, f"{SERVICE}---\n{LIST}") == ["web", "dns", "one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "5",
        "apiVersion: v1\nkind: List\nitems: none\n",
        "kind: Service\nmetadata: {name: dns}\n",
        "apiVersion: v1\nmetadata: {name: dns}\n",
        "apiVersion: v1\nkind: Service\n",
        "apiVersion: v1\nkind: Service\nmetadata: {generateName: dns-}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: ''}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a b}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: [x]}\n",
    ],
)
def test_documents_without_name_or_kind_are_skipped(text: str) -> None:
    assert names(text) == []


def test_documents_invalid_yaml_raises() -> None:
    with pytest.raises(StoreError, match="a manifest of etc/addons"):
        names("{")


def test_namespaces_include_created_and_used_except_default() -> None:
    assert addons.namespaces([NAMESPACE, SERVICE, LIST]) == {"web", "kube-system", "apps"}
    assert addons.namespaces([SERVICE.replace("kube-system", "default")]) == frozenset()


def test_labelled_requires_label_on_all_objects() -> None:
    labelled = SERVICE.replace("name: dns", f"labels: {{{addons.LABEL}: dns}}, name: dns")
    assert addons.labelled(labelled)
    assert not addons.labelled(f"{labelled}---\n{NAMESPACE}")
    assert not addons.labelled("{")
    assert not addons.labelled(SERVICE.replace("name: dns", "labels: [], name: dns"))


@pytest.mark.parametrize(
    ("file", "label"),
    [
        ("network.yaml", "network"),
        ("my dns.yaml", "my-dns"),
        ("-a-.yaml", "a"),
        ("___.yaml", "addon"),
        (f"{'a' * 80}.yaml", "a" * 63),
        (f"{'a' * 62}_b.yaml", "a" * 62),
    ],
)
def test_value_file_name_becomes_valid_label(file: str, label: str) -> None:
    assert addons.value(file) == label
