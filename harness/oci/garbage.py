"""Garbage of a store: blobs that no name and no cache record leads to, and what killed writers left."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from harness.oci.store import UNFINISHED, BusyError, Store

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Collected(NamedTuple):
    """Result of collect(). ``busy``: nothing was examined, because another process or thread is using the store."""

    blobs: int
    bytes: int
    busy: bool = False


@dataclasses.dataclass(frozen=True)
class Garbage:
    """Files of a store that nothing needs, by what they are."""

    blobs: tuple[Path, ...]
    partial: tuple[Path, ...]
    """Blobs of interrupted pulls."""
    temporary: tuple[Path, ...]
    """Temporary files of killed writers."""
    records: tuple[Path, ...]


def collect(store: Store, *, unfinished: bool = False) -> Collected:
    """Remove every blob that no name and no cache record leads to, and what killed writers left behind.

    With ``unfinished`` also the blobs of interrupted pulls. Does nothing, and returns ``busy``, while another process or thread
    is inside shared_lease().
    """
    try:
        with store.exclusive_lease():
            garbage = find(store, unfinished=unfinished)
            paths = (*garbage.blobs, *garbage.partial)
            freed = sum(path.stat().st_size for path in paths)
            discard(garbage)
            return Collected(len(paths), freed)
    except BusyError:
        return Collected(0, 0, busy=True)


def find(store: Store, *, unfinished: bool = False, cache: bool = False, without: Collection[str] = ()) -> Garbage:
    """Unused files of a store. Call it inside exclusive_lease(): they stay unused while that is held.

    With ``unfinished`` also what pulls that were cut short have fetched, with ``cache`` also every cache record and what only
    those lead to; the names ``without`` do not count.
    """
    roots = {descriptor.digest for name, descriptor in store.names().items() if name not in without}
    records = store.records()
    unneeded = {path for path in records if cache or (unfinished and path.parent.name == UNFINISHED)}
    for path in records - unneeded:
        roots.update(_DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")))
    needed = store.reachable(roots)
    return Garbage(
        blobs=tuple(path for path in store.blobs.iterdir() if f"sha256:{path.name}" not in needed),
        partial=tuple(store.partial_blobs.iterdir()) if unfinished else (),
        temporary=tuple(store.temporary.iterdir()),
        records=tuple(sorted(unneeded)),
    )


def discard(garbage: Garbage) -> None:
    """Remove it, inside exclusive_lease(). Records go first: a kill in between leaves no record of a blob that has gone."""
    for path in (*garbage.records, *garbage.blobs, *garbage.partial, *garbage.temporary):
        path.unlink(missing_ok=True)
