"""Addons of a former image that the image of a cluster has not any more: what of them goes, and what stays with a word.

What slipway has applied of addons the cluster keeps in a ConfigMap; of a cluster that was made before there was one, only what the former
image had is looked at. Everything is found out anew each time, so it may be cut off and repeated at any point.
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
from harness.lifecycle.apps.tracking import NO_KIND, Object
from harness.lifecycle.kube import objects as kubeobjects
from harness.lifecycle.steps.context import NETWORK_ADDON
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes import addons

CONFIG_MAP = "slipway-addons"
_PLACE = "--namespace=kube-system"
_TIMEOUT = 300
"""Seconds for objects, and for what they made, to go."""

_OWN_GROUPS = ("", "apps", "autoscaling", "batch", "policy")
"""Groups of the API's own kinds, beside those that end in ``.k8s.io``."""
_FIRST = ("APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
"""What leads the API to a Service: once that is gone, requests would fail."""
_LAST = ("CustomResourceDefinition", "StorageClass", "Namespace")
"""What others may be using, in the order in which it goes."""
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
class Former:
    """An object of a former addon that is in the cluster, as it is now."""

    object: Object
    marks: frozenset[str] = frozenset()
    """Of ``_MARKS``."""


@dataclasses.dataclass(frozen=True)
class Cleared:
    """How it ended."""

    removed: tuple[Object, ...] = ()
    kept: tuple[Object, ...] = ()
    """What others use, so that it stays."""

    def __str__(self) -> str:
        gone = f"{len(self.removed)} object{'' if len(self.removed) == 1 else 's'} removed"
        return f"{gone}, {len(self.kept)} kept" if self.kept else gone


# ---- what the cluster keeps ------------------------------------------------------------------------------------------


def objects_of(manifests: Mapping[str, str]) -> tuple[Object, ...]:
    """The objects of addons, by file name. Raises StoreError for what is not YAML."""
    return tuple(_object(document) for document in addons.documents(manifests.values()))


def _object(document: Mapping[str, Any]) -> Object:
    metadata = document["metadata"]
    return Object(document["apiVersion"], document["kind"], metadata.get("namespace", ""), metadata["name"])


def record(objects: Iterable[Object]) -> str:
    """The manifest of the ConfigMap that says what was applied of addons."""
    metadata = {"name": CONFIG_MAP, "namespace": "kube-system", "labels": {addons.LABEL: "record"}}
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"objects": tracking.text(objects)}})


def with_record(manifests: Mapping[str, str]) -> dict[str, str]:
    """The record of addons, as a manifest that is applied with them; none where slipway cannot read what kubectl may."""
    try:
        return {f"{CONFIG_MAP}.json": record(objects_of(manifests))}
    except StoreError as error:
        log.debug(f"what addons make is not noted: {error.message}")
        return {}


def recorded(kubectl: NodeKubectl) -> tuple[Object, ...] | None:
    """What a cluster keeps of its addons; None when it was made before anything was kept."""
    text = kubectl.run("get", "configmap", CONFIG_MAP, _PLACE, "--ignore-not-found", "--output=json")
    if not text.strip():
        return None
    return tracking.parse(kubeobjects.config_map(text, where=kubectl.where)["data"].get("objects") or "")


# ---- what goes -------------------------------------------------------------------------------------------------------


def prune(kubectl: NodeKubectl, wanted: Mapping[str, str], former: Mapping[str, str], others: Collection[Object] = ()) -> Cleared:
    """Remove what former addons made and those of now do not, and keep what these made.

    ``wanted`` and ``former`` are rendered manifests by file name, ``others`` objects of applications. Raises StoreError for manifests
    that are not YAML, CommandError for what does not go.
    """
    now, known = objects_of(wanted), recorded(kubectl)
    documents = list(addons.documents(former.values()))
    before = _distinct([*(known or ()), *map(_object, documents)])
    stay = [*now, *others]
    candidates = [one for one in before if not any(_same(one, other) for other in stay) and not _is_clusters(one)]
    # Before there was a record nothing was labelled but what says so itself.
    unlabelled = [] if known is not None else [_object(document) for document in documents if not addons.has_label(document)]
    found = [one for one in _there(kubectl, candidates) if _is_ours(one, unlabelled)]
    pruned = _remove(kubectl, found)
    kubectl.run("apply", "--validate=false", "--filename=-", input=record([*now, *pruned.kept]))
    return pruned


def _distinct(objects: Iterable[Object]) -> list[Object]:
    found: list[Object] = []
    for one in objects:
        if not any(_same(one, other) for other in found):
            found.append(one)
    return found


def _group(one: Object) -> str:
    return one.api.rpartition("/")[0]


def _same(one: Object, other: Object) -> bool:
    """Whether two descriptions may be of one object. The version does not matter, and a namespace may be left out or be of no use."""
    if (_group(one), one.kind, one.name) != (_group(other), other.kind, other.name):
        return False
    return one.namespace == other.namespace or "" in (one.namespace, other.namespace)


def _is_clusters(one: Object) -> bool:
    """Whether an object is the cluster's own, whoever applies it: an addon may have changed something of it."""
    if one.kind in ("Namespace", "PriorityClass"):
        return one.name in _NAMESPACES or one.name.startswith("system-")
    inside = one.namespace in ("", "kube-system")
    return (inside and (one.name in _OF_KUBEADM or one.name.startswith("slipway-"))) or (one.kind, one.name) == ("Service", "kubernetes")


