"""Signing an image's digest, and telling whether one of some keys did: cosign's layout, so that each program verifies the other's.

The signed bytes are the "simple signing" payload (containers/image, docs/containers-signature.5.md), kept as a layer of the image
``sha256-<hex>.sig``; the signature over them is an annotation of that layer. The payload says when it was signed (``timestamp`` of that
specification), so that of two images the one that was signed earlier is known.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness import untrusted
from harness.errors import StoreError
from harness.oci.attached import PAYLOAD
from harness.oci.model import Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.registry.referrers import SIGNATURES, ReferrerStore, layers_of, merge, put_layers, tag_of

if TYPE_CHECKING:
    from harness.trust.keys import PrivateKey, PublicKey

SIGNATURE = "dev.cosignproject.cosign/signature"
TYPE = "cosign container image signature"
TIMESTAMP = "timestamp"
VERSION = "version"
"""The annotation that says which version of a product an image is, for policies that name a least one."""
_LARGEST_PAYLOAD = 1 << 20
_LAST = 253402300799
"""The end of the year 9999, in seconds since 1970."""


def when(seconds: int) -> str:
    """``2026-01-31 09:00:00 UTC`` for seconds since 1970."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


class RefusedError(StoreError):
    """An image that is not trusted: not signed, not by the right key, or not what was signed."""


@dataclasses.dataclass(frozen=True)
class SignatureClaim:
    """Payload of a signature: digest, identity given by the signer, annotations and time.

    ``signed_at`` is in seconds since 1970; None when the signature does not say it, as those of ``cosign sign`` by itself.
    """

    digest: str
    identity: str
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    signed_at: int | None = None

    def payload(self) -> bytes:
        """The bytes to be signed: the same claim always gives the same."""
        critical = {
            "identity": {"docker-reference": self.identity},
            "image": {"docker-manifest-digest": self.digest},
            "type": TYPE,
        }
        time_of_signing = {} if self.signed_at is None else {TIMESTAMP: self.signed_at}
        return canonical_json({"critical": critical, "optional": {**self.annotations, **time_of_signing} or None})

    @classmethod
    def parse(cls, payload: bytes) -> SignatureClaim:
        """Raises ValueError when it is not the payload of a container signature."""
        try:
            value = untrusted.json_object(payload, what="payload", limit=_LARGEST_PAYLOAD)
            critical, optional = value["critical"], value.get("optional") or {}
            if critical["type"] != TYPE:
                raise ValueError(f"it is of type {untrusted.shown(str(critical['type']))!r}")
            signed_at = _seconds(optional.get(TIMESTAMP))
            return cls(
                digest=str(critical["image"]["docker-manifest-digest"]),
                identity=str(critical["identity"]["docker-reference"]),
                annotations={str(key): str(text) for key, text in optional.items() if key != TIMESTAMP or signed_at is None},
                signed_at=signed_at,
            )
        except (StoreError, KeyError, TypeError, AttributeError) as wrong:
            raise ValueError("it is not a simple-signing payload") from wrong

    @property
    def place(self) -> str:
        """The repository that it names, in the form in which repositories are compared; empty when it names none."""
        try:
            return Reference.parse(self.identity).place
        except ValueError:
            return ""


