"""What goes with addons that an image has not any more, and what of it stays. A stand-in of kubectl holds the objects."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from harness.errors import CommandError, StoreError
from harness.lifecycle.apps import obsolete
from harness.lifecycle.apps.tracking import TrackedObject

LABELLED = "labelled,applied"
SCOPES = {"Namespace", "StorageClass", "CustomResourceDefinition", "ClusterRole", "PersistentVolume", "APIService", "PriorityClass"}


def yaml_of(*objects: str, label: bool = True) -> str:
    """A manifest of objects that are written ``apps/v1 Deployment shop/web``."""
    documents = []
    for api, kind, place in map(str.split, objects):
        namespace, _, name = place.rpartition("/")
        metadata: dict[str, Any] = {"name": name, **({"namespace": namespace} if namespace else {})}
        documents.append(
            {"apiVersion": api, "kind": kind, "metadata": {**metadata, **({"labels": {"slipway.dev/addon": "x"}} if label else {})}}
        )
    return "\n---\n".join(map(json.dumps, documents))


class Cluster:
    """Implements what is used of ``NodeKubectl``. ``objects`` maps ``Deployment shop/web`` to its marks."""

    where = "host-1"

    def __init__(self, objects: Mapping[str, str], *, record: Iterable[str] | None = None) -> None:
        self.objects = dict(objects)
        self.record = None if record is None else [f"+ {api} {kind} {_place(place)}" for api, kind, place in map(str.split, record)]
        self.calls: list[str] = []
        self.deleted: list[list[str]] = []
        self.inside: dict[str, str] = {}
        self.classes = ""
        self.resources: dict[str, str] = {}
        self.silent = False

    def run(self, *argv: str, input: str | None = None, timeout: float = 120) -> str:
        self.calls.append(" ".join(argv))
        verbs = {"apply": self._apply, "delete": self._delete, "api-resources": self._api_resources}
        return verbs[argv[0]](input or "") if argv[0] in verbs else self._get(argv, input)

    def _apply(self, manifest: str) -> str:
        self.record = json.loads(manifest)["data"]["objects"].splitlines()
        return ""

    def _delete(self, manifest: str) -> str:
        self.deleted.append([self._title(document) for document in _documents(manifest)])
        for title in self.deleted[-1]:
            self.objects.pop(title, None)
        return ""

    def _api_resources(self, _: str) -> str:
        if self.silent:
            raise CommandError("exit code 1", details="unable to retrieve the complete list of server APIs")
        return "configmaps\npods\n"

    def _get(self, argv: tuple[str, ...], manifest: str | None) -> str:
        what, words = argv[1], " ".join(argv)
        if what == "configmap":
            return "" if self.record is None else json.dumps({"kind": "ConfigMap", "data": {"objects": "\n".join(self.record)}})
        if "--filename=-" in argv:
            return self._lines(_documents(manifest))
        if what == "persistentvolumes,persistentvolumeclaims":
            return self.classes
        if what == "daemonsets.apps":
            return self.resources.get("selected" if "--selector" in words else "images", "")
        namespace = re.search(r"--namespace=(\S+)", words)
        return self.inside.get(namespace[1], "") if namespace else self.resources.get(what, "")

    def _lines(self, documents: list[dict[str, Any]]) -> str:
        unknown = [document["kind"] for document in documents if document["kind"] == "Gone"]
        if unknown:
            raise CommandError("exit code 1", details=f'no matches for kind "{unknown[0]}" in version "x/v1"')
        lines = []
        for document in documents:
            title = self._title(document)
            if title in self.objects:
                place = title.partition(" ")[2]
                namespace, _, name = place.rpartition("/")
                lines.append(f"{document['apiVersion']} {document['kind']} {namespace or '-'} {name} marks,{self.objects[title]}")
        return "\n".join(lines)

    @staticmethod
    def _title(document: Mapping[str, Any]) -> str:
        """As the API has it: a namespace that does not matter is left out, one that is left out is ``default``."""
        metadata, kind = document["metadata"], document["kind"]
        return f"{kind} {metadata['name'] if kind in SCOPES else metadata.get('namespace', 'default') + '/' + metadata['name']}"


def _place(place: str) -> str:
    namespace, _, name = place.rpartition("/")
    return f"{namespace or '-'} {name}"


def _documents(text: str | None) -> list[dict[str, Any]]:
    return [json.loads(part) for part in re.split(r"\n---\n", text or "")]


def prune(cluster: Cluster, wanted: str = "", former: str = "", others: Iterable[TrackedObject] = ()) -> obsolete.PruneResult:
    return obsolete.prune(cluster, {"a.yaml": wanted}, {"a.yaml": former}, tuple(others))  # type: ignore[arg-type]


METRICS = (
    "apps/v1 Deployment kube-system/metrics",
    "v1 Service kube-system/metrics",
    "apiregistration.k8s.io/v1 APIService v1beta1.metrics",
)
METRICS_THERE = dict.fromkeys(("Deployment kube-system/metrics", "Service kube-system/metrics", "APIService v1beta1.metrics"), LABELLED)
KEPT = "v1 ConfigMap kube-system/kept"


def test_prune_removes_recorded_objects_missing_in_image_and_keeps_others() -> None:
    cluster = Cluster({**METRICS_THERE, "ConfigMap kube-system/kept": LABELLED, "ConfigMap kube-system/users": ""}, record=(*METRICS, KEPT))
    found = prune(cluster, wanted=yaml_of(KEPT))
    assert set(cluster.objects) == {"ConfigMap kube-system/kept", "ConfigMap kube-system/users"}
    assert str(found) == "3 objects removed"
    # What leads the API to a Service comes first.
    assert cluster.deleted[0][0] == "APIService v1beta1.metrics"
    assert any("--cascade=foreground" in call for call in cluster.calls)
    assert cluster.record == ["+ v1 ConfigMap kube-system kept"]


def test_prune_second_run_removes_no_more_objects() -> None:
    cluster = Cluster(METRICS_THERE, record=METRICS)
    prune(cluster)
    assert str(prune(cluster)) == "0 objects removed"
    assert len(cluster.deleted) == 1


def test_prune_after_kill_removes_remaining_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster({**METRICS_THERE, "Namespace metrics": LABELLED}, record=(*METRICS, "v1 Namespace metrics"))
    run = cluster.run

    def killed(*argv: str, **options: Any) -> str:
        if argv[0] == "api-resources":
            raise KeyboardInterrupt
        return run(*argv, **options)

    monkeypatch.setattr(cluster, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(cluster)
    monkeypatch.undo()
    assert set(cluster.objects) == {"Namespace metrics"}
    assert str(prune(cluster)) == "1 object removed"
    assert cluster.objects == {}


def test_prune_without_record_removes_applied_objects_of_former_image() -> None:
    titles = ("Deployment shop/said", "Deployment shop/silent", "Deployment shop/foreign")
    cluster = Cluster(dict(zip(titles, (LABELLED, "applied", ""), strict=True)))
    said = yaml_of("apps/v1 Deployment shop/said")
    silent = yaml_of("apps/v1 Deployment shop/silent", "apps/v1 Deployment shop/foreign", label=False)
    found = prune(cluster, former=f"{said}\n---\n{silent}")
    assert [str(one) for one in found.removed] == ["Deployment shop/said", "Deployment shop/silent"]
    # It was not applied, whoever made it.
    assert set(cluster.objects) == {"Deployment shop/foreign"}
    assert cluster.record == []


def test_prune_object_without_addon_label_is_kept() -> None:
    title, line = "Deployment shop/web", "apps/v1 Deployment shop/web"
    for cluster in (Cluster({title: "applied"}, record=[line]), Cluster({title: "applied"})):
        prune(cluster, former=yaml_of(line))
        assert set(cluster.objects) == {title}


@pytest.mark.parametrize("mark", ["owned", "helm", "bootstrapped"])
def test_prune_object_with_other_manager_is_kept(mark: str) -> None:
    cluster = Cluster({"ClusterRole view": f"{LABELLED},{mark}"}, record=["rbac.authorization.k8s.io/v1 ClusterRole view"])
    assert prune(cluster).removed == ()
    assert set(cluster.objects) == {"ClusterRole view"}


def test_prune_object_of_installed_application_is_kept() -> None:
    cluster = Cluster({"Deployment shop/web": LABELLED}, record=["apps/v1 Deployment shop/web"])
    prune(cluster, others=[TrackedObject("apps/v1", "Deployment", "shop", "web")])
    assert cluster.deleted == []


@pytest.mark.parametrize(
    "line",
    ["v1 Namespace kube-system", "v1 ConfigMap kube-system/coredns", "v1 ConfigMap kube-system/slipway-clusterfile",
     "v1 Service default/kubernetes", "scheduling.k8s.io/v1 PriorityClass system-node-critical",
     "apps/v1 DaemonSet kube-system/kube-proxy"],
)  # fmt: skip
def test_prune_system_object_is_kept(line: str) -> None:
    title = line.partition(" ")[2]
    cluster = Cluster({title: LABELLED}, record=[line])
    prune(cluster)
    assert title in cluster.objects


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("policy/v1beta1 PodDisruptionBudget shop/web", "policy/v1 PodDisruptionBudget shop/web"),
        ("v1 Service default/web", "v1 Service web"),
        ("rbac.authorization.k8s.io/v1 ClusterRole kube-system/web", "rbac.authorization.k8s.io/v1 ClusterRole web"),
    ],
)
def test_prune_same_object_in_other_notation_is_kept(before: str, now: str) -> None:
    cluster = Cluster(
        {"PodDisruptionBudget shop/web": LABELLED, "Service default/web": LABELLED, "ClusterRole web": LABELLED}, record=[before]
    )
    prune(cluster, wanted=yaml_of(now))
    assert cluster.deleted == []


# ---- what others use -------------------------------------------------------------------------------------------------


def test_prune_volumes_and_claims_are_kept_with_warning(capsys: pytest.CaptureFixture[str]) -> None:
    titles = ("PersistentVolume data", "PersistentVolumeClaim shop/data")
    cluster = Cluster(dict.fromkeys(titles, LABELLED), record=["v1 PersistentVolume data", "v1 PersistentVolumeClaim shop/data"])
    assert str(prune(cluster)) == "0 objects removed, 2 kept"
    assert set(cluster.objects) == set(titles)
    assert "PersistentVolumeClaim shop/data stays, though no addon of the image has it: it may hold data" in capsys.readouterr().err
    # They are looked at again with the next image.
    assert cluster.record == ["+ v1 PersistentVolume - data", "+ v1 PersistentVolumeClaim shop data"]


CLASS = "storage.k8s.io/v1 StorageClass local-path"


@pytest.mark.parametrize(("volumes", "stays"), [("PersistentVolume pv-1 local-path\nPersistentVolumeClaim a local-path\n", True),
                                                ("PersistentVolume pv-1 other\nPersistentVolumeClaim b \n", False)])  # fmt: skip
def test_prune_storage_class_is_kept_only_while_volumes_use_it(volumes: str, stays: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(
        {"StorageClass local-path": LABELLED, "Deployment storage/maker": LABELLED}, record=[CLASS, "apps/v1 Deployment storage/maker"]
    )
    cluster.classes = volumes
    found = prune(cluster)
    assert ("StorageClass local-path" in cluster.objects) is stays
    assert ("PersistentVolume pv-1 and 1 more are of it" in capsys.readouterr().err) is stays
    assert str(found.removed[0]) == "Deployment storage/maker"


@pytest.mark.parametrize(("there", "stays"), [("web.shop.example/one\n", True), ("", False)])
def test_prune_crd_is_kept_only_while_other_objects_of_its_kind_exist(there: str, stays: bool) -> None:
    crd, own = "CustomResourceDefinition webs.shop.example", "Web default/own"
    record = [
        "apiextensions.k8s.io/v1 CustomResourceDefinition webs.shop.example",
        "shop.example/v1 Web own",
        "apps/v1 Deployment shop/operator",
    ]
    cluster = Cluster({crd: LABELLED, own: LABELLED, "Deployment shop/operator": LABELLED}, record=record)
    cluster.resources["webs.shop.example"] = there
    prune(cluster)
    assert (crd in cluster.objects) is stays
    # Its operator sees it off.
    assert cluster.deleted[:2] == [[own], ["Deployment shop/operator"]]


NAMESPACED = ["v1 Namespace storage", "apps/v1 Deployment storage/maker"]


@pytest.mark.parametrize(
    ("inside", "stays"),
    [
        ("configmap/kube-root-ca.crt\nserviceaccount/default\nevent/x.1\nlease.coordination.k8s.io/maker\nendpoints/maker\n", False),
        ("configmap/kube-root-ca.crt\nconfigmap/settings\n", True),
        ("pod/theirs\n", True),
    ],
)
def test_prune_namespace_is_kept_only_while_it_holds_other_objects(inside: str, stays: bool) -> None:
    cluster = Cluster({"Namespace storage": LABELLED, "Deployment storage/maker": LABELLED}, record=NAMESPACED)
    cluster.inside["storage"] = inside
    assert ("Namespace storage" not in map(str, prune(cluster).removed)) is stays
    assert ("Namespace storage" in cluster.objects) is stays
    # What else is in it has gone before.
    assert cluster.deleted[0] == ["Deployment storage/maker"]


def test_prune_namespace_with_failed_listing_is_kept() -> None:
    cluster = Cluster({"Namespace storage": LABELLED}, record=NAMESPACED)
    cluster.silent = True
    assert [str(one) for one in prune(cluster).kept] == ["Namespace storage"]


def test_prune_recorded_object_of_unknown_kind_is_skipped() -> None:
    cluster = Cluster(METRICS_THERE, record=["x/v1 Gone shop/a", *METRICS])
    assert str(prune(cluster)) == "3 objects removed"


# ---- what slipway reads ----------------------------------------------------------------------------------------------


def test_prune_invalid_manifest_is_refused_and_removes_no_object() -> None:
    cluster = Cluster(METRICS_THERE, record=METRICS)
    with pytest.raises(StoreError, match="not usable YAML"):
        prune(cluster, wanted="{")
    assert cluster.deleted == []
    assert obsolete.with_record({"a.yaml": "{"}) == {}


def test_objects_of_list_is_flattened_and_invalid_documents_are_skipped() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [json.loads(yaml_of("v1 Service shop/a")), {"kind": "Pod"}, 7]}
    text = "\n---\n".join([json.dumps(listed), "null", "{kind: Pod, apiVersion: v1, metadata: {generateName: x-}}", "- a",
                            '{apiVersion: v1, kind: Pod, metadata: {name: "a b"}}'])  # fmt: skip
    assert [str(one) for one in obsolete.objects_of({"a.yaml": text})] == ["Service shop/a"]


def test_idle_tables_lists_table_only_without_its_enforcer() -> None:
    cluster = Cluster({})
    assert obsolete.idle_tables(cluster) == ("inet kube-network-policies",)  # type: ignore[arg-type]
    cluster.resources["images"] = "registry.k8s.io/networking/kube-network-policies:v0.8.0\ndocker.io/flannel/flannel:v1\n"
    assert obsolete.idle_tables(cluster) == ()  # type: ignore[arg-type]


def test_networks_selects_daemonset_by_addon_label() -> None:
    cluster = Cluster({})
    cluster.resources["selected"] = "daemonset.apps/kube-flannel-ds\n"
    assert obsolete.networks(cluster) == ["kube-flannel-ds"]  # type: ignore[arg-type]
    assert "--selector=slipway.dev/addon=network" in cluster.calls[-1]
