"""The record of the capture proxy: which image each request belongs to."""

from __future__ import annotations

from harness.build.pull_record import PulledImage, PullRecord
from harness.oci.model import OCI_MANIFEST
from tests.unit.oci.memory import indexed, layer_of, made, manifest, named, top


def test_pull_record_tag_then_its_digest_is_one_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/a@{found.digest}"), found, "node1", head=False)
    assert record.pulled == [PulledImage("test.io/a:1", found.digest, OCI_MANIFEST, "memory", 1, ("node1",))]


def test_pull_record_digest_from_other_client_is_separate_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    by_digest = f"test.io/a@{found.digest}"
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(by_digest), found, "node2", head=False)
    assert [(image.reference, image.clients) for image in record.pulled] == [("test.io/a:1", ("node1",)), (by_digest, ("node2",))]


def test_pull_record_head_by_digest_is_separate_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/a@{found.digest}"), found, "node1", head=True)
    assert [image.reference for image in record.pulled] == ["test.io/a:1", f"test.io/a@{found.digest}"]


def test_pull_record_same_digest_in_other_repository_is_separate_image() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    record.manifest(named("test.io/a:1"), found, "node1", head=True)
    record.manifest(named(f"test.io/b@{found.digest}"), found, "node1", head=False)
    assert [image.reference for image in record.pulled] == ["test.io/a:1", f"test.io/b@{found.digest}"]


def test_pull_record_children_and_blobs_belong_to_image_of_index() -> None:
    record = PullRecord()
    child = made("a")
    index = indexed(amd64=child)
    record.manifest(named("test.io/a:1"), manifest(index[top(index)]), "node1", head=False)
    record.manifest(named(f"test.io/a@{top(child)}"), manifest(child[top(child)]), "node2", head=False)
    assert [image.reference for image in record.pulled] == ["test.io/a:1"]
    # and so are the blobs of the child: what fails among them is a failure of the image
    owner, size = record.owner(named(f"test.io/a@{layer_of(child)}"), layer_of(child), "node2")
    assert (str(owner), size) == ("test.io/a:1", 100)


def test_pull_record_counts_pulls_and_lists_clients() -> None:
    record, image = PullRecord(), made("a")
    found = manifest(image[top(image)])
    for client in ("node2", "node1", "node2"):
        record.manifest(named("test.io/a:1"), found, client, head=True)
    assert (record.pulled[0].times, record.pulled[0].clients) == (3, ("node1", "node2"))


def test_pull_record_failure_is_cleared_when_its_part_is_served() -> None:
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
