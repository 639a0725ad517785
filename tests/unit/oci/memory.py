"""Container images in memory, and a source of them that counts what it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence

from harness.errors import StoreError
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Manifest
from harness.oci.registry.fetcher import Stream


def made(name: str, *, size: int = 100, architecture: str = "amd64") -> dict[str, bytes]:
    """An image by digest: its manifest first, then config and one layer."""
    layer = (name.encode() * size)[:size]
    config = canonical_json({"os": "linux", "architecture": architecture, "name": name})
    described = [
        {"mediaType": kind, "digest": digest_of(data), "size": len(data)} for kind, data in ((OCI_CONFIG, config), (OCI_LAYER_GZIP, layer))
    ]
    manifest = canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]})
    return {digest_of(data): data for data in (manifest, config, layer)}


def top(image: dict[str, bytes]) -> str:
    return next(iter(image))


def layer_of(image: dict[str, bytes]) -> str:
    return list(image)[-1]


def indexed(**images: dict[str, bytes]) -> dict[str, bytes]:
    """An index of images by architecture, and all of theirs."""
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": top(image),
            "size": len(image[top(image)]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, image in images.items()
    ]
    data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return {digest_of(data): data} | {digest: blob for image in images.values() for digest, blob in image.items()}


def manifest(data: bytes) -> Manifest:
    return Manifest(data, json.loads(data)["mediaType"], digest_of(data), "memory")


class Body:
    """A Stream that waits for ``go`` before each piece, when there is one."""

    def __init__(self, data: bytes, size: int | None, go: threading.Semaphore | None) -> None:
        self.size = size
        self.closed = False
        self._data = data
        self._go = go
        self._aborted = False

    def read(self, amount: int, /) -> bytes:
        if self._go:
            self._go.acquire()
        if self._aborted:
            raise StoreError("stopped")
        piece, self._data = self._data[:amount], self._data[amount:]
        return piece

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self._aborted = True
        if self._go:
            self._go.release()


class Memory:
    """A Source of images by name; counts what it is asked."""

    def __init__(self, **names: dict[str, bytes]) -> None:
        self.blobs = {digest: data for image in names.values() for digest, data in image.items()}
        self.tags = {f"test.io/{name}:1": top(image) for name, image in names.items()}
        self.asked: list[str] = []
        self.go: threading.Semaphore | None = None
        self.opened: list[Body] = []
        self.tamper: Callable[[bytes], bytes] = lambda data: data

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        self.asked.append(str(reference))
        digest = reference.digest or self.tags.get(str(reference))
        return manifest(self.blobs[digest]) if digest in self.blobs else None

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        self.asked.append(digest)
        if digest not in self.blobs:
            return None
        data = self.tamper(self.blobs[digest])
        self.opened.append(Body(data, len(self.blobs[digest]), self.go))
        return self.opened[-1]

    def admit(self, pinned: Reference) -> bool:
        return pinned.digest in self.blobs


def named(name: str) -> Reference:
    return Reference.parse(name)
