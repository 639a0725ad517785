"""Package URLs: the names that scanners know a package or an image by (the purl specification).

``packageurl-python`` does not write them: it leaves ``/`` in a version as it is, and raises TypeError for a name of blanks or slashes,
which a record of an image may have. The unit tests read them with it.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping

from harness.oci.reference import Reference


def purl(kind: str, namespace: str, name: str, version: str, qualifiers: Mapping[str, str] | None = None) -> str:
    """``pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64``: every part encoded, empty qualifiers left out, the rest sorted."""
    parts = [part for part in (*namespace.split("/"), name) if part]
    text = f"pkg:{kind}/" + "/".join(_encoded(part) for part in parts)
    if version:
        text += f"@{_encoded(version)}"
    pairs = sorted((key, value) for key, value in (qualifiers or {}).items() if value)
    return text + ("?" + "&".join(f"{key}={_encoded(value, ':/')}" for key, value in pairs) if pairs else "")


def image_purl(name: str, digest: str) -> str:
    """The purl of an image: its name is the last part of the repository, its version the digest."""
    reference = Reference.parse(name)
    short = reference.path.rpartition("/")[2]
    return purl("oci", "", short, digest, {"repository_url": reference.repository, "tag": reference.tag or ""})


def _encoded(text: str, safe: str = ":") -> str:
    return urllib.parse.quote(text, safe=safe)
