"""Objects of addons that the image of a cluster does not contain any more: remove them, or warn of those that stay.

The cluster records in a ConfigMap the objects of addons that slipway applied; in an older cluster without it, only the addons of the
former image are considered. Every call starts from the state of the cluster, so it may be interrupted and repeated at any point.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import log
from harness.cloudimage import enforcers
from harness.errors import CommandError, StoreError
from harness.lifecycle.apps import tracking
from harness.lifecycle.apps.tracking import NO_KIND, TrackedObject
from harness.lifecycle.kube import objects as kube_objects
from harness.lifecycle.steps.context import NETWORK_ADDON
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes import addons

CONFIG_MAP = "slipway-addons"
_PLACE = "--namespace=kube-system"
_TIMEOUT = 300
"""Seconds for the removal of objects and of those that they own."""

_OWN_GROUPS = ("", "apps", "autoscaling", "batch", "policy")
"""Groups of the API's own kinds, beside those that end in ``.k8s.io``."""
_FIRST = ("APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
"""Kinds that lead the API to a Service: without it, requests would fail."""
_LAST = ("CustomResourceDefinition", "StorageClass", "Namespace")
"""Kinds that others may use, in the order of removal."""
_VOLUMES = ("PersistentVolume", "PersistentVolumeClaim")
_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_OF_KUBEADM = (
    "coredns", "extension-apiserver-authentication", "kube-dns", "kube-proxy", "kube-root-ca.crt", "kubeadm-config", "kubelet-config",
)  # fmt: skip

_MARKS = {
    "owned": "{{if .metadata.ownerReferences}}owned,{{end}}",
    "applied": '{{with .metadata.annotations}}{{if index . "kubectl.kubernetes.io/last-applied-configuration"}}applied,{{end}}{{end}}',
    "helm": '{{with .metadata.annotations}}{{if index . "meta.helm.sh/release-name"}}helm,{{end}}{{end}}',
    "bootstrapped": '{{with .metadata.labels}}{{if index . "kubernetes.io/bootstrapping"}}bootstrapped,{{end}}{{end}}',
    "labelled": f'{{{{with .metadata.labels}}}}{{{{if index . "{addons.LABEL}"}}}}labelled,{{{{end}}}}{{{{end}}}}',
}
_LINE = "{{.apiVersion}} {{.kind}} {{with .metadata.namespace}}{{.}}{{else}}-{{end}} {{.metadata.name}} marks," + "".join(_MARKS.values())
_DEFINED = f'{{{{define "line"}}}}{_LINE}{{{{println}}}}{{{{end}}}}'
_LISTING = _DEFINED + '{{if .items}}{{range .items}}{{template "line" .}}{{end}}{{else}}{{template "line" .}}{{end}}'
"""Of one object, or of several."""
_IMAGES = "{{range .items}}{{range .spec.template.spec.containers}}{{.image}}{{println}}{{end}}{{end}}"


@dataclasses.dataclass(frozen=True)
class FormerObject:
    """An object of a former addon that still exists."""

    object: TrackedObject
    marks: frozenset[str] = frozenset()
    """Of ``_MARKS``."""


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """The outcome of a prune."""

    removed: tuple[TrackedObject, ...] = ()
    kept: tuple[TrackedObject, ...] = ()
    """Objects that stay because others use them."""

    def __str__(self) -> str:
        removed = f"{len(self.removed)} object{'' if len(self.removed) == 1 else 's'} removed"
        return f"{removed}, {len(self.kept)} kept" if self.kept else removed


# ---- the record ------------------------------------------------------------------------------------------------------


def objects_of(manifests: Mapping[str, str]) -> tuple[TrackedObject, ...]:
    """The objects of manifests by file name. Raises StoreError for one that is not YAML."""
    return tuple(_object(document) for document in addons.documents(manifests.values()))


def _object(document: Mapping[str, Any]) -> TrackedObject:
    metadata = document["metadata"]
    return TrackedObject(document["apiVersion"], document["kind"], metadata.get("namespace", ""), metadata["name"])


def record(objects: Iterable[TrackedObject]) -> str:
    """The manifest of the ConfigMap with the applied objects of addons."""
    metadata = {"name": CONFIG_MAP, "namespace": "kube-system", "labels": {addons.LABEL: "record"}}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"objects": tracking.text(objects)}})


def with_record(manifests: Mapping[str, str]) -> dict[str, str]:
    """The record of addons, as a manifest that is applied with them; empty where only kubectl can read the addons."""
    try:
        return {f"{CONFIG_MAP}.json": record(objects_of(manifests))}
    except StoreError as error:
        log.debug(f"the objects of addons are not recorded: {error.message}")
        return {}


