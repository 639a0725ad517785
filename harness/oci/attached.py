"""Attachments of an archive: signatures, attestations and lists of referrers, which come in with no policy asked about them.

So nothing but these may come in under such a name, and what is here already is never taken away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import StoreError
from harness.oci.graph import below_of, entries_of
from harness.oci.model import EPOCH, INDEXES, MANIFESTS, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json
from harness.oci.statement import SubjectError, require_subject
from harness.oci.store import Store
from harness.untrusted import shown

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ENVELOPE = "application/vnd.dsse.envelope.v1+json"

_LAYERS = {".sig": PAYLOAD, ".att": ENVELOPE}
_TAG = re.compile(r"sha256-(?P<hex>[0-9a-f]{64})(?P<suffix>\.sig|\.att|)")


def is_attachment(name: str) -> bool:
    """Return True for a name that signatures, attestations or referrers are stored under."""
    return _TAG.fullmatch(name.rpartition(":")[2]) is not None


def config_of(digests: Sequence[str]) -> dict[str, Any]:
    """The config that cosign gives an image of signatures or attestations, whose layers have these digests."""
    return {
        "architecture": "",
        "os": "",
        "created": EPOCH,
        "config": {},
        "history": [{"created": EPOCH} for _ in digests],
        "rootfs": {"type": "layers", "diff_ids": list(digests)},
    }


def merged(store: Store, name: str, root: Descriptor) -> Descriptor:
    """The attachment ``root``, which came under ``name``, with all that is here under that name; in the store, not named yet.

    Raises StoreError when it is not what its name says.
    """
    matched = _TAG.fullmatch(name.rpartition(":")[2])
    if matched is None:
        raise StoreError(f"{name} is not the name of an attachment")
    ours = store.names().get(name)
    if ours is not None and ours.digest == root.digest:
        return root
    theirs = _entries(store, name, root, f"sha256:{matched['hex']}", matched["suffix"])
    kept = _kept(store, ours, matched["suffix"]) if ours else []
    if all(entry in theirs for entry in kept):
        return root
    # In the order of arrival, the stored ones first.
    both = [*kept, *(entry for entry in theirs if entry not in kept)]
    if matched["suffix"]:
        config_at = Descriptor(OCI_CONFIG, *store.put(canonical_json(config_of([one["digest"] for one in both])))).to_json()
        value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_at, "layers": both}
        return Descriptor(OCI_MANIFEST, *store.put(canonical_json(value)))
    return Descriptor(OCI_INDEX, *store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": both})))


def _entries(store: Store, name: str, root: Descriptor, subject: str, suffix: str) -> list[dict[str, Any]]:
    """Entries of an attachment, as JSON. Raises StoreError for one that is not allowed."""
    value = store.json(root.digest)
    if suffix:
        layers = [] if "manifests" in value or root.media_type not in MANIFESTS else below_of(value, root.digest)[1:]
        wrong = [layer.media_type for layer in layers if layer.media_type != _LAYERS[suffix]]
        if wrong or not layers:
            raise _refused(name, f"it holds {wrong[0]!r}" if wrong else "it holds none")
        for layer in layers if suffix == ".att" else ():
            try:
                require_subject(store.read(layer.digest), subject)
            except StoreError as other:
                raise _refused(name, other.message) from other
        return [dict(layer) for layer in value["layers"]]
    if root.media_type not in INDEXES:
        raise _refused(name, "it is not a list of referrers")
    for entry in entries_of(value, root.digest):
        try:
            require_subject_of(store.json(entry.digest), subject)
        except SubjectError as other:
            raise _refused(name, f"{entry.digest} does not refer to that image") from other
    return [dict(entry) for entry in value.get("manifests") or ()]


def require_subject_of(referrer: Mapping[str, Any], digest: str) -> None:
    """Raises SubjectError when the manifest of a referrer is about another image than that with ``digest``."""
    subject = referrer.get("subject")
    about = str(subject.get("digest")) if isinstance(subject, dict) else "nothing"
    if about != digest:
        raise SubjectError(shown(f"a referrer is about {about}, not about {digest}"), hint="do not rely on it")


def _kept(store: Store, ours: Descriptor, suffix: str) -> list[dict[str, Any]]:
    """Entries stored under the name. A damaged or unknown attachment counts as empty: it has nothing to lose."""
    try:
        value = store.json(ours.digest)
        (below_of if suffix else entries_of)(value, ours.digest)
    except StoreError:
        return []
    return [dict(entry) for entry in value.get("layers" if suffix else "manifests") or ()]


def _refused(name: str, why: str) -> StoreError:
    return StoreError(f"the archive is refused: {name} is not what its name says: {why}", hint="do not use this archive")
