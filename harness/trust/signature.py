"""Signing an image's digest, and telling whether one of some keys did: cosign's layout, so that each program verifies the other's.

The signed bytes are the "simple signing" payload (containers/image, docs/containers-signature.5.md), kept as a layer of the image
``sha256-<hex>.sig``; the signature over them is an annotation of that layer.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness import untrusted
from harness.errors import StoreError
from harness.oci.attached import PAYLOAD
from harness.oci.model import Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.trust.attachments import SIGNATURES, Shelf, layers_of, merge, put_layers, tag_of
from harness.trust.keys import PrivateKey, PublicKey

SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
_LARGEST_PAYLOAD = 1 << 20


class RefusedError(StoreError):
    """An image that is not trusted: not signed, not by the right key, or not what was signed."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a signature says: this digest, called so by the signer, with these annotations."""

    digest: str
    identity: str
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def payload(self) -> bytes:
        """The bytes to be signed: the same claim always gives the same."""
        critical = {
            "identity": {"docker-reference": self.identity},
            "image": {"docker-manifest-digest": self.digest},
            "type": TYPE,
        }
        return canonical_json({"critical": critical, "optional": dict(self.annotations) or None})

    @classmethod
    def parse(cls, payload: bytes) -> Claim:
        """Raises ValueError when it is no payload of a container signature."""
        try:
            value = untrusted.json_object(payload, what="payload", limit=_LARGEST_PAYLOAD)
            critical, optional = value["critical"], value.get("optional") or {}
            if critical["type"] != TYPE:
                raise ValueError(f"it is of type {untrusted.shown(str(critical['type']))!r}")
            return cls(
                digest=str(critical["image"]["docker-manifest-digest"]),
                identity=str(critical["identity"]["docker-reference"]),
                annotations={str(key): str(text) for key, text in optional.items()},
            )
        except (StoreError, KeyError, TypeError, AttributeError) as wrong:
            raise ValueError("it is no simple-signing payload") from wrong

    @property
    def place(self) -> str:
        """The repository that it names, in the form in which repositories are compared; empty when it names none."""
        try:
            return Reference.parse(self.identity).place
        except ValueError:
            return ""


@dataclasses.dataclass(frozen=True)
class Signed:
    """A signature that holds: whose it is and what it says."""

    key: PublicKey
    claim: Claim


def sign(shelf: Shelf, digest: str, key: PrivateKey, annotations: Mapping[str, str] | None = None) -> Descriptor:
    """Sign ``digest`` in the name of the shelf's repository; the descriptor of the image that holds all its signatures.

    An earlier signature of this key is replaced, unless it says the same: then nothing changes. Those of others stay.
    """
    claim = Claim(digest, shelf.repository, dict(annotations or {}))
    payload = claim.payload()
    tag = tag_of(digest, SIGNATURES)
    with shelf.changing():
        layers = merge(shelf.find(tag))
        mine = [layer for layer in layers if _is_by(shelf, layer, key.public)]
        same = next((layer for layer in mine if shelf.read(layer) == payload), None)
        if same is None:
            blob = shelf.keep(payload, PAYLOAD)
            same = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(payload)).decode()})
        return put_layers(shelf, tag, [*(layer for layer in layers if layer not in mine), same])


def _is_by(shelf: Shelf, layer: Descriptor, key: PublicKey) -> bool:
    try:
        payload, signature = _payload(shelf, layer), _signature(layer)
    except (StoreError, ValueError):
        return False
    return key.holds(signature, payload)


@dataclasses.dataclass(frozen=True)
class Demand:
    """What a signature must be like to count: by one of ``keys``, with ``annotations``, for a repository that ``identity`` admits.

    ``identity`` is asked with the place of the repository that was signed; ``identities`` says in messages which those are.
    """

    keys: Sequence[PublicKey]
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    identity: Callable[[str], bool] = lambda _: True
    identities: str = "any repository"


def check(shelf: Shelf, digest: str, demand: Demand, *, name: str | None = None) -> tuple[Signed, ...]:
    """The signatures of ``digest`` that meet a demand: one at least.

    Raises RefusedError that says why there is none. What the image consists of is not looked at: graph.py does.
    """
    name = name or shelf.repository
    layers = _layers(shelf, digest, name)
    good: list[Signed] = []
    troubles: list[_Trouble] = []
    for layer in layers:
        try:
            good.append(_check_one(shelf, layer, digest, demand))
        except _TroubleError as refused:
            troubles.append(refused.trouble)
    if good:
        return tuple(good)
    raise _refusal(name, digest, demand.keys, troubles)