def recorded(kubectl: NodeKubectl) -> tuple[TrackedObject, ...] | None:
    """The recorded objects of addons; None in a cluster without the record."""
    text = kubectl.run("get", "configmap", CONFIG_MAP, _PLACE, "--ignore-not-found", "--output=json")
    if not text.strip():
        return None
    return tracking.parse(kube_objects.config_map(text, where=kubectl.where)["data"].get("objects") or "")


# ---- removal ---------------------------------------------------------------------------------------------------------


def prune(
    kubectl: NodeKubectl, wanted: Mapping[str, str], former: Mapping[str, str], others: Collection[TrackedObject] = ()
) -> PruneResult:
    """Remove objects of former addons that the current ones do not have, and record the objects of these.

    ``wanted`` and ``former`` are rendered manifests by file name, ``others`` objects of applications. Raises StoreError for manifests
    that are not YAML, CommandError for an object that is not removed.
    """
    now, tracked = objects_of(wanted), recorded(kubectl)
    documents = list(addons.documents(former.values()))
    before = _distinct([*(tracked or ()), *map(_object, documents)])
    stay = [*now, *others]
    candidates = [each for each in before if not any(_same(each, other) for other in stay) and not _is_clusters(each)]
    # Clusters without the record have no labels but those in the manifests.
    unlabelled = [] if tracked is not None else [_object(document) for document in documents if not addons.has_label(document)]
    pruned = _remove(kubectl, [each for each in _existing(kubectl, candidates) if _is_owned(each, unlabelled)])
    kubectl.run("apply", "--validate=false", "--filename=-", input=record([*now, *pruned.kept]))
    return pruned


def _distinct(objects: Iterable[TrackedObject]) -> list[TrackedObject]:
    distinct: list[TrackedObject] = []
    for each in objects:
        if not any(_same(each, other) for other in distinct):
            distinct.append(each)
    return distinct


def _group(one: TrackedObject) -> str:
    return one.api.rpartition("/")[0]


def _same(one: TrackedObject, other: TrackedObject) -> bool:
    """Return whether two descriptions may mean one object: versions are ignored, and a namespace may be missing or unused."""
    if (_group(one), one.kind, one.name) != (_group(other), other.kind, other.name):
        return False
    return one.namespace == other.namespace or "" in (one.namespace, other.namespace)


def _is_clusters(one: TrackedObject) -> bool:
    """Return whether an object belongs to the cluster itself: an addon may have changed a part of it."""
    if one.kind in ("Namespace", "PriorityClass"):
        return one.name in _NAMESPACES or one.name.startswith("system-")
    inside = one.namespace in ("", "kube-system")
    return (inside and (one.name in _OF_KUBEADM or one.name.startswith("slipway-"))) or (one.kind, one.name) == ("Service", "kubernetes")


def _is_owned(former: FormerObject, unlabelled: Sequence[TrackedObject]) -> bool:
    """Return whether an object still belongs to an addon: no other owner has it, and the API server did not create it."""
    if former.marks & {"owned", "helm", "bootstrapped"}:
        return False
    never_labelled = any(_same(former.object, each) for each in unlabelled)
    return "labelled" in former.marks or (never_labelled and "applied" in former.marks)


def _is_builtin(one: TrackedObject) -> bool:
    group = _group(one)
    return group in _OWN_GROUPS or group.endswith(".k8s.io")


def _existing(kubectl: NodeKubectl, objects: Sequence[TrackedObject]) -> list[FormerObject]:
    """The objects that exist."""
    builtin = [each for each in objects if _is_builtin(each)]
    existing = _ask(kubectl, builtin) if builtin else []
    for kind in dict.fromkeys((each.api, each.kind) for each in objects if not _is_builtin(each)):
        try:
            existing += _ask(kubectl, [each for each in objects if (each.api, each.kind) == kind])
        except CommandError as error:
            if not NO_KIND.search(error.details or ""):
                raise
    return existing


def _ask(kubectl: NodeKubectl, objects: Sequence[TrackedObject]) -> list[FormerObject]:
    words = ("get", "--ignore-not-found", "--filename=-", f"--output=go-template={_LISTING}")
    return list(_parse(kubectl.run(*words, input=tracking.manifest(objects))))


