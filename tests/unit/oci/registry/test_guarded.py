"""Registries for a cluster that is not trusted: whose login is used, and which addresses are asked."""

from __future__ import annotations

import socket
from typing import Any, cast

import pytest

from harness.oci.reference import Reference
from harness.oci.registry import config as registry_config
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.guarded import GuardedSource, Permits, unsafe_address


def addressed(monkeypatch: pytest.MonkeyPatch, **known: str) -> None:
    def resolve(host: str, *_: Any, **__: Any) -> Any:
        if host.replace(".", "_") not in known:
            raise OSError("no such name")
        return [(0, 0, 0, "", (known[host.replace(".", "_")], 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("domain", "reason"),
    [
        *((text, "it is named by its address") for text in ("10.0.0.1", "127.0.0.1:443", "169.254.169.254")),
        *((text, "it is named by its address") for text in ("[::1]", "[fd00:ec2::254]:443")),
        *((text, "its name is of an inner network") for text in ("localhost", "LOCALHOST", "localhost:443", "printer.local")),
        ("metadata.google.internal", "its name is of an inner network"),
        ("quay.io:2375", "it is at port 2375"),
        ("quay.io:80", "it is at port 80"),
        ("evil.test", "its name means 127.0.0.1"),
        ("mapped.test", "its name means 127.0.0.1"),
        ("alibaba.test", "its name means 100.100.100.200"),
        ("link.test", "its name means fe80::1"),
    ],
)
def test_unsafe_address_loopback_metadata_or_odd_port_gives_reason(monkeypatch: pytest.MonkeyPatch, domain: str, reason: str) -> None:
    addressed(monkeypatch, evil_test="127.0.0.1", mapped_test="::ffff:127.0.0.1", alibaba_test="100.100.100.200", link_test="fe80::1%eth0")
    assert unsafe_address(domain) == reason


@pytest.mark.parametrize("domain", ["docker.io", "quay.io:443", "inner.example.com", "unknown.test"])
def test_unsafe_address_ordinary_or_private_registry_gives_none(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    # A registry of the site may well have a private address.
    addressed(monkeypatch, docker_io="1.2.3.4", quay_io="2.3.4.5", inner_example_com="10.0.0.7")
    assert unsafe_address(domain) is None


class Asked:
    """Stands for a Client: notes what it is asked."""

    def __init__(self, rules: registry_config.Registries | None = None, failure: RemoteError | None = None) -> None:
        self.registries = rules or registry_config.Registries()
        self.failure = failure
        self.asked: list[str] = []

    def manifest(self, reference: Reference, accept: Any) -> None:
        self.asked.append(str(reference))
        if self.failure is not None:
            raise self.failure

    def blob(self, reference: Reference, digest: str, size: Any) -> None:
        self.manifest(reference, None)


def guarded(permits: Permits, failure: RemoteError | None = None) -> tuple[GuardedSource, Asked, Asked]:
    user, nobody = Asked(), Asked(failure=failure)
    return GuardedSource(cast("Client", user), cast("Client", nobody), permits, lambda *_: None), user, nobody


def test_guarded_source_uses_login_for_declared_or_allowed_repositories_only(monkeypatch: pytest.MonkeyPatch) -> None:
    addressed(monkeypatch)
    permits = Permits(["r.test/team/*", "s.test/whole"])
    permits.declare(["web:1", "r.test:5000/own:2", "Not A Name"])
    source, user, nobody = guarded(permits)
    known = ["docker.io/library/web:7", "r.test:5000/own:1", "r.test/team/a:1", "s.test/whole/b:1"]
    others = ["docker.io/library/other:1", "r.test/teams/a:1", "r.test/own:1", "s.test/wholesale:1"]
    for name in (*known, *others):
        source.manifest(Reference.parse(name), ())
        source.blob(Reference.parse(name), "sha256:0", None)
    assert user.asked == [name for name in known for _ in range(2)]
    assert nobody.asked == [name for name in others for _ in range(2)]


def test_guarded_source_unsafe_address_is_asked_for_declared_repository_only(monkeypatch: pytest.MonkeyPatch) -> None:
    addressed(monkeypatch)
    permits = Permits()
    permits.declare(["127.0.0.1:5000/web:1"])
    source, user, nobody = guarded(permits)
    source.manifest(Reference.parse("127.0.0.1:5000/web:1"), ())
    for ask in (lambda one: source.manifest(one, ()), lambda one: source.blob(one, "sha256:0", None)):
        with pytest.raises(RemoteError, match="is not asked, since it is at port 5000") as refused:
            ask(Reference.parse("127.0.0.1:5000/other:1"))
        assert "--allow-login 127.0.0.1:5000/other" in str(refused.value.hint)
    assert (user.asked, nobody.asked) == (["127.0.0.1:5000/web:1"], [])


def test_guarded_source_unauthorized_error_says_login_was_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    addressed(monkeypatch)
    source, _, _ = guarded(Permits(), RemoteError("401 UNAUTHORIZED", status=401, code="UNAUTHORIZED"))
    with pytest.raises(RemoteError, match="no login is used for it") as refused:
        source.manifest(Reference.parse("r.test/a:1"), ())
    assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    source, _, _ = guarded(Permits(), RemoteError("404 UNKNOWN", status=404))
    with pytest.raises(RemoteError, match=r"^404 UNKNOWN$"):
        source.manifest(Reference.parse("r.test/a:1"), ())
