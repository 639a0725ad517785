"""Remove what no image, no cached build step and no running process on this machine needs.

In the store the names decide, and nothing is removed while a process writes to it. Outside of it are only copies: unpacked trees of
images, temporary folders of processes that were killed, and images that the engine made of Dockerfiles. A kill at any moment leaves less
garbage and everything else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import cloudimage, log
from harness.cloudimage import unpacked
from harness.errors import StoreError
from harness.host import docker, scratch
from harness.oci.garbage import Garbage, discard, find
from harness.oci.graph import attached_to
from harness.oci.model import Descriptor
from harness.oci.reference import OWN_DOMAIN
from harness.oci.store import BusyError, Store

LISTING = "listing"
"""The kind of the records that say what is in a layer. Their key is the layer's digest in hex; they go when the layer does."""


@dataclasses.dataclass(frozen=True)
class PrunedKind:
    """Amount of one kind that was removed, or would be. ``bytes`` on disk."""

    name: str
    count: int
    bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Pruned:
    """Amounts removed, or to be removed with ``dry_run``, by kind."""

    kinds: tuple[PrunedKind, ...]
    names: tuple[str, ...] = ()
    """Attachments of images that are here no more."""
    dry_run: bool = False
    busy: bool = False
    """The store was not examined: a process was using it."""
    trees_in_use: int = 0
    trees_busy: bool = False
    """The trees were left alone: one was being unpacked."""

    @property
    def bytes(self) -> int:
        return sum(kind.bytes for kind in self.kinds)

    def to_json(self) -> dict[str, Any]:
        return {
            "dryRun": self.dry_run,
            "busy": self.busy,
            "kinds": {kind.name: {"count": kind.count, "bytes": kind.bytes} for kind in self.kinds},
            "names": list(self.names),
            "treesInUse": self.trees_in_use,
            "treesBusy": self.trees_busy,
            "bytes": self.bytes,
        }


def prune(store: Store, *, cache: bool = False, dry_run: bool = False, client: docker.Client | None = None) -> Pruned:
    """Remove what nothing needs; with ``cache`` also the records of build steps and discoveries, and the layers that only they keep.

    ``client``: the engine whose images of slipway are examined.

    Raises StoreError, and removes nothing, when the manifest of an image is damaged: what that image needs cannot be known then.
    """
    try:
        with store.exclusive_lease():
            names, garbage = _unneeded(store, cache=cache)
            kinds = _measured(garbage)
            if not dry_run:
                for name in names:
                    store.untag(name)
                discard(garbage)
        busy = False
    except BusyError:
        names, kinds, busy = (), (), True
    forgotten = _forgotten(client, dry_run=dry_run) if client is not None else []
    removal = unpacked.remove(_trees(store) | _trees_of_others(store), dry_run=dry_run)
    folders = scratch.abandoned()
    kinds = (
        *((PrunedKind("attachments", len(names)),) if not busy else ()),
        *kinds,
        PrunedKind("trees", removal.count, removal.bytes),
        PrunedKind("temporary folders", len(folders), sum(unpacked.size(path) for path in folders)),
        PrunedKind("engine images", len(forgotten), sum(one.bytes for one in forgotten)),
    )
    if not dry_run:
        scratch.sweep()
    return Pruned(kinds, names, dry_run, busy, removal.in_use, removal.busy)


def _forgotten(client: docker.Client, *, dry_run: bool) -> list[docker.Idle]:
    """The images that the engine has no more, or with ``dry_run`` would not have."""
    gone: list[docker.Idle] = []
    for one in docker.idle(client, OWN_DOMAIN, time.time()):
        try:
            if not dry_run:
                client.images.remove(one.name)
        except docker.APIError as refused:
            # A container was made of it just now.
            log.debug(f"{one.name} stays in the engine: {refused.explanation}")
        else:
            gone.append(one)
    return gone


def _unneeded(store: Store, *, cache: bool) -> tuple[tuple[str, ...], Garbage]:
    descriptors = store.names()
    _check(store, descriptors)
    names = strays(store, descriptors)
    garbage = find(store, unfinished=True, cache=cache, without=names)
    going = {path.name for path in garbage.blobs}
    listings = (store.root / "cache" / LISTING).glob("*.json")
    stale = [path for path in listings if path.stem in going or not store.has(f"sha256:{path.stem}")]
    return names, dataclasses.replace(garbage, records=tuple(sorted({*garbage.records, *stale})))


def strays(store: Store, descriptors: Mapping[str, Descriptor]) -> tuple[str, ...]:
    """The names of attachments (signatures, SBOMs) whose image no other name leads to."""
    waiting = {name: about for name in descriptors if (about := attached_to(name))}
    kept = store.reachable(descriptor.digest for name, descriptor in descriptors.items() if name not in waiting)
    # One attached to an attachment that stays, stays.
    while staying := [name for name, about in waiting.items() if about in kept]:
        kept |= store.reachable(descriptors[name].digest for name in staying)
        for name in staying:
            del waiting[name]
    return tuple(waiting)


def _check(store: Store, descriptors: Mapping[str, Descriptor]) -> None:
    """Every manifest that a name leads to is what its digest says, or not here at all (of a platform that was not pulled)."""
    for name, descriptor in descriptors.items():
        waiting = [descriptor.digest]
        try:
            while waiting:
                digest = waiting.pop()
                store.verify(digest)
                # Count the readable part, whatever the rest is: a build that uses the record reads no more of it either.
                waiting += [child for child in store.manifests(digest) if store.has(child)]
        except StoreError as problem:
            raise StoreError(
                f"nothing is removed: {name} is damaged, so what it needs is not known: {problem}",
                hint=f"pull, load or build it again, or let it go with `slipway rmi {name}`",
            ) from problem


def _measured(garbage: Garbage) -> tuple[PrunedKind, ...]:
    parts: dict[str, Iterable[Path]] = {
        "blobs": garbage.blobs,
        "unfinished": (*garbage.partial, *garbage.temporary),
        "records": garbage.records,
    }
    return tuple(PrunedKind(name, len(list(paths)), sum(path.stat().st_size for path in paths)) for name, paths in parts.items())


def _trees(store: Store) -> set[str]:
    """The identities of the trees of all images that have a name here."""
    identities: set[str] = set()
    for name in store.names():
        if attached_to(name):
            continue
        try:
            image = cloudimage.read(store, name)
        except StoreError:
            continue
        identities.update(unpacked.identity(part.layers) for part in image.platforms)
    return identities


def _trees_of_others(store: Store) -> set[str]:
    """The same for the stores of other homes that share the cache. One that is gone, or cannot be read, needs no tree."""
    needed: set[str] = set()
    for root in unpacked.stores():
        if root != store.root.resolve() and (root / "oci-layout").is_file():
            with contextlib.suppress(StoreError, OSError):
                needed |= _trees(Store(root))
    return needed
