"""Requests of a client to a registry."""

from __future__ import annotations

import pytest

from harness.build.registry_requests import accepted, byte_range, reference_of, status_phrase
from harness.oci.model import OCI_INDEX, OCI_MANIFEST
from harness.oci.registry.manifest import ACCEPT


@pytest.mark.parametrize(
    ("name", "target", "namespace", "expected"),
    [
        ("library/nginx", "1.25", "docker.io", "docker.io/library/nginx:1.25"),
        ("nginx", "1.25", "docker.io", "docker.io/library/nginx:1.25"),
        ("library/nginx", "1.25", "", "docker.io/library/nginx:1.25"),
        ("library/nginx", "1.25", "registry-1.docker.io", "docker.io/library/nginx:1.25"),
        ("team/app", "v1", "quay.io:5000", "quay.io:5000/team/app:v1"),
        ("quay.io/team/app", "v1", "", "quay.io/team/app:v1"),
        ("localhost:5000/app", "v1", "", "localhost:5000/app:v1"),
        ("quay.io/team/app", "v1", "quay.io", "quay.io/team/app:v1"),
        ("team/app", "sha256:" + "a" * 64, "quay.io", "quay.io/team/app@sha256:" + "a" * 64),
    ],
)
def test_reference_of_joins_name_target_and_namespace(name: str, target: str, namespace: str, expected: str) -> None:
    assert str(reference_of(name, target, namespace)) == expected


@pytest.mark.parametrize(
    ("name", "target", "namespace"),
    [
        ("team/App", "1", "quay.io"),
        ("../x", "1", ""),
        ("x", "a/b", ""),
        ("x", "sha256:12", ""),
        ("x", "sha512:" + "a" * 128, ""),
        ("x", "1", "a/b"),
    ],
)
def test_reference_of_invalid_request_raises_value_error(name: str, target: str, namespace: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        reference_of(name, target, namespace)


def test_accepted_lists_media_types_of_accept_headers() -> None:
    assert accepted([f"{OCI_INDEX}, {OCI_MANIFEST};q=0.5", "*/*"]) == (OCI_INDEX, OCI_MANIFEST, "*/*")
    assert accepted(["*/*"]) == ACCEPT
    assert accepted([]) == ACCEPT


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-30", (70, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=-0", None),
        ("bytes=100-", None),
        ("bytes=20-10", (0, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("lines=1-2", (0, 100)),
        ("bytes=-", (0, 100)),
    ],
)
def test_byte_range_of_header_is_parsed_and_clamped(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


def test_status_phrase_contains_sanitized_and_shortened_reason() -> None:
    assert status_phrase(502, "über\r\nX-Evil: 1") == "Bad Gateway (?ber X-Evil: 1)"
    assert len(status_phrase(502, "x" * 10_000)) < 400
    assert status_phrase(599, "odd") == "odd"
