"""Statements and their envelopes, as any registry may serve them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.model import digest_of
from harness.oci.statement import IN_TOTO, Envelope, Statement, SubjectError, authenticated, require_subject

IMAGE, OTHER = digest_of(b"image"), digest_of(b"other")


def statement(*digests: str, **changes: Any) -> dict[str, Any]:
    subjects = [{"name": "web", "digest": {"sha256": digest.removeprefix("sha256:")}} for digest in digests]
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": "https://example.com/p",
        "predicate": {"a": 1},
    }
    return {**value, **changes}


def envelope(value: Any, **changes: Any) -> bytes:
    """An envelope that nobody signed."""
    payload = base64.b64encode(json.dumps(value).encode()).decode()
    return json.dumps({"payloadType": IN_TOTO, "payload": payload, "signatures": [{"sig": ""}], **changes}).encode()


def test_statement_has_its_subjects_and_its_predicate() -> None:
    found = require_subject(envelope(statement(OTHER, IMAGE)), IMAGE)
    assert found.subjects == {IMAGE, OTHER}
    assert (found.predicate_type, found.predicate) == ("https://example.com/p", {"a": 1})


def test_statement_of_the_version_before_is_read() -> None:
    assert require_subject(envelope(statement(IMAGE, _type="https://in-toto.io/Statement/v0.1")), IMAGE).subjects == {IMAGE}


def test_statement_about_another_image_is_refused() -> None:
    with pytest.raises(SubjectError, match=f"is about {OTHER}, not about {IMAGE}"):
        require_subject(envelope(statement(OTHER)), IMAGE)
    with pytest.raises(SubjectError, match="is about nothing"):
        require_subject(envelope(statement()), IMAGE)


def test_require_subject_refusal_escapes_control_characters() -> None:
    with pytest.raises(SubjectError) as refused:
        require_subject(envelope(statement(OTHER, predicateType="\x1b[2J")), IMAGE)
    assert "\x1b" not in refused.value.message


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        statement(IMAGE, _type="https://example.com/other"),
        statement(IMAGE, subject="x"),
        statement(IMAGE, subject=[7]),
        statement(IMAGE, subject=[{"digest": ["sha256"]}]),
        {key: text for key, text in statement(IMAGE).items() if key != "predicateType"},
    ],
)
def test_statement_parse_malformed_value_raises_store_error(value: Any) -> None:
    with pytest.raises(StoreError):
        Statement.parse(json.dumps(value))


@pytest.mark.parametrize(
    "data", [b"x", b"[]", b"{}", envelope({}, payload="%%"), envelope({}, payloadType="text/plain"), envelope({}, signatures=[{}])]
)
def test_envelope_parse_malformed_data_raises_store_error(data: bytes) -> None:
    with pytest.raises(StoreError, match="not a signed statement"):
        Envelope.parse(data)


def test_authenticated_payload_has_dsse_encoding() -> None:
    # The example of the specification has this shape: lengths in decimal digits.
    assert authenticated(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"
