"""The container images within a CloudImage, each put into a registry of the site under its own name: ``REGISTRY/docker.io/library/nginx``.

A cluster then needs no registry of its own: harness.lifecycle.provision.registry points containerd there, path by path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness import log
from harness.cloudimage import CloudImage, EmbeddedImage, PlatformImage
from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci.graph import DEEPEST_INDEX, below_of, entries_of
from harness.oci.model import INDEXES, OCI_INDEX, Descriptor, Platform, canonical_json
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.config import Site
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store
from harness.transfer.worker_pool import WorkerPool


@dataclasses.dataclass(frozen=True)
class Expanded:
    """Result of a mirror. ``sent`` in bytes; ``partly``: names with only some platforms, which only the tag resolves."""

    images: tuple[str, ...]
    sent: int
    uploaded: int
    present: int
    partly: tuple[str, ...]


def expand(store: Store, image: CloudImage, site: Site, client: Client) -> Expanded:
    """Put every container image of a CloudImage into the registry of a site. Raises RemoteError or StoreError."""
    from harness.trust import policy  # here: its cryptography is slow to load

    policy.admit(store, image.name or image.digest, image.digest)
    with store.shared_lease(), log.step(f"put the images within {image.name or image.digest} into {site}") as shown:
        work = _Expansion(store, image, site, client)
        work.send_blobs(Meter(shown, 0))
        work.send_manifests()
    return Expanded(tuple(sorted(work.named)), work.sent, work.uploaded, work.present, tuple(sorted(work.partly)))


class _Expansion:
    def __init__(self, store: Store, image: CloudImage, site: Site, client: Client) -> None:
        self.store = store
        self.image = image
        self.site = site
        self.client = client
        self.workers = WorkerPool(client)
        self.named: set[str] = set()
        self.partly: set[str] = set()
        self.sent = self.uploaded = self.present = 0

    def send_blobs(self, meter: Meter) -> None:
        """Every config and layer into the repository of each image that needs it; a second repository mounts it."""
        first: dict[str, Reference] = {}
        again: list[tuple[Reference, Descriptor]] = []
        begin: list[tuple[Reference, Descriptor]] = []
        seen: set[tuple[str, str]] = set()
        for part, embedded in self._all():
            place = self.site.place(Reference.parse(embedded.name))
            for blob in self._content(part, embedded.digest):
                if (place.path, blob.digest) in seen:
                    continue
                seen.add((place.path, blob.digest))
                (again if blob.digest in first else begin).append((place, blob))
                first.setdefault(blob.digest, place)
        meter.total = sum(blob.size for _, blob in (*begin, *again))

        def send(item: tuple[Reference, Descriptor]) -> None:
            place, blob = item
            source = first[blob.digest]
            mounts = (source.path,) if source.path != place.path else ()
            sent = self.client.put_blob(place, blob, lambda: self.store.open(blob.digest), mounts=mounts, progress=meter.add)
            if sent.how != "uploaded":
                meter.skip(blob.size)
            with self.workers.lock:
                self.sent += sent.bytes
                self.uploaded += sent.how == "uploaded"
                self.present += sent.how != "uploaded"

        # What is to be mounted must be there first.
        self.workers.each(send, begin)
        self.workers.each(send, again)
        meter.finish()

    def _all(self) -> list[tuple[PlatformImage, EmbeddedImage]]:
        return [(part, embedded) for part in self.image.platforms for embedded in part.images.images]

    def _content(self, part: PlatformImage, digest: str) -> list[Descriptor]:
        """The configs and layers below a manifest or index, as far as they are in the image set."""
        blobs = {blob.digest: blob for blob in part.images.blobs}
        descriptors: list[Descriptor] = []
        for manifest in self._manifests(part, digest):
            if blobs[manifest].media_type not in INDEXES:
                descriptors += [entry for entry in below_of(self.store.json(manifest), manifest) if entry.digest in blobs]
        return descriptors

    def _manifests(self, part: PlatformImage, digest: str, depth: int = 0) -> list[str]:
        """The manifests of an image, children before their index."""
        blobs = {blob.digest: blob for blob in part.images.blobs}
        if blobs[digest].media_type not in INDEXES:
            return [digest]
        if depth >= DEEPEST_INDEX:
            raise StoreError(f"{digest}: more than {DEEPEST_INDEX} indexes within each other", hint="this is not an image")
        children = [entry.digest for entry in entries_of(self.store.json(digest), digest)]
        return [*(one for child in children if child in blobs for one in self._manifests(part, child, depth + 1)), digest]

    def send_manifests(self) -> None:
        by_name: dict[str, dict[str, tuple[PlatformImage, EmbeddedImage]]] = {}
        for part, embedded in self._all():
            by_name.setdefault(embedded.name, {})[embedded.digest] = (part, embedded)
        self.workers.each(lambda item: self._name(*item), by_name.items())

    def _name(self, name: str, meanings: Mapping[str, tuple[PlatformImage, EmbeddedImage]]) -> None:
        place = self.site.place(Reference.parse(name))
        tops: list[tuple[Platform, Descriptor]] = []
        for part, embedded in meanings.values():
            tops.append((part.platform, self._put(place, part, embedded)))
        if len(tops) > 1 and place.tag:
            self._put_index(place, tops)
        with self.workers.lock:
            self.named.add(f"{self.site.host}/{place.path}" + (f":{place.tag}" if place.tag else f"@{place.digest}"))

    def _put(self, place: Reference, part: PlatformImage, embedded: EmbeddedImage) -> Descriptor:
        """Put an image for one platform, under its tag if it has one; what the tag then means."""
        blobs = {blob.digest: blob for blob in part.images.blobs}
        *below, top = self._manifests(part, embedded.digest)
        for digest in below:
            self._put_manifest(dataclasses.replace(place, tag=None), digest, blobs[digest].media_type)
        try:
            return self._put_manifest(place, top, blobs[top].media_type)
        except RemoteError as refused:
            # Of an index usually one platform is here, and a registry takes no index whose manifests it lacks.
            manifests = [digest for digest in below if blobs[digest].media_type not in INDEXES]
            if refused.status not in (400, 404) or len(manifests) != 1 or place.tag is None:
                raise
            with self.workers.lock:
                self.partly.add(embedded.name)
            return self._put_manifest(place, manifests[0], blobs[manifests[0]].media_type)

    def _put_manifest(self, place: Reference, digest: str, media_type: str) -> Descriptor:
        data = self.store.read(digest)
        target = dataclasses.replace(place, digest=None if place.tag else digest)
        self.client.put_manifest(target, data, media_type)
        with self.workers.lock:
            self.sent += len(data)
        return Descriptor(media_type, digest, len(data))

    def _put_index(self, place: Reference, tops: Sequence[tuple[Platform, Descriptor]]) -> None:
        """One name for several platforms, each of which has a manifest of its own."""
        entries = [dataclasses.replace(top, platform=platform).to_json() for platform, top in sorted(tops, key=lambda item: str(item[0]))]
        data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
        self.client.put_manifest(dataclasses.replace(place, digest=None), data, OCI_INDEX)


def missing(image: CloudImage, site: Site, client: Client) -> tuple[str, ...]:
    """The container images of a CloudImage that the registry of a site does not have. Raises RemoteError."""
    names = sorted({embedded.name for part in image.platforms for embedded in part.images.images})
    absent: set[str] = set()
    workers = WorkerPool(client)

    def look(name: str) -> None:
        if client.head(site.place(Reference.parse(name))) is None:
            with workers.lock:
                absent.add(name)

    workers.each(look, names)
    return tuple(sorted(absent))
