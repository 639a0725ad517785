"""Sources of manifests and blobs, and stores that hold images already. ``guarded`` has the registries themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from harness.errors import BuildError
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.manifest import Manifest, check_manifest
from harness.oci.store import Store


class Stream(Protocol):
    """A blob being read."""

    @property
    def size(self) -> int | None:
        """Bytes in all, if known."""

    def read(self, amount: int, /) -> bytes:
        """Up to ``amount`` bytes, none at the end. Raises StoreError."""

    def close(self) -> None: ...

    def abort(self) -> None:
        """From another thread: make a waiting read() fail."""


class FinalSourceError(BuildError):
    """A source that has the image and cannot give it, where the image of another source must not take its place."""


class Source(Protocol):
    """Somewhere images may be. None means "not here, ask the next"; a SlipwayError means "here, but it fails".

    The next source is asked after a failure as well, except after a FinalSourceError.
    """

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None: ...

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None: ...

    def admit(self, pinned: Reference) -> bool:
        """Return True when this source admits the image with the digest of ``pinned``; False: ask the other sources.

        Raises StoreError when policy refuses it.
        """
        ...


Admit = Callable[[Client, Reference], object]
"""Raises StoreError when an image of a registry (by digest) may not be used."""


class LayoutSource:
    """Images that lie in a store already: embedded in the base CloudImage, or built here.

    ``names`` maps image names to the digest (or descriptor) of their manifest or index; ``label`` says in reports what this is.
    """

    def __init__(self, store: Store, names: Mapping[str, str | Descriptor], label: str = "local") -> None:
        self.store = store
        self.label = label
        plain = {name: image.digest if isinstance(image, Descriptor) else image for name, image in names.items()}
        self._names = {str(Reference.parse(name)): digest for name, digest in plain.items()}
        self._repositories: dict[str, list[str]] = {}
        for name, digest in self._names.items():
            self._repositories.setdefault(Reference.parse(name).repository, []).append(digest)
        self._reachable: dict[str, set[str]] = {}

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002 - a layout has one form of each image
        digest = reference.digest or self._names.get(str(reference))
        if digest is None or (reference.digest and digest not in self._blobs_of(reference.repository)) or not self.store.has(digest):
            return None
        return stored_manifest(self.store, digest, self.label)

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:  # noqa: ARG002 - the file has it
        if digest not in self._blobs_of(reference.repository) or not self.store.has(digest):
            return None
        return FileStream(self.store, digest)

    def admit(self, pinned: Reference) -> bool:
        """Images in the local store were built here, or came with a CloudImage that was admitted as a whole."""
        return pinned.digest in self._blobs_of(pinned.repository)

    def _blobs_of(self, repository: str) -> set[str]:
        if repository not in self._reachable:
            self._reachable[repository] = self.store.reachable(self._repositories.get(repository, []))
        return self._reachable[repository]


class FileStream:
    """A blob of a store as a Stream."""

    def __init__(self, store: Store, digest: str) -> None:
        self.size: int | None = store.size(digest)
        self._file = store.open(digest)

    def read(self, amount: int, /) -> bytes:
        return self._file.read(amount)

    def close(self) -> None:
        self._file.close()

    def abort(self) -> None:
        """A disk does not block for long."""


def stored_manifest(store: Store, digest: str, label: str) -> Manifest | None:
    """The manifest or index with that digest; None when the blob is something else. Raises StoreError when it is damaged."""
    data = store.read(digest)
    try:
        return Manifest(data, check_manifest(data, ""), digest, label)
    except ValueError:
        return None
