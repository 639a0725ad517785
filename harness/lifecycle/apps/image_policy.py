"""Pods of a cluster whose machines slipway may not enter get the images of an application from a registry of the site.

A MutatingAdmissionPolicy of the application changes the names of its images in pods as they are made; manifests and charts stay as they
are. It lists each name, so that a name which it has changed is not in the list, and pods with other images are left alone.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from harness import untrusted
from harness.cloudimage import EmbeddedImage
from harness.errors import CheckError, CommandError
from harness.lifecycle.apps import records
from harness.nodes.kubectl import NodeKubectl
from harness.oci.model import canonical_json
from harness.oci.reference import DEFAULT_DOMAIN, DEFAULT_TAG, Reference
from harness.oci.registry.client import Client
from harness.oci.registry.config import Site

_GROUP = "admissionregistration.k8s.io"
_VERSIONS = ("v1", "v1beta1")
"""Versions of the API that have the policy: Kubernetes 1.36, and 1.34 where it is switched on."""
_KIND = "MutatingAdmissionPolicy"
_FORCE_TIMEOUT = 60
"""Seconds until a new policy counts; API servers read it within one."""


@dataclasses.dataclass(frozen=True)
class SiteRegistry:
    """A registry that slipway fills and the nodes can pull from."""

    site: Site
    client: Callable[[], AbstractContextManager[Client]]


def names(images: Iterable[EmbeddedImage], site: Site, partly: Collection[str] = ()) -> dict[str, str]:
    """Every spelling in which a pod may name one of the images, and its name in the registry of the site.

    ``partly``: images whose index is not complete there, so that only their tag can be pulled.
    """
    changed: dict[str, str] = {}
    for image in images:
        reference = Reference.parse(image.name)
        digest = reference.digest or image.digest
        suffixes = [("", f"@{digest}")]
        if reference.tag:
            suffixes.append((f":{reference.tag}", ""))
            suffixes.append((f":{reference.tag}", f"@{digest}"))
        place = site.place(reference)
        for repository in _spellings(reference):
            for tag, pin in suffixes:
                kept = "" if image.name in partly and reference.tag else pin
                changed[f"{repository}{tag}{pin}"] = f"{place.repository}{tag or (f':{reference.tag}' if not kept else '')}{kept}"
            if reference.tag == DEFAULT_TAG:
                changed[repository] = f"{place.repository}:{DEFAULT_TAG}"
    return changed


def _spellings(reference: Reference) -> list[str]:
    """The repository in the ways that Docker's rules of names allow."""
    if reference.domain != DEFAULT_DOMAIN:
        return [reference.repository]
    path, official = reference.path, reference.path.removeprefix("library/")
    short = [official, f"{DEFAULT_DOMAIN}/{official}"] if official != path and "/" not in official else []
    return [reference.repository, path, *short]


def manifests(app: str, changed: Mapping[str, str], version: str) -> str:
    """The policy of an application and its binding, as a document for kubectl. ``version``: of the API."""
    name = f"{records.PREFIX}{app}"
    api, labels = f"{_GROUP}/{version}", {"app.kubernetes.io/managed-by": "slipway"}
    resources = [
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]},
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": ["pods/ephemeralcontainers"]},
    ]
    policy = {
        "apiVersion": api,
        "kind": _KIND,
        "metadata": {"name": name, "labels": labels},
        "spec": {
            # A fault of the policy must not keep pods of others from being made.
            "failurePolicy": "Ignore",
            # Containers that another admission plugin adds later are seen as well.
            "reinvocationPolicy": "IfNeeded",
            "matchConstraints": {"resourceRules": resources},
            "variables": [{"name": "names", "expression": json.dumps(dict(sorted(changed.items())))}],
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": _expression()}}],
        },
    }
    binding = {"apiVersion": api, "kind": f"{_KIND}Binding", "metadata": {"name": name, "labels": labels}, "spec": {"policyName": name}}
    return "\n".join(f"---\n{canonical_json(document).decode()}" for document in (policy, binding))


