"""The CloudImage, format v1: rootfs layers, the container images a cluster needs, and how to launch it, as one OCI artifact.

A tag names an image index with the annotation ``dev.slipway.kind: cloudimage``. For each platform it lists two manifests:

1. the **rootfs**, an ordinary image manifest: any tool unpacks it, ``docker pull`` gives it. Its annotation
   ``dev.slipway.cloudimage`` is the JSON of an Info.
2. the **image set** (annotation ``dev.slipway.kind: imageset``): its config lists the images under their original names and
   the media type of every blob; its layers are those blobs, byte for byte, each once, under one neutral media type.

There is no ``artifactType``, and no blob stands under its own manifest media type: the first makes skopeo rewrite the index,
the second makes oras crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from harness import untrusted
from harness.cloudimage import enforcers
from harness.errors import StoreError
from harness.oci import garbage
from harness.oci.graph import attached_to, attachments, entries_of
from harness.oci.model import EPOCH, INDEXES, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, canonical_json, texts
from harness.oci.reference import Reference, is_digest
from harness.oci.store import BusyError, Store

KIND = "dev.slipway.kind"
CLOUDIMAGE = "cloudimage"
IMAGESET = "imageset"
INFO = "dev.slipway.cloudimage"
IMAGESET_CONFIG = "application/vnd.slipway.imageset.v1+json"
BLOB = "application/vnd.slipway.blob.v1"
SCHEMA_VERSION = 1

_ATTACHMENTS = {"sig": "signature", "att": "attestation"}

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class BuiltHere:
    """Marks a container image that has another's name and was built, since its registry was not asked or did not have it."""

    origin: tuple[str, ...]
    """Modules (``k8s.io/kubernetes@v1.36.3``) and packages (``iptables 1.8.9-2``) that it was made from."""
    recipe: str
    """The folder that says how: ``images/kubernetes``."""

    def to_json(self) -> dict[str, Any]:
        return {"from": list(self.origin), "by": self.recipe}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BuiltHere:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of one."""
        return cls(_texts(value["from"]), _text(value["by"]))


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
        found = Blob.from_json(value)
        return cls(
            name=name,
            digest=found.digest,
            media_type=found.media_type,
            size=found.size,
            found_by=_texts(value.get("foundBy")),
            requested_by=_texts(value.get("requestedBy")),
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
        digest = _text(value["digest"])
        if not is_digest(digest):
            raise ValueError(f"{untrusted.shown(digest)[:80]!r} is not a digest")
        return cls(digest, _text(value["mediaType"]), untrusted.integer(value["size"], what="size"))


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
        images, blobs = _all(EmbeddedImage.from_json, value.get("images")), _all(Blob.from_json, value.get("blobs"))
        known = {blob.digest for blob in blobs}
        if lacking := [image.name for image in images if image.digest not in known]:
            raise ValueError(f"the image set does not carry {lacking[0]}")
        return cls(images, blobs)


@dataclasses.dataclass(frozen=True)
class ImageApp:
    """One application of the image, as APP declared it."""

    name: str
    kind: str
    """``helm``, ``kube``, ``shell`` or ``mixed``."""
    files: tuple[str, ...] = ()
    """Paths in the rootfs, below ``application/apps/<name>``."""
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
            files=_texts(value.get("files")),
            env=_pairs(value.get("env")),
            commands=_texts(value.get("commands")),
            labels=_pairs(value.get("labels")),
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
    """Shell commands, run in this order in the rootfs on the first master."""
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
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    """Fields written by a newer slipway that this one does not know; kept unchanged."""

    def to_json(self) -> dict[str, Any]:
        converted = {"convertedFrom": dict(self.converted_from)} if self.converted_from else {}
        return {
            **self.extra,
            **converted,
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
        known = {*cls().to_json(), "convertedFrom"}
        return cls(
            type=_text(value["type"]),
            kubernetes=_text(value["kubernetes"]) if value.get("kubernetes") else None,
            runtime=str(value.get("runtime") or "kubeadm"),
            env=_pairs(value.get("env")),
            launch=_texts(value.get("launch")),
            apps=_all(ImageApp.from_json, value.get("apps")),
            labels=_pairs(value.get("labels")),
            base=_pairs(value["base"]) if value.get("base") else None,
            kube_version=_text(value["kubeVersion"]) if value.get("kubeVersion") else None,
            cluster_apps=_texts(value.get("clusterApps")),
            converted_from=_pairs(value["convertedFrom"]) if value.get("convertedFrom") else None,
            extra={key: text for key, text in value.items() if key not in known},
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
        there = ", ".join(str(image.platform) for image in self.platforms)
        raise StoreError(
            f"{self.name or self.digest} is not made for {wanted}, only for {there}", hint=f"build it with --platform {wanted}"
        )


# Writing


def write(store: Store, platforms: Sequence[PlatformImage]) -> Descriptor:
    """Write configs, manifests and index of a CloudImage; the descriptor of the index, which tag() can name.

    The same values give the same digest. Hold ``store.shared_lease()`` around this and the tag. Raises StoreError when a layer or
    a blob of an embedded image is not in the store, listing what is missing.
    """
    if not platforms:
        raise StoreError("a CloudImage needs at least one platform")
    in_order = sorted(platforms, key=lambda image: str(image.platform))
    if len({str(image.platform.normal()) for image in in_order}) < len(in_order):
        raise StoreError(f"two images for one platform: {', '.join(str(image.platform) for image in in_order)}")
    entries: list[dict[str, Any]] = []
    for image in in_order:
        _check_blobs(store, [*image.layers, *_as_layers(image.images)])
        entries += [_write_rootfs(store, image).to_json(), _write_images(store, image).to_json()]
    return write_index(store, entries)


def write_index(store: Store, entries: Sequence[Mapping[str, Any]]) -> Descriptor:
    """Write the index of a CloudImage that has these entries (descriptors as JSON), in this order."""
    return _put(
        store, OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), "annotations": {KIND: CLOUDIMAGE}}
    )


def _write_rootfs(store: Store, image: PlatformImage) -> Descriptor:
    made_by_history = sum(not step.empty for step in image.history)
    if len(image.layers) != len(image.diff_ids) or (image.history and len(image.layers) != made_by_history):
        raise StoreError(
            f"the rootfs for {image.platform} has {len(image.layers)} layers, {len(image.diff_ids)} diff ids "
            f"and {made_by_history} history entries with a layer"
        )
    config = {
        **image.platform.to_json(),
        "created": EPOCH,
        "config": {"Labels": dict(image.info.labels)} if image.info.labels else {},
        "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
        "history": [step.to_json() for step in image.history],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(store, OCI_CONFIG, config).to_json(),
        "layers": [_plain(layer).to_json() for layer in image.layers],
        "annotations": {INFO: canonical_json(image.info.to_json()).decode()},
    }
    return dataclasses.replace(_put(store, OCI_MANIFEST, manifest), platform=image.platform)


def _write_images(store: Store, image: PlatformImage) -> Descriptor:
    images = image.images.sorted()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(store, IMAGESET_CONFIG, images.to_json()).to_json(),
        "layers": [layer.to_json() for layer in _as_layers(images)],
        "annotations": {KIND: IMAGESET},
    }
    return dataclasses.replace(_put(store, OCI_MANIFEST, manifest), platform=image.platform, annotations={KIND: IMAGESET})


def _put(store: Store, media_type: str, value: Mapping[str, Any]) -> Descriptor:
    return Descriptor(media_type, *store.put(canonical_json(value)))


def _plain(layer: Descriptor) -> Descriptor:
    return Descriptor(layer.media_type, layer.digest, layer.size)


def _as_layers(images: ImageSet) -> list[Descriptor]:
    return [Descriptor(BLOB, blob.digest, blob.size) for blob in images.blobs]


def _check_blobs(store: Store, blobs: Iterable[Descriptor]) -> None:
    wrong = store.lacks(blobs)
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise StoreError(
            f"blob {wrong[0]}{more} is missing or cut short in {store.root}",
            hint="build, pull or load the image again",
            details="\n".join(wrong) if more else None,
        )


# Reading


def read(store: Store, name_or_digest: str) -> CloudImage:
    """A CloudImage of the store, by name or digest.

    Manifests and configs are verified; of the other blobs, that they are there in full length. Raises StoreError when it is
    no CloudImage, was made by a newer slipway, or is not whole.
    """
    index = store.resolve(name_or_digest)
    named = [name for name, known in store.names().items() if known.digest == index.digest and name == _familiar(name_or_digest)]
    return _read(store, index, named[0] if named else None)


def _familiar(name: str) -> str:
    try:
        return Reference.parse(name).familiar
    except ValueError:
        return name


class Documents(Protocol):
    """Reader of manifests and configs: a Store, or the documents fetched from a registry."""

    def json(self, digest: str) -> dict[str, Any]: ...


def _read(store: Store, index: Descriptor, name: str | None) -> CloudImage:
    image = understand(store, index, name, store.has)
    _check_blobs(store, image.blobs)
    return image


def understand(store: Documents, index: Descriptor, name: str | None, here: Callable[[str], bool] = lambda _: True) -> CloudImage:
    """A CloudImage by its manifests and configs alone; whether its other blobs are anywhere is not looked at. Raises StoreError.

    ``here`` says of a manifest's digest whether it can be read: a platform that was not fetched is ``absent``.
    """
    what = name or index.digest
    content = store.json(index.digest) if index.media_type in INDEXES else {}
    if not is_cloudimage(content):
        hint = "`slipway build` makes CloudImages; `slipway convert` makes one of an image of sealer"
        raise StoreError(f"{what} is an image, but not a CloudImage", hint=hint)
    blobs: dict[str, Descriptor] = {index.digest: index}
    try:
        wanted, absent = _fetched(content, here)
        platforms = _read_platforms(store, wanted, blobs)
    except (KeyError, TypeError, ValueError, AttributeError) as wrong:
        why = untrusted.shown(repr(wrong))[:400]
        raise StoreError(f"{what} cannot be understood as a CloudImage: {why}", hint="a newer slipway may be needed") from wrong
    return CloudImage(index.digest, platforms, tuple(blobs.values()), name, absent)


def _fetched(index: Mapping[str, Any], here: Callable[[str], bool]) -> tuple[Mapping[str, Any], tuple[Platform, ...]]:
    """The index without platforms whose rootfs is not here, and those platforms. With none here at all it stays as it is."""
    entries = list(index["manifests"])
    _all(Descriptor.from_json, entries)
    # An image set may be that of another platform too; a rootfs belongs to one.
    roots = [entry for entry in entries if entry.get("platform") and KIND not in (entry.get("annotations") or {})]
    absent = tuple(Platform.from_json(entry["platform"]) for entry in roots if not here(str(entry["digest"])))
    if not absent or len(absent) == len(roots):
        return index, ()
    kept = [entry for entry in entries if not entry.get("platform") or Platform.from_json(entry["platform"]) not in absent]
    return {**index, "manifests": kept}, absent


def _read_platforms(store: Documents, index: Mapping[str, Any], blobs: dict[str, Descriptor]) -> tuple[PlatformImage, ...]:
    entries = _all(Descriptor.from_json, index["manifests"])
    sets = {entry.platform: entry for entry in entries if entry.annotations.get(KIND) == IMAGESET}
    found = []
    # An entry of a kind that is not known here is for a newer slipway.
    for entry in (entry for entry in entries if KIND not in entry.annotations):
        if entry.platform is None or entry.platform not in sets:
            raise ValueError(f"no image set for {entry.platform}")
        images = _read_images(store, sets[entry.platform], blobs)
        found.append(_read_rootfs(store, entry, images, blobs))
    if not found:
        raise ValueError("no platform in it")
    return tuple(found)


def _manifest(
    store: Documents, entry: Descriptor, blobs: dict[str, Descriptor]
) -> tuple[dict[str, Any], dict[str, Any], tuple[Descriptor, ...]]:
    """Manifest, config and layers of an entry of the index, all noted in ``blobs``."""
    manifest = store.json(entry.digest)
    config, layers = Descriptor.from_json(manifest["config"]), _all(Descriptor.from_json, manifest["layers"])
    for blob in (entry, config, *layers):
        blobs.setdefault(blob.digest, _plain(blob))
    return manifest, store.json(config.digest), layers


def _read_rootfs(store: Documents, entry: Descriptor, images: ImageSet, blobs: dict[str, Descriptor]) -> PlatformImage:
    manifest, config, layers = _manifest(store, entry, blobs)
    info = info_of(manifest, entry.digest)
    if untrusted.integer(info.get("schemaVersion", 0), what=f"{entry.digest}: schemaVersion") > SCHEMA_VERSION:
        raise StoreError(f"{entry.digest} has format version {info['schemaVersion']}", hint="a newer slipway can read it")
    diff_ids = _texts(config["rootfs"]["diff_ids"])
    if len(diff_ids) != len(layers) or not all(map(is_digest, diff_ids)):
        raise ValueError(f"{len(layers)} layers and {len(diff_ids)} diff ids, each of which must be a digest")
    return PlatformImage(
        platform=entry.platform or Platform.from_json(config),
        layers=layers,
        diff_ids=diff_ids,
        history=_all(History.from_json, config.get("history")),
        info=Info.from_json(info),
        images=images,
    )


def info_of(manifest: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """The JSON of the Info in the manifest of a rootfs. Raises KeyError, TypeError, ValueError or StoreError when there is none."""
    return untrusted.json_object(texts(manifest["annotations"])[INFO], what=f"the annotation {INFO} of {digest}")


def is_cloudimage(index: Mapping[str, Any]) -> bool:
    """Return True when the JSON of an index marks it as a CloudImage."""
    annotations = index.get("annotations")
    return isinstance(annotations, dict) and annotations.get(KIND) == CLOUDIMAGE


def _read_images(store: Documents, entry: Descriptor, blobs: dict[str, Descriptor]) -> ImageSet:
    _, config, layers = _manifest(store, entry, blobs)
    images = ImageSet.from_json(config)
    carried = {layer.digest for layer in layers}
    missing = [
        digest for digest in (*(blob.digest for blob in images.blobs), *(image.digest for image in images.images)) if digest not in carried
    ]
    if missing:
        raise ValueError(f"the image set does not carry {missing[0]}")
    return images


def verify(store: Store, image: CloudImage) -> None:
    """Read every blob of the image. Raises StoreError at the first that is missing or damaged."""
    for blob in image.blobs:
        store.verify(blob.digest)


# What people see


def describe(image: CloudImage) -> dict[str, Any]:
    """The image as plain data, for ``slipway inspect --output json``."""
    return {
        "name": image.name,
        "digest": image.digest,
        "platforms": [_describe_platform(platform) for platform in image.platforms],
        "size": image.size,
    }


def _describe_platform(image: PlatformImage) -> dict[str, Any]:
    return {
        "platform": str(image.platform),
        "rootfs": {
            "layers": [
                {"digest": layer.digest, "mediaType": layer.media_type, "size": layer.size, "diffId": diff_id}
                for layer, diff_id in zip(image.layers, image.diff_ids, strict=True)
            ]
        },
        "info": image.info.to_json(),
        "policiesEnforcedBy": _enforcers(image) if image.info.kubernetes else None,
        "images": [embedded.to_json() for embedded in image.images.images],
    }


def _enforcers(image: PlatformImage) -> list[str]:
    return [one.name for one in enforcers.among(embedded.name for embedded in image.images.images)]


def content_sizes(store: Store, images: ImageSet) -> dict[str, int]:
    """Bytes of each embedded image, its layers included: name -> size. What several share counts for each of them."""
    sizes = {blob.digest: blob.size for blob in images.blobs}
    return {image.name: sum(sizes.get(digest, 0) for digest in store.reachable([image.digest])) for image in images.images}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of ``slipway images``."""

    name: str
    digest: str
    platforms: tuple[str, ...] = ()
    size: int = 0
    """Bytes, each blob once; 0 when the image is not whole."""
    images: int = 0
    """Different embedded images, all platforms together."""
    kubernetes: str | None = None
    problem: str | None = None
    """Why it cannot be used, when it cannot."""
    kind: str = CLOUDIMAGE
    """``cloudimage``, what others() says, or the tool that made an image which can be converted to one."""


