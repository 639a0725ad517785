"""The capture proxy, and fetching once: with sources in memory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from harness.build.capture import Proxy
from harness.errors import StoreError
from harness.oci.model import DOCKER_MANIFEST
from harness.oci.reference import Reference
from harness.oci.registry import config as registries
from harness.oci.registry import fetcher as sources
from harness.oci.registry.client import ACCEPT, Client, Manifest
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher, GuardedSource, LayoutSource, Permits, Stream
from harness.oci.store import Store
from tests.unit.oci.memory import Memory, indexed, layer_of, made, named, top


class Failing:
    """A Source that is there but fails."""

    def __init__(self, error: StoreError) -> None:
        self.error = error

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        raise self.error

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        raise self.error

    def admit(self, pinned: Reference) -> bool:
        return False


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.mark.parametrize(
    ("bound", "host", "expected"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:5000/word"),
        ("0.0.0.0", None, "http://127.0.0.1:5000/word"),
        ("::", None, "http://[::1]:5000/word"),
        ("127.0.0.1", "10.0.0.1", "http://10.0.0.1:5000/word"),
    ],
)
def test_hosts_toml_sends_all_pulls_to_the_proxy(
    store: Store, bound: str, host: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proxy, "port", 5000)
    proxy = Proxy([], store, host=bound, secret="word")
    assert proxy.url(host) == expected
    lines = proxy.hosts_toml(host).splitlines()
    assert lines[:3] == [f'server = "{expected}"', "", f'[host."{expected}"]']


def test_a_manifest_is_asked_once_and_a_tag_keeps_its_meaning(store: Store) -> None:
    source = Memory(a=made("a"))
    fetcher = Fetcher([source], store)
    first = fetcher.manifest(named("test.io/a:1"))
    source.tags["test.io/a:1"] = top(made("other"))
    assert fetcher.manifest(named("test.io/a:1")) == first
    assert fetcher.manifest(named(f"test.io/a@{first.digest}")) == first
    assert source.asked == ["test.io/a:1"]
    assert store.read(first.digest) == first.data


def test_a_client_that_does_not_take_the_type_is_asked_for_anew(store: Store) -> None:
    source = Memory(a=indexed(amd64=made("a")))
    fetcher = Fetcher([source], store)
    fetcher.manifest(named("test.io/a:1"))
    fetcher.manifest(named("test.io/a:1"), (DOCKER_MANIFEST,))
    assert source.asked == ["test.io/a:1", "test.io/a:1"]


def test_sources_are_asked_in_order(store: Store, tmp_path: Path) -> None:
    base, image = Store(tmp_path / "base"), made("a")
    for data in image.values():
        base.put(data)
    remote = Memory(a=made("other"), b=made("b"))
    fetcher = Fetcher([LayoutSource(base, {"test.io/a:1": top(image)}, "base"), remote], store)
    assert fetcher.manifest(named("test.io/a:1")).source == "base"
    assert fetcher.manifest(named("test.io/b:1")).source == "memory"
    assert remote.asked == ["test.io/b:1"]


def test_a_source_that_fails_does_not_hide_the_next(store: Store) -> None:
    failing = Failing(RemoteError("test.io: 503 in repair", status=503))
    assert Fetcher([failing, Memory(a=made("a"))], store).manifest(named("test.io/a:1"))
    with pytest.raises(RemoteError, match="503 in repair") as raised:
        Fetcher([failing, Memory()], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 503
    with pytest.raises(RemoteError, match=r"503 in repair; test\.io/a:1: 404 unknown") as raised:
        Fetcher([failing, Failing(RemoteError("test.io/a:1: 404 unknown", status=404))], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 404
    with pytest.raises(RemoteError, match=r"test\.io/a:1: no source has it") as raised:
        Fetcher([Memory()], store).manifest(named("test.io/a:1"))
    assert raised.value.status == 404


def test_a_layout_gives_digests_only_of_what_it_names(store: Store) -> None:
    image, child = made("a"), made("arm", architecture="arm64")
    index = indexed(amd64=image, arm64=child)
    stray = made("stray")
    for data in [*index.values(), *stray.values()]:
        store.put(data)
    source = LayoutSource(store, {"a.test/x:1": top(index)})
    assert source.manifest(named(f"a.test/x@{top(child)}"), ACCEPT)
    assert source.manifest(named("a.test/x:2"), ACCEPT) is None
    assert source.manifest(named(f"a.test/y@{top(child)}"), ACCEPT) is None
    assert source.manifest(named(f"a.test/x@{top(stray)}"), ACCEPT) is None
    assert source.blob(named("a.test/x:1"), layer_of(stray), None) is None
    stream = source.blob(named("a.test/x:1"), layer_of(child), None)
    assert stream
    assert stream.read(1000) == child[layer_of(child)]
    stream.close()


def test_a_blob_is_fetched_once_however_many_follow_it(store: Store) -> None:
    image = made("a", size=5 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    fetcher = Fetcher([source], store)
    digest = layer_of(image)

    def follow(_: int) -> int:
        content = fetcher.blob(named("test.io/a:1"), digest)
        offset = 0
        while offset < content.size:
            offset = content.available(offset)
        content.result()
        return offset

    with ThreadPoolExecutor(5) as pool:
        followers = [pool.submit(follow, number) for number in range(5)]
        source.go.release(100)
        assert [follower.result(10) for follower in followers] == [5 << 20] * 5
    assert source.asked == [digest]
    assert source.opened[0].closed
    store.verify(digest)
    assert fetcher.blob(named("test.io/a:1"), digest).available(0) == 5 << 20  # from the store now


def test_bytes_are_given_away_while_they_arrive_but_not_the_last_before_the_digest_is_right(store: Store) -> None:
    image = made("a", size=3 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    source.tamper = lambda data: data[:-1] + b"?"
    content = Fetcher([source], store).blob(named("test.io/a:1"), layer_of(image))
    assert content.size == 3 << 20
    source.go.release()
    assert content.available(0) == 1 << 20
    source.go.release(10)
    with pytest.raises(RemoteError, match=f"should be blob {layer_of(image)}"):
        content.available(2 << 20)
    with pytest.raises(RemoteError):
        content.result()
    assert not store.has(layer_of(image))


@pytest.mark.parametrize("extra", [b"more", b"m" * (2 << 20)], ids=["a little", "a lot"])
def test_a_blob_longer_than_it_says_is_refused(store: Store, extra: bytes) -> None:
    image = made("a", size=1 << 20)
    source = Memory(a=image)
    source.tamper = lambda data: data + extra
    with pytest.raises(RemoteError, match="longer than 1048576 bytes"):
        Fetcher([source], store).blob(named("test.io/a:1"), layer_of(image)).result()
    assert not store.has(layer_of(image))


def test_a_failed_transfer_can_be_tried_again(store: Store) -> None:
    image = made("a")
    source = Memory(a=image)
    source.tamper = lambda data: b"?" * len(data)
    fetcher = Fetcher([source], store)
    with pytest.raises(RemoteError):
        fetcher.blob(named("test.io/a:1"), layer_of(image)).result()
    source.tamper = lambda data: data
    fetcher.blob(named("test.io/a:1"), layer_of(image)).result()
    assert store.read(layer_of(image)) == image[layer_of(image)]


def test_closing_ends_what_is_under_way(store: Store) -> None:
    image = made("a", size=3 << 20)
    source = Memory(a=image)
    source.go = threading.Semaphore(0)
    fetcher = Fetcher([source], store)
    content = fetcher.blob(named("test.io/a:1"), layer_of(image))
    assert content.size
    fetcher.close()
    with pytest.raises(StoreError):
        content.result()
    with pytest.raises(RemoteError, match="cancelled"):
        fetcher.blob(named("test.io/a:1"), layer_of(image))
    assert not list((store.root / "tmp").iterdir())


# ---- in whose name ----------------------------------------------------------------------------------------------------


def addressed(monkeypatch: pytest.MonkeyPatch, **known: str) -> None:
    def resolve(host: str, *_: Any, **__: Any) -> Any:
        if host.replace(".", "_") not in known:
            raise OSError("no such name")
        return [(0, 0, 0, "", (known[host.replace(".", "_")], 443))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    "domain",
    [
        *("10.0.0.1", "127.0.0.1:443", "localhost", "LOCALHOST", "localhost:443", "169.254.169.254", "[::1]", "[fd00:ec2::254]:443"),
        *("metadata.google.internal", "printer.local", "quay.io:2375", "quay.io:80"),
        *("evil.test", "mapped.test", "alibaba.test", "link.test"),
    ],
)
def test_registries_that_nobody_vouches_for_are_public(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    addressed(monkeypatch, evil_test="127.0.0.1", mapped_test="::ffff:127.0.0.1", alibaba_test="100.100.100.200", link_test="fe80::1%eth0")
    assert sources.unsafe_address(domain) is not None


@pytest.mark.parametrize("domain", ["docker.io", "quay.io:443", "inner.example.com", "unknown.test"])
def test_other_registries_may_be_asked(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    # A registry of the site may well have a private address.
    addressed(monkeypatch, docker_io="1.2.3.4", quay_io="2.3.4.5", inner_example_com="10.0.0.7")
    assert sources.unsafe_address(domain) is None


class Asked:
    """Stands for a Client: notes what it is asked."""

    def __init__(self, rules: registries.Registries | None = None, failure: RemoteError | None = None) -> None:
        self.registries = rules or registries.Registries()
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


def test_logins_are_for_what_is_declared_or_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_address_within_is_asked_for_what_is_declared_only(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_refusal_says_that_no_login_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    addressed(monkeypatch)
    source, _, _ = guarded(Permits(), RemoteError("401 UNAUTHORIZED", status=401, code="UNAUTHORIZED"))
    with pytest.raises(RemoteError, match="no login is used for it") as refused:
        source.manifest(Reference.parse("r.test/a:1"), ())
    assert (refused.value.status, refused.value.code) == (401, "UNAUTHORIZED")
    source, _, _ = guarded(Permits(), RemoteError("404 UNKNOWN", status=404))
    with pytest.raises(RemoteError, match=r"^404 UNKNOWN$"):
        source.manifest(Reference.parse("r.test/a:1"), ())
