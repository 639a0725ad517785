"""Signatures, attestations and referrers of an image, copied from one place to another: store or registry.

An attestation or referrer that is about another image is not copied: a push ends with an error, a pull warns and leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from harness import log
from harness.errors import StoreError
from harness.oci.attached import ENVELOPE, require_subject_of
from harness.oci.graph import below_of
from harness.oci.model import OCI_MANIFEST, Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import ATTESTATIONS, REFERRERS, SIGNATURES, ReferrerStore, RemoteReferrers, merge, put_layers, tag_of
from harness.oci.statement import require_subject
from harness.process import results
from harness.untrusted import json_object

Refuse = Callable[[StoreError], None]
"""Called for an attachment that is about another image: raises the error, or returns to leave the attachment out."""


def refuse(wrong: StoreError) -> None:
    """Raise the error."""
    raise wrong


def warn(wrong: StoreError) -> None:
    """Warn about an attachment that is left out."""
    log.warning(f"refused: {wrong.message}")


def pull_referrers(client: Client, image: Reference, target: ReferrerStore) -> tuple[str, ...]:
    """Copy what is attached to an image in a registry. A registry that refuses it is warned about: the image itself is complete.

    So is an attestation that is about another image, which is left out.
    """
    try:
        return copy_referrers(RemoteReferrers(client, image), target, str(image.digest), refused=warn)
    except RemoteError as problem:
        log.warning(f"signatures and attestations of {image.familiar} were not copied: {problem.message}")
        return ()


def copy_referrers(source: ReferrerStore, target: ReferrerStore, digest: str, *, refused: Refuse = refuse) -> tuple[str, ...]:
    """Copy what is attached to an image, beside what is attached to it in ``target``. Returns the tags that changed.

    ``refused`` decides about an attestation or referrer that is about another image; by default it is an error (StoreError).
    """
    tags = [tag_of(digest, suffix) for suffix in (SIGNATURES, ATTESTATIONS)]
    # Each request costs a round trip: send all at once, and ask the target only about what the source has.
    pool = ThreadPoolExecutor(len(tags) + 1, thread_name_prefix="transfer")
    try:
        referrers = pool.submit(source.referrers, digest)
        attached = dict(zip(tags, results([pool.submit(source.find, tag) for tag in tags]), strict=True))
        (entries,) = results([referrers])
    finally:
        # What still runs after a failure ends with its client.
        pool.shutdown(wait=False, cancel_futures=True)
    changed = [tag for tag, manifests in attached.items() if manifests and _copy_layers(source, target, tag, manifests, digest, refused)]
    existing = {entry.digest for entry in target.referrers(digest)} if entries else set()
    copied = [entry for entry in entries if entry.digest not in existing and _copy_referrer(source, target, entry, digest, refused)]
    return (*changed, *([tag_of(digest, REFERRERS)] if copied else ()))


def _copy_referrer(source: ReferrerStore, target: ReferrerStore, entry: Descriptor, digest: str, refused: Refuse) -> bool:
    data = source.manifest(entry)
    try:
        require_subject_of(json_object(data, what=f"an attachment in {source.repository}"), digest)
    except StoreError as wrong:
        refused(wrong)
        return False
    _copy_blobs(source, target, data)
    target.refer(data)
    return True


def _copy_layers(source: ReferrerStore, target: ReferrerStore, tag: str, manifests: Sequence[bytes], digest: str, refused: Refuse) -> bool:
    layers = merge(target.find(tag))
    missing = [layer for layer in merge(manifests) if layer not in layers]
    copied = [layer for layer in missing if _copy_layer(source, target, layer, digest, refused)]
    if not copied:
        return False
    whole = len(manifests) == 1 and len(copied) == len(missing)
    if whole:
        _copy_blobs(source, target, manifests[0], besides=copied)
    with target.changing():
        # Another process may have added a signature meanwhile.
        existing = target.find(tag)
        if whole and not existing:
            target.name(tag, manifests[0], OCI_MANIFEST)
        else:
            layers = merge(existing)
            put_layers(target, tag, [*layers, *(layer for layer in copied if layer not in layers)])
    return True


def _copy_layer(source: ReferrerStore, target: ReferrerStore, layer: Descriptor, digest: str, refused: Refuse) -> bool:
    """Copy a signature or attestation; False for an attestation about another image, which is left out."""
    data = source.read(layer)
    if layer.media_type == ENVELOPE:
        try:
            require_subject(data, digest)
        except StoreError as wrong:
            refused(wrong)
            return False
    target.keep(data, layer.media_type)
    return True


def _copy_blobs(source: ReferrerStore, target: ReferrerStore, manifest: bytes, besides: Sequence[Descriptor] = ()) -> None:
    what = f"an attachment in {source.repository}"
    for blob in below_of(json_object(manifest, what=what), what):
        if blob not in besides:
            target.keep(source.read(blob), blob.media_type)
