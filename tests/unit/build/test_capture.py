"""The record of the capture proxy, fetching once, and the image set: with sources in memory."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.build.capture import PulledImage, PullRecord, accepted, byte_range, collect, reference_of, status_phrase
from harness.errors import BuildError
from harness.oci.graph import child_for
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Platform
from harness.oci.registry.manifest import ACCEPT
from harness.oci.store import Store
from tests.unit.oci.memory import Memory, indexed, layer_of, made, manifest, named, top

AMD64 = Platform("linux", "amd64")


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