def _seconds(value: object) -> int | None:
    """A time of signing: a number, or its digits, as ``cosign sign -a timestamp=$(date +%s)`` writes it."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    return int(text) if re.fullmatch(r"[0-9]{1,12}", text) and int(text) <= _LAST else None


@dataclasses.dataclass(frozen=True)
class Minimum:
    """Minimum that a policy requires: a version (``2.3.0``), or signed since a day (``2026-01-31``)."""

    text: str
    since: int | None = None

    @classmethod
    def parse(cls, text: str) -> Minimum:
        """Raises ValueError for what is neither."""
        if not re.match(r"\d{4}-\d\d-\d\d", text):
            from harness.kubefile import version_range  # here: most policies name no version, and kubefile is slow to load

            version_range.older(text, text)
            return cls(text)
        day = datetime.datetime.fromisoformat(text)
        return cls(text, int((day if day.tzinfo else day.replace(tzinfo=datetime.UTC)).timestamp()))

    def lacks(self, claim: SignatureClaim) -> str | None:
        """Why an image of which this was signed is not admitted; None when it is."""
        if self.since is not None:
            moment = f"at {when(claim.signed_at)}" if claim.signed_at is not None else "without a time"
            return None if claim.signed_at is not None and claim.signed_at >= self.since else f"{moment}, and it must be since {self.text}"
        version = claim.annotations.get(VERSION)
        if version is None:
            return f"without the annotation {VERSION}, and it must be {self.text} or newer"
        from harness.kubefile import version_range

        try:
            is_older = version_range.older(version, self.text)
        except ValueError as wrong:
            return f"as {VERSION}={_shown(version)}: {_shown(str(wrong))}"
        return f"as {VERSION}={_shown(version)}, and it must be {self.text} or newer" if is_older else None


@dataclasses.dataclass(frozen=True)
class Signed:
    """A signature that holds: whose it is and what it says."""

    key: PublicKey
    claim: SignatureClaim


def sign(
    attachments: ReferrerStore,
    digest: str,
    key: PrivateKey,
    annotations: Mapping[str, str] | None = None,
    *,
    at: int | None = None,
    again: bool = False,
) -> Descriptor:
    """Sign ``digest`` in the name of the repository; the descriptor of the image that holds all its signatures.

    ``at`` is when, in seconds since 1970; now when it is not given. An earlier signature of this key is replaced, unless it says the same
    but for the time: then nothing changes, or with ``again`` the time. Those of others stay.
    """
    claim = SignatureClaim(digest, attachments.repository, dict(annotations or {}), int(time.time()) if at is None else at)
    tag = tag_of(digest, SIGNATURES)
    with attachments.changing():
        layers = merge(attachments.find(tag))
        mine = [layer for layer in layers if _is_by(attachments, layer, key.public)]
        same = None if again else next((layer for layer in mine if _says_the_same(attachments.read(layer), claim)), None)
        if same is None:
            payload = claim.payload()
            blob = attachments.keep(payload, PAYLOAD)
            same = dataclasses.replace(blob, annotations={SIGNATURE: base64.b64encode(key.sign(payload)).decode()})
        return put_layers(attachments, tag, [*(layer for layer in layers if layer not in mine), same])


def _says_the_same(payload: bytes, claim: SignatureClaim) -> bool:
    try:
        earlier = SignatureClaim.parse(payload)
    except ValueError:
        return False
    return earlier.signed_at is not None and dataclasses.replace(earlier, signed_at=claim.signed_at) == claim


def _is_by(attachments: ReferrerStore, layer: Descriptor, key: PublicKey) -> bool:
    try:
        payload, signature = _payload(attachments, layer), _signature(layer)
    except (StoreError, ValueError):
        return False
    return key.holds(signature, payload)


@dataclasses.dataclass(frozen=True)
class Demand:
    """Requirements for a signature: by one of ``keys``, with ``annotations``, for a repository that ``identity`` admits.

    ``identity`` is asked with the place of the repository that was signed; ``identities`` says in messages which those are.
    """

    keys: Sequence[PublicKey]
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    identity: Callable[[str], bool] = lambda _: True
    identities: str = "any repository"
    minimum: Minimum | None = None


def check(attachments: ReferrerStore, digest: str, demand: Demand, *, name: str | None = None) -> tuple[Signed, ...]:
    """The signatures of ``digest`` that meet a demand: one at least.

    Raises RefusedError with the reason when there is none. The content of the image is not verified here: blob_check.py does that.
    """
    name = name or attachments.repository
    layers = _layers(attachments, digest, name)
    good: list[Signed] = []
    troubles: list[_Trouble] = []
    for layer in layers:
        try:
            good.append(_check_one(attachments, layer, digest, demand))
        except _TroubleError as refused:
            troubles.append(refused.trouble)
    if good:
        return tuple(good)
    raise _refusal(name, digest, demand.keys, troubles)


def _layers(attachments: ReferrerStore, digest: str, name: str) -> tuple[Descriptor, ...]:
    try:
        manifests = attachments.find(tag_of(digest, SIGNATURES))
        layers = tuple(layer for manifest in manifests for layer in layers_of(manifest))
    except RefusedError:
        raise
    except StoreError as broken:
        raise RefusedError(f"{name}: its signatures cannot be read: {broken.message}", hint=broken.hint) from broken
    if not layers:
        raise RefusedError(
            f"{name}: {digest} is not signed: there is no {tag_of(digest, SIGNATURES)} in {attachments.repository}",
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


def _check_one(attachments: ReferrerStore, layer: Descriptor, digest: str, demand: Demand) -> Signed:
    if layer.media_type != PAYLOAD:
        raise _TroubleError(0, f"a layer of type {untrusted.shown(layer.media_type)}, which is not a signature")
    try:
        payload = _payload(attachments, layer)
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
        claim = SignatureClaim.parse(payload)
    except ValueError as wrong:
        raise _TroubleError(2, f"{by.name} signed something that is not an image: {wrong}") from wrong
    if claim.digest != digest:
        raise _TroubleError(4, f"{by.name} signed another digest: {_shown(claim.digest)}, as {_shown(claim.identity)}")
    if not demand.identity(claim.place):
        raise _TroubleError(5, f"{by.name} signed it as {_shown(claim.identity)}, and what counts here is {demand.identities}")
    missing = {key: text for key, text in demand.annotations.items() if claim.annotations.get(key) != text}
    if missing:
        wanted = ", ".join(f"{key}={text}" for key, text in missing.items())
        present = _shown(", ".join(f"{key}={text}" for key, text in claim.annotations.items())) or "none"
        raise _TroubleError(6, f"{by.name} signed it without the annotation {wanted} (there: {present})")
    reason = demand.minimum.lacks(claim) if demand.minimum else None
    if reason:
        raise _TroubleError(7, f"{by.name} signed it {reason}")
    return Signed(by, claim)


def _says(payload: bytes) -> str:
    try:
        claim = SignatureClaim.parse(payload)
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


def _payload(attachments: ReferrerStore, layer: Descriptor) -> bytes:
    if layer.size > _LARGEST_PAYLOAD:
        raise StoreError(f"{layer.digest} has {layer.size} bytes; no payload of a signature is so large")
    return attachments.read(layer)


def _signature(layer: Descriptor) -> bytes:
    """Raises ValueError when none can be read."""
    text = layer.annotations.get(SIGNATURE)
    if text is None:
        raise ValueError(f"it has no annotation {SIGNATURE}")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as wrong:
        raise ValueError("it is not base64") from wrong
