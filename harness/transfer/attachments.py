"""Signatures, attestations and referrers of an image, copied from one place to another: store or registry."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from harness import log
from harness.oci.graph import below_of
from harness.oci.model import OCI_MANIFEST
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import ATTESTATIONS, REFERRERS, SIGNATURES, ReferrerStore, RemoteReferrers, merge, put_layers, tag_of
from harness.untrusted import json_object


def pull_referrers(client: Client, image: Reference, target: ReferrerStore) -> tuple[str, ...]:
    """Copy what is attached to an image in a registry. A registry that refuses it is warned about: the image itself is complete."""
    try:
        return copy_referrers(RemoteReferrers(client, image), target, str(image.digest))
    except RemoteError as problem:
        log.warning(f"signatures and attestations of {image.familiar} were not copied: {problem.message}")
        return ()


def copy_referrers(source: ReferrerStore, target: ReferrerStore, digest: str) -> tuple[str, ...]:
    """Copy what is attached to an image, beside what is attached to it in ``target``. Returns the tags that changed."""
    tags = [tag_of(digest, suffix) for suffix in (SIGNATURES, ATTESTATIONS)]
    # Each request costs a round trip: send all at once, and ask the target only about what the source has.
    with ThreadPoolExecutor(len(tags) + 1, thread_name_prefix="transfer") as pool:
        referrers = pool.submit(source.referrers, digest)
        attached = dict(zip(tags, pool.map(source.find, tags), strict=True))
        entries = referrers.result()
    changed = [tag for tag, manifests in attached.items() if manifests and _copy_layers(source, target, tag, manifests)]
    existing = {entry.digest for entry in target.referrers(digest)} if entries else set()
    missing = [entry for entry in entries if entry.digest not in existing]
    for entry in missing:
        data = source.manifest(entry)
        _copy_blobs(source, target, data)
        target.refer(data)
    return (*changed, *([tag_of(digest, REFERRERS)] if missing else ()))


def _copy_layers(source: ReferrerStore, target: ReferrerStore, tag: str, manifests: Sequence[bytes]) -> bool:
    existing = target.find(tag)
    known = set(merge(existing))
    if all(layer in known for layer in merge(manifests)):
        return False
    for manifest in manifests:
        _copy_blobs(source, target, manifest)
    if not existing and len(manifests) == 1:
        target.name(tag, manifests[0], OCI_MANIFEST)
    else:
        put_layers(target, tag, merge([*existing, *manifests]))
    return True


def _copy_blobs(source: ReferrerStore, target: ReferrerStore, manifest: bytes) -> None:
    what = f"an attachment in {source.repository}"
    for blob in below_of(json_object(manifest, what=what), what):
        target.keep(source.read(blob), blob.media_type)
