"""Whom to trust: keys, signatures, and what an image says about what is in it and how it was made."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import attestations
from harness.cli.attestations import OptionalKey
from harness.cli.options import FORMER_FILE, Image, Output, RegistryOptions, option, target
from harness.cli.output import local_store, pairs, print_json, say, short
from harness.cli.program import Group, Program
from harness.cli.root import app
from harness.cli.signed_image import PASSWORDS, demands_of, find, given_password, private_key, stored
from harness.errors import StoreError, UsageError

if TYPE_CHECKING:
    from harness.trust.signature import Signed

keys_app = Program(cls=Group, help="Keys that sign CloudImages, in cosign's formats.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

SigningKey = Annotated[
    Path,
    option("--key", help=f"The private key; its password is asked for, or in {PASSWORDS[0]}.", metavar="FILE"),
]
Annotations = Annotated[
    list[str] | None,
    option("--annotation", "-a", help="An annotation that is part of the signature.", metavar="NAME=VALUE"),
]
Attach = Annotated[bool, typer.Option("--attach", help="Attach it to the image as an OCI referrer; push sends it as well.")]
File = Annotated[Path | None, target("Write to this file instead of standard output."), FORMER_FILE]


@keys_app.command("create", short_help="Create a key pair.")
def keys_create(
    *,
    prefix: Annotated[Path, target("The beginning of both file names.  [default: slipway]", "PREFIX"), FORMER_FILE] = Path("slipway"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing pair.")] = False,
    output: Output,
) -> None:
    """Create a key pair: PREFIX.key, encrypted, for signing, and PREFIX.pub for verification."""
    from harness.trust import keys

    private, public = keys.create(prefix, _new_password(prefix), force=force)
    fingerprint = keys.read_public(public).fingerprint
    if output.printed({"private": str(private), "public": str(public), "fingerprint": fingerprint}):
        return
    say(f"{private}  keep it secret\n{public}  give it to those who verify\n{fingerprint}")


@app.command(short_help="Sign a CloudImage with a key.")
def sign(
    *,
    name: Image,
    key: SigningKey,
    annotation: Annotations = None,
    again: Annotated[bool, typer.Option("--again", help="Sign again with the current time, even if this key has signed it.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Sign a CloudImage with a key, here or, when it is not in the local store, in its registry. cosign verifies it too."""
    from harness.trust import signature

    annotations = pairs(annotation or [], "--annotation")
    if signature.TIMESTAMP in annotations:
        raise UsageError(f"--annotation {signature.TIMESTAMP}: a signature says by itself when it was made", hint="leave it out")
    with find(name, to) as subject:
        # Asked for when it is known that there is something to sign.
        pair = private_key(key)
        signature.sign(subject.attachments, subject.image.digest, pair, annotations, again=again)
    if output.printed(
        {"name": subject.reference.familiar, "digest": subject.image.digest, "key": pair.public.fingerprint, "annotations": annotations}
    ):
        return
    say(f"signed {subject.reference.familiar}  {subject.image.digest}")
    say(f"  by {key}" + (f", in {subject.reference.domain}" if subject.client else "; `slipway push` takes the signature along"))