def images(store: Store) -> tuple[Row, ...]:
    """Every CloudImage that has a name here, by name; a damaged one with its problem. Other images and attachments are left out."""
    rows = []
    for name, descriptor in store.names().items():
        if attached_to(name):
            continue
        try:
            image = _read(store, descriptor, name)
        except StoreError as problem:
            if _is_cloudimage(store, descriptor):
                rows.append(Row(name, descriptor.digest, problem=problem.message))
            continue
        rows.append(_row(name, image))
    return tuple(rows)


def others(store: Store) -> tuple[Row, ...]:
    """Kinds of other names in the store: container images (``image``), signatures, attestations, and lists of ``referrers``."""
    rows = []
    for name, descriptor in store.names().items():
        attached = attached_to(name) is not None
        if not attached and _is_cloudimage(store, descriptor):
            continue
        blobs = [digest for digest in store.reachable([descriptor.digest]) if store.has(digest)]
        platforms: tuple[str, ...] = ()
        problem = None
        try:
            listed = entries_of(store.json(descriptor.digest), descriptor.digest)
            found = (entry.platform for entry in listed if entry.platform)
            platforms = () if attached else tuple(dict.fromkeys(str(platform) for platform in found if platform.os))
        except StoreError as damaged:
            problem = damaged.message
        kind = _ATTACHMENTS.get(name.rpartition(".")[2], "referrers") if attached else "image"
        rows.append(Row(name, descriptor.digest, platforms, sum(map(store.size, blobs)), problem=problem, kind=kind))
    return tuple(rows)


