"""What a push sends and a pull fetches, in which order, and what is left when one ends early. The registry is a stand-in."""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage, transfer
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.errors import StoreError, UsageError
from harness.oci.admission import Admitted
from harness.oci.graph import closure, is_manifest
from harness.oci.model import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.referrers import SIGNATURES, tag_of
from harness.oci.store import UNFINISHED, Store
from harness.transfer import RegistryAccess, WorkerPool, pull, push
from tests.unit.oci.standin import HOST, Registry, answer, client
from tests.waiting import HANG

TARGET = Reference.parse(f"{HOST}/team/web:1")
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """The store of somebody who pulls."""
    return Store(tmp_path / "other")


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def remote(registry: Registry) -> Iterator[Client]:
    with client(registry) as found:
        yield found


def make(store: Store, name: str = "web:1", *, changed: str = "", platforms: tuple[Platform, ...] = (AMD64,)) -> Descriptor:
    """A CloudImage with two layers and three embedded blobs a platform; ``changed`` is in the second layer."""
    images = []
    for platform in platforms:
        source = random.Random(str(platform))
        contents = [source.randbytes(3000), f"{platform} {changed}".encode()]
        layers = tuple(Descriptor(OCI_LAYER_GZIP, *store.put(data)) for data in contents)
        blobs = tuple(Blob(store.put(data)[0], OCI_LAYER_GZIP, 2000) for data in (source.randbytes(2000) for _ in range(3)))
        first = EmbeddedImage("docker.io/library/app:1", blobs[0].digest, OCI_MANIFEST, 2000)
        ids = tuple(layer.digest for layer in layers)
        images.append(PlatformImage(platform, layers, ids, (), Info(), ImageSet((first,), blobs)))
    image = cloudimage.write(store, images)
    store.tag(name, image)
    return image


def blobs_of(store: Store, image: Descriptor) -> set[str]:
    return {blob.digest for blob in closure(store, image) if not is_manifest(blob)}


# Push


