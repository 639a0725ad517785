"""Documents that are attached to an image: attestations (signed statements) and OCI referrers, with their type, subject and signer.

A document whose subject is another image is listed as refused, with the reason, and nothing that it says counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from harness import untrusted
from harness.errors import StoreError, UsageError
from harness.oci.attached import ENVELOPE, require_subject_of
from harness.oci.model import Descriptor
from harness.oci.registry.manifest import MANIFEST_LIMIT
from harness.oci.registry.referrers import ATTESTATIONS, PREDICATE, ReferrerStore, layers_of, merge, tag_of
from harness.oci.statement import IN_TOTO, LARGEST_ENVELOPE, Envelope, Statement
from harness.trust import results

if TYPE_CHECKING:
    from harness.trust.keys import PublicKey

NAMES = {
    "test-result": results.PREDICATE,
    "sbom": "https://cyclonedx.org/bom",
    "provenance": "https://slsa.dev/provenance/v1",
}
"""Short names of predicate types; another is named by its URI."""
ATTESTATION, REFERRER = "attestation", "referrer"


def type_of(name: str) -> str:
    """The predicate type for a short name or a URI. Raises UsageError for what is neither."""
    if name in NAMES:
        return NAMES[name]
    if not name.startswith(("https://", "http://")) or name != untrusted.shown(name) or " " in name:
        raise UsageError(f"--type {name}: not a type of predicates", hint=f"{', '.join(NAMES)}, or the URI of a type")
    return name


def name_of(predicate_type: str) -> str:
    """The short name of a type, or the type."""
    return next((name for name, kind in NAMES.items() if kind == predicate_type), predicate_type)


@dataclasses.dataclass(frozen=True)
class AttachmentEntry:
    """A document. Its ``predicate_type`` and its ``statement`` are of its author, who is known only with ``key``."""

    kind: str
    predicate_type: str
    digest: str
    size: int
    statement: Statement | None = None
    """The statement in it; None for a document of another format, and for a refused one."""
    signed: bool = False
    key: PublicKey | None = None
    """The key that signed it, of those that were asked for."""
    refused: StoreError | None = None

    @property
    def result(self) -> str | None:
        """For results of tests, what they say in a line."""
        if self.statement is None or self.predicate_type != results.PREDICATE:
            return None
        return results.told(self.statement.predicate)

    @property
    def signature(self) -> str:
        """Its signer: ``release.pub``, ``not verified`` for a signature that was not checked or is by another key, ``no`` without one."""
        return self.key.name if self.key else "not verified" if self.signed else "no"

    def proves(self, suite: str, *, signed: bool) -> bool:
        """Return True for results of the tests of a suite; with ``signed`` only for those that a key signed."""
        if self.statement is None or self.predicate_type != results.PREDICATE or (signed and self.key is None):
            return False
        return results.suite_of(self.statement.predicate) == suite

    def to_json(self) -> dict[str, Any]:
        return {
            "type": self.predicate_type,
            "name": name_of(self.predicate_type),
            "kind": self.kind,
            "digest": self.digest,
            "size": self.size,
            "signed": self.signed,
            "key": self.key.fingerprint if self.key else None,
            "result": self.result,
            "refused": self.refused.message if self.refused else None,
        }


def documents(attachments: ReferrerStore, digest: str, keys: Sequence[PublicKey] = ()) -> tuple[AttachmentEntry, ...]:
    """Attachments of the image with ``digest``, attestations first. ``keys`` are those whose signatures are verified.

    Raises StoreError when the lists themselves cannot be read.
    """
    layers = merge(attachments.find(tag_of(digest, ATTESTATIONS)))
    attestations = (_attestation(attachments, layer, digest, keys) for layer in layers if layer.media_type == ENVELOPE)
    return (*attestations, *(_referrer(attachments, entry, digest) for entry in attachments.referrers(digest)))


def _attestation(attachments: ReferrerStore, layer: Descriptor, digest: str, keys: Sequence[PublicKey]) -> AttachmentEntry:
    claimed = str(layer.annotations.get("predicateType") or "?")
    document = AttachmentEntry(ATTESTATION, claimed, layer.digest, layer.size, signed=True)
    try:
        if layer.size > LARGEST_ENVELOPE:
            raise StoreError(f"it has {layer.size} bytes; more than {LARGEST_ENVELOPE} are refused")
        envelope = Envelope.parse(attachments.read(layer))
        statement = envelope.statement()
        statement.require(digest)
    except StoreError as wrong:
        return dataclasses.replace(document, refused=wrong)
    return dataclasses.replace(document, predicate_type=statement.predicate_type, statement=statement, key=_signer(envelope, keys))


def _signer(envelope: Envelope, keys: Sequence[PublicKey]) -> PublicKey | None:
    if not keys:
        return None
    from harness.trust.attestation import signer  # here: its cryptography is slow to load, and `inspect` does without

    return signer(envelope, keys)


def _referrer(attachments: ReferrerStore, entry: Descriptor, digest: str) -> AttachmentEntry:
    document = AttachmentEntry(REFERRER, str(entry.annotations.get(PREDICATE) or "?"), entry.digest, entry.size)
    try:
        data = attachments.manifest(entry)
        manifest = untrusted.json_object(data, what=f"referrer {entry.digest}", limit=MANIFEST_LIMIT)
        require_subject_of(manifest, digest)
        kind = str(manifest.get("artifactType") or "?")
        (layer, *_) = (layers_of(data) if "layers" in manifest else ()) or (entry,)
        document = dataclasses.replace(document, digest=layer.digest, size=layer.size)
        if kind != IN_TOTO or layer is entry or layer.size > LARGEST_ENVELOPE:
            return document if document.predicate_type != "?" else dataclasses.replace(document, predicate_type=kind)
        statement = Statement.parse(attachments.read(layer), what=f"referrer {entry.digest}")
        statement.require(digest)
    except StoreError as wrong:
        return dataclasses.replace(document, refused=wrong)
    return dataclasses.replace(document, predicate_type=statement.predicate_type, statement=statement)


def check(name: str, entries: Iterable[AttachmentEntry], types: Sequence[str] = ()) -> tuple[AttachmentEntry, ...]:
    """The documents, when none is refused and each of ``types`` is signed by a key; of results of tests, when they have passed.

    Without ``types`` one at least must be signed. Raises RefusedError with every reason.
    """
    from harness.trust.signature import RefusedError  # here: its cryptography is slow to load, and `inspect` does without

    entries = tuple(entries)
    reasons = [f"{one.kind} {one.digest}: {one.refused.message}" for one in entries if one.refused]
    signed = [one for one in entries if one.key and not one.refused]
    for kind in types:
        of_kind = [one for one in signed if one.predicate_type == kind]
        if not of_kind:
            reasons.append(f"no attestation of type {name_of(kind)} is signed by any of the keys")
        elif kind == results.PREDICATE:
            reasons += [
                f"the tests did not pass: {one.result}" for one in of_kind if one.statement and not results.passed(one.statement.predicate)
            ]
    if not types and not signed:
        reasons.append("no attestation is signed by any of the keys")
    if reasons:
        more = "\n".join(reasons) if len(reasons) > 1 else None
        raise RefusedError(f"{name} is refused: {reasons[0]}", hint="do not use it before you know why", details=more)
    return entries
