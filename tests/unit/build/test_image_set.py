"""The image set of a CloudImage, from sources in memory."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness.build.image_set import collect
from harness.build.pull_record import PulledImage
from harness.errors import BuildError
from harness.oci.graph import child_for
from harness.oci.model import OCI_MANIFEST, Platform
from harness.oci.store import Store
from tests.unit.oci.memory import Memory, indexed, layer_of, made, top

AMD64 = Platform("linux", "amd64")


@dataclasses.dataclass(frozen=True)
class Named:
    name: str
    where: str


def test_collect_merges_pulled_declared_and_listed_image(store: Store) -> None:
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


def test_collect_result_does_not_depend_on_clients_or_order(store: Store) -> None:
    a, b = made("a"), made("b")
    one = PulledImage("test.io/a:1", top(a), OCI_MANIFEST, "memory", 1, ("10.0.0.7",))
    two = PulledImage("test.io/b:1", top(b), OCI_MANIFEST, "memory", 5, ("10.0.0.9",))
    source = Memory(a=a, b=b)
    first = collect([one, two], store=store, sources=[source], platform=AMD64)
    second = collect([two, dataclasses.replace(one, clients=("10.1.1.1",))], store=store, sources=[source], platform=AMD64)
    assert first == second == first.sorted()


def test_collect_pulled_image_keeps_digest_after_tag_moves(store: Store) -> None:
    pulled, moved = made("pulled"), made("moved")
    source = Memory(a=moved)
    source.blobs |= pulled
    found = collect([PulledImage("test.io/a:1", top(pulled), OCI_MANIFEST, "x")], store=store, sources=[source], platform=AMD64)
    assert found.images[0].digest == top(pulled)


def test_collect_name_with_tag_and_digest_keeps_digest_only(store: Store) -> None:
    image = made("a")
    declared = [Named(f"test.io/a:7@{top(image)}", "manifests/a.yaml:9")]
    found = collect([], declared, store=store, sources=[Memory(a=image)], platform=AMD64)
    assert found.images[0].name == f"test.io/a@{top(image)}"


def test_collect_takes_only_child_of_platform_from_index(store: Store) -> None:
    amd, arm = made("amd"), made("arm", architecture="arm64")
    index = indexed(amd64=amd, arm64=arm)
    found = collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[Memory(a=index)], platform=Platform("linux", "arm64"))
    assert {blob.digest for blob in found.blobs} == {top(index), *arm}
    assert not store.has(layer_of(amd))


def test_child_for_ignores_attestation_manifests() -> None:
    image = made("a")
    data = json.loads(indexed(amd64=image)[top(indexed(amd64=image))])
    data["manifests"].append({**data["manifests"][0], "platform": {"os": "unknown", "architecture": "unknown"}})
    with pytest.raises(BuildError, match=r"does not exist for linux/arm64, only for linux/amd64$"):
        child_for(json.dumps(data).encode(), Platform("linux", "arm64"))
    assert child_for(json.dumps(data).encode(), AMD64).digest == top(image)


def test_collect_reports_all_missing_images_and_fetches_no_layers(store: Store) -> None:
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


def test_collect_missing_layer_is_reported_with_its_image(store: Store) -> None:
    image = made("a")
    source = Memory(a=image)
    del source.blobs[layer_of(image)]
    with pytest.raises(BuildError, match=rf"1 image cannot be fetched:\n  test\.io/a:1 \(x:1\): no source has blob {layer_of(image)}"):
        collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[source], platform=AMD64)


def test_collect_deeply_nested_index_raises_build_error(store: Store) -> None:
    innermost = made("a")
    image = indexed(amd64=innermost)
    for _ in range(6):
        image = indexed(amd64=image) | image
    with pytest.raises(BuildError, match="nest more than 4 deep"):
        collect([], [Named("test.io/a:1", "x:1")], store=store, sources=[Memory(a=image)], platform=AMD64)
