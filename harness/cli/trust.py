"""Whom to trust: keys, signatures, and what an image says about what is in it and how it was made."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from harness import log
from harness.cli.options import FORMER_FILE, Image, Json, RegistryOptions, target
from harness.cli.output import local_store, pairs, print_json, say, short, wants_json
from harness.cli.program import Group, Program
from harness.cli.registry import connect, reference
from harness.cli.root import app
from harness.errors import StoreError, UsageError
from harness.untrusted import json_object

if TYPE_CHECKING:
    from harness.oci.model import Descriptor
    from harness.oci.reference import Reference
    from harness.oci.registry.client import Client
    from harness.oci.registry.referrers import ReferrerStore
    from harness.oci.store import Store
    from harness.trust.keys import PrivateKey
    from harness.trust.signature import Demand, Signed

keys_app = Program(cls=Group, help="Keys that sign CloudImages, in cosign's formats.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")

PASSWORDS = ("SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD")
"""Environment variables that may hold the password of a key, in this order; else it is asked for."""

SigningKey = Annotated[
    Path,
    typer.Option("--key", help=f"The private key; its password is asked for, or in {PASSWORDS[0]}.", metavar="FILE", show_default=False),
]
OptionalKey = Annotated[
    Path | None, typer.Option("--key", help="Sign it as a cosign attestation with this private key.", metavar="FILE", show_default=False)
]
Annotations = Annotated[
    list[str] | None,
    typer.Option("--annotation", "-a", help="An annotation that is part of the signature.", metavar="NAME=VALUE", show_default=False),
]
Attach = Annotated[bool, typer.Option("--attach", help="Attach it to the image as an OCI referrer; push sends it as well.")]
File = Annotated[Path | None, target("Write to this file instead of standard output."), FORMER_FILE]


@keys_app.command("create", short_help="Create a key pair.")
def keys_create(
    prefix: Annotated[Path, target("The beginning of both file names.  [default: slipway]", "PREFIX"), FORMER_FILE] = Path("slipway"),
    force: Annotated[bool, typer.Option("--force", help="Replace an existing pair.")] = False,
    output: Json = "text",
) -> None:
    """Create a key pair: PREFIX.key, encrypted, for signing, and PREFIX.pub for verification."""
    from harness.trust import keys

    as_json = wants_json(output)
    private, public = keys.create(prefix, _new_password(prefix), force=force)
    fingerprint = keys.read_public(public).fingerprint
    if as_json:
        print_json({"private": str(private), "public": str(public), "fingerprint": fingerprint})
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
    output: Json = "text",
) -> None:
    """Sign a CloudImage with a key, here or, when it is not in the local store, in its registry. cosign verifies it too."""
    from harness.trust import signature

    as_json = wants_json(output)
    annotations = pairs(annotation or [], "--annotation")
    if signature.TIMESTAMP in annotations:
        raise UsageError(f"--annotation {signature.TIMESTAMP}: a signature says by itself when it was made", hint="leave it out")
    with _find(name, to) as found:
        # Asked for when it is known that there is something to sign.
        pair = _private(key)
        signature.sign(found.attachments, found.image.digest, pair, annotations, again=again)
    if as_json:
        print_json(
            {"name": found.reference.familiar, "digest": found.image.digest, "key": pair.public.fingerprint, "annotations": annotations}
        )
        return
    say(f"signed {found.reference.familiar}  {found.image.digest}")
    say(f"  by {key}" + (f", in {found.reference.domain}" if found.client else "; `slipway push` takes the signature along"))


@app.command(short_help="Verify the signature and every byte of a CloudImage.")
def verify(
    *,
    name: Image,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key", help="A public key; one of them must have signed.  [default: those of the policy]", metavar="FILE", show_default=False
        ),
    ] = None,
    annotation: Annotations = None,
    remote: Annotated[bool, typer.Option("--remote", help="Verify the image in its registry, even if the store has it.")] = False,
    to: RegistryOptions,
    output: Json = "text",
) -> None:
    """Verify that a CloudImage is signed by one of the keys and that no byte of it has changed: every blob is hashed."""
    from harness.trust import blob_check, signature

    as_json = wants_json(output)
    wanted = pairs(annotation or [], "--annotation")
    with _find(name, to, remote=remote) as found:
        demands = _demands(key or [], found.reference)
        asked = [dataclasses.replace(demand, annotations={**demand.annotations, **wanted}) for demand in demands]
        checked = [signature.check(found.attachments, found.image.digest, one, name=found.reference.familiar) for one in asked]
        signed = list(dict.fromkeys(one for each in checked for one in each))
        if found.client:
            whole = blob_check.check_remote(found.client, found.reference, found.image)
        else:
            whole = blob_check.check_stored(found.store, found.reference.familiar, found.image)
    if as_json:
        print_json(
            {
                "name": found.reference.familiar,
                "digest": whole.digest,
                "remote": found.client is not None,
                "blobs": whole.blobs,
                "bytes": whole.bytes,
                "absent": [str(platform) for platform in whole.absent],
                "signatures": [_signed_json(one) for one in signed],
            }
        )
        return
    say(f"verified {found.reference.familiar}  {whole.digest}" + (", in its registry" if found.client else ""))
    for one in signed:
        notes = "".join(f", {label}={text}" for label, text in one.claim.annotations.items())
        at = "" if one.claim.signed_at is None else f" at {signature.when(one.claim.signed_at)}"
        say(f"  signed by {one.key.name} ({short(one.key.fingerprint)}) as {one.claim.identity}{at}{notes}")
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
    from harness.trust import sbom as bills

    _publish(name, lambda image, store, called: bills.make(store, image, called), bills.MEDIA_TYPE, bills.PREDICATE, file, attach, key)


@app.command(short_help="Write the provenance of a CloudImage.")
def provenance(name: Image, file: File = None, attach: Attach = False, key: OptionalKey = None) -> None:
    """Write the provenance of a CloudImage, as recorded in it (in-toto statement, SLSA provenance 1)."""
    from harness.trust import attestation
    from harness.trust import provenance as records

    _publish(name, lambda image, _, called: records.make(image, called), attestation.IN_TOTO, records.PREDICATE, file, attach, key)


def _publish(name: str, make: Any, media_type: str, predicate: str, file: Path | None, attach: bool, key: Path | None) -> None:
    """Make a document, write it, attach it, sign it: what was asked for."""
    from harness import cloudimage
    from harness.oci.model import canonical_json
    from harness.oci.registry import referrers
    from harness.trust import attestation

    if key and not attach:
        raise UsageError("--key signs what is attached", hint="add --attach")
    with _stored(local_store(), name) as found, found.store.shared_lease():
        pair = _private(key) if key else None
        image = cloudimage.read(found.store, found.image.digest)
        if attach and image.absent:
            missing = ", ".join(str(platform) for platform in image.absent)
            raise StoreError(
                f"{found.reference.familiar} is here without {missing}: a document of a part must not be attached", hint="pull it whole"
            )
        document: dict[str, Any] = make(image, found.store, found.reference)
        if attach:
            referrers.referrer(found.attachments, found.image, media_type, canonical_json(document), {referrers.PREDICATE: predicate})
            if pair:
                is_statement = media_type == attestation.IN_TOTO
                statement = (
                    document if is_statement else attestation.statement(found.reference.repository, found.image.digest, predicate, document)
                )
                attestation.attach(found.attachments, found.image.digest, statement, pair)
    if file and str(file) != "-":
        file.write_text(json.dumps(document, indent=2) + "\n")
        log.info(f"wrote {file}")
    elif attach:
        say(f"attached to {found.reference.familiar}  {found.image.digest}" + (f"\n  signed by {key}" if key else ""))
    else:
        print_json(document)


# What is signed, and where


class _Found:
    """An image in the store or in a registry, and where its attachments are. A ``with`` block ends the connection."""

    def __init__(self, store: Store, there: Reference, image: Descriptor, attachments: ReferrerStore, client: Client | None = None) -> None:
        self.store = store
        self.reference = there
        self.image = image
        self.attachments = attachments
        self.client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.client:
            self.client.close()


def _find(name: str, to: RegistryOptions, *, remote: bool = False) -> _Found:
    """The image here; in its registry when it is wanted from there, or is not here and the name tells a registry."""
    store = local_store()
    if not remote and (_is_here(store, name) or not _names_a_registry(name)):
        return _stored(store, name)
    return _in_registry(store, reference(name, "NAME"), to)


def _is_here(store: Store, name: str) -> bool:
    """Return True when the store has such an image, whole or damaged: a damaged one must not be passed over for a good one elsewhere."""
    store.names()
    try:
        store.resolve(name)
    except StoreError:
        return False
    return True


def _names_a_registry(name: str) -> bool:
    from harness.oci.reference import DEFAULT_DOMAIN, Reference

    try:
        return Reference.parse(name).domain != DEFAULT_DOMAIN or name.startswith(f"{DEFAULT_DOMAIN}/")
    except ValueError:
        return False


def _stored(store: Store, name: str) -> _Found:
    from harness.cloudimage.reader import is_cloudimage
    from harness.oci.graph import attached_to
    from harness.oci.reference import Reference
    from harness.oci.registry.referrers import LocalReferrers

    image = store.resolve(name)
    names = store.names()
    having = [known for known, descriptor in names.items() if descriptor.digest == image.digest]
    try:
        given = Reference.parse(name).familiar
    except ValueError:
        given = ""
    familiar = given if given in names else next((known for known in having if attached_to(known) is None), None)
    if familiar is None:
        raise StoreError(f"{name} has no name here, so there is no repository for its signatures", hint="give it one with `slipway tag`")
    if not is_cloudimage(store.json(image.digest)):
        raise StoreError(f"{familiar} is an image, but not a CloudImage")
    here = Reference.parse(familiar)
    return _Found(store, here, image, LocalReferrers(store, here))


def _in_registry(store: Store, there: Reference, to: RegistryOptions) -> _Found:
    from harness.cloudimage.reader import is_cloudimage
    from harness.oci.model import Descriptor
    from harness.oci.registry.referrers import RemoteReferrers

    client: Client = connect(to)
    try:
        manifest = client.manifest(there)
        if not is_cloudimage(json_object(manifest.data, what=there.familiar)):
            raise StoreError(f"{there.familiar} is an image, but not a CloudImage")
    except BaseException:
        client.close()
        raise
    image = Descriptor(manifest.media_type, manifest.digest, len(manifest.data))
    return _Found(store, there, image, RemoteReferrers(client, there), client)


# Keys and passwords


def _demands(paths: list[Path], image: Reference) -> tuple[Demand, ...]:
    """The demands on the signatures: one of these keys, or what each policy wants when no key is given."""
    from harness.trust import policy
    from harness.trust.keys import read_public
    from harness.trust.signature import Demand

    if paths:
        return (Demand([read_public(path) for path in paths]),)
    demands = policy.gate().demands(image)
    if not demands:
        raise UsageError(
            f"no key to verify {image.familiar} with", hint="--key FILE.pub; or a policy that names the keys of its repository"
        )
    return demands


def _private(path: Path) -> PrivateKey:
    from harness.trust.keys import read_private

    return read_private(path, _password)


def _password(name: str) -> str:
    given = _given_password()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError(f"{name} needs its password and there is no terminal to ask for it", hint=f"set {PASSWORDS[0]}")
    return str(typer.prompt(f"Password of {name}", hide_input=True, default="", show_default=False, err=True))


def _new_password(prefix: Path) -> str:
    given = _given_password()
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise UsageError("a new key needs a password and there is no terminal to ask for it", hint=f"set {PASSWORDS[0]}; empty for none")
    return str(
        typer.prompt(f"Password for {prefix}.key", hide_input=True, confirmation_prompt=True, default="", show_default=False, err=True)
    )


def _given_password() -> str | None:
    return next((os.environ[name] for name in PASSWORDS if name in os.environ), None)
