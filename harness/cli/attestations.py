"""Statements that are attached to a CloudImage: results of tests, and whatever else has a predicate type of in-toto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from harness import log
from harness.cli.options import Image, Output, RegistryOptions, option
from harness.cli.output import say, short, table
from harness.cli.root import app
from harness.cli.signed_image import FoundImage, find, private_key
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.untrusted import json_object

if TYPE_CHECKING:
    from harness.cloudimage import CloudImage
    from harness.oci.statement import Statement
    from harness.oci.store import Store
    from harness.trust.attached_documents import AttachmentEntry
    from harness.trust.keys import PrivateKey

OptionalKey = Annotated[Path | None, option("--key", help="Sign it as a cosign attestation with this private key.", metavar="FILE")]


@app.command(short_help="Attach a statement to a CloudImage, as the results of its tests.")
def attest(
    *,
    name: Image,
    kind: Annotated[
        str,
        option("--type", help="Type of the predicate: test-result, sbom, provenance, or a URI.", metavar="TYPE"),
    ],
    predicate: Annotated[
        Path | None,
        option("--predicate", help="The predicate as JSON; or a whole statement, which must be about this very image.", metavar="FILE"),
    ] = None,
    parts: Annotated[
        list[str] | None,
        option(
            "--part", help="An image that this one was joined of, instead of a file: its test results; may be repeated.", metavar="IMAGE"
        ),
    ] = None,
    key: OptionalKey = None,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Attach a statement (in-toto) to a CloudImage, here or, when it is not in the local store, in its registry.

    It is kept as an OCI referrer, and with --key as a signed attestation too, which cosign verifies. `pytest --test-result FILE` writes
    results of tests.
    """
    from harness.trust import attached_documents as trust_attached_documents

    wanted = trust_attached_documents.type_of(kind)
    if bool(predicate) == bool(parts):
        raise UsageError("a statement is read from a file, or put together of those of other images", hint="give --predicate or --part")
    if parts and wanted != trust_attached_documents.NAMES["test-result"]:
        raise UsageError(f"--part with --type {kind}: only results of tests are joined", hint="give --predicate")
    document = _read(predicate, wanted) if predicate else None
    with find(name, to) as subject:
        pair = private_key(key) if key else None
        value = _of_parts(subject, parts or (), pair, to) if document is None else _predicate(document, subject, str(predicate))
        statement = _statement(subject, wanted, value)
        attach(subject, wanted, statement, None, pair)
    signed = pair.public.fingerprint if pair else None
    if output.printed({"name": subject.reference.familiar, "digest": subject.image.digest, "type": wanted, "key": signed}):
        return
    say(f"attached {trust_attached_documents.name_of(wanted)} to {subject.reference.familiar}  {subject.image.digest}")
    say(f"  signed by {key}" if key else "  not signed")


def attach(subject: FoundImage, predicate_type: str, document: Mapping[str, Any], media_type: str | None, pair: PrivateKey | None) -> None:
    """Attach a document as a referrer, and signed when there is a key. Without ``media_type`` it is a statement already."""
    from harness.oci.model import canonical_json
    from harness.oci.registry import referrers
    from harness.oci.statement import IN_TOTO
    from harness.trust import attestation

    kind = media_type or IN_TOTO
    referrers.referrer(subject.attachments, subject.image, kind, canonical_json(document), {referrers.PREDICATE: predicate_type})
    if pair:
        statement = document if kind == IN_TOTO else _statement(subject, predicate_type, document)
        attestation.attach(subject.attachments, subject.image.digest, statement, pair)


