"""The record of the capture proxy, fetching once, and the image set: with sources in memory."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from harness.build.capture import PulledImage, PullRecord, accepted, byte_range, collect, reference_of, status_phrase
from harness.errors import BuildError, StoreError
from harness.oci.graph import child_for
from harness.oci.model import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import config as registries
from harness.oci.registry import fetcher as sources
from harness.oci.registry.client import ACCEPT, Client, Manifest
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher, GuardedSource, LayoutSource, Permits, Stream
from harness.oci.store import Store

AMD64 = Platform("linux", "amd64")


def made(name: str, *, size: int = 100, architecture: str = "amd64") -> dict[str, bytes]:
    """An image by digest: its manifest first, then config and one layer."""
    layer = (name.encode() * size)[:size]
    config = canonical_json({"os": "linux", "architecture": architecture, "name": name})
    described = [
        {"mediaType": kind, "digest": digest_of(data), "size": len(data)} for kind, data in ((OCI_CONFIG, config), (OCI_LAYER_GZIP, layer))
    ]
    manifest = canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]})
    return {digest_of(data): data for data in (manifest, config, layer)}


def top(image: dict[str, bytes]) -> str:
    return next(iter(image))


def layer_of(image: dict[str, bytes]) -> str:
    return list(image)[-1]


def indexed(**images: dict[str, bytes]) -> dict[str, bytes]:
    """An index of images by architecture, and all of theirs."""
    entries = [
        {
            "mediaType": OCI_MANIFEST,
            "digest": top(image),
            "size": len(image[top(image)]),
            "platform": {"os": "linux", "architecture": architecture},
        }
        for architecture, image in images.items()
    ]
    data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    return {digest_of(data): data} | {digest: blob for image in images.values() for digest, blob in image.items()}


def manifest(data: bytes) -> Manifest:
    return Manifest(data, json.loads(data)["mediaType"], digest_of(data), "memory")


class Body:
    """A Stream that waits for ``go`` before each piece, when there is one."""

    def __init__(self, data: bytes, size: int | None, go: threading.Semaphore | None) -> None:
        self.size = size
        self.closed = False
        self._data = data
        self._go = go
        self._aborted = False

    def read(self, amount: int, /) -> bytes:
        if self._go:
            self._go.acquire()
        if self._aborted:
            raise StoreError("stopped")
        piece, self._data = self._data[:amount], self._data[amount:]
        return piece

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self._aborted = True
        if self._go:
            self._go.release()


class Memory:
    """A Source of images by name; counts what it is asked."""

    def __init__(self, **names: dict[str, bytes]) -> None:
        self.blobs = {digest: data for image in names.values() for digest, data in image.items()}
        self.tags = {f"test.io/{name}:1": top(image) for name, image in names.items()}
        self.asked: list[str] = []
        self.go: threading.Semaphore | None = None
        self.opened: list[Body] = []
        self.tamper: Callable[[bytes], bytes] = lambda data: data

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        self.asked.append(str(reference))
        digest = reference.digest or self.tags.get(str(reference))
        return manifest(self.blobs[digest]) if digest in self.blobs else None

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        self.asked.append(digest)
        if digest not in self.blobs:
            return None
        data = self.tamper(self.blobs[digest])
        self.opened.append(Body(data, len(self.blobs[digest]), self.go))
        return self.opened[-1]

    def admit(self, pinned: Reference) -> bool:
        return pinned.digest in self.blobs


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


def named(name: str) -> Reference:
    return Reference.parse(name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


# What a request is about


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
def test_the_image_of_a_request(name: str, target: str, namespace: str, expected: str) -> None:
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
def test_a_request_that_names_no_image(name: str, target: str, namespace: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        reference_of(name, target, namespace)


def test_what_a_client_accepts() -> None:
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
def test_byte_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


def test_a_reason_stands_in_the_status_line() -> None:
    assert status_phrase(502, "über\r\nX-Evil: 1") == "Bad Gateway (?ber X-Evil: 1)"
    assert len(status_phrase(502, "x" * 10_000)) < 400
    assert status_phrase(599, "odd") == "odd"


# The record


def test_a_tag_and_then_its_digest_is_one_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/a@{found.digest}"), found, "node1", head=False)
    assert record.pulled == [PulledImage("test.io/a:1", found.digest, OCI_MANIFEST, "memory", 1, ("node1",))]


def test_a_digest_that_another_client_asks_for_is_another_name() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    by_digest = f"test.io/a@{found.digest}"
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(by_digest), found, "node2", head=False)
    assert [(image.reference, image.clients) for image in record.pulled] == [("test.io/a:1", ("node1",)), (by_digest, ("node2",))]


def test_asking_by_digest_with_head_is_meant() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/a@{found.digest}"), found, "node1", head=True)
    assert [image.reference for image in record.pulled] == ["test.io/a:1", f"test.io/a@{found.digest}"]


def test_the_same_digest_in_another_repository_is_another_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/b@{found.digest}"), found, "node1", head=False)
    assert [image.reference for image in record.pulled] == ["test.io/a:1", f"test.io/b@{found.digest}"]


def test_children_of_an_index_are_parts_of_it() -> None:
    record = PullRecord()
    child = made("a")
    index = indexed(amd64=child)
    record.manifest(named("test.io/a:1"), manifest(index[top(index)]), "node1", head=False)
    record.manifest(named(f"test.io/a@{top(child)}"), manifest(child[top(child)]), "node2", head=False)
    assert [image.reference for image in record.pulled] == ["test.io/a:1"]
    # and so are the blobs of the child: what fails among them is a failure of the image
    owner, size = record.owner(named(f"test.io/a@{layer_of(child)}"), layer_of(child), "node2")
    assert (str(owner), size) == ("test.io/a:1", 100)


def test_pulls_and_clients_are_counted() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    for client in ("node2", "node1", "node2"):
        record.manifest(named("test.io/a:1"), found, client, head=True)
    assert (record.pulled[0].times, record.pulled[0].clients) == (3, ("node1", "node2"))


def test_a_failure_ends_when_its_part_is_served() -> None:
    record, image = PullRecord(), made("a")
    name = named("test.io/a:1")
    record.failed(name, "", "not found")
    assert record.failures == {"test.io/a:1": "not found"}
    record.manifest(name, manifest(image[top(image)]), "node1", head=True)
    assert record.failures == {}
    record.failed(name, layer_of(image), "broke")
    record.manifest(name, manifest(image[top(image)]), "node1", head=True)
    assert record.failures == {"test.io/a:1": "broke"}
    record.blob(name, layer_of(image))
    assert record.failures == {}


# Fetching


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


# The image set


@dataclasses.dataclass(frozen=True)
class Named:
    name: str
    where: str


def test_images_that_are_pulled_and_declared_are_one(store: Store) -> None:
    image = made("a")
    pulled = [PulledImage("test.io/a:1", top(image), OCI_MANIFEST, "memory", 1, ("10.0.0.7",))]
    declared = [Named("test.io/a:1", "manifests/b.yaml:2"), Named("test.io/a:1", "manifests/a.yaml:9")]
    found = collect(pulled, declared, listed=[Named("test.io/a:1", "imageList:1")], store=store, sources=[Memory(a=image)], platform=AMD64)
    (embedded,) = found.images
    assert embedded.found_by == ("declared", "listed", "pulled")
    assert embedded.requested_by == ("imageList:1", "manifests/a.yaml:9", "manifests/b.yaml:2")
    assert {blob.digest: blob.media_type for blob in found.blobs}[top(image)] == OCI_MANIFEST
    assert {blob.digest: blob.size for blob in found.blobs} == {digest: len(data) for digest, data in image.items()}
    assert all(store.has(blob.digest) for blob in found.blobs)


def test_the_set_does_not_depend_on_who_pulled_or_in_which_order(store: Store) -> None:
    a, b = made("a"), made("b")
    one = PulledImage("test.io/a:1", top(a), OCI_MANIFEST, "memory", 1, ("10.0.0.7",))
    two = PulledImage("test.io/b:1", top(b), OCI_MANIFEST, "memory", 5, ("10.0.0.9",))
    source = Memory(a=a, b=b)
    first = collect([one, two], store=store, sources=[source], platform=AMD64)
    second = collect([two, dataclasses.replace(one, clients=("10.1.1.1",))], store=store, sources=[source], platform=AMD64)
    assert first == second == first.sorted()


def test_what_was_pulled_is_taken_by_its_digest_though_the_tag_has_moved(store: Store) -> None:
    pulled, moved = made("pulled"), made("moved")
    source = Memory(a=moved)
    source.blobs |= pulled
    found = collect([PulledImage("test.io/a:1", top(pulled), OCI_MANIFEST, "x")], store=store, sources=[source], platform=AMD64)
    assert found.images[0].digest == top(pulled)


def test_tag_and_digest_together_are_known_by_the_digest(store: Store) -> None:
    image = made("a")
    declared = [Named(f"test.io/a:7@{top(image)}", "manifests/a.yaml:9")]
    found = collect([], declared, store=store, sources=[Memory(a=image)], platform=AMD64)
    assert found.images[0].name == f"test.io/a@{top(image)}"


def test_only_the_platforms_child_is_taken(store: Store) -> None:
    amd, arm = made("amd"), made("arm", architecture="arm64")
    index = indexed(amd64=amd, arm64=arm)
    found = collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[Memory(a=index)], platform=Platform("linux", "arm64"))
    assert {blob.digest for blob in found.blobs} == {top(index), *arm}
    assert not store.has(layer_of(amd))


def test_attestations_are_no_platform() -> None:
    image = made("a")
    data = json.loads(indexed(amd64=image)[top(indexed(amd64=image))])
    data["manifests"].append({**data["manifests"][0], "platform": {"os": "unknown", "architecture": "unknown"}})
    with pytest.raises(BuildError, match=r"does not exist for linux/arm64, only for linux/amd64$"):
        child_for(json.dumps(data).encode(), Platform("linux", "arm64"))
    assert child_for(json.dumps(data).encode(), AMD64).digest == top(image)


def test_all_that_is_missing_is_told_in_one_error_and_nothing_large_is_fetched(store: Store) -> None:
    source = Memory(a=made("a"), arm=made("arm", architecture="arm64"))
    declared = [Named(f"test.io/{name}:1", f"manifests/{name}.yaml:1") for name in ("a", "arm", "b", "c")]
    with pytest.raises(BuildError) as raised:
        collect([], [*declared, Named("test.io/b:1", "charts/b")], store=store, sources=[source], platform=AMD64)
    assert raised.value.message == (
        "3 images cannot be fetched:\n"
        "  test.io/arm:1 (manifests/arm.yaml:1): does not exist for linux/amd64, only for linux/arm64\n"
        "  test.io/b:1 (charts/b, manifests/b.yaml:1): no source has it\n"
        "  test.io/c:1 (manifests/c.yaml:1): no source has it"
    )
    assert not store.has(layer_of(made("a")))


def test_a_layer_that_is_missing_is_told_with_its_image(store: Store) -> None:
    image = made("a")
    source = Memory(a=image)
    del source.blobs[layer_of(image)]
    with pytest.raises(BuildError, match=rf"1 image cannot be fetched:\n  test\.io/a:1 \(x:1\): no source has blob {layer_of(image)}"):
        collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[source], platform=AMD64)


def test_an_index_that_nests_for_ever_ends(store: Store) -> None:
    innermost = made("a")
    image = indexed(amd64=innermost)
    for _ in range(6):
        image = indexed(amd64=image) | image
    with pytest.raises(BuildError, match="nest more than 4 deep"):
        collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[Memory(a=image)], platform=AMD64)


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