@app.command(short_help="Verify the signature and every byte of a CloudImage.")
def verify(
    *,
    name: Image,
    key: Annotated[
        list[Path] | None,
        option("--key", help="A public key; one of them must have signed.  [default: those of the policy]", metavar="FILE"),
    ] = None,
    annotation: Annotations = None,
    attested: Annotated[
        bool, typer.Option("--attestations", help="Verify its attestations too; one at least must be signed by one of the keys.")
    ] = False,
    kinds: Annotated[
        list[str] | None,
        option(
            "--type",
            help="An attestation that must be signed by one of the keys, as test-result (which must have passed); may be repeated.",
            metavar="TYPE",
        ),
    ] = None,
    remote: Annotated[bool, typer.Option("--remote", help="Verify the image in its registry, even if the store has it.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Verify that a CloudImage is signed by one of the keys and that no byte of it has changed: every blob is hashed.

    With --attestations or --type, an attestation that is about another image is refused as well.
    """
    from harness.trust import attached_documents as trust_attached_documents
    from harness.trust import blob_check, signature

    wanted = pairs(annotation or [], "--annotation")
    types = [trust_attached_documents.type_of(kind) for kind in kinds or ()]
    attached: tuple[trust_attached_documents.AttachmentEntry, ...] = ()
    with find(name, to, remote=remote) as subject:
        demands = demands_of(key or [], subject.reference)
        asked = [dataclasses.replace(demand, annotations={**demand.annotations, **wanted}) for demand in demands]
        checked = [signature.check(subject.attachments, subject.image.digest, one, name=subject.reference.familiar) for one in asked]
        signed = list(dict.fromkeys(one for each in checked for one in each))
        if attested or types:
            keys = list(dict.fromkeys(one for demand in demands for one in demand.keys))
            attached = trust_attached_documents.check(
                subject.reference.familiar, trust_attached_documents.documents(subject.attachments, subject.image.digest, keys), types
            )
        if subject.client:
            whole = blob_check.check_remote(subject.client, subject.reference, subject.image)
        else:
            whole = blob_check.check_stored(subject.store, subject.reference.familiar, subject.image)
    if output.printed(
        {
            "name": subject.reference.familiar,
            "digest": whole.digest,
            "remote": subject.client is not None,
            "blobs": whole.blobs,
            "bytes": whole.bytes,
            "absent": [str(platform) for platform in whole.absent],
            "signatures": [_signed_json(one) for one in signed],
            **({"attached": [one.to_json() for one in attached]} if attested or types else {}),
        }
    ):
        return
    say(f"verified {subject.reference.familiar}  {whole.digest}" + (", in its registry" if subject.client else ""))
    for one in signed:
        notes = "".join(f", {label}={text}" for label, text in one.claim.annotations.items())
        at = "" if one.claim.signed_at is None else f" at {signature.when(one.claim.signed_at)}"
        say(f"  signed by {one.key.name} ({short(one.key.fingerprint)}) as {one.claim.identity}{at}{notes}")
    for document in attached:
        say(f"  {attestations.line(document)}")
    say(f"  {whole.blobs} blobs with {log.size(whole.bytes)} are what their digests say")
    for platform in whole.absent:
        say(f"  not looked at: {platform}, which was not fetched")


def _signed_json(one: Signed) -> dict[str, Any]:
    return {
        "key": one.key.name,
        "fingerprint": one.key.fingerprint,
        "identity": one.claim.identity,
        "annotations": dict(one.claim.annotations),
        "signedAt": one.claim.signed_at,
    }


@app.command(short_help="Write the bill of materials of a CloudImage.")
def sbom(name: Image, file: File = None, attach: Attach = False, key: OptionalKey = None) -> None:
    """Write the bill of materials of a CloudImage (CycloneDX 1.6): its files, packages, Go modules and embedded images."""
    from harness.trust import sbom as trust_sbom

    _publish(
        name,
        lambda image, store, called: trust_sbom.make(store, image, called),
        trust_sbom.MEDIA_TYPE,
        trust_sbom.PREDICATE,
        file,
        attach,
        key,
    )


@app.command(short_help="Write the provenance of a CloudImage.")
def provenance(name: Image, file: File = None, attach: Attach = False, key: OptionalKey = None) -> None:
    """Write the provenance of a CloudImage, as recorded in it (in-toto statement, SLSA provenance 1)."""
    from harness.oci.statement import IN_TOTO
    from harness.trust import provenance as trust_provenance

    _publish(name, lambda image, _, called: trust_provenance.make(image, called), IN_TOTO, trust_provenance.PREDICATE, file, attach, key)


def _publish(name: str, make: Any, media_type: str, predicate: str, file: Path | None, attach: bool, key: Path | None) -> None:
    """Make a document, write it, attach it, sign it: what was asked for."""
    from harness import cloudimage

    if key and not attach:
        raise UsageError("--key signs what is attached", hint="add --attach")
    with stored(local_store(), name) as subject, subject.store.shared_lease():
        pair = private_key(key) if key else None
        image = cloudimage.read(subject.store, subject.image.digest)
        if attach and image.absent:
            missing = ", ".join(str(platform) for platform in image.absent)
            raise StoreError(
                f"{subject.reference.familiar} is here without {missing}: a document of a part must not be attached", hint="pull it whole"
            )
        document: dict[str, Any] = make(image, subject.store, subject.reference)
        # Before it is attached: a wrong path changes nothing.
        if file and str(file) != "-":
            _write(file, document)
        if attach:
            attestations.attach(subject, predicate, document, media_type, pair)
    printed = str(file) == "-" if file else not attach
    if printed:
        print_json(document)
    if attach:
        attached = f"attached to {subject.reference.familiar}  {subject.image.digest}" + (f"\n  signed by {key}" if key else "")
        (log.info if printed else say)(attached)


def _write(file: Path, document: dict[str, Any]) -> None:
    """Raises UsageError when the file cannot be written."""
    try:
        file.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"--to {file}: {error.strerror or error}", hint="name a file that can be written") from error
    log.info(f"wrote {file}")


def _new_password(prefix: Path) -> str:
    password = given_password()
    if password is not None:
        return password
    if not sys.stdin.isatty():
        raise UsageError("a new key needs a password and there is no terminal to ask for it", hint=f"set {PASSWORDS[0]}; empty for none")
    return str(
        typer.prompt(f"Password for {prefix}.key", hide_input=True, confirmation_prompt=True, default="", show_default=False, err=True)
    )
