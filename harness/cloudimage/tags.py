"""Names of CloudImages in the store: one more, or one less with what only it kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence

from harness.cloudimage.reader import read
from harness.errors import StoreError
from harness.oci import garbage
from harness.oci.graph import attached_to, attachments
from harness.oci.model import OCI_INDEX, Descriptor
from harness.oci.reference import familiar
from harness.oci.store import BusyError, Store


def tag(store: Store, source: str, name: str) -> Descriptor:
    """Give a CloudImage one more name. Raises StoreError when the CloudImage does not exist, or the name is not valid."""
    with store.shared_lease():
        image = read(store, source)
        descriptor = Descriptor(OCI_INDEX, image.digest, store.size(image.digest))
        store.tag(name, descriptor)
    return descriptor


def remove(store: Store, names: Sequence[str]) -> tuple[tuple[str, ...], garbage.Collected]:
    """Forget names, or the one name of a digest, and free what nothing else needs; which names, and what was freed.

    With the last name of an image go the signatures and whatever else is attached to it. When one of the names does not exist, or a
    digest has several names, nothing is forgotten (StoreError). While another process uses the store, attachments and blobs stay.
    """
    with store.lock():
        descriptors = store.names()
        going = tuple(dict.fromkeys(_name_of(store, descriptors, name) for name in names))
        for name in going:
            store.untag(name)
    with contextlib.suppress(BusyError), store.exclusive_lease():
        lost = orphans(store, [descriptors[name].digest for name in going])
        for name in lost:
            store.untag(name)
        going += lost
    return going, garbage.collect(store)


def orphans(store: Store, digests: Iterable[str]) -> tuple[str, ...]:
    """The names of what is attached to these images or to their parts, as far as no other name leads to them."""
    descriptors = store.names()
    kept = store.reachable(descriptor.digest for name, descriptor in descriptors.items() if not attached_to(name))
    lost: dict[str, None] = {}
    gone = set(digests)
    while more := [name for name in attachments(descriptors, store.reachable(gone) - kept) if name not in lost]:
        # What is attached to an attachment goes with it.
        gone |= {descriptors[name].digest for name in more}
        lost.update(dict.fromkeys(more))
    return tuple(lost)


def _name_of(store: Store, descriptors: Mapping[str, Descriptor], text: str) -> str:
    if familiar(text) in descriptors:
        return familiar(text)
    digest = store.resolve(text).digest
    having = [name for name, descriptor in descriptors.items() if descriptor.digest == digest]
    if len(having) == 1:
        return having[0]
    if not having:
        raise StoreError(f"{text} has no name that could be removed", hint="`slipway prune` frees images without a name")
    raise StoreError(f"{text} has several names: {', '.join(having)}", hint="say which of them to remove")
