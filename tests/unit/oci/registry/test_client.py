"""What registries answer, and how it is read. The conversations themselves are in tests/integration/test_capture.py."""

from __future__ import annotations

import datetime
import errno
import json
import socket
from collections.abc import Mapping
from typing import IO

import pytest
import urllib3
from urllib3.exceptions import NameResolutionError, NewConnectionError

from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.config import Registries
from harness.oci.registry.config import Registry as RegistryRule
from harness.oci.registry.errors import RemoteError, RetryPolicy, classify, error_reason, retry_after
from harness.oci.registry.session import Challenge, parse_challenges
from tests.unit.oci.standin import HOST, Asked, Registry, answer, client, waited

DESCRIPTOR = {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 7}
NOW = datetime.datetime(2024, 1, 1, 12, 0, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        (
            'Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push"',
            [Challenge("bearer", {"realm": "https://auth.test/token", "service": "registry.test", "scope": "repository:a/b:pull,push"})],
        ),
        ('Basic realm="a \\"b\\", c"', [Challenge("basic", {"realm": 'a "b", c'})]),
        ("Negotiate, BASIC realm=test", [Challenge("negotiate", {}), Challenge("basic", {"realm": "test"})]),
        ('Bearer realm="a" , Basic realm="b"', [Challenge("bearer", {"realm": "a"}), Challenge("basic", {"realm": "b"})]),
        ("", []),
        ('="', []),
    ],
)
def test_parse_challenges_header_gives_schemes_and_parameters(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


@pytest.mark.parametrize(
    ("data", "reason", "code"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no way"}]}', "403 DENIED no way", "DENIED"),
        (b'{"errors":[{"code":"DENIED","message":"no","detail":"since Monday"}]}', "403 DENIED no (since Monday)", "DENIED"),
        (b'{"errors":[{"code":"DENIED","message":"no","detail":{"a":1}}]}', "403 DENIED no", "DENIED"),
        (b'{"errors":[]}', '403 {"errors":[]}', ""),
        (b"plain\nwords", "403 plain words", ""),
        (b"<html>a page</html>", "403 Forbidden", ""),
        (b"", "403 Forbidden", ""),
        (b'{"errors":[{"code":"D\\u001b[2J","message":"no\\r\\u202eyes"}]}', "403 D\\x1b[2J no\\r\\u202eyes", "D\\x1b[2J"),
        (b"plain \x1b]0;title\x07", "403 plain \\x1b]0;title\\x07", ""),
        (b'{"errors":' + b"[" * 10_000 + b"]" * 10_000 + b"}", '403 {"errors":' + "[" * 110, ""),
        (b'{"errors":[{"message":1e999}]}', '403 {"errors":[{"message":1e999}]}', ""),
    ],
)
def test_error_reason_gives_escaped_reason_and_code(data: bytes, reason: str, code: str) -> None:
    assert error_reason(403, "Forbidden", data) == (reason, code)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("30", 30),
        ("Mon, 01 Jan 2024 12:01:00 GMT", 60),
        ("Mon, 01 Jan 2024 11:00:00 GMT", 0),
        ("soon", 0),
        ("\u00b2", 0),
        ("Mon, 99999999999999999999 Jan 2024 11:00:00 GMT", 0),
        ("Mon, 01 Jan 99999999999999999999 11:00:00 GMT", 0),
        ("Mon, 01 Jan 2024 11:00:00 +99999999999999999999", 0),
        ("9" * 400, float("inf")),
    ],
)
def test_retry_after_of_a_registry_is_the_wait(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds


# Before a login


@pytest.mark.parametrize("status", [200, 401, 403, 404])
def test_require_answer_passes_for_any_http_status(status: int) -> None:
    there = Registry()
    there.spoil("GET", "/v2/", lambda _: answer(status))
    with client(there, attempts=1) as remote:
        remote.require_answer(HOST)
    assert there.lines == ["GET /v2/"]


def test_require_answer_unreachable_registry_raises_remote_error() -> None:
    def away(_: Asked) -> urllib3.BaseHTTPResponse:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    there = Registry()
    there.spoil("GET", "/v2/", away)
    with client(there, attempts=1) as remote, pytest.raises(RemoteError, match=HOST):
        remote.require_answer(HOST)


# Lists in pages


@pytest.mark.parametrize(
    "link",
    [
        "</v2/_catalog?last=a>; rel=next",
        "<http://evil.test/v2/_catalog?last=a>; rel=next",
        "<//evil.test/v2/_catalog?last=a>; rel=next",
        "</v2/http://evil.test/v2/x?last=a>; rel=next",
    ],
)
def test_catalog_next_page_is_requested_from_same_registry(link: str) -> None:
    there = Registry()
    urls: list[str] = []
    send = there.send

    def noted(method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None = None) -> urllib3.BaseHTTPResponse:
        urls.append(url)
        return send(method, url, headers, body)

    there.send = noted  # type: ignore[method-assign]
    there.spoil("GET", "_catalog.n=", lambda _: answer(200, b'{"repositories": ["a"]}', link=link))
    there.spoil("GET", "last=a", lambda _: answer(200, b'{"repositories": ["b"]}'))
    with client(there) as remote:
        assert remote.catalog(HOST) == ("a", "b")
    assert len(urls) == 2
    assert all(url.startswith(f"http://{HOST}/v2/") for url in urls)


def test_catalog_next_page_outside_api_is_refused() -> None:
    there = Registry()
    there.spoil("GET", "_catalog", lambda _: answer(200, b'{"repositories": []}', link="</admin?delete=all>; rel=next"))
    with client(there) as remote, pytest.raises(RemoteError, match="next page that is not one of its API"):
        remote.catalog(HOST)
    assert len(there.asked) == 1


@pytest.mark.parametrize(
    "body", [b'{"repositories": "ab"}', b'{"repositories": [1]}', b"[]", b"{", b'{"repositories": {"a": 1}}', b"[" * 9999]
)
def test_catalog_malformed_list_raises_remote_error(body: bytes) -> None:
    there = Registry()
    there.spoil("GET", "_catalog", lambda _: answer(200, body))
    with client(there) as remote, pytest.raises(RemoteError, match="answers no list of repositories"):
        remote.catalog(HOST)


def test_catalog_control_characters_in_names_are_escaped() -> None:
    there = Registry()
    there.spoil("GET", "_catalog", lambda _: answer(200, b'{"repositories": ["a\\u001b[2J"]}'))
    with client(there) as remote:
        assert remote.catalog(HOST) == ("a\\x1b[2J",)


def failure(kind: type[Exception], cause: OSError) -> Exception:
    """An exception of urllib3 as it comes from a socket's."""
    problem = kind.__new__(kind, "x")
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    ("kind", "cause", "absent", "hint"),
    [
        (NewConnectionError, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), True, "whether the registry runs"),
        (NewConnectionError, OSError(errno.ENETUNREACH, "Network is unreachable"), False, ""),
        (NameResolutionError, socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True, "the spelling"),
        (NameResolutionError, socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), False, "the spelling"),
    ],
)
def test_classify_connection_error_separates_absent_registry_from_temporary_failure(
    kind: type[Exception], cause: OSError, absent: bool, hint: str
) -> None:
    trouble = classify(failure(kind, cause), RetryPolicy())
    assert trouble.absent is absent
    assert hint in (trouble.hint or "")


