"""Images of a store that go into an archive, with their attachments, and all their blobs in order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from harness.errors import StoreError
from harness.oci.archive.index import Image
from harness.oci.graph import NestingError, attachments, children, closure, is_manifest, walk
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store


def images_of(store: Store, names: Sequence[str], platforms: tuple[Platform, ...]) -> list[Image]:
    """The images by name and what is attached to them, and to their attachments in turn, in the order of their names."""
    if not names:
        raise StoreError("nothing to save", hint="name one image or more")
    descriptors = store.names()
    images = {image.name: image for image in (Image(*named(store, descriptors, name), platforms) for name in names)}
    for image in images.values():
        _check_platforms(store, image)
    waiting = list(images.values())
    for image in waiting:
        try:
            manifests = [blob.digest for blob in walk(store, image.root, image.platforms) if is_manifest(blob)]
        except StoreError as problem:
            raise _refusal(store, image, problem) from problem
        for name, root in attachments(descriptors, manifests).items():
            if name not in images:
                images[name] = Image(name, root)
                waiting.append(images[name])
    return [images[name] for name in sorted(images)]


def blobs_of(store: Store, images: Iterable[Image]) -> list[Descriptor]:
    """All blobs in the order in which they are written. Raises StoreError when one is missing or has not its length."""
    manifests: dict[str, Descriptor] = {}
    others: dict[str, Descriptor] = {}
    for image in images:
        try:
            for blob in closure(store, image.root, image.platforms):
                (manifests if is_manifest(blob) else others)[blob.digest] = blob
        except StoreError as problem:
            raise _refusal(store, image, problem) from problem
    return [*manifests.values(), *(others[digest] for digest in sorted(others) if digest not in manifests)]


def _check_platforms(store: Store, image: Image) -> None:
    available = {str(child.platform) for child in children(store.json(image.root.digest), image.root) if child.platform}
    for platform in image.platforms:
        if not any(platform.matches(Platform.parse(one)) for one in available):
            raise StoreError(f"{image.name} is not made for {platform}", hint=f"it is made for {', '.join(sorted(available)) or 'none'}")


def _refusal(store: Store, image: Image, problem: StoreError) -> StoreError:
    if isinstance(problem, NestingError):
        return StoreError(f"{image.name} cannot be saved: {problem.message}", hint=problem.hint)
    here = [] if image.platforms else _whole_platforms(store, image.root)
    hint = f"of its platforms {', '.join(here)} can be saved: --platform {here[0]}" if here else problem.hint
    return StoreError(f"{image.name} is not whole: {problem.message}", hint=hint)


def _whole_platforms(store: Store, root: Descriptor) -> list[str]:
    """The platforms of an index of which every blob is here."""
    whole = []
    with contextlib.suppress(StoreError):
        for platform in {child.platform for child in children(store.json(root.digest), root) if child.platform}:
            with contextlib.suppress(StoreError):
                closure(store, root, (platform,))
                whole.append(str(platform))
    return sorted(whole)


def named(store: Store, descriptors: Mapping[str, Descriptor], name: str) -> tuple[str, Descriptor]:
    image = store.resolve(name)
    with contextlib.suppress(ValueError):
        familiar = Reference.parse(name).familiar
        if familiar in descriptors:
            return familiar, image
    having = [known_name for known_name, descriptor in descriptors.items() if descriptor.digest == image.digest]
    if not having:
        raise StoreError(f"{name} has no name to be saved under", hint="give it one with `slipway tag`")
    return having[0], image
