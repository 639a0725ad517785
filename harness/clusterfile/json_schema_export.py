"""Export of the schema as a JSON schema of the documents of a Clusterfile, for editors: made of the tables that the parser reads.

A file of several documents is checked one document at a time, as YAML language servers do.
"""

from __future__ import annotations

import re
from typing import Any

from harness.clusterfile.schema import KINDS, DocumentKind

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """Draft 2020-12. Rules for more than one value (a duplicate address) are left to the parser."""
    return {
        "$schema": DRAFT,
        "title": "Clusterfile",
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"kind": {"enum": list(KINDS)}},
        "allOf": [
            {"if": {"properties": {"kind": {"const": name}}, "required": ["kind"]}, "then": {"$ref": f"#/$defs/{name}"}} for name in KINDS
        ],
        "$defs": {name: _document(name, kind) for name, kind in KINDS.items()},
    }


def _document(name: str, kind: DocumentKind) -> dict[str, Any]:
    if kind.spec is None:
        pattern = rf"^{re.escape(kind.group or '')}/v\d+((alpha|beta)\d+)?$"
        return {"description": kind.title, "type": "object", "properties": {"apiVersion": {"type": "string", "pattern": pattern}}}
    schema = kind.document.schema()
    return {**schema, "description": kind.title, "properties": {**schema["properties"], "kind": {"const": name}}}
