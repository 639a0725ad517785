"""Descriptors as far as they can be used."""

from __future__ import annotations

from typing import Any

import pytest

from harness.cloudimage.conformance.documents import parsed, pointer, pointers
from harness.oci.model import digest_of

GOOD = {"mediaType": "a", "digest": digest_of(b"a"), "size": 1}


def test_pointer_to_valid_descriptor_has_no_fault() -> None:
    found = pointer("x", GOOD)
    assert found.descriptor is not None
    assert (found.descriptor.digest, found.shape_fault, found.digest_fault) == (digest_of(b"a"), None, None)


@pytest.mark.parametrize("digest", ["", "x", "sha256:12", f"sha256:{'A' * 64}", f"sha512:{'0' * 128}", "../" * 30])
def test_pointer_with_invalid_digest_has_digest_fault(digest: str) -> None:
    found = pointer("x", {**GOOD, "digest": digest})
    assert (found.descriptor, found.shape_fault) == (None, None)
    assert "not a sha256 digest" in (found.digest_fault or "")


@pytest.mark.parametrize(
    "value", [None, [], "a", 1, {}, {**GOOD, "size": "1"}, {**GOOD, "size": True}, {**GOOD, "digest": 1}, {**GOOD, "annotations": {"a": 1}}]
)
def test_pointer_of_malformed_descriptor_has_shape_fault(value: Any) -> None:
    found = pointer("x", value)
    assert (found.descriptor, found.digest_fault) == (None, None)
    assert found.shape_fault is not None


def test_pointers_accept_only_list_and_number_its_items() -> None:
    assert pointers("x", {}) is None
    assert [each.where for each in pointers("x", [GOOD, None]) or ()] == ["x[0]", "x[1]"]


def test_parsed_document_other_than_object_has_problem() -> None:
    assert parsed("index", b'{"a":1}').get("a") == 1
    assert "not a JSON object" in (parsed("index", b"[]").problem or "")
    assert parsed("index", b"[]").get("a") is None