_VOLUMES = (
    "volumes: !has(object.spec.volumes) ? [] : object.spec.volumes"
    ".filter(v, has(v.image) && has(v.image.reference) && v.image.reference in variables.names)"
    ".map(v, Object.spec.volumes{name: v.name, image: Object.spec.volumes.image{reference: variables.names[v.image.reference]}})"
)
_IS_NEW = " && !(has(oldObject.spec.ephemeralContainers) && oldObject.spec.ephemeralContainers.exists(o, o.name == c.name))"


def _expression() -> str:
    """Changes what a pod is made with. Of ephemeral containers only a new one: those that are there cannot change."""
    created = ", ".join((_containers("containers"), _containers("initContainers"), _VOLUMES))
    added = _containers("ephemeralContainers", _IS_NEW)
    choice = "has(request.subResource) && request.subResource == 'ephemeralcontainers'"
    return f"{choice} ? Object{{spec: Object.spec{{{added}}}}} : Object{{spec: Object.spec{{{created}}}}}"


def _containers(field: str, condition: str = "") -> str:
    return (
        f"{field}: !has(object.spec.{field}) ? [] : object.spec.{field}.filter(c, has(c.image) && c.image in variables.names{condition})"
        f".map(c, Object.spec.{field}{{name: c.name, image: variables.names[c.image]}})"
    )


def version(kubectl: NodeKubectl) -> str:
    """The version of the API with such policies. Raises CheckError when the cluster has none."""
    for each in _VERSIONS:
        try:
            answer = kubectl.run("get", "--raw", f"/apis/{_GROUP}/{each}")
        except CommandError:
            continue
        document = untrusted.json_document(answer, what=f"the answer of {kubectl.where}", error=CheckError)
        resources = document.get("resources") if isinstance(document, dict) else None
        for resource in resources if isinstance(resources, list) else ():
            if isinstance(resource, dict) and resource.get("kind") == _KIND:
                return each
    raise CheckError(
        f"--registry: the cluster serves no {_KIND}, which points pods at another registry",
        hint="Kubernetes 1.36 and newer have it; --no-images, where the nodes reach the registries that the manifests name",
    )


def await_force(kubectl: NodeKubectl, changed: Mapping[str, str], timeout: float = _FORCE_TIMEOUT) -> None:
    """Wait until API servers change the names of images in a pod on trial, which is not made.

    Raises CheckError when one name is still not changed after ``timeout`` seconds, and CommandError when the API refuses the pod.
    """
    pod = _trial(changed)
    until = time.monotonic() + timeout
    while True:
        answer = kubectl.run("create", "--dry-run=server", "--filename=-", "--output=json", input=pod)
        document = untrusted.json_document(answer, what=f"the answer of {kubectl.where}", error=CheckError)
        left = sorted(_images(document) & changed.keys())
        if not left:
            return
        if time.monotonic() > until:
            raise CheckError(f"the policy of images has no effect: {left[0]} stays {left[0]}", hint="kubectl get mutatingadmissionpolicies")
        time.sleep(0.5)


def _images(pod: Any) -> set[str]:
    spec = pod.get("spec") if isinstance(pod, dict) else None
    containers = spec.get("containers") if isinstance(spec, dict) else None
    return {str(one.get("image")) for one in containers or () if isinstance(one, dict)}


def _trial(changed: Mapping[str, str]) -> str:
    """A pod with every image, modest enough for restricted namespaces and quotas."""
    limits = {"cpu": "1m", "memory": "1Mi"}
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    containers = [
        {"name": f"c{number}", "image": image, "resources": {"requests": limits, "limits": limits}, "securityContext": security}
        for number, image in enumerate(sorted(changed))
    ]
    spec = {"containers": containers, "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}}
    metadata = {"name": "slipway-trial", "namespace": "default"}
    return canonical_json({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).decode()
