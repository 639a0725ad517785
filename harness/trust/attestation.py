"""Statements about an image (in-toto, v1) and their signed form, a DSSE envelope, attached as cosign attaches it.

``sha256-<hex>.att`` is an image with an envelope a layer; ``cosign verify-attestation --key`` reads it.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.attached import ENVELOPE
from harness.oci.model import Descriptor, canonical_json
from harness.oci.registry.referrers import ATTESTATIONS, LARGEST, ReferrerStore, merge, put_layers, tag_of
from harness.oci.statement import IN_TOTO, LARGEST_ENVELOPE, STATEMENT, Envelope, authenticated
from harness.trust.keys import PrivateKey, PublicKey
from harness.trust.results import suite_of
from harness.trust.signature import SIGNATURE

PREDICATE_TYPE = "predicateType"
"""The annotation of a layer that says which predicate its envelope holds, as cosign writes it."""


def statement(repository: str, digest: str, predicate_type: str, predicate: Mapping[str, Any]) -> dict[str, Any]:
    """An in-toto Statement, version 1, about the image with ``digest``."""
    algorithm, _, digits = digest.partition(":")
    return {
        "_type": STATEMENT,
        "subject": [{"name": repository, "digest": {algorithm: digits}}],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def envelope(value: Mapping[str, Any], key: PrivateKey) -> bytes:
    """A statement in a DSSE envelope, signed. The signature is over the pre-authentication encoding of DSSE, version 1."""
    payload = canonical_json(value)
    signature = base64.b64encode(key.sign(authenticated(payload))).decode()
    return canonical_json(
        {"payloadType": IN_TOTO, "payload": base64.b64encode(payload).decode(), "signatures": [{"keyid": "", "sig": signature}]}
    )


def open_envelope(data: bytes, key: PublicKey) -> dict[str, Any] | None:
    """The statement in an envelope, when ``key`` signed it; None when it did not. Raises StoreError when it is not an envelope."""
    parsed = Envelope.parse(data)
    if signer(parsed, [key]) is None:
        return None
    try:
        return untrusted.json_object(parsed.payload, what="payload", limit=LARGEST_ENVELOPE)
    except StoreError as wrong:
        raise StoreError(f"not a signed statement: {untrusted.shown(str(wrong))}") from wrong


def signer(envelope: Envelope, keys: Iterable[PublicKey]) -> PublicKey | None:
    """The first of ``keys`` that signed an envelope; None when none did."""
    return next((key for key in keys if any(key.holds(one, envelope.authenticated) for one in envelope.signatures)), None)


def attach(attachments: ReferrerStore, digest: str, value: Mapping[str, Any], key: PrivateKey) -> Descriptor:
    """Sign a statement and put it beside the image, in place of the one of its kind that this key made before.

    Of results of tests, those of another suite are another kind. Returns the descriptor of the image of all attestations. The same
    statement again changes nothing. Raises StoreError for a statement that is too large to be read again.
    """
    tag = tag_of(digest, ATTESTATIONS)
    kind = str(value["predicateType"])
    with attachments.changing():
        layers = merge(attachments.find(tag))
        signed = {layer: inside for layer in layers if (inside := _mine(attachments, layer, kind, key.public)) is not None}
        mine = {layer: inside for layer, inside in signed.items() if suite_of(inside.get("predicate")) == suite_of(value.get("predicate"))}
        same = next((layer for layer, inside in mine.items() if inside == value), None)
        if same is None:
            data = envelope(value, key)
            if len(data) > LARGEST_ENVELOPE:
                raise StoreError(f"the statement of type {kind} has {len(data)} bytes; more than {LARGEST_ENVELOPE} are refused")
            blob = attachments.keep(data, ENVELOPE)
            same = dataclasses.replace(blob, annotations={SIGNATURE: "", PREDICATE_TYPE: kind})
        return put_layers(attachments, tag, [*(layer for layer in layers if layer not in mine), same])


def _mine(attachments: ReferrerStore, layer: Descriptor, kind: str, key: PublicKey) -> dict[str, Any] | None:
    """The statement in a layer when it is of this kind and by this key."""
    if layer.media_type != ENVELOPE or layer.annotations.get(PREDICATE_TYPE) != kind or layer.size > LARGEST:
        return None
    try:
        return open_envelope(attachments.read(layer), key)
    except StoreError:
        return None