def refuse(_: object) -> urllib3.BaseHTTPResponse:
    raise failure(NewConnectionError, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))


def test_manifest_connection_refused_is_not_retried() -> None:
    there = Registry()
    there.spoil("GET", "", *[refuse] * 9)
    with client(there) as remote, pytest.raises(RemoteError, match="Connection refused") as caught:
        remote.manifest(Reference.parse(f"{HOST}/x:1"))
    assert there.count("GET") == 1
    assert waited(remote) == ()
    assert "whether the registry runs" in str(caught.value.hint)


def tags(_: object) -> urllib3.BaseHTTPResponse:
    return answer(200, b'{"tags": ["1"]}')


def test_tags_connection_refused_after_earlier_answer_is_retried() -> None:
    there = Registry()
    there.spoil("GET", "tags/list", tags, refuse, tags)
    with client(there) as remote:
        remote.tags(Reference.parse(f"{HOST}/x"))
        assert remote.tags(Reference.parse(f"{HOST}/x")) == ("1",)
        assert len(waited(remote)) == 1


SUBJECT = Descriptor(OCI_MANIFEST, digest_of(b"image"), 5)
TARGET = Reference.parse(f"{HOST}/team/web:1")


def subject_manifest() -> bytes:
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    subject = SUBJECT.to_json()
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "text/sbom", "config": config, "layers": [], "subject": subject}
    return canonical_json(value)


