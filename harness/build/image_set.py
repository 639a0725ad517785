"""Pulled, declared and listed images -> the image set of a CloudImage."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from harness import log, process
from harness.build.pull_record import PulledImage
from harness.cloudimage import Blob, EmbeddedImage, ImageSet
from harness.errors import BuildError, SlipwayError
from harness.oci.graph import DEEPEST_INDEX, child_for, descriptors
from harness.oci.model import DOCKER_CONFIG, OCI_CONFIG, Descriptor, Platform
from harness.oci.reference import Reference, as_asked
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import Source
from harness.oci.store import Store

_MOST_AT_ONCE = 4


class NamedImage(Protocol):
    """An image that a file names, with its place: ``manifests/app.yaml:12``."""

    @property
    def name(self) -> str: ...

    @property
    def where(self) -> str: ...


@dataclasses.dataclass
class _Request:
    """One image to put into the set."""

    reference: Reference
    digest: str | None = None
    source: str = ""
    found_by: set[str] = dataclasses.field(default_factory=set)
    requested_by: set[str] = dataclasses.field(default_factory=set)

    @property
    def origin(self) -> str:
        return ", ".join(sorted(self.requested_by)) or "pulled by the cluster"


@dataclasses.dataclass(frozen=True)
class _ResolvedImage:
    """An image whose manifests (and config) are in the store."""

    request: _Request
    top: Manifest
    blobs: tuple[Descriptor, ...]


def collect(
    pulled: Iterable[PulledImage],
    declared: Iterable[NamedImage] = (),
    *,
    listed: Iterable[NamedImage] = (),
    store: Store,
    sources: Sequence[Source],
    platform: Platform,
) -> ImageSet:
    """Return the image set of all these images for one platform, with every blob in the store; missing ones are fetched, 4 at a time.

    An index is included whole, and of its children the one for ``platform``. Raises BuildError that lists every image that is
    not available, with its reason and where it is named. Hold ``store.shared_lease()`` until the set is written and tagged.
    """
    requests, faults = _requests(pulled, declared, listed)
    fetcher = Fetcher(sources, store)
    pool = concurrent.futures.ThreadPoolExecutor(_MOST_AT_ONCE, thread_name_prefix="collect")
    try:
        with log.step("collect images") as step:

            def resolve(image: _Request) -> _ResolvedImage | None:
                with _noted(image, faults):
                    return _resolve(fetcher, image, platform)

            resolved = [image for image in process.results([pool.submit(resolve, image) for image in requests]) if image]
            _raise(faults)  # before gigabytes are fetched for a set that cannot be whole
            owners = {blob.digest: (image.request, blob) for image in reversed(resolved) for blob in image.blobs}
            missing = [owner for digest, owner in sorted(owners.items()) if not store.has(digest)]
            done = itertools.count(1)

            def fetch(image: _Request, blob: Descriptor) -> None:
                with _noted(image, faults):
                    _fetch(fetcher, image.reference, blob)
                step.note = f"{next(done)} of {len(missing)} blobs"

            process.results([pool.submit(fetch, *owner) for owner in missing])
            _raise(faults)
            step.note = f"{len(resolved)} images, {len(owners)} blobs, {log.size(sum(blob.size for _, blob in owners.values()))}"
    finally:
        # On Ctrl-C the threads are in the middle of a transfer: it must end before they can.
        fetcher.close()
        pool.shutdown(cancel_futures=True)
    images = tuple(sorted((_embedded(image) for image in resolved), key=lambda image: image.name))
    blobs = tuple(Blob(digest, blob.media_type, blob.size) for digest, (_, blob) in sorted(owners.items()))
    return ImageSet(images, blobs)


_Faults = dict[tuple[str, str], str]


def _requests(
    pulled: Iterable[PulledImage], declared: Iterable[NamedImage], listed: Iterable[NamedImage]
) -> tuple[list[_Request], _Faults]:
    """All images, each once, in the order of their names."""
    requests: dict[str, _Request] = {}
    faults: _Faults = {}
    for image in pulled:
        request = requests.setdefault(image.reference, _Request(Reference.parse(image.reference)))
        request.digest = image.digest or None
        request.found_by.add("pulled")
    for how, images in (("declared", declared), ("listed", listed)):
        for item in images:
            try:
                reference = Reference.parse(item.name)
            except ValueError as wrong:
                faults[item.name, item.where] = str(wrong)
                continue
            reference = as_asked(reference)
            request = requests.setdefault(str(reference), _Request(reference))
            request.found_by.add(how)
            request.requested_by.add(item.where)
    return [request for _, request in sorted(requests.items())], faults


def _raise(faults: _Faults) -> None:
    if not faults:
        return
    lines = [f"{name} ({origin}): {reason}" for (name, origin), reason in sorted(faults.items())]
    hint = "check the names, registries.conf and `slipway login`; images that you built must be in the local store"
    raise BuildError(f"{len(lines)} image{'s' if len(lines) > 1 else ''} cannot be fetched:\n  " + "\n  ".join(lines), hint=hint)


@contextlib.contextmanager
def _noted(image: _Request, faults: _Faults) -> Iterator[None]:
    """Record a failure of the block for the image."""
    try:
        yield
    except SlipwayError as failed:
        faults[str(image.reference), image.origin] = failed.message.removeprefix(f"{image.reference}: ")


def _resolve(fetcher: Fetcher, image: _Request, platform: Platform) -> _ResolvedImage:
    """Get the manifests of an image, from the top down to the platform's, and its config."""
    asked = image.reference if image.digest is None else dataclasses.replace(image.reference, digest=image.digest)
    chain = [fetcher.manifest(asked)]
    while chain[-1].is_index:
        if len(chain) > DEEPEST_INDEX:
            raise BuildError(f"its indexes nest more than {DEEPEST_INDEX} deep")
        child = child_for(chain[-1].data, platform)
        chain.append(fetcher.manifest(dataclasses.replace(image.reference, digest=child.digest)))
    config, *layers = descriptors(chain[-1].data)
    if config.media_type in (OCI_CONFIG, DOCKER_CONFIG):
        _fetch(fetcher, image.reference, config)
        _check_platform(fetcher.store.json(config.digest), platform)
    manifests = [Descriptor(manifest.media_type, manifest.digest, len(manifest.data)) for manifest in chain]
    return _ResolvedImage(image, chain[0], (*manifests, config, *layers))


def _check_platform(config: Mapping[str, Any], platform: Platform) -> None:
    """Raises BuildError when an image without index is for another platform; containerd would refuse it on the node."""
    actual = Platform.from_json(config)
    if actual.os and actual.architecture and not actual.matches(platform):
        raise BuildError(f"does not exist for {platform}, only for {actual.normal()}")


def _fetch(fetcher: Fetcher, reference: Reference, blob: Descriptor) -> None:
    fetcher.blob(reference, blob.digest, blob.size).result()


def _embedded(image: _ResolvedImage) -> EmbeddedImage:
    request, top = image.request, image.top
    # Not the clients' addresses: they differ from build to build, and the digest of the image set must not.
    by, at = tuple(sorted(request.found_by)), tuple(sorted(request.requested_by))
    return EmbeddedImage(str(request.reference), top.digest, top.media_type, len(top.data), by, at)
