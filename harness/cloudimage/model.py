"""The CloudImage as values, and the JSON of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness import untrusted
from harness.cloudimage.values import ExpectedValue
from harness.errors import StoreError
from harness.oci.model import EPOCH, Descriptor, Platform, texts
from harness.oci.reference import Reference, is_digest

KIND = "dev.slipway.kind"
CLOUDIMAGE = "cloudimage"
IMAGESET = "imageset"
INFO = "dev.slipway.cloudimage"
IMAGESET_CONFIG = "application/vnd.slipway.imageset.v1+json"
BLOB = "application/vnd.slipway.blob.v1"
SCHEMA_VERSION = 1

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class BuiltHere:
    """Marks a container image that has another's name and was built, since its registry was not asked or did not have it."""

    origin: tuple[str, ...]
    """Modules (``k8s.io/kubernetes@v1.36.3``, with `` without MODULE`` for a part that was left out) and packages (``iptables 1.8.9-2``)
    that it was made from.
    """
    recipe: str
    """The folder that says how: ``images/kubernetes``."""

    def to_json(self) -> dict[str, Any]:
        return {"from": list(self.origin), "by": self.recipe}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuiltHere:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of one."""
        return cls(text_list(value["from"]), _text(value["by"]))


@dataclasses.dataclass(frozen=True)
class EmbeddedImage:
    """A container image under its original name. The digest is that of its index or manifest, as the name gave it."""

    name: str
    digest: str
    media_type: str
    size: int
    """Bytes of the index or manifest that the digest names."""
    found_by: tuple[str, ...] = ()
    """Origin: ``pulled``, ``declared``, ``listed``."""
    requested_by: tuple[str, ...] = ()
    """File and line, or pod, that names it: ``manifests/app.yaml:12``."""
    built: BuiltHere | None = None
    """Origin of an image that was built on this machine under its publisher's name."""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "digest": self.digest,
            "mediaType": self.media_type,
            "size": self.size,
            "foundBy": list(self.found_by),
            "requestedBy": list(self.requested_by),
            **({"built": self.built.to_json()} if self.built else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> EmbeddedImage:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of an embedded image."""
        name = _text(value["name"])
        Reference.parse(name)
        blob = Blob.from_json(value)
        return cls(
            name=name,
            digest=blob.digest,
            media_type=blob.media_type,
            size=blob.size,
            found_by=text_list(value.get("foundBy")),
            requested_by=text_list(value.get("requestedBy")),
            built=BuiltHere.from_json(value["built"]) if value.get("built") is not None else None,
        )

    def merged(self, other: EmbeddedImage) -> EmbeddedImage:
        """This image, with what ``other`` knows about who wants it."""
        return dataclasses.replace(
            self, found_by=_sorted(self.found_by, other.found_by), requested_by=_sorted(self.requested_by, other.requested_by),
            built=self.built or other.built,
        )  # fmt: skip


@dataclasses.dataclass(frozen=True, order=True)
class Blob:
    """A manifest, index, config or layer of an embedded image, under its own media type."""

    digest: str
    media_type: str
    size: int

    def to_json(self) -> dict[str, Any]:
        return {"digest": self.digest, "mediaType": self.media_type, "size": self.size}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Blob:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of a blob."""
        return cls(_digest(_text(value["digest"])), _text(value["mediaType"]), untrusted.integer(value["size"], what="size"))


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Container images and all their blobs."""

    images: tuple[EmbeddedImage, ...] = ()
    blobs: tuple[Blob, ...] = ()

    def union(self, other: ImageSet) -> ImageSet:
        """Both together. A name that means different digests in them means what it means in ``other``."""
        images = {image.name: image for image in self.images}
        for image in other.images:
            mine = images.get(image.name)
            images[image.name] = image.merged(mine) if mine and mine.digest == image.digest else image
        blobs = {blob.digest: blob for blob in (*self.blobs, *other.blobs)}
        return ImageSet(tuple(images.values()), tuple(blobs.values())).sorted()

    def sorted(self) -> ImageSet:
        """The same set in the order in which it is written: images by name, blobs by digest, each once."""
        images = {image.name: image.merged(image) for image in self.images}
        blobs = {blob.digest: blob for blob in self.blobs}
        return ImageSet(tuple(images[name] for name in sorted(images)), tuple(blobs[digest] for digest in sorted(blobs)))

    def to_json(self) -> dict[str, Any]:
        return {
            "schemaVersion": SCHEMA_VERSION,
            "images": [image.to_json() for image in self.images],
            "blobs": [blob.to_json() for blob in self.blobs],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageSet:
        """Raises KeyError, TypeError, ValueError or AttributeError when it is not the JSON of an image set, which has all its manifests."""
        images, blobs = each_of(EmbeddedImage.from_json, value.get("images")), each_of(Blob.from_json, value.get("blobs"))
        digests = {blob.digest for blob in blobs}
        if lacking := [image.name for image in images if image.digest not in digests]:
            raise ValueError(f"the image set does not carry {lacking[0]}")
        return cls(images, blobs)


@dataclasses.dataclass(frozen=True)
class ImageApp:
    """One application of the image, as APP declared it."""

    name: str
    kind: str
    """``helm``, ``kube``, ``shell`` or ``mixed``."""
    files: tuple[str, ...] = ()
    """Its files after rendering, by their paths below ``application/apps/<name>``."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    commands: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "files": list(self.files),
            "env": dict(self.env),
            "commands": list(self.commands),
            "labels": dict(self.labels),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageApp:
        return cls(
            name=_text(value["name"]),
            kind=_text(value["kind"]),
            files=text_list(value.get("files")),
            env=_pairs(value.get("env")),
            commands=text_list(value.get("commands")),
            labels=_pairs(value.get("labels")),
        )


@dataclasses.dataclass(frozen=True)
class ProvingRun:
    """The run on a throw-away cluster that found the container images, where ``base`` and history of the image do not tell it."""

    on: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)
    """``{"reference": ..., "digest": ...}`` of the CloudImage that an application image ran on; its rootfs is not in the image."""
    exercise: str | None = None
    """Digest of the exercise that ran after the launch; its text is not in the image."""
    workers: int = 0

    def to_json(self) -> dict[str, Any]:
        value = {"on": dict(self.on) if self.on else None, "exercise": self.exercise, "workers": self.workers}
        return {key: content for key, content in value.items() if content}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ProvingRun:
        """Raises KeyError, TypeError, ValueError or AttributeError when it is not the JSON of one."""
        on = _pairs(value["on"]) if value.get("on") else None
        if on is not None:
            Reference.parse(on["reference"])
        return cls(
            on={"reference": on["reference"], "digest": _digest(on["digest"])} if on else None,
            exercise=_digest(_text(value["exercise"])) if value.get("exercise") else None,
            workers=untrusted.integer(value.get("workers") or 0, what="workers"),
        )


