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


def test_what_the_image_has_not_any_more_goes_and_what_it_has_stays() -> None:
    cluster = Cluster({**METRICS_THERE, "ConfigMap kube-system/kept": LABELLED, "ConfigMap kube-system/users": ""}, record=(*METRICS, KEPT))
    found = prune(cluster, wanted=yaml_of(KEPT))
    assert set(cluster.objects) == {"ConfigMap kube-system/kept", "ConfigMap kube-system/users"}
    assert str(found) == "3 objects removed"
    # What leads the API to a Service comes first.
    assert cluster.deleted[0][0] == "APIService v1beta1.metrics"
    assert any("--cascade=foreground" in call for call in cluster.calls)
    assert cluster.record == ["+ v1 ConfigMap kube-system kept"]


def test_the_second_time_nothing_is_left_to_be_done() -> None:
    cluster = Cluster(METRICS_THERE, record=METRICS)
    prune(cluster)
    assert str(prune(cluster)) == "0 objects removed"
    assert len(cluster.deleted) == 1


def test_what_a_kill_left_is_removed_by_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_of_a_cluster_that_was_made_before_there_was_a_record_goes_what_the_former_image_had() -> None:
    titles = ("Deployment shop/said", "Deployment shop/silent", "Deployment shop/foreign")
    cluster = Cluster(dict(zip(titles, (LABELLED, "applied", ""), strict=True)))
    said = yaml_of("apps/v1 Deployment shop/said")
    silent = yaml_of("apps/v1 Deployment shop/silent", "apps/v1 Deployment shop/foreign", label=False)
    found = prune(cluster, former=f"{said}\n---\n{silent}")
    assert [str(one) for one in found.removed] == ["Deployment shop/said", "Deployment shop/silent"]
    # It was not applied, whoever made it.
    assert set(cluster.objects) == {"Deployment shop/foreign"}
    assert cluster.record == []


def test_an_object_whose_label_was_taken_off_is_its_owners() -> None:
    title, line = "Deployment shop/web", "apps/v1 Deployment shop/web"
    for cluster in (Cluster({title: "applied"}, record=[line]), Cluster({title: "applied"})):
        prune(cluster, former=yaml_of(line))
        assert set(cluster.objects) == {title}


@pytest.mark.parametrize("mark", ["owned", "helm", "bootstrapped"])
def test_an_object_that_something_else_manages_stays(mark: str) -> None:
    cluster = Cluster({"ClusterRole view": f"{LABELLED},{mark}"}, record=["rbac.authorization.k8s.io/v1 ClusterRole view"])
    assert prune(cluster).removed == ()
    assert set(cluster.objects) == {"ClusterRole view"}


def test_what_an_application_has_is_its_own() -> None:
    cluster = Cluster({"Deployment shop/web": LABELLED}, record=["apps/v1 Deployment shop/web"])
    prune(cluster, others=[TrackedObject("apps/v1", "Deployment", "shop", "web")])
    assert cluster.deleted == []


@pytest.mark.parametrize(
    "line",
    ["v1 Namespace kube-system", "v1 ConfigMap kube-system/coredns", "v1 ConfigMap kube-system/slipway-clusterfile",
     "v1 Service default/kubernetes", "scheduling.k8s.io/v1 PriorityClass system-node-critical",
     "apps/v1 DaemonSet kube-system/kube-proxy"],
)  # fmt: skip
def test_what_is_the_clusters_own_is_never_removed(line: str) -> None:
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
def test_an_object_that_is_only_written_otherwise_stays(before: str, now: str) -> None:
    cluster = Cluster(
        {"PodDisruptionBudget shop/web": LABELLED, "Service default/web": LABELLED, "ClusterRole web": LABELLED}, record=[before]
    )
    prune(cluster, wanted=yaml_of(now))
    assert cluster.deleted == []


# ---- what others use -------------------------------------------------------------------------------------------------


def test_volumes_and_claims_are_kept_with_a_word(capsys: pytest.CaptureFixture[str]) -> None:
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
def test_a_storage_class_is_kept_while_volumes_are_of_it(volumes: str, stays: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster(
        {"StorageClass local-path": LABELLED, "Deployment storage/maker": LABELLED}, record=[CLASS, "apps/v1 Deployment storage/maker"]
    )
    cluster.classes = volumes
    found = prune(cluster)
    assert ("StorageClass local-path" in cluster.objects) is stays
    assert ("PersistentVolume pv-1 and 1 more are of it" in capsys.readouterr().err) is stays
    assert str(found.removed[0]) == "Deployment storage/maker"


@pytest.mark.parametrize(("there", "stays"), [("web.shop.example/one\n", True), ("", False)])
def test_a_kind_is_kept_while_there_are_objects_of_it_that_are_not_the_addons(there: str, stays: bool) -> None:
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
def test_a_namespace_is_kept_while_something_is_in_it(inside: str, stays: bool) -> None:
    cluster = Cluster({"Namespace storage": LABELLED, "Deployment storage/maker": LABELLED}, record=NAMESPACED)
    cluster.inside["storage"] = inside
    assert ("Namespace storage" not in map(str, prune(cluster).removed)) is stays
    assert ("Namespace storage" in cluster.objects) is stays
    # What else is in it has gone before.
    assert cluster.deleted[0] == ["Deployment storage/maker"]


def test_a_namespace_of_which_not_everything_can_be_listed_is_kept() -> None:
    cluster = Cluster({"Namespace storage": LABELLED}, record=NAMESPACED)
    cluster.silent = True
    assert [str(one) for one in prune(cluster).kept] == ["Namespace storage"]


def test_objects_of_a_kind_that_is_gone_are_gone() -> None:
    cluster = Cluster(METRICS_THERE, record=["x/v1 Gone shop/a", *METRICS])
    assert str(prune(cluster)) == "3 objects removed"


# ---- what slipway reads ----------------------------------------------------------------------------------------------


def test_nothing_is_removed_when_it_is_not_known_what_the_image_brings() -> None:
    cluster = Cluster(METRICS_THERE, record=METRICS)
    with pytest.raises(StoreError, match="not usable YAML"):
        prune(cluster, wanted="{")
    assert cluster.deleted == []
    assert obsolete.with_record({"a.yaml": "{"}) == {}


def test_lists_are_taken_apart_and_what_is_no_object_is_left_out() -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [json.loads(yaml_of("v1 Service shop/a")), {"kind": "Pod"}, 7]}
    text = "\n---\n".join([json.dumps(listed), "null", "{kind: Pod, apiVersion: v1, metadata: {generateName: x-}}", "- a",
                            '{apiVersion: v1, kind: Pod, metadata: {name: "a b"}}'])  # fmt: skip
    assert [str(one) for one in obsolete.objects_of({"a.yaml": text})] == ["Service shop/a"]


def test_tables_are_idle_whose_enforcer_is_not_in_the_cluster() -> None:
    cluster = Cluster({})
    assert obsolete.idle_tables(cluster) == ("inet kube-network-policies",)  # type: ignore[arg-type]
    cluster.resources["images"] = "registry.k8s.io/networking/kube-network-policies:v0.8.0\ndocker.io/flannel/flannel:v1\n"
    assert obsolete.idle_tables(cluster) == ()  # type: ignore[arg-type]


def test_the_pod_network_of_a_cluster_is_known_by_its_label() -> None:
    cluster = Cluster({})
    cluster.resources["selected"] = "daemonset.apps/kube-flannel-ds\n"
    assert obsolete.networks(cluster) == ["kube-flannel-ds"]  # type: ignore[arg-type]
    assert "--selector=slipway.dev/addon=network" in cluster.calls[-1]