def _layers(shelf: Shelf, digest: str, name: str) -> tuple[Descriptor, ...]:
    try:
        found = shelf.find(tag_of(digest, SIGNATURES))
        layers = tuple(layer for manifest in found for layer in layers_of(manifest))
    except RefusedError:
        raise
    except StoreError as broken:
        raise RefusedError(f"{name}: its signatures cannot be read: {broken.message}", hint=broken.hint) from broken
    if not layers:
        raise RefusedError(
            f"{name}: {digest} is not signed: there is no {tag_of(digest, SIGNATURES)} in {shelf.repository}",
            hint="`slipway sign` signs it; slipway pull, push, save and load and cosign copy take signatures along, other tools may not",
        )
    return layers


@dataclasses.dataclass(frozen=True)
class _Trouble:
    """Why one signature does not count. The higher ``weight``, the nearer it was to holding."""

    weight: int
    reason: str


class _TroubleError(Exception):
    def __init__(self, weight: int, reason: str) -> None:
        super().__init__(reason)
        self.trouble = _Trouble(weight, reason)


def _check_one(shelf: Shelf, layer: Descriptor, digest: str, demand: Demand) -> Signed:
    if layer.media_type != PAYLOAD:
        raise _TroubleError(0, f"a layer of type {untrusted.shown(layer.media_type)}, which is no signature")
    try:
        payload = _payload(shelf, layer)
    except StoreError as broken:
        raise _TroubleError(3, f"the signed payload cannot be read: {broken.message}") from broken
    try:
        signature = _signature(layer)
    except ValueError as wrong:
        raise _TroubleError(3, f"the signature over {layer.digest} is damaged: {wrong}") from wrong
    by = next((key for key in demand.keys if key.holds(signature, payload)), None)
    if by is None:
        raise _TroubleError(1, f"a signature by an unknown key, or changed since{_says(payload)}")
    try:
        claim = Claim.parse(payload)
    except ValueError as wrong:
        raise _TroubleError(2, f"{by.name} signed something that is no image: {wrong}") from wrong
    if claim.digest != digest:
        raise _TroubleError(4, f"{by.name} signed another digest: {_shown(claim.digest)}, as {_shown(claim.identity)}")
    if not demand.identity(claim.place):
        raise _TroubleError(5, f"{by.name} signed it as {_shown(claim.identity)}, and what counts here is {demand.identities}")
    missing = {key: text for key, text in demand.annotations.items() if claim.annotations.get(key) != text}
    if missing:
        wanted = ", ".join(f"{key}={text}" for key, text in missing.items())
        there = _shown(", ".join(f"{key}={text}" for key, text in claim.annotations.items())) or "none"
        raise _TroubleError(6, f"{by.name} signed it without the annotation {wanted} (there: {there})")
    return Signed(by, claim)


def _says(payload: bytes) -> str:
    try:
        claim = Claim.parse(payload)
    except ValueError:
        return ""
    return f" (it names {_shown(claim.digest)}, as {_shown(claim.identity)})"


def _shown(text: str) -> str:
    return untrusted.shown(text)[:300]


def _refusal(name: str, digest: str, keys: Iterable[PublicKey], troubles: Sequence[_Trouble]) -> RefusedError:
    worst = max(troubles, key=lambda trouble: trouble.weight)
    if worst.weight == 1:
        count = sum(trouble.weight == 1 for trouble in troubles)
        what = "1 signature, which is" if count == 1 else f"{count} signatures, which are"
        reason = f"it has {what} not by any of the keys {', '.join(key.name for key in keys)}"
    else:
        reason = worst.reason
    details = "\n".join(dict.fromkeys(trouble.reason for trouble in troubles)) if len(troubles) > 1 or worst.weight == 1 else None
    return RefusedError(f"{name}: {digest} is refused: {reason}", hint="do not use it before you know why", details=details)


def _payload(shelf: Shelf, layer: Descriptor) -> bytes:
    if layer.size > _LARGEST_PAYLOAD:
        raise StoreError(f"{layer.digest} has {layer.size} bytes; no payload of a signature is so large")
    return shelf.read(layer)


def _signature(layer: Descriptor) -> bytes:
    """Raises ValueError when there is none that can be read."""
    text = layer.annotations.get(SIGNATURE)
    if text is None:
        raise ValueError(f"it has no annotation {SIGNATURE}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as wrong:
        raise ValueError("it is not base64") from wrong