def _parse(text: str) -> Iterator[FormerObject]:
    for words in map(str.split, text.splitlines()):
        # kubectl prints an empty list as one object of the kind List.
        if len(words) == 5 and words[1] != "List":
            api, kind, namespace, name, marks = words
            yield FormerObject(
                TrackedObject(api, kind, "" if namespace == "-" else namespace, name), frozenset(marks.split(",")) & _MARKS.keys()
            )


def _remove(kubectl: NodeKubectl, former: Sequence[FormerObject]) -> PruneResult:
    """Remove objects; those that may be in use come last, when their users may be gone."""
    objects = [each.object for each in former]
    removed: list[TrackedObject] = []
    kept: list[TrackedObject] = []

    def delete(batch: Sequence[TrackedObject]) -> None:
        if batch:
            tracking.delete(kubectl, batch, _TIMEOUT, cascade="foreground")
            removed.extend(batch)

    # Custom resources first, while their controllers still run.
    delete([each for each in objects if not _is_builtin(each)])
    late = (*_VOLUMES, *_LAST)
    plain = [each for each in objects if _is_builtin(each) and each.kind not in late]
    delete([*(each for each in plain if each.kind in _FIRST), *(each for each in plain if each.kind not in _FIRST)])
    for each in sorted((each for each in objects if each.kind in late), key=lambda each: late.index(each.kind)):
        if reason := _use(kubectl, each):
            log.warning(f"{each} stays, though no addon of the image has it: {reason}")
            kept.append(each)
        else:
            delete([each])
    return PruneResult(tuple(removed), tuple(kept))


def idle_tables(kubectl: NodeKubectl) -> tuple[str, ...]:
    """Tables of nf_tables of enforcers of NetworkPolicies that are not in the cluster."""
    used = enforcers.among(kubectl.run("get", "daemonsets.apps", "--all-namespaces", f"--output=go-template={_IMAGES}").split())
    return tuple(table for enforcer in enforcers.ENFORCERS if enforcer not in used for table in enforcer.tables)


def networks(kubectl: NodeKubectl) -> list[str]:
    """The names of the DaemonSets of the pod network, when an addon installed it."""
    selector = f"--selector={addons.LABEL}={addons.value(NETWORK_ADDON)}"
    return [
        name.rpartition("/")[2] for name in kubectl.run("get", "daemonsets.apps", "--all-namespaces", selector, "--output=name").split()
    ]


# ---- use ------------------------------------------------------------------------------------------------------------

_CLASSES = '{{range .items}}{{.kind}} {{.metadata.name}} {{with .spec.storageClassName}}{{.}}{{end}}{{"\\n"}}{{end}}'
_AUTOMATIC = ("configmap/kube-root-ca.crt", "serviceaccount/default")
_FLEETING = ("endpoints/", "endpointslice.", "event/", "event.", "lease.", "podmetrics.")
"""Objects that every namespace has, or that removed programs leave."""


def _use(kubectl: NodeKubectl, used: TrackedObject) -> str:
    """Reason why an object must stay; empty when nothing uses it."""
    if used.kind in _VOLUMES:
        return "it may hold data"
    users, how = {"StorageClass": (_of_class, "of it"), "CustomResourceDefinition": (_of_kind, "of it")}.get(used.kind, (_inside, "in it"))
    listed = users(kubectl, used.name)
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return f"{listed[0]}{more} {'are' if more else 'is'} {how}" if listed else ""


def _of_class(kubectl: NodeKubectl, name: str) -> list[str]:
    """Volumes and claims of a StorageClass."""
    listed = kubectl.run("get", "persistentvolumes,persistentvolumeclaims", "--all-namespaces", f"--output=go-template={_CLASSES}")
    return [f"{words[0]} {words[1]}" for words in map(str.split, listed.splitlines()) if words[2:] == [name]]


def _of_kind(kubectl: NodeKubectl, name: str) -> list[str]:
    """Objects of a kind that a CustomResourceDefinition defines."""
    try:
        return kubectl.run("get", name, "--all-namespaces", "--ignore-not-found", "--output=name").split()
    except CommandError as error:
        if not NO_KIND.search(error.details or ""):
            raise
        return []


def _inside(kubectl: NodeKubectl, namespace: str) -> list[str]:
    """Objects in a namespace."""
    try:
        kinds = kubectl.run("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        listed = kubectl.run("get", ",".join(kinds), f"--namespace={namespace}", "--ignore-not-found", "--output=name").split()
    except CommandError:
        # An aggregated API does not answer: its objects cannot be listed.
        return ["something that cannot be listed"]
    return [name for name in listed if name not in _AUTOMATIC and not name.startswith(_FLEETING)]
