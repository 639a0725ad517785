"""Statements about an image (in-toto, v1) and their signed form, a DSSE envelope, attached as cosign attaches it.

``sha256-<hex>.att`` is an image with an envelope a layer; ``cosign verify-attestation --key`` reads it.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError
from harness.oci.attached import ENVELOPE
from harness.oci.model import Descriptor, canonical_json
from harness.oci.registry.referrers import ATTESTATIONS, LARGEST, ReferrerStore, merge, put_layers, tag_of
from harness.trust.keys import PrivateKey, PublicKey
from harness.trust.signature import SIGNATURE

STATEMENT = "https://in-toto.io/Statement/v1"
IN_TOTO = "application/vnd.in-toto+json"
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
    signature = base64.b64encode(key.sign(_authenticated(payload))).decode()
    return canonical_json(
        {"payloadType": IN_TOTO, "payload": base64.b64encode(payload).decode(), "signatures": [{"keyid": "", "sig": signature}]}
    )


def open_envelope(data: bytes, key: PublicKey) -> dict[str, Any] | None:
    """The statement in an envelope, when ``key`` signed it; None when it did not. Raises StoreError when it is not an envelope."""
    try:
        value = untrusted.json_object(data, what="envelope")
        payload = base64.b64decode(value["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in value["signatures"]]
        if value["payloadType"] != IN_TOTO:
            raise ValueError(f"it holds {value['payloadType']}")
        if not any(key.holds(signature, _authenticated(payload)) for signature in signatures):
            return None
        return untrusted.json_object(payload, what="payload")
    except (StoreError, ValueError, KeyError, TypeError) as wrong:
        raise StoreError(f"not a signed statement: {untrusted.shown(str(wrong))}") from wrong


def _authenticated(payload: bytes) -> bytes:
    kind = IN_TOTO.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def attach(attachments: ReferrerStore, digest: str, value: Mapping[str, Any], key: PrivateKey) -> Descriptor:
    """Sign a statement and put it beside the image, in place of the one of its kind that this key made before.

    Returns the descriptor of the image of all attestations. The same statement again changes nothing.
    """
    tag = tag_of(digest, ATTESTATIONS)
    kind = str(value["predicateType"])
    with attachments.changing():
        layers = merge(attachments.find(tag))
        mine = {layer: inside for layer in layers if (inside := _mine(attachments, layer, kind, key.public)) is not None}
        same = next((layer for layer, inside in mine.items() if inside == value), None)
        if same is None:
            blob = attachments.keep(envelope(value, key), ENVELOPE)
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
