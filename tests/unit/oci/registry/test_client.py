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

from harness.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from harness.oci.reference import Reference
from harness.oci.registry.client import body_range, check_manifest
from harness.oci.registry.errors import RemoteError, RetryPolicy, classify, error_reason, retry_after
from harness.oci.registry.session import Challenge, parse_challenges
from tests.unit.oci.standin import HOST, Registry, answer, client, waited

DESCRIPTOR = {"mediaType": "text/plain", "digest": "sha256:" + "a" * 64, "size": 7}
MANIFEST = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": [DESCRIPTOR]}
INDEX = {"schemaVersion": 2, "manifests": [DESCRIPTOR]}
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
def test_challenges(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges(header) == challenges


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
def test_the_type_of_a_manifest(value: object, header: str, media_type: str) -> None:
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
def test_what_is_no_manifest(data: bytes, header: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_manifest(data, header)


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
def test_the_reason_of_a_refusal(data: bytes, reason: str, code: str) -> None:
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
def test_how_long_a_registry_wants_us_to_wait(header: str | None, seconds: float) -> None:
    assert retry_after(header, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (200, {"Content-Length": "10"}, (0, 10)),
        (200, {}, (0, None)),
        (206, {"Content-Range": "bytes 4-9/10"}, (4, 10)),
        (206, {"Content-Range": "bytes 4-9/*"}, (4, None)),
    ],
)
def test_where_a_body_begins(status: int, headers: dict[str, str], expected: tuple[int, int | None]) -> None:
    assert body_range(status, headers) == expected


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
def test_the_next_page_is_asked_of_the_registry_itself(link: str) -> None:
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


def test_a_next_page_that_is_not_of_the_api_is_refused() -> None:
    there = Registry()
    there.spoil("GET", "_catalog", lambda _: answer(200, b'{"repositories": []}', link="</admin?delete=all>; rel=next"))
    with client(there) as remote, pytest.raises(RemoteError, match="next page that is not one of its API"):
        remote.catalog(HOST)
    assert len(there.asked) == 1


@pytest.mark.parametrize(
    "body", [b'{"repositories": "ab"}', b'{"repositories": [1]}', b"[]", b"{", b'{"repositories": {"a": 1}}', b"[" * 9999]
)
def test_a_list_that_is_none_is_a_remote_error(body: bytes) -> None:
    there = Registry()
    there.spoil("GET", "_catalog", lambda _: answer(200, body))
    with client(there) as remote, pytest.raises(RemoteError, match="answers no list of repositories"):
        remote.catalog(HOST)


def test_names_in_a_list_do_not_reach_the_terminal_as_they_are() -> None:
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
def test_registry_that_is_not_there_is_told_from_one_that_fails_for_a_moment(
    kind: type[Exception], cause: OSError, absent: bool, hint: str
) -> None:
    trouble = classify(failure(kind, cause), RetryPolicy())
    assert trouble.absent is absent
    assert hint in (trouble.hint or "")


def refuse(_: object) -> urllib3.BaseHTTPResponse:
    raise failure(NewConnectionError, ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))


def test_registry_that_refuses_the_connection_is_asked_once() -> None:
    there = Registry()
    there.spoil("GET", "", *[refuse] * 9)
    with client(there) as remote, pytest.raises(RemoteError, match="Connection refused") as caught:
        remote.manifest(Reference.parse(f"{HOST}/x:1"))
    assert there.count("GET") == 1
    assert waited(remote) == ()
    assert "whether the registry runs" in str(caught.value.hint)


def tags(_: object) -> urllib3.BaseHTTPResponse:
    return answer(200, b'{"tags": ["1"]}')


def test_registry_that_has_answered_and_restarts_is_asked_again() -> None:
    there = Registry()
    there.spoil("GET", "tags/list", tags, refuse, tags)
    with client(there) as remote:
        remote.tags(Reference.parse(f"{HOST}/x"))
        assert remote.tags(Reference.parse(f"{HOST}/x")) == ("1",)
        assert len(waited(remote)) == 1