def _is_cloudimage(store: Store, descriptor: Descriptor) -> bool:
    try:
        return is_cloudimage(store.json(descriptor.digest))
    except StoreError:
        # Its subject is not known any more; hiding it would be worse.
        return descriptor.media_type in INDEXES


def _row(name: str, image: CloudImage) -> Row:
    return Row(
        name=name,
        digest=image.digest,
        platforms=tuple(str(platform.platform) for platform in image.platforms),
        size=image.size,
        images=len({embedded.name for platform in image.platforms for embedded in platform.images.images}),
        kubernetes=next((platform.info.kubernetes for platform in image.platforms if platform.info.kubernetes), None),
    )


@dataclasses.dataclass(frozen=True)
class HistoryRow:
    """One line of ``slipway history``. ``layer`` and ``size`` (bytes) are of the layer it made, None and 0 for none."""

    platform: str
    created_by: str
    step: str
    layer: str | None
    size: int


def history(image: CloudImage) -> tuple[HistoryRow, ...]:
    """Instructions of the build, first one first, platform by platform."""
    rows = []
    for platform in image.platforms:
        layers = iter(platform.layers)
        for entry in platform.history:
            layer = None if entry.empty else next(layers, None)
            rows.append(
                HistoryRow(
                    str(platform.platform), entry.created_by, entry.step, layer.digest if layer else None, layer.size if layer else 0
                )
            )
    return tuple(rows)


