"""Signatures, statements and documents that are attached to an image, as a page shows them.

Nothing is believed: a document is JSON or plain text, or it is left out; a statement about another digest is left out; a signature
counts when one of the given keys made it.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.attached import ENVELOPE, PAYLOAD
from harness.oci.model import Descriptor, canonical_json
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import ATTESTATIONS, PREDICATE, SIGNATURES, ReferrerStore, layers_of, merge, tag_of
from harness.oci.statement import IN_TOTO, LARGEST_ENVELOPE, Envelope
from harness.trust import results, sbom, signature
from harness.trust.attestation import PREDICATE_TYPE, signer
from harness.trust.keys import PublicKey
from harness.trust.results import IMAGE_SUITE, UnpassedTest, suite_of
from harness.trust.signature import Demand, RefusedError, SignatureClaim

LARGEST = 64 << 20
"""Bytes of a document that is written beside the pages; larger ones are named only."""
TITLE = "org.opencontainers.image.title"

VERIFIED, UNVERIFIED, REFUSED, NONE = "verified", "not verified", "refused", "none"
"""States of signature: by a given key, signed while no key was given, by none of the given keys, not signed."""

_MEANINGS = {
    "cyclonedx": "Bill of materials (CycloneDX)",
    "spdx": "Bill of materials (SPDX)",
    "slsa.dev/provenance": "Provenance (SLSA)",
    "/test-result/": "Test result",
    "/vuln": "Vulnerabilities",
}
"""By a part of a predicate type or media type."""
_LARGEST_PAYLOAD = 1 << 20
_MOST_FACTS = 12
_LONGEST_SUITE = 80


@dataclasses.dataclass(frozen=True)
class SignatureNote:
    """A signature. ``key`` is the name of the key that it was verified with, empty when it was not; then the rest is a claim only."""

    identity: str
    signed_at: str = ""
    annotations: tuple[tuple[str, str], ...] = ()
    key: str = ""
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class AttachedDocument:
    """A document about an image. ``data`` is canonical JSON or plain text; None for one that is too large or neither."""

    kind: str
    """Predicate type (in-toto) or media type."""
    title: str
    data: bytes | None
    ending: str
    """Of its file: ``cdx.json``, ``json``, ``txt``."""
    signed: bool = False
    key: str = ""
    """Name of the key that its signature was verified with."""
    result: str = ""
    """``PASSED``, ``WARNED``, ``FAILED`` and the like, of a result of tests."""
    suite: str = ""
    """Of a result of tests, when it is not that of the image's own tests."""
    facts: tuple[tuple[str, str], ...] = ()
    reports: tuple[tuple[str, str], ...] = ()
    """Names and digests of the reports of a run of tests."""
    unpassed: tuple[UnpassedTest, ...] = ()
    """Of a result of tests: those that failed or were skipped."""

    @property
    def meaning(self) -> str:
        """The kind in a few words, where it is known."""
        meanings = (one for part, one in _MEANINGS.items() if part in self.kind)
        meaning = next(meanings, self.kind)
        return f"{meaning}: {self.suite}" if self.suite else meaning

    @property
    def is_sbom(self) -> bool:
        return self.kind in (sbom.PREDICATE, sbom.MEDIA_TYPE) or "cyclonedx" in self.kind or "spdx" in self.kind


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All that is attached to an image. ``faults`` says what was left out."""

    state: str = NONE
    reason: str = ""
    """Why the signatures do not count, when the state is REFUSED."""
    signatures: tuple[SignatureNote, ...] = ()
    documents: tuple[AttachedDocument, ...] = ()
    faults: tuple[str, ...] = ()


def collect(attachments: ReferrerStore, digest: str, demands: Sequence[Demand], name: str) -> Evidence:
    """Read what is attached to the image ``digest``. Raises RemoteError when its registry does not answer."""
    faults: list[str] = []
    state, reason, signatures = _signatures(attachments, digest, demands, name, faults)
    documents = [*_attestations(attachments, digest, demands, faults), *_referrers(attachments, digest, faults)]
    return Evidence(state, reason, signatures, tuple(_unique(documents)), tuple(dict.fromkeys(faults)))


# Signatures


def _signatures(
    attachments: ReferrerStore, digest: str, demands: Sequence[Demand], name: str, faults: list[str]
) -> tuple[str, str, tuple[SignatureNote, ...]]:
    claims = list(_claims(attachments, digest, faults))
    if not claims:
        return NONE, "", ()
    try:
        held = [signed for demand in demands for signed in signature.check(attachments, digest, demand, name=name)]
    except RefusedError as refused:
        return REFUSED, refused.message.removeprefix(f"{name}: "), tuple(_note(claim) for claim in claims)
    if not held:
        return UNVERIFIED, "", tuple(dict.fromkeys(_note(claim) for claim in claims))
    notes = [dataclasses.replace(_note(one.claim), key=_name_of(one.key), fingerprint=one.key.fingerprint) for one in held]
    return VERIFIED, "", tuple(dict.fromkeys(notes))


def _claims(attachments: ReferrerStore, digest: str, faults: list[str]) -> Iterator[SignatureClaim]:
    for layer in _layers(attachments, tag_of(digest, SIGNATURES), faults):
        if layer.media_type != PAYLOAD or layer.size > _LARGEST_PAYLOAD:
            faults.append("something that is not a signature is stored as one")
            continue
        try:
            claim = SignatureClaim.parse(attachments.read(layer))
        except RemoteError:
            raise
        except (StoreError, ValueError) as wrong:
            faults.append(f"a signature cannot be read: {wrong}")
            continue
        if claim.digest == digest:
            yield claim
        else:
            faults.append("a signature of another digest is stored as one of this image")


def _note(claim: SignatureClaim) -> SignatureNote:
    signed_at = "" if claim.signed_at is None else signature.when(claim.signed_at)
    return SignatureNote(claim.identity, signed_at, tuple(sorted(claim.annotations.items())))


def _name_of(key: PublicKey) -> str:
    """The name of a key without the folders of this machine."""
    return key.name.rpartition("/")[2]


def _layers(attachments: ReferrerStore, tag: str, faults: list[str]) -> tuple[Descriptor, ...]:
    try:
        return merge(attachments.find(tag))
    except RemoteError:
        raise
    except StoreError as wrong:
        faults.append(wrong.message)
        return ()


# Attestations and referrers


def _attestations(attachments: ReferrerStore, digest: str, demands: Sequence[Demand], faults: list[str]) -> Iterator[AttachedDocument]:
    """Statements in signed envelopes."""
    keys = [key for demand in demands for key in demand.keys]
    for layer in _layers(attachments, tag_of(digest, ATTESTATIONS), faults):
        kind = layer.annotations.get(PREDICATE_TYPE, "attestation")
        if layer.media_type != ENVELOPE or layer.size > LARGEST_ENVELOPE:
            faults.append(f"an attestation ({kind}) of {layer.size} bytes is left out")
            continue
        try:
            envelope = Envelope.parse(attachments.read(layer))
            statement = untrusted.json_object(envelope.payload, what="statement", limit=LARGEST)
            by = signer(envelope, keys)
        except RemoteError:
            raise
        except StoreError as wrong:
            faults.append(f"an attestation ({kind}) cannot be read: {wrong.message}")
            continue
        if not _is_about(statement, digest):
            faults.append(f"an attestation ({kind}) is about another digest")
            continue
        yield dataclasses.replace(_of_statement(statement), signed=True, key=_name_of(by) if by else "")


def _is_about(statement: Mapping[str, Any], digest: str) -> bool:
    algorithm, _, digits = digest.partition(":")
    subjects = statement.get("subject")
    digests = [one.get("digest") for one in subjects if isinstance(one, dict)] if isinstance(subjects, list) else []
    return any(isinstance(named, dict) and named.get(algorithm) == digits for named in digests)


def _of_statement(statement: Mapping[str, Any]) -> AttachedDocument:
    predicate = statement.get("predicate")
    content = predicate if isinstance(predicate, dict) else {}
    document = AttachedDocument(str(statement.get("predicateType") or IN_TOTO), "", canonical_json(statement), "json")
    if document.is_sbom:
        # As a document by itself, which programs for bills of materials read.
        return dataclasses.replace(document, data=canonical_json(content), ending="cdx.json" if "cyclonedx" in document.kind else "json")
    suite = suite_of(content)[:_LONGEST_SUITE]
    return dataclasses.replace(
        document,
        result=_result(content),
        suite="" if suite == IMAGE_SUITE else suite,
        facts=tuple(_facts(content)),
        reports=results.reports_of(content),
        unpassed=results.unpassed_of(content),
    )


def _referrers(attachments: ReferrerStore, digest: str, faults: list[str]) -> Iterator[AttachedDocument]:
    try:
        entries = attachments.referrers(digest)
    except RemoteError:
        raise
    except StoreError as wrong:
        faults.append(wrong.message)
        return
    for entry in entries:
        try:
            manifest = attachments.manifest(entry)
            subject = untrusted.json_object(manifest, what="referrer").get("subject")
            if not isinstance(subject, dict) or subject.get("digest") != digest:
                raise StoreError("it is about another digest")
            predicate = entry.annotations.get(PREDICATE, "")
            for layer in layers_of(manifest):
                yield _document(attachments, layer, predicate, digest)
        except RemoteError:
            raise
        except StoreError as wrong:
            faults.append(f"a document ({entry.artifact_type or entry.media_type}) is left out: {wrong.message}")


def _document(attachments: ReferrerStore, layer: Descriptor, predicate: str, digest: str) -> AttachedDocument:
    """A layer of a referrer. Raises StoreError for a statement about another image."""
    title = layer.annotations.get(TITLE, "")
    kind = predicate or layer.media_type
    if layer.size > LARGEST:
        return AttachedDocument(kind, title, None, "")
    data = attachments.read(layer)
    if "json" not in layer.media_type:
        return AttachedDocument(kind, title, data if is_plain_text(data) else None, "txt")
    value = untrusted.json_document(data, what=layer.media_type, limit=LARGEST, structural=False)
    if layer.media_type == IN_TOTO and isinstance(value, dict):
        if not _is_about(value, digest):
            raise StoreError("it is about another digest")
        return dataclasses.replace(_of_statement(value), title=title)
    return AttachedDocument(kind, title, canonical_json(value), "cdx.json" if "cyclonedx" in layer.media_type else "json")


def is_plain_text(data: bytes) -> bool:
    """Return True for UTF-8 without a zero byte."""
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _result(predicate: Mapping[str, Any]) -> str:
    """The result of tests (in-toto's predicate test-result), in capitals; empty for other predicates."""
    value = predicate.get("result")
    return value.upper()[:40] if isinstance(value, str) else ""


def _facts(predicate: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Plain values of a predicate and of its only run of tests, and the lengths of lists in them."""
    shown = 0
    for name, value in sorted({**results.run_facts(predicate), **predicate}.items()):
        text = str(len(value)) if isinstance(value, list) else str(value) if isinstance(value, str | int | float) else ""
        if text and name != "result" and shown < _MOST_FACTS:
            shown += 1
            yield name, text


def _unique(documents: Iterable[AttachedDocument]) -> Iterator[AttachedDocument]:
    """Each document once; of a signed and a plain copy the signed one, by their kinds."""
    best: dict[tuple[str, str], AttachedDocument] = {}
    for document in documents:
        content = f"{document.kind} {document.title}" if document.data is None else hashlib.sha256(document.data).hexdigest()
        key = (document.ending, content)
        former = best.get(key)
        if former is None or (document.signed, bool(document.key)) > (former.signed, bool(former.key)):
            best[key] = dataclasses.replace(document, title=document.title or (former.title if former else ""))
    yield from sorted(best.values(), key=lambda one: (one.kind, one.title, one.data or b"", one.key))
