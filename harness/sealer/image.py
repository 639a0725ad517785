"""Images that sealer made (0.9 to 0.11): recognised, looked into, and turned into CloudImages.

Such an image is a plain OCI image, or an index with one for each platform. Two annotations say how it runs and what it embeds
(sealer's ``pkg/define/image/v1``): ``sealer.image.extension`` and ``sealer.image.container.images``. The container images lie in the
storage of a docker-registry below ``registry/`` of the rootfs, under their paths without the registry they come from; the second
annotation has the whole names. What it does not say is reported as an ImageProblem and left out, never guessed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from harness import cloudimage
from harness.cloudimage import INFO
from harness.cloudimage.reader import is_cloudimage
from harness.errors import StoreError
from harness.oci.model import INDEXES, MANIFESTS, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.sealer.annotations import CONTAINER_IMAGES, EXTENSION, SCHEMA, Extension, ListedImage, container_images

KIND = "sealer"
"""Marks such images in ``slipway images`` and ``slipway inspect``."""
LABEL_VERSION = "io.sealer.version"
LABEL_KUBERNETES = "cluster.alpha.sealer.io/cluster-runtime-version"
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+\S*)")


@dataclasses.dataclass(frozen=True)
class ImageProblem:
    """Something that cannot be restored, or is not what it should be; ``name`` is the image, application or file it is about."""

    kind: str
    """``unnamed``, ``missing``, ``ambiguous``, ``incomplete``, ``invalid``, ``annotation``, ``launch`` or ``stray``."""
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class SealerPart:
    """The image for one platform, with what its annotations say."""

    platform: Platform
    digest: str
    layers: tuple[Descriptor, ...]
    history: tuple[Mapping[str, Any], ...]
    labels: Mapping[str, str]
    extension: Extension | None
    listed: tuple[ListedImage, ...]
    problems: tuple[ImageProblem, ...]
    """Of the annotations."""
    size: int
    """Bytes of its manifest, config and layers."""

    @property
    def kubernetes(self) -> str | None:
        """The version of a cluster image, with its ``v``."""
        version = _VERSION.fullmatch(self.labels.get(LABEL_KUBERNETES, ""))
        return f"v{version[1]}" if version and self.extension and self.extension.type == "kube-installer" else None


@dataclasses.dataclass(frozen=True)
class SealerImage:
    """An image of sealer in the store, not yet looked into."""

    name: str
    digest: str
    parts: tuple[SealerPart, ...]
    absent: tuple[str, ...] = ()
    """Platforms of the index of which the store has nothing."""

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def is_sealer(store: Store, image: Descriptor) -> bool:
    """Return True when sealer made an image of the store, by its annotations or labels."""
    try:
        # The most there are: a look at their index is enough.
        if image.media_type in INDEXES and is_cloudimage(store.json(image.digest)):
            return False
        return any(_is_marked(store, manifest, image) for manifest in _manifests(store, image)[0])
    except (StoreError, ValueError, TypeError, AttributeError, KeyError):
        return False


def read(store: Store, name_or_digest: str) -> SealerImage:
    """An image of sealer by name or digest, without its layers. Raises StoreError when it is not one, or cannot be understood."""
    image = store.resolve(name_or_digest)
    if not is_sealer(store, image):
        raise StoreError(
            f"{name_or_digest} is not an image of sealer: it has no {EXTENSION}",
            hint="only images of sealer 0.9 to 0.11 can be converted; older ones must be built again",
        )
    try:
        name = Reference.parse(name_or_digest).familiar
        manifests, absent = _manifests(store, image)
        parts = tuple(_part(store, manifest, image) for manifest in manifests)
    except (ValueError, TypeError, AttributeError, KeyError) as wrong:
        raise StoreError(f"{name_or_digest} cannot be understood as an image: {wrong!r}") from wrong
    return SealerImage(name if store.names().get(name) else image.digest, image.digest, parts, absent)


def _manifests(store: Store, image: Descriptor) -> tuple[list[Descriptor], tuple[str, ...]]:
    """Descriptors of the manifests that are here, one a platform, and the platforms of those that are not."""
    if image.media_type in MANIFESTS:
        return [image], ()
    if image.media_type not in INDEXES:
        return [], ()
    children = [Descriptor.from_json(child) for child in store.json(image.digest)["manifests"]]
    # Attestations of BuildKit stand for the platform unknown/unknown.
    children = [child for child in children if child.media_type in MANIFESTS and not (child.platform and child.platform.os == "unknown")]
    here = [child for child in children if store.has(child.digest)]
    return here, tuple(str(child.platform or child.digest) for child in children if child not in here)


def _is_marked(store: Store, manifest: Descriptor, image: Descriptor) -> bool:
    value = store.json(manifest.digest)
    labels, annotations = _marks(store, value, store.json(str(value["config"]["digest"])), manifest, image)
    # Labels stay when an image is converted, or built FROM one of sealer's.
    if INFO in annotations or cloudimage.KIND in annotations:
        return False
    return bool({LABEL_VERSION, EXTENSION, CONTAINER_IMAGES} & {*labels, *annotations})


def _marks(
    store: Store, manifest: Mapping[str, Any], config: Mapping[str, Any], entry: Descriptor, image: Descriptor
) -> tuple[dict[str, str], dict[str, str]]:
    """The labels, and all annotations with the labels among them."""
    labels = {str(key): str(text) for key, text in ((config.get("config") or {}).get("Labels") or {}).items()}
    index = store.json(image.digest) if image.digest != entry.digest else {}
    # buildah writes annotations into the manifest; who copied an image in Docker's format may have kept them elsewhere only.
    places = (index.get("annotations"), entry.annotations, config.get("annotations"), labels, manifest.get("annotations"))
    return labels, {str(key): str(text) for place in places for key, text in (place or {}).items()}


def _part(store: Store, entry: Descriptor, image: Descriptor) -> SealerPart:
    manifest = store.json(entry.digest)
    config_at = Descriptor.from_json(manifest["config"])
    config = store.json(config_at.digest)
    layers = tuple(Descriptor.from_json(layer) for layer in manifest["layers"])
    labels, annotations = _marks(store, manifest, config, entry, image)
    problems: list[ImageProblem] = []
    extension, listed = _annotations(annotations, problems)
    platform = entry.platform or Platform.from_json(config)
    if not platform.os or not platform.architecture:
        raise ValueError("it does not say for which platform it is")
    own = {key: text for key, text in labels.items() if key not in (EXTENSION, CONTAINER_IMAGES)}
    return SealerPart(
        platform=platform.normal(), digest=entry.digest, layers=layers, history=tuple(config.get("history") or ()),
        labels=dict(sorted({**(extension.labels if extension else {}), **own}.items())), extension=extension, listed=listed,
        problems=tuple(problems), size=entry.size + config_at.size + sum(layer.size for layer in layers),
    )  # fmt: skip


def _annotations(annotations: Mapping[str, str], problems: list[ImageProblem]) -> tuple[Extension | None, tuple[ListedImage, ...]]:
    extension: Extension | None = None
    listed: tuple[ListedImage, ...] = ()
    text = annotations.get(EXTENSION)
    try:
        extension = Extension.parse(text) if text is not None else None
        if extension is None:
            problems.append(ImageProblem("annotation", EXTENSION, "does not exist, so its type, applications and launch are not known"))
        elif extension.schema != SCHEMA:
            problems.append(ImageProblem("annotation", EXTENSION, f"has the schema {extension.schema!r}; known is {SCHEMA}"))
    except ValueError as wrong:
        problems.append(ImageProblem("annotation", EXTENSION, str(wrong)))
    try:
        listed = container_images(annotations[CONTAINER_IMAGES]) if annotations.get(CONTAINER_IMAGES) else ()
    except ValueError as wrong:
        problems.append(ImageProblem("annotation", CONTAINER_IMAGES, str(wrong)))
    return extension, listed
