"""XML from outside: a tree for what is plain, an error for all that could grow or mislead."""

from __future__ import annotations

import pytest

from harness.errors import CheckError, StoreError
from harness.untrusted import XmlLimits, xml_document

BILLION = b'<!DOCTYPE a [<!ENTITY b "cccc"><!ENTITY d "&b;&b;&b;">]><a>&d;</a>'


def test_xml_document_has_names_attributes_children_and_text() -> None:
    root = xml_document(b'<?xml version="1.0"?><a x="1&amp;2">one<b/>two<c>\xc3\xa4</c></a>', what="report")
    assert (root.name, root.attributes, root.text) == ("a", {"x": "1&2"}, "onetwo")
    assert [(child.name, child.text) for child in root.children] == [("b", ""), ("c", "\u00e4")]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (BILLION, "it has a document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it has a document type"),
        (b"", "no element found"),
        (b"<a>", "no element found"),
        (b"<a></b>", "mismatched tag"),
        (b"<a/><a/>", "junk after document element"),
        (b"<a>\x00</a>", "not well-formed"),
        (b'<?xml version="1.0" encoding="ebcdic-\xff"?><a/>', "not well-formed|unknown encoding|encoding"),
        (b"<a>&nbsp;</a>", "undefined entity"),
        (b"<a>\xff</a>", "not well-formed"),
        (b"<a>" * 40 + b"</a>" * 40, "nested more than 32 levels"),
    ],
)
def test_xml_document_odd_text_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(StoreError, match=rf"^report: is not usable XML: .*({problem})"):
        xml_document(data, what="report")


def test_xml_document_over_limits_is_refused_with_given_error() -> None:
    with pytest.raises(CheckError, match="larger than 4 bytes"):
        xml_document(b"<abc/>", what="report", limits=XmlLimits(size=4), error=CheckError)
    with pytest.raises(CheckError, match="more than 2 elements"):
        xml_document(b"<a><b/><b/></a>", what="report", limits=XmlLimits(elements=2), error=CheckError)
