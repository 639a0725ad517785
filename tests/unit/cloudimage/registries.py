"""Registries as a stand-in for their client sees them: they have what a store has."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, Self

from harness.oci.model import OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.manifest import Manifest
from harness.oci.store import Store

HOST = "reg.test:5000"


class Registry:
    """Repositories -> tag -> digest, of what a store has. ``asked`` is every question."""

    def __init__(self, store: Store, names: Mapping[str, Mapping[str, str]], *, lists: bool = True) -> None:
        self.store = store
        self.names = names
        self.lists = lists
        self.asked: list[str] = []
        self.refuses: set[str] = set()
        self.status = 401
        self._lock = threading.Lock()

    def close(self) -> None:
        """Nothing is open."""

    def _ask(self, what: str) -> None:
        with self._lock:
            self.asked.append(what)

    def catalog(self, host: str) -> tuple[str, ...]:
        self._ask("catalog")
        if not self.lists:
            raise RemoteError(f"{host}: {self.status} no", status=self.status)
        return tuple(self.names)

    def tags(self, reference: Reference) -> tuple[str, ...]:
        self._ask(f"tags {reference.path}")
        if reference.path in self.refuses:
            raise RemoteError(f"{reference.repository}: 403 DENIED", status=403)
        return tuple(self.names.get(reference.path, ()))

    def manifest(self, reference: Reference) -> Manifest:
        self._ask(f"manifest {reference.path}:{reference.tag or ''}")
        data = self.store.read(reference.digest or self.names[reference.path][str(reference.tag)])
        return Manifest(data, json.loads(data)["mediaType"], reference.digest or self.names[reference.path][str(reference.tag)])


def registry(store: Store, **names: str) -> Any:
    return Registry(store, {path.replace("__", "/"): {"latest": digest} for path, digest in names.items()})


def container(store: Store) -> str:
    """An image that is no CloudImage."""
    config = Descriptor("application/vnd.oci.image.config.v1+json", *store.put(b"{}"))
    return store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": []}))[0]


class StoreAsRegistry:
    """A registry of what a store has. ``asked`` are the digests of what was fetched."""

    def __init__(self, store: Store, names: Mapping[str, str]) -> None:
        self.store = store
        self.names = names
        self.asked: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None: ...

    def manifest(self, reference: Reference) -> Manifest:
        digest = reference.digest or self.names.get(reference.familiar)
        if digest is None or not self.store.has(digest):
            raise RemoteError(f"{reference}: 404", status=404)
        data = self.store.read(digest)
        self.asked.append(digest)
        return Manifest(data, json.loads(data)["mediaType"], digest)

    def blob(self, reference: Reference, digest: str, size: int) -> Any:
        self.asked.append(digest)
        assert self.store.size(digest) == size
        return self.store.open(digest)