def test_put_referrer_registry_with_referrers_api_writes_no_tag(registry: Registry, remote: Client) -> None:
    registry.has_referrers = True
    data = subject_manifest()
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(data), "size": len(data), "artifactType": "text/sbom"}
    listed = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    assert remote.put_referrer(TARGET, data, OCI_MANIFEST) == digest_of(data)
    assert ("team/web", SUBJECT.digest.replace(":", "-")) not in registry.manifests
    registry.spoil("GET", "/referrers/", *[lambda _: answer(200, listed, content_type=OCI_INDEX)] * 2)
    by_digest = Reference.parse(f"{HOST}/team/web@{SUBJECT.digest}")
    assert [found.digest for found in remote.referrers(by_digest)] == [digest_of(data)]
    assert remote.referrers(by_digest, "text/other") == ()


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_put_referrer_registry_without_referrers_api_lists_entry_under_tag(registry: Registry, remote: Client, status: int) -> None:
    by_digest = Reference.parse(f"{HOST}/team/web@{SUBJECT.digest}")
    registry.spoil("GET", "/referrers/", *[lambda _: answer(status)] * 20)
    assert remote.referrers(by_digest) == ()
    data = subject_manifest()
    for _ in range(2):
        remote.put_referrer(TARGET, data, OCI_MANIFEST)
    listed = json.loads(registry.manifests["team/web", SUBJECT.digest.replace(":", "-")][1])["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in listed] == [(digest_of(data), "text/sbom")]
    assert [found.artifact_type for found in remote.referrers(by_digest, "text/sbom")] == ["text/sbom"]


def test_put_referrer_remapped_repository_writes_tag_in_mapped_location(registry: Registry, remote: Client) -> None:
    """A location that is below its own prefix: to replace it twice is another repository."""
    remote.registries = Registries((RegistryRule(f"{HOST}/team", f"{HOST}/team/here"),), plain=True)
    registry.spoil("GET", "/referrers/", *[lambda _: answer(404)] * 2)
    remote.put_referrer(TARGET, subject_manifest(), OCI_MANIFEST)
    remote.put_referrer(TARGET, subject_manifest(), OCI_MANIFEST)
    assert ("team/here/web", SUBJECT.digest.replace(":", "-")) in registry.manifests
    by_digest = Reference.parse(f"{HOST}/team/web@{SUBJECT.digest}")
    assert [found.artifact_type for found in remote.referrers(by_digest)] == ["text/sbom"]
    assert {line.split("/v2/")[1].split("/web")[0] for line in registry.lines} == {"team/here"}


def test_referrers_server_error_raises_remote_error(registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/referrers/", *[lambda _: answer(503)] * 20)
    with pytest.raises(RemoteError, match="503"):
        remote.referrers(Reference.parse(f"{HOST}/team/web@{SUBJECT.digest}"))


def test_put_manifest_digest_called_invalid_is_sent_again(registry: Registry, remote: Client) -> None:
    """As a registry of the 2.x line answers while another push writes a child of the same index."""
    refused = answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match uploaded content"}]}')
    registry.spoil("PUT", "/manifests/", lambda _: refused)
    data = canonical_json({"mediaType": OCI_MANIFEST})
    assert remote.put_manifest(TARGET, data, OCI_MANIFEST) == digest_of(data)
    assert registry.count("PUT") == 2
    assert registry.manifests["team/web", TARGET.tag or ""] == (OCI_MANIFEST, data)


@pytest.mark.parametrize(
    ("body", "times"),
    [(b'{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}', RetryPolicy().attempts), (b'{"errors":[{"code":"MANIFEST_INVALID"}]}', 1)],
)
def test_put_manifest_refused_for_good_raises_remote_error(registry: Registry, remote: Client, body: bytes, times: int) -> None:
    registry.spoil("PUT", "/manifests/", *[lambda _: answer(400, body)] * 20)
    with pytest.raises(RemoteError, match="400"):
        remote.put_manifest(TARGET, canonical_json({}), OCI_MANIFEST)
    assert registry.count("PUT") == times