def test_blobs_go_before_manifests_and_the_tag_is_last(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    pushed = push(store, "web:1", TARGET, remote)
    assert (pushed.digest, pushed.uploaded, pushed.mounted, pushed.present) == (image.digest, len(blobs_of(store, image)), 0, 0)
    puts = [line for line in registry.lines if line.startswith("PUT ")]
    kinds = ["blob" if "/blobs/" in line else line.rpartition("/manifests/")[2].partition(":")[0] for line in puts]
    assert kinds == ["blob"] * pushed.uploaded + ["sha256", "sha256", "1"]
    assert pushed.sent == sum(blob.size for blob in closure(store, image))
    for blob in closure(store, image):
        where: Any = registry.manifests if is_manifest(blob) else registry.blobs
        assert ("team/web", blob.digest) in where


def test_the_same_again_is_one_question(store: Store, registry: Registry, remote: Client) -> None:
    make(store)
    push(store, "web:1", TARGET, remote)
    registry.asked.clear()
    again = push(store, "web:1", TARGET, remote)
    assert (again.sent, again.uploaded) == (0, 0)
    assert registry.lines == ["HEAD /v2/team/web/manifests/1"]


def test_of_a_changed_image_only_the_change_is_asked_for_and_sent(store: Store, registry: Registry, remote: Client) -> None:
    one = make(store)
    push(store, "web:1", TARGET, remote)
    two = make(store, "web:2", changed="now")
    new = {blob for blob in closure(store, two) if blob not in closure(store, one)}
    registry.asked.clear()
    pushed = push(store, "web:2", TARGET, remote)
    assert pushed.sent == sum(blob.size for blob in new)
    assert registry.count("HEAD", "/blobs/") == pushed.uploaded == sum(not is_manifest(blob) for blob in new)


def test_an_old_image_there_that_cannot_be_read_costs_questions_only(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    registry.manifests["team/web", "1"] = (OCI_MANIFEST, b"{}")
    assert push(store, "web:1", TARGET, remote).uploaded == len(blobs_of(store, image))
    assert registry.manifests["team/web", "1"][1] == store.read(image.digest)


def test_what_another_repository_has_is_mounted(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    push(store, "web:1", TARGET, remote)
    pushed = push(store, "web:1", Reference.parse(f"{HOST}/else/where:1"), remote)
    assert (pushed.mounted, pushed.uploaded) == (len(blobs_of(store, image)), 0)
    assert registry.manifests["else/where", "1"][1] == store.read(image.digest)


def test_what_was_pulled_from_a_registry_is_mounted_there(store: Store, other: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    push(store, "web:1", TARGET, remote)
    pulled = pull(other, TARGET, remote)
    assert push(other, pulled.name, Reference.parse(f"{HOST}/else/where:1"), remote).mounted == len(blobs_of(store, image))


def test_a_blob_that_is_missing_here_is_told_before_anything_is_sent(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    store.path(min(blobs_of(store, image))).unlink()
    with pytest.raises(StoreError, match="is not whole here"):
        push(store, "web:1", TARGET, remote)
    assert registry.asked == []


def test_a_blob_that_is_damaged_here_is_told_as_that(store: Store, registry: Registry, remote: Client) -> None:
    image = make(store)
    digest = min(blobs_of(store, image))
    store.path(digest).write_bytes(bytes(store.size(digest)))
    with pytest.raises(StoreError, match=f"{digest} in .* is damaged"):
        push(store, "web:1", TARGET, remote)
    assert registry.manifests == {}


def test_one_failure_ends_a_push_and_names_nothing(store: Store, registry: Registry, remote: Client) -> None:
    make(store)
    registry.spoil("PUT", "/blobs/", lambda _: answer(403, b'{"errors":[{"code":"DENIED","message":"quota"}]}'))
    with pytest.raises(RemoteError, match="403 DENIED quota") as refused:
        push(store, "web:1", TARGET, remote)
    assert "cancelled" not in refused.value.message
    assert registry.manifests == {}


def test_two_thousand_blobs_in_one_list(store: Store, registry: Registry, remote: Client, other: Store) -> None:
    data = [f"blob {number}".encode() for number in range(2000)]
    for one in data:
        store.path(digest_of(one)).write_bytes(one)
    blobs = tuple(Blob(digest_of(one), OCI_LAYER_GZIP, len(one)) for one in data)
    layer = Descriptor(OCI_LAYER_GZIP, *store.put(b"layer"))
    images = ImageSet((EmbeddedImage("docker.io/library/app:1", blobs[0].digest, OCI_MANIFEST, 6),), blobs)
    image = cloudimage.write(store, [PlatformImage(AMD64, (layer,), (layer.digest,), (), Info(), images)])
    store.tag("many:1", image)
    assert push(store, "many:1", TARGET, remote).uploaded == 2003
    assert pull(other, TARGET, remote).fetched == 2003
    assert {blob.digest for blob in closure(other, image)} == {blob.digest for blob in closure(store, image)}


# Pull


@pytest.fixture
def image(store: Store, registry: Registry, remote: Client) -> Descriptor:
    """What TARGET means in the registry; nothing was asked yet."""
    found = make(store, platforms=(AMD64, ARM64))
    push(store, "web:1", TARGET, remote)
    registry.asked.clear()
    return found


def test_what_was_pushed_is_pulled(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    pulled = pull(other, TARGET, remote)
    assert (pulled.name, pulled.digest, pulled.present) == (f"{HOST}/team/web:1", image.digest, 0)
    assert pulled.received == sum(blob.size for blob in closure(other, image))
    fetched = [line for line in registry.lines if line.startswith("GET ") and "/blobs/" in line]
    assert len(fetched) == len(set(fetched)) == pulled.fetched
    assert other.record(UNFINISHED, image.digest.removeprefix("sha256:")) is None


def test_the_same_again_asks_for_no_blob(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    pull(other, TARGET, remote)
    registry.asked.clear()
    again = pull(other, TARGET, remote)
    assert (again.fetched, again.present) == (0, len(blobs_of(other, image)))
    assert registry.count("GET", "/blobs/") == 0
    assert registry.count("GET", "/manifests/sha256:") == 0


def test_an_image_under_another_name_and_by_its_digest(image: Descriptor, other: Store, remote: Client) -> None:
    assert pull(other, TARGET, remote, name="mine:2").name == "mine:2"
    assert list(other.names()) == ["mine:2"]
    by_digest = Reference.parse(f"{HOST}/team/web@{image.digest}")
    assert pull(other, by_digest, remote).name == image.digest
    assert list(other.names()) == ["mine:2"]


def test_one_platform_of_two_has_the_digest_of_all(image: Descriptor, store: Store, other: Store, remote: Client) -> None:
    pulled = pull(other, TARGET, remote, platforms=[ARM64])
    assert pulled.digest == image.digest
    assert pulled.fetched < len(blobs_of(store, image))
    with pytest.raises(StoreError, match="not made for linux/s390x") as absent:
        pull(other, TARGET, remote, platforms=[Platform.parse("linux/s390x")])
    assert "linux/amd64, linux/arm64" in str(absent.value.hint)


def test_a_pull_that_fails_names_nothing_and_keeps_what_it_has(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    lost = sorted(registry.blobs)[3]
    data = registry.blobs.pop(lost)
    with pytest.raises(RemoteError, match="404"):
        pull(other, TARGET, remote)
    assert other.names() == {}
    assert other.gc().blobs == 0
    here = {path.name for path in (other.root / "blobs/sha256").iterdir()}
    registry.blobs[lost] = data
    registry.asked.clear()
    with client(registry) as second:
        pull(other, TARGET, second)
    assert not [asked for asked in registry.asked if asked.path.rpartition(":")[2] in here and "/blobs/" in asked.path]
    assert other.resolve(f"{HOST}/team/web:1").digest == image.digest


def test_a_part_that_was_left_is_gone_on_with(image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    data = store.path(digest).read_bytes()
    (other.root / "partial" / digest[7:]).write_bytes(data[:1000])
    pulled = pull(other, TARGET, remote)
    asked = next(asked for asked in registry.asked if asked.path.endswith(digest))
    assert asked.headers["Range"] == "bytes=1000-"
    assert pulled.received == sum(blob.size for blob in closure(other, image)) - 1000
    other.verify(digest)


@pytest.mark.parametrize("left", [b"something else", bytes(3000), bytes(9000)], ids=["begun wrong", "whole and wrong", "too long"])
def test_a_part_that_is_wrong_is_fetched_anew(
    image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client, left: bytes
) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    (other.root / "partial" / digest[7:]).write_bytes(left)
    pull(other, TARGET, remote)
    other.verify(digest)
    assert registry.count("GET", digest) <= 2


def test_after_a_power_cut_what_is_there_is_looked_at(image: Descriptor, store: Store, other: Store, remote: Client) -> None:
    digest = max(blobs_of(store, image), key=lambda one: (store.size(one), one))
    other.keep(UNFINISHED, image.digest.removeprefix("sha256:"), {"image": image.digest})
    other.path(digest).write_bytes(bytes(store.size(digest)))  # its length, and none of its bytes
    pull(other, TARGET, remote)
    other.verify(digest)


def test_wrong_bytes_are_refused_and_not_kept(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    key = min(registry.blobs)
    registry.blobs[key] = bytes(len(registry.blobs[key]))
    with pytest.raises(StoreError, match=f"should be {key[1]}"):
        pull(other, TARGET, remote)
    assert not other.has(key[1])
    assert list((other.root / "partial").glob(key[1][7:])) == []
    assert other.names() == {}


def refer(registry: Registry, tag: str, manifests: list[dict[str, Any]]) -> str:
    data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
    for name in (tag, digest_of(data)):
        registry.manifests["team/web", name] = (OCI_INDEX, data)
    return digest_of(data)


def test_indexes_within_indexes_have_an_end(other: Store, registry: Registry, remote: Client) -> None:
    inner: list[dict[str, Any]] = []
    for _ in range(12):
        digest = refer(registry, "1", inner)
        inner = [{"mediaType": OCI_INDEX, "digest": digest, "size": len(registry.manifests["team/web", digest][1])}]
    with pytest.raises(StoreError, match="indexes within each other"):
        pull(other, TARGET, remote)


def test_an_index_of_something_else_is_no_image(other: Store, registry: Registry, remote: Client) -> None:
    refer(registry, "1", [{"mediaType": "text/plain", "digest": digest_of(b"x"), "size": 1}])
    with pytest.raises(StoreError, match="text/plain, which is not an image"):
        pull(other, TARGET, remote)


def test_a_manifest_of_another_length_than_its_index_says(
    image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client
) -> None:
    entries = store.json(image.digest)["manifests"]
    entries[0]["size"] += 1
    refer(registry, "1", entries)
    with pytest.raises(StoreError, match=re.escape(f"manifest {entries[0]['digest']} has")):
        pull(other, TARGET, remote)


def test_who_is_not_admitted_leaves_no_blob(image: Descriptor, other: Store, registry: Registry, remote: Client) -> None:
    def refuse(_: Client, reference: Reference) -> Admitted:
        raise StoreError(f"{reference.digest} is not signed")

    with pytest.raises(StoreError, match=f"{image.digest} is not signed"):
        pull(other, TARGET, remote, admit=refuse)
    assert registry.count("GET", "/blobs/") == 0
    assert other.names() == {}


# What is attached


def test_signatures_travel_with_the_image(image: Descriptor, store: Store, other: Store, registry: Registry, remote: Client) -> None:
    tag = tag_of(image.digest, SIGNATURES)
    layer, config = Descriptor("text/plain", *store.put(b"signed")), Descriptor("text/plain", *store.put(b"{}"))
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [layer.to_json()]}
    store.tag(f"web:{tag}", Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    assert push(store, "web:1", TARGET, remote).attachments == (tag,)
    assert registry.manifests["team/web", tag][1] == canonical_json(manifest)
    assert push(store, "web:1", TARGET, remote).attachments == ()
    assert pull(other, TARGET, remote).attachments == (tag,)
    assert other.read(layer.digest) == b"signed"
    assert pull(other, TARGET, remote).attachments == ()


def subject_manifest(image: Descriptor) -> bytes:
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    subject = Descriptor(image.media_type, image.digest, image.size).to_json()
    value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "text/sbom", "config": config, "layers": [], "subject": subject}
    return canonical_json(value)


def test_a_registry_that_lists_referrers_is_left_to_it(image: Descriptor, registry: Registry, remote: Client) -> None:
    registry.has_referrers = True
    data = subject_manifest(image)
    entry = {"mediaType": OCI_MANIFEST, "digest": digest_of(data), "size": len(data), "artifactType": "text/sbom"}
    listed = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]})
    assert remote.put_referrer(TARGET, data, OCI_MANIFEST) == digest_of(data)
    assert ("team/web", image.digest.replace(":", "-")) not in registry.manifests
    registry.spoil("GET", "/referrers/", *[lambda _: answer(200, listed, content_type=OCI_INDEX)] * 2)
    by_digest = Reference.parse(f"{HOST}/team/web@{image.digest}")
    assert [found.digest for found in remote.referrers(by_digest)] == [digest_of(data)]
    assert remote.referrers(by_digest, "text/other") == ()


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_where_no_referrers_are_listed_a_tag_lists_them(image: Descriptor, registry: Registry, remote: Client, status: int) -> None:
    by_digest = Reference.parse(f"{HOST}/team/web@{image.digest}")
    registry.spoil("GET", "/referrers/", *[lambda _: answer(status)] * 20)
    assert remote.referrers(by_digest) == ()
    data = subject_manifest(image)
    for _ in range(2):
        remote.put_referrer(TARGET, data, OCI_MANIFEST)
    listed = json.loads(registry.manifests["team/web", image.digest.replace(":", "-")][1])["manifests"]
    assert [(entry["digest"], entry["artifactType"]) for entry in listed] == [(digest_of(data), "text/sbom")]
    assert [found.artifact_type for found in remote.referrers(by_digest, "text/sbom")] == ["text/sbom"]


def test_a_registry_that_is_not_well_is_not_taken_for_one_without_referrers(image: Descriptor, registry: Registry, remote: Client) -> None:
    registry.spoil("GET", "/referrers/", *[lambda _: answer(503)] * 20)
    with pytest.raises(RemoteError, match="503"):
        remote.referrers(Reference.parse(f"{HOST}/team/web@{image.digest}"))


# How we are asked to go there


def test_a_certificate_needs_its_key_and_files_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(tmp_path / "registries.conf"))
    (tmp_path / "registries.conf").write_text("")
    (tmp_path / "here").write_text("")
    with pytest.raises(UsageError, match="--cert and --cert-key"):
        transfer.client(RegistryAccess(cert=tmp_path / "here"))
    with pytest.raises(UsageError, match="no such file"):
        transfer.client(RegistryAccess(ca=tmp_path / "nothing"))
    assert transfer.client(RegistryAccess(plain_http=True)).registries.endpoints(TARGET)[0].base_urls == (f"http://{HOST}",)
    assert transfer.client().registries.endpoints(TARGET)[0].base_urls == (f"https://{HOST}",)


class Line:
    """A stream that gives nothing until it is told to stop."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.stopped = threading.Event()

    def wait(self) -> None:
        self.read.set()
        assert self.stopped.wait(HANG)

    def abort(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        pass


def test_an_interrupt_while_work_is_handed_out_stops_what_has_begun() -> None:
    line = Line()

    def items() -> Iterator[int]:
        yield 1
        assert line.read.wait(HANG)
        raise KeyboardInterrupt

    with client(Registry()) as found:
        crew = WorkerPool(found)

        def work(_: int) -> None:
            with crew.abortable(line):
                line.wait()

        with pytest.raises(KeyboardInterrupt):
            crew.each(work, items())
    assert line.stopped.is_set()
