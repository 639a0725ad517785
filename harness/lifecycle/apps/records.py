"""Records of the applications in a cluster, each a ConfigMap in kube-system.

Verbs that change a cluster read from them the container images that its registries must keep (``images``), the registries whose names
nodes must know (``domains``), and the applications that a version of Kubernetes does not suit (``unfit``).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from harness import cloudimage, untrusted
from harness.cloudimage import ImageSet
from harness.clusterfile import ALL, ApplicationDocument, Clusterfile, Config
from harness.clusterfile.parse import parse
from harness.errors import CheckError, Fault, InputError, StoreError, UsageError
from harness.kubefile import version_range
from harness.lifecycle.apps import tracking
from harness.lifecycle.apps.tracking import TrackedObject
from harness.lifecycle.kube import objects as kube_objects
from harness.nodes.kubectl import NodeKubectl
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store

LABEL = "slipway.dev/app"
PREFIX = "slipway-app-"
_NAMESPACE = "--namespace=kube-system"
LIST = ("get", "configmaps", _NAMESPACE, f"--selector={LABEL}", "--output=json")

INSTALLING, INSTALLED, REMOVING = "installing", "installed", "removing"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Installed:
    """The record of an application. It contains no value that is or may be a secret."""

    name: str
    image: str
    digest: str
    state: str = INSTALLING
    """``installing``, ``installed`` or ``removing``; the first and last while that is not finished."""
    clusterfile: Clusterfile = dataclasses.field(default_factory=lambda: Clusterfile(""))
    """The request: the document Application and the Config documents."""
    objects: tuple[TrackedObject, ...] = ()
    """Objects that it created, and objects that it uses and that existed before."""
    domains: tuple[str, ...] = ()
    """Registries in the names of its images."""
    kube_version: str | None = None
    unknown: tuple[str, ...] = ()
    """Launch commands that ran more than kubectl and helm."""
    by_file: bool = False
    """It was installed by a Clusterfile that was applied, and is removed with it."""
    where: str = ""
    """Address of the node that has its files."""
    uid: str = ""
    since: str = ""

    @property
    def application(self) -> ApplicationDocument | None:
        return self.clusterfile.apps[0] if self.clusterfile.apps else None

    @property
    def configs(self) -> tuple[Config, ...]:
        return self.clusterfile.configs

    def config_map(self) -> dict[str, Any]:
        from harness.clusterfile import write

        data = {
            "image": self.image,
            "digest": self.digest,
            "state": self.state,
            "Clusterfile": write.redacted(self.clusterfile),
            "objects": tracking.text(self.objects),
            "domains": " ".join(self.domains),
            "kubeVersion": self.kube_version or "",
            "unknown": json.dumps(list(self.unknown)),
            "byFile": "yes" if self.by_file else "",
            "where": self.where,
        }
        metadata = {"name": f"{PREFIX}{self.name}", "namespace": "kube-system", "labels": {LABEL: self.name}}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    @classmethod
    def of(cls, config_map: Mapping[str, Any]) -> Installed:
        """Read a ConfigMap. Raises InputError when the Clusterfile in it is not valid."""
        data, metadata = config_map.get("data") or {}, config_map["metadata"]
        # It becomes part of paths, on this machine as well where launch commands run here.
        name = untrusted.name(str(metadata["name"]).removeprefix(PREFIX), what="the record of an application", error=CheckError)
        return cls(
            name=name,
            image=str(data.get("image") or ""),
            digest=str(data.get("digest") or ""),
            state=str(data.get("state") or INSTALLING),
            clusterfile=parse(data["Clusterfile"], f"the record of {name}", stored=True) if data.get("Clusterfile") else Clusterfile(""),
            objects=tracking.parse(data.get("objects") or ""),
            domains=tuple((data.get("domains") or "").split()),
            kube_version=data.get("kubeVersion") or None,
            unknown=tuple(_unknown(data.get("unknown") or "[]", name)),
            by_file=bool(data.get("byFile")),
            where=str(data.get("where") or ""),
            uid=str(metadata.get("uid") or ""),
            since=str(metadata.get("creationTimestamp") or ""),
        )


def _unknown(text: str, name: str) -> list[str]:
    commands = untrusted.json_document(text, what=f"the record of {name}", error=CheckError)
    return [str(command) for command in commands] if isinstance(commands, list) else []


# ---- records ----------------------------------------------------------------------------------------------------------


def listed(kubectl: NodeKubectl) -> tuple[Installed, ...]:
    """The applications of a cluster, by name. Raises CommandError when it does not answer."""
    return of_list(kubectl.run(*LIST), kubectl.where)


def of_list(text: str, where: str) -> tuple[Installed, ...]:
    """Read kubectl's list of all records."""
    return tuple(sorted((Installed.of(item) for item in kube_objects.config_maps(text, where=where)), key=lambda app: app.name))


