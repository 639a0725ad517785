"""The record of pulls: which image each request of a cluster belongs to, and its outcome."""

from __future__ import annotations

import dataclasses
import threading

from harness.oci.graph import descriptors
from harness.oci.model import INDEXES, Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class PulledImage:
    """An image that a client pulled, under the name it used: ``docker.io/library/nginx:1.25`` or ``...@sha256:...``."""

    reference: str
    digest: str
    """Empty when only the name is known: an image that a run for another platform pulled."""
    media_type: str
    source: str
    """Origin: a registry's host, or the label of a LayoutSource."""
    times: int = 1
    clients: tuple[str, ...] = ()
    """Addresses, sorted."""


class PullRecord:
    """Requests and their outcome. Thread-safe.

    containerd pulls a tag in two steps: HEAD by tag, then GET by the digest of the answer; a digest-only name starts
    with HEAD by digest. So a GET by digest is a new image only when this client did not get that digest for a tag of the
    repository, and when no recorded image of the repository has it as a part.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._images: dict[str, PulledImage] = {}
        self._told: dict[tuple[str, str, str], Reference] = {}
        self._owners: dict[tuple[str, str], tuple[Reference, Descriptor]] = {}
        self._failures: dict[str, dict[str, str]] = {}
        self._served = 0

    @property
    def pulled(self) -> list[PulledImage]:
        with self._lock:
            return sorted(self._images.values(), key=lambda image: image.reference)

    @property
    def failures(self) -> dict[str, str]:
        with self._lock:
            return {name: "; ".join(reasons.values()) for name, reasons in sorted(self._failures.items())}

    @property
    def served_bytes(self) -> int:
        with self._lock:
            return self._served

    def add_bytes(self, count: int) -> None:
        with self._lock:
            self._served += count

    def owner(self, reference: Reference, digest: str, client: str) -> tuple[Reference, int | None]:
        """Image that a digest belongs to, and its size where a manifest states it; the reference itself when no image has the digest."""
        with self._lock:
            owned = self._owners.get((reference.repository, digest))
            if owned:
                return owned[0], owned[1].size
            return self._told.get((client, reference.repository, digest), reference), None

    def manifest(self, reference: Reference, manifest: Manifest, client: str, *, head: bool) -> None:
        """Note a manifest that is served to ``client``."""
        owner, _ = self.owner(reference, manifest.digest, client)
        with self._lock:
            if reference.tag is not None and reference.digest is None:
                self._told[client, reference.repository, manifest.digest] = reference
                owner = reference
            by_name = reference.digest is None or head or owner == reference
            if by_name:
                owner = reference
                self._add(str(reference), manifest, client)
            for part in descriptors(manifest.data):
                self._owners.setdefault((reference.repository, part.digest), (owner, part))
            self._forgive(str(owner), manifest.digest)
            self._forgive(str(reference), manifest.digest)

    def _add(self, name: str, manifest: Manifest, client: str) -> None:
        image = self._images.get(name)
        if image is None:
            self._images[name] = PulledImage(name, manifest.digest, manifest.media_type, manifest.source, 1, (client,))
            return
        clients = tuple(sorted({*image.clients, client}))
        # Of a name served in two forms (to a client that knows no indexes) the index stays: it leads to both.
        better = manifest if manifest.is_index and image.media_type not in INDEXES else image
        self._images[name] = dataclasses.replace(
            image, digest=better.digest, media_type=better.media_type, source=better.source, times=image.times + 1, clients=clients
        )

    def failed(self, reference: Reference, part: str, reason: str) -> None:
        """Note that ``part`` (a digest, or nothing for the name itself) could not be served."""
        with self._lock:
            self._failures.setdefault(str(reference), {})[part] = reason

    def blob(self, reference: Reference, digest: str) -> None:
        """Note a blob that was served whole: an earlier failure of it is past."""
        with self._lock:
            self._forgive(str(reference), digest)

    def _forgive(self, name: str, part: str) -> None:
        reasons = self._failures.get(name, {})
        reasons.pop(part, None)
        reasons.pop("", None)
        if not reasons:
            self._failures.pop(name, None)
