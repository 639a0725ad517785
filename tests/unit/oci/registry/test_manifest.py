"""Manifests and indexes, told from other JSON."""

from __future__ import annotations

import json

import pytest

from harness.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, digest_of
from harness.oci.registry.manifest import check_digest, check_manifest

DESCRIPTOR = {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 7}

MANIFEST = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}

INDEX = {"schemaVersion": 2, "manifests": [DESCRIPTOR]}


@pytest.mark.parametrize(
    ("value", "header", "media_type"),
    [
        (MANIFEST, OCI_MANIFEST, OCI_MANIFEST),
        (MANIFEST, DOCKER_MANIFEST, DOCKER_MANIFEST),
        (MANIFEST, f"{DOCKER_MANIFEST}; charset=utf-8", DOCKER_MANIFEST),
        (MANIFEST, "application/json", OCI_MANIFEST),
        ({**MANIFEST, "mediaType": DOCKER_MANIFEST}, "text/plain", DOCKER_MANIFEST),
        ({**MANIFEST, "layers": []}, "", OCI_MANIFEST),
        (INDEX, DOCKER_INDEX, DOCKER_INDEX),
        (INDEX, "", OCI_INDEX),
        ({**INDEX, "mediaType": DOCKER_INDEX}, "", DOCKER_INDEX),
    ],
)
def test_check_manifest_gives_media_type_of_document_or_header(value: object, header: str, media_type: str) -> None:
    assert check_manifest(json.dumps(value).encode(), header) == media_type


@pytest.mark.parametrize(
    ("data", "header", "reason"),
    [
        (b"<html>\nno\x07pe</html>", "text/html", r"is not usable JSON: .*: <html> no\\x07pe</html>"),
        (b"\xff\xfe", OCI_MANIFEST, "not usable JSON"),
        (b"[]", OCI_MANIFEST, "is not a JSON object"),
        (b"{}", OCI_MANIFEST, "neither manifest nor index"),
        (b'{"schemaVersion": 1, "fsLayers": []}', OCI_MANIFEST, "schema 1"),
        (json.dumps(INDEX).encode(), OCI_MANIFEST, "neither"),
        (json.dumps({**MANIFEST, "layers": [{"digest": 7, "size": 1}]}).encode(), OCI_MANIFEST, "neither"),
        (json.dumps({**MANIFEST, "layers": [{**DESCRIPTOR, "digest": "../../etc/passwd"}]}).encode(), OCI_MANIFEST, "neither"),
        (json.dumps({**INDEX, "manifests": [{**DESCRIPTOR, "platform": "linux"}]}).encode(), OCI_INDEX, "neither"),
        (json.dumps({**INDEX, "manifests": ["x"]}).encode(), OCI_INDEX, "neither"),
    ],
)
def test_check_manifest_invalid_document_raises_value_error(data: bytes, header: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_manifest(data, header)


def test_check_digest_compares_with_what_was_asked_and_what_is_said() -> None:
    good, other = digest_of(b"data"), digest_of(b"other")
    check_digest(b"data", None, None)
    check_digest(b"data", good, good)
    check_digest(b"data", good, "md5:1")
    with pytest.raises(ValueError, match=f"with digest {good} instead of {other}"):
        check_digest(b"data", other, good)
    with pytest.raises(ValueError, match=f"with digest {good} and calls it {other}"):
        check_digest(b"data", None, other)