def find(kubectl: NodeKubectl, name: str) -> Installed | None:
    text = kubectl.run("get", "configmap", f"{PREFIX}{name}", _NAMESPACE, "--ignore-not-found", "--output=json")
    return Installed.of(kube_objects.config_map(text, where=kubectl.where)) if text.strip() else None


def begin(kubectl: NodeKubectl, app: Installed) -> Installed:
    """Record that an application is being installed, with the objects that it created before. Return the stored record."""
    before = find(kubectl, app.name)
    if before is not None:
        return write(kubectl, dataclasses.replace(app, objects=before.objects, by_file=app.by_file or before.by_file))
    return _store(kubectl, "create", app)


def write(kubectl: NodeKubectl, app: Installed) -> Installed:
    """Replace the record of an application. Raises CommandError when it has none."""
    return _store(kubectl, "replace", app)


def _store(kubectl: NodeKubectl, verb: str, app: Installed) -> Installed:
    text = kubectl.run(verb, "--output=json", "--filename=-", input=json.dumps(app.config_map()))
    return Installed.of(kube_objects.config_map(text, where=kubectl.where))


def forget(kubectl: NodeKubectl, name: str) -> None:
    kubectl.run("delete", "configmap", f"{PREFIX}{name}", _NAMESPACE, "--ignore-not-found", "--wait=false")


# ---- names ------------------------------------------------------------------------------------------------------------


def name_of(image: str) -> str:
    """The default name of an application: ``shop`` for ``registry.example.com/team/shop:1.2``.

    Raises UsageError when the image gives no valid name.
    """
    try:
        text = Reference.parse(image).path.rpartition("/")[2]
    except ValueError:
        text = image
    return check_name(re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-"))


def check_name(text: str) -> str:
    """Return the name. Raises UsageError when it is not valid for an application."""
    if not _NAME.fullmatch(text):
        raise UsageError(f"{text!r} is not a valid application name", hint="--as NAME: lower-case letters, digits and hyphens, at most 53")
    return text


# ---- for other verbs --------------------------------------------------------------------------------------------------


def union(apps: Iterable[Installed], store: Store, platforms: Collection[Platform] | None = None) -> ImageSet:
    """The container images of applications, for ``platforms`` or all that they are made for.

    A cluster's registries must keep these beside those of the cluster image. Raises StoreError when the CloudImage of one is missing.
    """
    from harness.trust import policy  # here: its cryptography is slow to load

    sets: list[ImageSet] = []
    for app in apps:
        try:
            image = cloudimage.read(store, app.digest)
            policy.admit(store, app.digest, image.digest)
        except StoreError as error:
            raise StoreError(
                f"the image of the application {app.name}, {app.image} ({app.digest[:19]}), cannot be used: {error.message}",
                hint=f"slipway pull {app.image}, or load it from an archive; or remove it: slipway apps remove {app.name}",
            ) from error
        sets += of_platforms(image, platforms)
    return functools.reduce(ImageSet.union, sets, ImageSet())


def of_platforms(image: cloudimage.CloudImage, platforms: Collection[Platform] | None) -> list[ImageSet]:
    return [part.images for part in image.platforms if platforms is None or any(part.platform.matches(each) for each in platforms)]


def unfit(apps: Iterable[Installed], kubernetes: str) -> tuple[str, ...]:
    """A line for each of the applications that does not admit a version of Kubernetes."""
    return tuple(
        f"{app.name} ({app.image}) admits Kubernetes {app.kube_version}, and not {kubernetes}"
        for app in apps
        if app.kube_version and not version_range.admits(kubernetes, app.kube_version)
    )


def check_parts(image: cloudimage.CloudImage, chosen: Collection[str]) -> None:
    """Raises InputError for applications that an image lacks."""
    names = [app.name for app in image.platforms[0].info.apps]
    hint = f"it has {', '.join(names)}" if names else "it has none; use --cmds for launch commands"
    faults = [
        Fault(f"--apps {name}", f"{image.name or image.digest} has no such application", hint)
        for name in chosen
        if name not in names and not (name == ALL and names)
    ]
    if faults:
        raise InputError(faults)
