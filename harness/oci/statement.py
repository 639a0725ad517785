"""Statements about an image (in-toto) in their envelopes (DSSE), read without a key: what they are about, not whether they are true.

An attestation is stored under the digest of an image, and only the statement in it says which image it is about. So it is read wherever one
comes from elsewhere or is shown, and refused when that is another image.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import untrusted
from harness.errors import StoreError

STATEMENT = "https://in-toto.io/Statement/v1"
IN_TOTO = "application/vnd.in-toto+json"
LARGEST_ENVELOPE = 64 << 20
"""Bytes of an envelope. An SBOM of a very large image has some tens of millions."""


class SubjectError(StoreError):
    """A statement that is about another image than the one it is attached to."""


@dataclasses.dataclass(frozen=True)
class Statement:
    """A statement: the digests that it is about, and its predicate. Every text in it is the author's."""

    predicate_type: str
    subjects: frozenset[str]
    predicate: Any

    @classmethod
    def parse(cls, data: bytes | str, *, what: str = "statement") -> Statement:
        """Raises StoreError for what is not an in-toto Statement of any version."""
        return cls.of(untrusted.json_object(data, what=what, limit=LARGEST_ENVELOPE), what=what)

    @classmethod
    def of(cls, value: Mapping[str, Any], *, what: str = "statement") -> Statement:
        """As ``parse``, of JSON that was read already."""
        try:
            if not str(value["_type"]).startswith("https://in-toto.io/Statement/"):
                raise ValueError(f"it is of type {str(value['_type'])[:80]!r}")
            digests = [pair for one in value["subject"] for pair in (one.get("digest") or {}).items()]
            subjects = frozenset(f"{algorithm}:{digits}" for algorithm, digits in digests)
            return cls(str(value["predicateType"]), subjects, value.get("predicate"))
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:
            why = f"it has no {wrong}" if isinstance(wrong, KeyError) else str(wrong)
            raise StoreError(untrusted.shown(f"{what} is not a statement of in-toto: {why}")) from wrong

    def require(self, digest: str) -> None:
        """Raises SubjectError when this is not about the image with ``digest``."""
        if digest not in self.subjects:
            others = ", ".join(sorted(self.subjects)[:3]) or "nothing"
            raise SubjectError(
                untrusted.shown(f"an attestation of type {self.predicate_type} is about {others}, not about {digest}"),
                hint="it was moved here from another image; do not rely on it",
            )


@dataclasses.dataclass(frozen=True)
class Envelope:
    """An envelope: the signed bytes, and its signatures, not verified."""

    payload: bytes
    signatures: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> Envelope:
        """Raises StoreError for what is not an envelope of a statement."""
        try:
            value = untrusted.json_object(data, what="envelope", limit=LARGEST_ENVELOPE)
            payload = base64.b64decode(value["payload"], validate=True)
            signatures = tuple(base64.b64decode(one["sig"], validate=True) for one in value["signatures"])
            if value["payloadType"] != IN_TOTO:
                raise ValueError(f"it holds {value['payloadType']}")
            return cls(payload, signatures)
        except (StoreError, ValueError, KeyError, TypeError) as wrong:
            raise StoreError(f"not a signed statement: {untrusted.shown(str(wrong))}") from wrong

    @property
    def authenticated(self) -> bytes:
        """The bytes that the signatures are over: the pre-authentication encoding of DSSE, version 1."""
        return authenticated(self.payload)

    def statement(self) -> Statement:
        """Raises StoreError when the payload is not a statement."""
        return Statement.parse(self.payload, what="payload")


def authenticated(payload: bytes) -> bytes:
    """The pre-authentication encoding (DSSE, version 1) of a statement."""
    kind = IN_TOTO.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def require_subject(envelope: bytes, digest: str) -> Statement:
    """The statement in an envelope. Raises StoreError when there is none, SubjectError when it is not about the image with ``digest``."""
    statement = Envelope.parse(envelope).statement()
    statement.require(digest)
    return statement