@dataclasses.dataclass(frozen=True)
class Info:
    """Run information of a CloudImage: the JSON of the annotation ``dev.slipway.cloudimage``."""

    type: str = "kube"
    """``kube``: a cluster with Kubernetes; ``app``: applications for a cluster that runs already."""
    kubernetes: str | None = None
    """Version with its ``v``, or None when the image brings none."""
    runtime: str = "kubeadm"
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    launch: tuple[str, ...] = ()
    """Shell commands, run in this order in the rootfs on the first control-plane node."""
    launch_template: tuple[str, ...] = ()
    """The same commands with ``$NAME`` for each of ``launch_arguments``; empty when there are none."""
    launch_arguments: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Values of ARG that CMD names, as they are in ``launch``: a Clusterfile may give others (``cmd_args``)."""
    apps: tuple[ImageApp, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    base: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)
    """``{"reference": ..., "digest": ...}`` of the CloudImage it was built from, as an image for this platform alone."""
    kube_version: str | None = None
    """The Kubernetes versions it may run on, as a range (KUBEVERSION)."""
    cluster_apps: tuple[str, ...] = ()
    """Names of the apps (CNI, CSI) that start with the cluster."""
    converted_from: Mapping[str, str] | None = dataclasses.field(default=None, hash=False)
    """``{"tool": "sealer", "version": ..., "digest": ...}`` when another tool made its rootfs; slipway's own runtime is not in it then."""
    proven: ProvingRun | None = None
    """The run that found its images, as far as the rest does not tell it."""
    values: tuple[ExpectedValue, ...] = ()
    """Values that its files and its author expect, by name."""
    merged_from: tuple[Mapping[str, str], ...] = dataclasses.field(default=(), hash=False)
    """``{"reference": ..., "digest": ...}`` of each CloudImage that it was merged from, in order; the digests are of their indexes."""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Fields written by a newer slipway that this one does not know; kept unchanged."""

    def to_json(self) -> dict[str, Any]:
        optional: dict[str, Any] = {"convertedFrom": dict(self.converted_from)} if self.converted_from else {}
        if self.launch_arguments:
            optional |= {"launchTemplate": list(self.launch_template), "launchArguments": dict(self.launch_arguments)}
        merged = {"mergedFrom": [dict(source) for source in self.merged_from]} if self.merged_from else {}
        return {
            **self.extra,
            **optional,
            **({"proven": self.proven.to_json()} if self.proven else {}),
            **({"values": [value.to_json() for value in self.values]} if self.values else {}),
            **merged,
            "schemaVersion": SCHEMA_VERSION,
            "type": self.type,
            "kubernetes": self.kubernetes,
            "runtime": self.runtime,
            "env": dict(self.env),
            "launch": list(self.launch),
            "apps": [app.to_json() for app in self.apps],
            "labels": dict(self.labels),
            "base": dict(self.base) if self.base else None,
            "kubeVersion": self.kube_version,
            "clusterApps": list(self.cluster_apps),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Info:
        """Raises KeyError, TypeError, ValueError or AttributeError when it is not the JSON of an Info."""
        known_keys = {*cls().to_json(), "convertedFrom", "mergedFrom", "proven", "values", "launchTemplate", "launchArguments"}
        return cls(
            type=_text(value["type"]),
            kubernetes=_text(value["kubernetes"]) if value.get("kubernetes") else None,
            runtime=str(value.get("runtime") or "kubeadm"),
            env=_pairs(value.get("env")),
            launch=text_list(value.get("launch")),
            launch_template=text_list(value.get("launchTemplate")),
            launch_arguments=_pairs(value.get("launchArguments")),
            apps=each_of(ImageApp.from_json, value.get("apps")),
            labels=_pairs(value.get("labels")),
            base=_pairs(value["base"]) if value.get("base") else None,
            kube_version=_text(value["kubeVersion"]) if value.get("kubeVersion") else None,
            cluster_apps=text_list(value.get("clusterApps")),
            converted_from=_pairs(value["convertedFrom"]) if value.get("convertedFrom") else None,
            proven=ProvingRun.from_json(value["proven"]) if value.get("proven") else None,
            values=each_of(ExpectedValue.from_json, value.get("values")),
            merged_from=each_of(_origin, value.get("mergedFrom")),
            extra={key: text for key, text in value.items() if key not in known_keys},
        )


@dataclasses.dataclass(frozen=True)
class History:
    """One instruction of the Kubefile. ``step`` is the id of the build step; ``empty``: it made no layer."""

    created_by: str
    step: str = ""
    empty: bool = False

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"created": EPOCH, "created_by": self.created_by}
        if self.step:
            value["comment"] = self.step
        return {**value, "empty_layer": True} if self.empty else value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> History:
        return cls(str(value.get("created_by") or ""), str(value.get("comment") or ""), bool(value.get("empty_layer")))


@dataclasses.dataclass(frozen=True)
class PlatformImage:
    """A CloudImage for one platform. ``layers`` lie over each other, lowest first; ``diff_ids`` has one for each of them."""

    platform: Platform
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    history: tuple[History, ...] = ()
    info: Info = dataclasses.field(default_factory=Info)
    images: ImageSet = dataclasses.field(default_factory=ImageSet)


@dataclasses.dataclass(frozen=True)
class CloudImage:
    """A CloudImage in the store. ``blobs`` are all that it consists of, its index included, each once."""

    digest: str
    platforms: tuple[PlatformImage, ...]
    blobs: tuple[Descriptor, ...] = ()
    name: str | None = None
    """The familiar name under which it was read, None when it was read by digest."""
    absent: tuple[Platform, ...] = ()
    """Platforms that the index has and that are not here: it was pulled or loaded for some platforms only."""

    @property
    def size(self) -> int:
        """Bytes in the store and over the wire: every blob once."""
        return sum(blob.size for blob in self.blobs)

    def platform(self, wanted: Platform) -> PlatformImage:
        """The image for one platform. Raises StoreError that says which there are."""
        for image in self.platforms:
            if image.platform.matches(wanted):
                return image
        if any(platform.matches(wanted) for platform in self.absent):
            raise StoreError(
                f"{self.name or self.digest} is stored without its part for {wanted}", hint=f"pull it with --platform {wanted}, or whole"
            )
        available = ", ".join(str(image.platform) for image in self.platforms)
        raise StoreError(
            f"{self.name or self.digest} is not made for {wanted}, only for {available}", hint=f"build it with --platform {wanted}"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{untrusted.shown(repr(value))[:80]} is not text")
    return value


def _digest(text: str) -> str:
    if not is_digest(text):
        raise ValueError(f"{untrusted.shown(text)[:80]!r} is not a digest")
    return text


def text_list(value: object) -> tuple[str, ...]:
    return tuple(_text(text) for text in _list(value))


def _pairs(value: object) -> dict[str, str]:
    return texts(value or None)


def _origin(value: object) -> dict[str, str]:
    if value is None:
        raise TypeError("an entry of mergedFrom is null")
    return texts(value)


def each_of(make: Callable[[Mapping[str, Any]], _T], values: object) -> tuple[_T, ...]:
    return tuple(make(value) for value in _list(values))


def _list(value: object) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{untrusted.shown(repr(value))[:80]} is not a list")
    return value or []


def _sorted(*parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({text for part in parts for text in part}))
