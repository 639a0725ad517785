"""Repositories that are known to have blobs, so that a push mounts them there: an image that was pushed or pulled has its blobs there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from harness.oci.reference import Reference
from harness.oci.store import Store

_MOST_PLACES = 64


def remember(store: Store, reference: Reference, digest: str) -> None:
    """Note that a repository of a registry has an image, so that a later push can mount its blobs from there."""
    key, entries = _place_record(store, reference.domain)
    # Without "sha256:", so that this record does not keep the blobs.
    hexadecimal = digest.removeprefix("sha256:")
    seen = [entry for entry in entries if entry != [reference.path, hexadecimal]]
    store.keep("place", key, {"host": reference.domain, "images": [[reference.path, hexadecimal], *seen][:_MOST_PLACES]})


def known(store: Store, target: Reference) -> Mapping[str, tuple[str, ...]]:
    """Blob -> other repositories of the target's registry that are known to have it."""
    repositories: dict[str, tuple[str, ...]] = {}
    for repository, hexadecimal in _place_record(store, target.domain)[1]:
        if repository != target.path:
            for digest in store.reachable([f"sha256:{hexadecimal}"]):
                repositories.setdefault(digest, (repository,))
    return repositories


def _place_record(store: Store, host: str) -> tuple[str, list[list[str]]]:
    key = hashlib.sha256(host.encode()).hexdigest()
    record = store.record("place", key) or {}
    return key, list(record.get("images") or ())
