"""One side of a comparison: a CloudImage of the store, or one in a registry, of which manifests and configs are fetched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from harness import cloudimage, log, process, untrusted
from harness.cloudimage import reader
from harness.cloudimage.model import CloudImage, PlatformImage
from harness.errors import StoreError
from harness.oci import graph
from harness.oci.model import LARGEST_MANIFEST, Descriptor, Platform, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.store import CHUNK, Store, parse_name

REGISTRY = "docker://"
"""In front of a name: the image in the registry is meant, whatever the store has under that name (the word of skopeo)."""

_JOBS = 8


@dataclasses.dataclass(frozen=True)
class Side:
    """A CloudImage to compare. ``where`` is ``store`` or the host of a registry."""

    name: str
    where: str
    image: CloudImage
    documents: reader.Documents = dataclasses.field(repr=False)
    root: Descriptor

    def blobs(self, platforms: Sequence[Platform]) -> dict[str, int]:
        """Digest -> bytes of all it consists of, or of what is needed for some platforms; without those that were not pulled."""
        sizes: dict[str, int] = {}
        waiting = [self.root]
        while waiting:
            blob = waiting.pop()
            if blob.digest not in sizes:
                sizes[blob.digest] = blob.size
                if graph.is_manifest(blob):
                    children = graph.children(self.documents.json(blob.digest), blob, platforms)
                    waiting += (child for child in children if not (child.platform and self.is_absent(child.platform)))
        return sizes

    def is_absent(self, platform: Platform) -> bool:
        """Return True when it has a platform that was not pulled with it."""
        return any(platform.matches(absent) for absent in self.image.absent)

    def entries(self, platform: Platform) -> list[str]:
        """The digests of the manifests for a platform."""
        listed = graph.entries_of(self.documents.json(self.root.digest), self.root.digest)
        return [entry.digest for entry in listed if entry.platform and entry.platform.matches(platform)]

    def part(self, platform: Platform) -> PlatformImage | None:
        return next((part for part in self.image.platforms if part.platform.matches(platform)), None)


def find(store: Store, name: str, client: Callable[[], Client]) -> Side:
    """The CloudImage called ``name``: in the store, else at the registry that the name says. Raises StoreError.

    A name without a registry means the store alone, so that a typing error sends no request; ``docker://NAME`` means the registry alone.
    """
    if name.startswith(REGISTRY):
        return _remote(store, parse_name(name.removeprefix(REGISTRY)), client())
    try:
        image = cloudimage.read(store, name)
    except StoreError:
        reference = _at_registry(name)
        if reference is None or reference.familiar in store.names():
            raise
        return _remote(store, reference, client())
    root = store.resolve(name)
    return Side(image.name or name, "store", image, store, root)


def _at_registry(name: str) -> Reference | None:
    """The reference, when its registry is written out."""
    first, slash, _ = name.partition("/")
    try:
        reference = Reference.parse(name)
    except ValueError:
        return None
    return reference if slash and first in (reference.domain, "index.docker.io") else None


class _Fetched:
    """Manifests and configs of an image in a registry. Those that the store has are taken from there."""

    def __init__(self, store: Store, client: Client, reference: Reference) -> None:
        self._store = store
        self._client = client
        self._reference = reference
        self._documents: dict[str, bytes] = {}

    def json(self, digest: str) -> dict[str, Any]:
        try:
            document = self._documents[digest]
        except KeyError as wrong:
            raise StoreError(f"{self._reference}: {digest} is not a manifest or config of it") from wrong
        return untrusted.json_object(document, what=f"{self._reference}: {digest}")

    def everything(self) -> Descriptor:
        """Fetch them all, many at once; the index that the reference means."""
        index_manifest = self._client.manifest(self._reference)
        root = Descriptor(index_manifest.media_type, index_manifest.digest, len(index_manifest.data))
        self._documents[root.digest] = index_manifest.data
        index = self.json(root.digest)
        # Fetch no more of an image that is not a CloudImage: its reader reports that.
        if reader.is_cloudimage(index):
            manifests = [child for child in graph.children(index, root) if graph.is_manifest(child)]
            self._keep(manifests)
            self._keep([config for manifest in manifests for config in self._config(manifest)])
        return root

    def _keep(self, wanted: Iterable[Descriptor]) -> None:
        unique = {blob.digest: blob for blob in wanted}
        fetched = process.parallel(self._fetch, unique.values(), _JOBS, self._client.close)
        self._documents.update(zip(unique, fetched, strict=True))

    def _config(self, manifest: Descriptor) -> list[Descriptor]:
        value = self.json(manifest.digest)
        return graph.below_of(value, manifest.digest)[:1] if "config" in value else []

    def _fetch(self, blob: Descriptor) -> bytes:
        with contextlib.suppress(StoreError):
            return self._store.read(blob.digest)
        pinned = dataclasses.replace(self._reference, tag=None, digest=blob.digest)
        if graph.is_manifest(blob):
            return self._client.manifest(pinned).data
        if blob.size > LARGEST_MANIFEST:
            raise StoreError(f"{self._reference}: config {blob.digest} of {blob.size} bytes is larger than configs may be")
        stream = self._client.blob(self._reference, blob.digest, blob.size)
        try:
            data = b"".join(iter(lambda: stream.read(CHUNK), b""))
        finally:
            stream.close()
        if digest_of(data) != blob.digest:
            raise StoreError(f"{self._reference}: config {blob.digest} is damaged: its bytes have another digest")
        return data


def _remote(store: Store, reference: Reference, client: Client) -> Side:
    with log.step(f"look at {reference.familiar}"):
        documents = _Fetched(store, client, reference)
        root = documents.everything()
    return Side(reference.familiar, reference.domain, reader.understand(documents, root, reference.familiar), documents, root)