def _is_ours(found: Former, unlabelled: Sequence[Object]) -> bool:
    """Whether an object is an addon's still: nobody has taken it over, and the API server did not make it."""
    if found.marks & {"owned", "helm", "bootstrapped"}:
        return False
    never = any(_same(found.object, one) for one in unlabelled)
    return "labelled" in found.marks or (never and "applied" in found.marks)


def _is_own_kind(one: Object) -> bool:
    group = _group(one)
    return group in _OWN_GROUPS or group.endswith(".k8s.io")


def _there(kubectl: NodeKubectl, objects: Sequence[Object]) -> list[Former]:
    """Those of the objects that are there."""
    own = [one for one in objects if _is_own_kind(one)]
    found = _ask(kubectl, own) if own else []
    for kind in dict.fromkeys((one.api, one.kind) for one in objects if not _is_own_kind(one)):
        try:
            found += _ask(kubectl, [one for one in objects if (one.api, one.kind) == kind])
        except CommandError as error:
            if not NO_KIND.search(error.details or ""):
                raise
    return found


def _ask(kubectl: NodeKubectl, objects: Sequence[Object]) -> list[Former]:
    words = ("get", "--ignore-not-found", "--filename=-", f"--output=go-template={_LISTING}")
    return list(_parse(kubectl.run(*words, input=tracking.manifest(objects))))


def _parse(text: str) -> Iterator[Former]:
    for words in map(str.split, text.splitlines()):
        # What kubectl prints of an empty list is no object.
        if len(words) == 5 and words[1] != "List":
            api, kind, namespace, name, marks = words
            yield Former(Object(api, kind, "" if namespace == "-" else namespace, name), frozenset(marks.split(",")) & _MARKS.keys())


def _remove(kubectl: NodeKubectl, found: Sequence[Former]) -> Cleared:
    """What may be in use is looked at when all else has gone, and may have given it up."""
    objects = [one.object for one in found]
    removed: list[Object] = []
    kept: list[Object] = []

    def go(gone: Sequence[Object]) -> None:
        if gone:
            tracking.delete(kubectl, gone, _TIMEOUT, cascade="foreground")
            removed.extend(gone)

    # Who serves them is still there to see them off.
    go([one for one in objects if not _is_own_kind(one)])
    plain = [one for one in objects if _is_own_kind(one) and one.kind not in (*_LAST, *_VOLUMES)]
    go([*(one for one in plain if one.kind in _FIRST), *(one for one in plain if one.kind not in _FIRST)])
    for one in sorted((one for one in objects if one.kind in (*_LAST, *_VOLUMES)), key=lambda one: (*_VOLUMES, *_LAST).index(one.kind)):
        if why := _use(kubectl, one):
            log.warning(f"{one} stays, though no addon of the image brings it: {why}")
            kept.append(one)
        else:
            go([one])
    return Cleared(tuple(removed), tuple(kept))


def idle_tables(kubectl: NodeKubectl) -> tuple[str, ...]:
    """Tables of nf_tables that what enforces NetworkPolicies would have, as far as it is not in the cluster."""
    used = enforcers.among(kubectl.run("get", "daemonsets.apps", "--all-namespaces", f"--output=go-template={_IMAGES}").split())
    return tuple(table for one in enforcers.ENFORCERS if one not in used for table in one.tables)


def networks(kubectl: NodeKubectl) -> list[str]:
    """The names of the DaemonSets that are the pod network, as far as an addon brought it."""
    selector = f"--selector={addons.LABEL}={addons.value(NETWORK_ADDON)}"
    return [
        name.rpartition("/")[2] for name in kubectl.run("get", "daemonsets.apps", "--all-namespaces", selector, "--output=name").split()
    ]


# ---- what stays ------------------------------------------------------------------------------------------------------

_CLASSES = '{{range .items}}{{.kind}} {{.metadata.name}} {{with .spec.storageClassName}}{{.}}{{end}}{{"\\n"}}{{end}}'
_AUTOMATIC = ("configmap/kube-root-ca.crt", "serviceaccount/default")
_FLEETING = ("endpoints/", "endpointslice.", "event/", "event.", "lease.", "podmetrics.")
"""What is in a namespace by itself, or is written there by programs that have gone."""


def _use(kubectl: NodeKubectl, one: Object) -> str:
    """Why an object must stay; empty when nothing uses it."""
    if one.kind in _VOLUMES:
        return "it may hold data"
    users, how = {"StorageClass": (_of_class, "of it"), "CustomResourceDefinition": (_of_kind, "of it")}.get(one.kind, (_inside, "in it"))
    listed = users(kubectl, one.name)
    more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
    return f"{listed[0]}{more} {'are' if more else 'is'} {how}" if listed else ""


def _of_class(kubectl: NodeKubectl, name: str) -> list[str]:
    """Volumes of a StorageClass, and claims."""
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
    """What is in a namespace."""
    try:
        kinds = kubectl.run("api-resources", "--verbs=list", "--namespaced", "--output=name").split()
        listed = kubectl.run("get", ",".join(kinds), f"--namespace={namespace}", "--ignore-not-found", "--output=name").split()
    except CommandError:
        # An API beside the cluster's own does not answer: what it keeps cannot be known.
        return ["something that cannot be listed"]
    return [name for name in listed if name not in _AUTOMATIC and not name.startswith(_FLEETING)]
