"""One tag for several platforms, assembled from CloudImages that were built apart, as the machines of a CI matrix do.

Nothing is built or rewritten: the new index lists the manifests of the others byte for byte, platforms in alphabetical order. So its
digest is the one that a single machine gets which builds all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness import cloudimage
from harness.cloudimage import KIND, CloudImage, PlatformImage, writer
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store

Fetch = Callable[[Reference], object]
"""Has an image of a registry in the store afterwards, under its own name. Raises StoreError."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """Part of one image for one platform. ``entries`` are descriptors of its index, as JSON, in their order."""

    source: str
    index: str
    """The digest of the image it is from."""
    image: PlatformImage
    entries: tuple[Mapping[str, Any], ...]

    @property
    def platform(self) -> Platform:
        return self.image.platform.normal()

    @property
    def digest(self) -> str:
        """Of the rootfs, which is how people call it."""
        return next(str(entry["digest"]) for entry in self.entries if KIND not in (entry.get("annotations") or {}))


@dataclasses.dataclass(frozen=True)
class Assembled:
    """The image as it is now. ``warnings`` say where its platforms differ in what should be equal."""

    name: str
    digest: str
    platforms: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def create(
    store: Store, name: str, sources: Sequence[str], *, replace: bool = False, fetch: Fetch | None = None, fresh: bool = False
) -> Assembled:
    """Give ``name`` to an image with every platform of ``sources``: names or digests of the store, or of registries (``fetch``).

    With ``fresh`` a registry is asked even for what is in the store. Two different images for one platform are refused; with ``replace``
    the later one counts. Raises InputError or StoreError; then no name has changed.
    """
    target = target_name(name)
    if not sources:
        raise UsageError("a manifest is made from images", hint=f"slipway manifest create {name} IMAGE IMAGE")
    with store.shared_lease():
        return _tag(store, target, [piece for source in sources for piece in pieces(store, source, fetch, fresh=fresh)], replace=replace)


def add(
    store: Store, name: str, sources: Sequence[str], *, replace: bool = False, fetch: Fetch | None = None, fresh: bool = False
) -> Assembled:
    """Add the platforms of ``sources`` to the image ``name``, which is in the store. Raises as create() does."""
    target = target_name(name)
    own = _own_name(store, name)
    with store.shared_lease():
        added = [piece for source in sources for piece in pieces(store, source, fetch, fresh=fresh)]
        return _tag(store, target, [*pieces(store, own, None), *added], replace=replace)


def remove(store: Store, name: str, platform: Platform) -> Assembled:
    """Take a platform out of the image ``name``. Raises StoreError when it does not have it, or no other."""
    target = target_name(name)
    with store.shared_lease():
        every = pieces(store, _own_name(store, name), None)
        kept = [piece for piece in every if not piece.platform.matches(platform)]
        if len(kept) == len(every):
            available = ", ".join(str(piece.platform) for piece in every)
            raise StoreError(f"{target.familiar} has no {platform}, only {available}")
        if not kept:
            raise StoreError(f"{platform} is all that {target.familiar} has", hint=f"slipway rmi {target.familiar}")
        return _tag(store, target, kept, replace=False)


def inspect(store: Store, name: str) -> dict[str, Any]:
    """Content of an index, as plain data: per platform the manifests of rootfs and image set, and what may differ."""
    image = cloudimage.read(store, name)
    parts = _pieces(store, image, image.name or name)
    return {
        "name": image.name,
        "digest": image.digest,
        "platforms": [
            {
                "platform": str(piece.platform),
                "rootfs": piece.digest,
                "imageSet": next((entry["digest"] for entry in piece.entries if entry["digest"] != piece.digest), None),
                "kubernetes": piece.image.info.kubernetes,
                "images": len(piece.image.images.images),
                "size": sum(layer.size for layer in piece.image.layers) + sum(blob.size for blob in piece.image.images.blobs),
            }
            for piece in parts
        ],
        "warnings": list(differences(parts)),
    }


def pieces(store: Store, source: str, fetch: Fetch | None, *, fresh: bool = False) -> list[Piece]:
    """Pieces of an image, one for each platform; an image that is not in the store is pulled if its name has a registry."""
    from harness.trust import policy  # here: its cryptography is slow to load, and `inspect` does without

    reference = _remote(source)
    if fetch is not None and reference is not None and (fresh or reference.familiar not in store.names()):
        fetch(reference)
    image = cloudimage.read(store, source)
    policy.admit(store, source, image.digest)
    return _pieces(store, image, source)


def _remote(source: str) -> Reference | None:
    """The reference, when a name says which registry has it: a mistyped local name shall not be asked for at Docker Hub."""
    try:
        reference = Reference.parse(source)
    except ValueError:  # a digest, or nothing: the store says it
        return None
    return reference if source.startswith(f"{reference.domain}/") else None


def _pieces(store: Store, image: CloudImage, source: str) -> list[Piece]:
    entries: list[Mapping[str, Any]] = store.json(image.digest)["manifests"]
    parts = []
    for one in image.platforms:
        own = tuple(entry for entry in entries if _platform(entry) == one.platform.normal())
        parts.append(Piece(source, image.digest, one, own))
    return parts


def _platform(entry: Mapping[str, Any]) -> Platform | None:
    platform = Descriptor.from_json(entry).platform
    return platform.normal() if platform else None


def _tag(store: Store, target: Reference, parts: Iterable[Piece], *, replace: bool) -> Assembled:
    chosen = choose(parts, replace=replace)
    descriptor = writer.write_index(store, [entry for piece in chosen for entry in piece.entries])
    cloudimage.read(store, descriptor.digest)
    store.tag(str(target), descriptor)
    return Assembled(target.familiar, descriptor.digest, tuple(str(piece.platform) for piece in chosen), differences(chosen))


def choose(parts: Iterable[Piece], *, replace: bool) -> list[Piece]:
    """One piece a platform, in the order of an index. Raises StoreError that names every two which differ, unless ``replace``."""
    chosen: dict[Platform, Piece] = {}
    conflicts = []
    for piece in parts:
        former = chosen.setdefault(piece.platform, piece)
        if former.entries != piece.entries:
            conflicts.append(f"{piece.platform}: {former.source} ({_short(former)}) and {piece.source} ({_short(piece)})")
            chosen[piece.platform] = piece
    if conflicts and not replace:
        raise StoreError(f"two images for one platform: {'; '.join(conflicts)}", hint="--replace takes the later one")
    return sorted(chosen.values(), key=lambda piece: str(piece.platform))


def _short(piece: Piece) -> str:
    return piece.index.removeprefix("sha256:")[:12]


def differences(parts: Sequence[Piece]) -> tuple[str, ...]:
    """Warn about values that should be equal on all platforms and are not."""
    looked_at: Sequence[tuple[str, Callable[[PlatformImage], object]]] = (
        ("the type", lambda image: image.info.type),
        ("the Kubernetes version", lambda image: image.info.kubernetes),
        ("the launch", lambda image: image.info.launch),
        ("the applications", lambda image: tuple(app.to_json() for app in image.info.apps)),
        ("the environment", lambda image: dict(image.info.env)),
        ("which container images there are", lambda image: tuple(one.name for one in image.images.images)),
    )
    first, *others = parts
    return tuple(
        f"{what} differs: {_told(look(first.image), first)}, {_told(look(other.image), other)}"
        for what, look in looked_at
        for other in others
        if look(other.image) != look(first.image)
    )


def _told(value: object, piece: Piece) -> str:
    shown = f" {value}" if isinstance(value, str) else ""
    return f"{piece.platform}{shown} ({piece.source})"


def target_name(name: str) -> Reference:
    try:
        reference = Reference.parse(name)
    except ValueError as wrong:
        raise InputError([Fault(f"NAME {name}", str(wrong))]) from wrong
    if reference.digest:
        raise InputError([Fault(f"NAME {name}", "a manifest gets a name, not a digest")])
    return reference


def _own_name(store: Store, name: str) -> str:
    """The name, when the store has it as a name. Raises StoreError."""
    familiar = target_name(name).familiar
    store.resolve(familiar)
    return familiar