def tag(store: Store, source: str, name: str) -> Descriptor:
    """Give a CloudImage one more name. Raises StoreError when the CloudImage does not exist, or the name is not valid."""
    with store.shared_lease():
        image = read(store, source)
        descriptor = Descriptor(OCI_INDEX, image.digest, store.size(image.digest))
        store.tag(name, descriptor)
    return descriptor


def remove(store: Store, names: Sequence[str]) -> tuple[tuple[str, ...], garbage.Collected]:
    """Forget names, or the one name of a digest, and free what nothing else needs; which names, and what was freed.

    With the last name of an image go the signatures and whatever else is attached to it. When one of the names does not exist, or a
    digest has several names, nothing is forgotten (StoreError). While another process uses the store, attachments and blobs stay.
    """
    with store.lock():
        known = store.names()
        going = tuple(dict.fromkeys(_name_of(store, known, name) for name in names))
        for name in going:
            store.untag(name)
    with contextlib.suppress(BusyError), store.exclusive_lease():
        lost = orphans(store, [known[name].digest for name in going])
        for name in lost:
            store.untag(name)
        going += lost
    return going, garbage.collect(store)


def orphans(store: Store, digests: Iterable[str]) -> tuple[str, ...]:
    """The names of what is attached to these images or to their parts, as far as no other name leads to them."""
    known = store.names()
    kept = store.reachable(descriptor.digest for name, descriptor in known.items() if not attached_to(name))
    lost: dict[str, None] = {}
    gone = set(digests)
    while more := [name for name in attachments(known, store.reachable(gone) - kept) if name not in lost]:
        # What is attached to an attachment goes with it.
        gone |= {known[name].digest for name in more}
        lost.update(dict.fromkeys(more))
    return tuple(lost)


def _name_of(store: Store, known: Mapping[str, Descriptor], text: str) -> str:
    if _familiar(text) in known:
        return _familiar(text)
    digest = store.resolve(text).digest
    having = [name for name, descriptor in known.items() if descriptor.digest == digest]
    if len(having) == 1:
        return having[0]
    if not having:
        raise StoreError(f"{text} has no name that could be removed", hint="`slipway prune` frees images without a name")
    raise StoreError(f"{text} has several names: {', '.join(having)}", hint="say which of them to remove")


# Reading JSON


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{untrusted.shown(repr(value))[:80]} is not text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(text) for text in _list(value))


def _pairs(value: object) -> dict[str, str]:
    return texts(value or None)


def _all(make: Callable[[Mapping[str, Any]], _T], values: object) -> tuple[_T, ...]:
    return tuple(make(value) for value in _list(values))


def _list(value: object) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{untrusted.shown(repr(value))[:80]} is not a list")
    return value or []


def _sorted(*parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({text for part in parts for text in part}))