def _statement(subject: FoundImage, predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    from harness.trust import attestation

    return attestation.statement(subject.reference.repository, subject.image.digest, predicate_type, predicate)


def _read(path: Path, predicate_type: str) -> dict[str, Any] | Statement:
    """A predicate, or the statement around one. Raises UsageError, or InputError with all faults."""
    from harness.oci.statement import LARGEST_ENVELOPE, Statement
    from harness.trust import results

    try:
        text = path.read_bytes()
    except OSError as wrong:
        raise UsageError(f"--predicate {path}: {wrong.strerror}") from wrong
    value = json_object(text, what=f"--predicate {path}", limit=LARGEST_ENVELOPE, error=UsageError)
    document: dict[str, Any] | Statement = value
    predicate: Any = value
    if "_type" in value and "predicateType" in value:
        try:
            document = Statement.of(value, what=f"--predicate {path}")
        except StoreError as wrong:
            raise UsageError(wrong.message) from wrong
        predicate = document.predicate
        if document.predicate_type != predicate_type:
            raise UsageError(f"--predicate {path}: the statement is of type {document.predicate_type}, not {predicate_type}")
        if not isinstance(predicate, dict):
            raise UsageError(f"--predicate {path}: the statement has no predicate")
    faults = results.faults(predicate) if predicate_type == results.PREDICATE else []
    if faults:
        raise InputError([Fault(f"--predicate {path}", fault) for fault in faults])
    return document


def _predicate(document: dict[str, Any] | Statement, subject: FoundImage, path: str) -> dict[str, Any]:
    """The predicate. Raises StoreError for a statement about another image."""
    from harness.oci.statement import SubjectError

    if isinstance(document, dict):
        return document
    try:
        document.require(subject.image.digest)
    except SubjectError as wrong:
        about = ", ".join(sorted(document.subjects)) or "nothing"
        raise SubjectError(
            f"{path}: it is about {about}, and {subject.reference.familiar} is {subject.image.digest}",
            hint="the image has changed since; test this one",
        ) from wrong
    return dict(document.predicate)


def _of_parts(subject: FoundImage, parts: Sequence[str], pair: PrivateKey | None, to: RegistryOptions) -> dict[str, Any]:
    """The results of the images that an image was joined of. Raises StoreError with all that are missing."""
    from harness.trust import results
    from harness.trust.attached_documents import documents

    statements: list[tuple[str, Statement]] = []
    tested: set[str] = set()
    faults: list[str] = []
    for part in parts:
        with find(part, to) as piece:
            attached = documents(piece.attachments, piece.image.digest, [pair.public] if pair else [])
            statement = next(
                (one.statement for one in reversed(attached) if one.proves(results.IMAGE_SUITE, signed=pair is not None)), None
            )
            if statement is None:
                faults.append(f"{part} has no test results" + (" that are signed by this key" if pair else ""))
                continue
            statements.append((part, statement))
            tested |= {entry.digest for entry in piece.manifests()}
    if not faults:
        strange = [entry for entry in subject.manifests() if entry.digest not in tested]
        faults += [f"{entry.platform or entry.digest} of {subject.reference.familiar} is in none of the parts" for entry in strange]
    if faults:
        raise StoreError(f"{subject.reference.familiar} has not been tested: {'; '.join(dict.fromkeys(faults))}")
    return results.joined(statements)


# What is shown of them


def line(document: AttachmentEntry) -> str:
    """A document that was verified, in a line."""
    from harness.trust.attached_documents import name_of

    by = f"signed by {document.key.name} ({short(document.key.fingerprint)})" if document.key else ""
    by = by or ("signed by another key" if document.signed else "not signed")
    return f"{document.kind} {name_of(document.predicate_type)}, {by}" + (f": {document.result}" if document.result else "")


def of_stored(store: Store, image: CloudImage) -> tuple[AttachmentEntry, ...]:
    """Attachments of an image of the store; their signatures are not verified. Warns when the lists cannot be read."""
    if not any(image.digest.replace(":", "-") in name for name in store.names()):
        return ()
    from harness.oci.reference import Reference
    from harness.oci.registry.referrers import LocalReferrers
    from harness.trust.attached_documents import documents

    try:
        return documents(LocalReferrers(store, Reference.parse(image.name or "localhost/unnamed")), image.digest)
    except StoreError as wrong:
        log.warning(f"what is attached to the image cannot be read: {wrong.message}")
        return ()


def show(documents: Sequence[AttachmentEntry]) -> None:
    """Print a table of documents whose signatures were not verified; a refused one with the reason, and nothing that it says."""
    from harness.trust.attached_documents import name_of

    if not documents:
        return
    say("\nAttached, with signatures that `slipway verify --attestations` verifies:")
    rows = [
        (one.kind, name_of(one.predicate_type), one.signature, f"REFUSED: {one.refused.message}" if one.refused else one.result or "-")
        for one in documents
    ]
    table(("KIND", "TYPE", "SIGNED", "SAYS"), rows)
