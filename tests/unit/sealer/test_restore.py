"""Container images under their original names, and those that cannot be restored."""

from __future__ import annotations

import json

import pytest

from harness.errors import UsageError
from harness.oci.graph import DEEPEST_INDEX
from harness.oci.model import DOCKER_MANIFEST, canonical_json, digest_of
from harness.oci.store import Store
from harness.sealer import convert
from tests.integration import registry as made
from tests.integration import sealer
from tests.integration.registry import Image
from tests.unit.sealer.examples import BOTH, NAMES, NGINX, OLD, TREE, converted, names, problems, simple, written


def test_convert_images_without_name_are_dropped_and_reported(store: Store) -> None:
    found = converted(store, simple(images=NAMES[:1]))
    assert names(found) == ["docker.io/library/nginx:1.25"]
    assert problems(found) == [("unnamed", "acme/app:v2"), ("unnamed", "pause:3.5")]
    assert "no name for it" in found.problems[0].reason
    assert {blob.digest for blob in found.platforms[0].images.blobs} == NGINX.digests


def test_convert_registry_option_names_unnamed_images(store: Store) -> None:
    found = converted(store, simple(images=False), registry="registry.example.com:5000")
    assert names(found) == [f"registry.example.com:5000/{name}" for name in sorted(TREE)]
    assert problems(found) == []
    # Docker Hub has no repository without a second part.
    hub = convert.convert(store, "sealerio/app:v1", registry="docker.io")
    assert names(hub) == ["docker.io/acme/app:v2", "docker.io/library/nginx:1.25"]
    assert problems(hub) == [("unnamed", "pause:3.5")]


@pytest.mark.parametrize("registry", ["", "acme", "a b", "docker.io/library", "https://x.y"])
def test_convert_invalid_registry_option_is_refused(store: Store, registry: str) -> None:
    with pytest.raises(UsageError, match="not the address of a registry"):
        converted(store, simple(), registry=registry)


def test_convert_name_missing_in_tree_is_reported(store: Store) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed("quay.io/acme/app:v3", "quay.io/other:1")]))
    assert len(names(found)) == 3
    assert problems(found) == [("missing", "quay.io/acme/app:v3"), ("missing", "quay.io/other:1")]


def test_convert_names_differing_in_registry_only_are_dropped_as_ambiguous(store: Store) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed("quay.io/acme/app:v2")]))
    assert names(found) == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5"]
    assert problems(found) == [("ambiguous", "quay.io/acme/app:v2"), ("ambiguous", "registry.example.com:5000/acme/app:v2")]
    assert "quay.io/acme/app:v2" in found.problems[1].reason


def test_convert_name_requested_by_two_applications_is_one_image(store: Store) -> None:
    images = [*sealer.listed("nginx:1.25", app="web"), *sealer.listed("docker.io/library/nginx:1.25", app="db")]
    found = converted(store, simple({"library/nginx:1.25": NGINX}, images))
    assert problems(found) == []
    (nginx,) = found.platforms[0].images.images
    assert nginx.requested_by == ("application/apps/db", "application/apps/web")


def test_convert_names_with_digest_are_found_by_digest(store: Store) -> None:
    by_tag = f"quay.io/acme/app:v2@{OLD.digest}"
    images = sealer.listed(f"nginx@{NGINX.digest}", by_tag, f"gcr.io/acme/app@{OLD.digest}", f"pause@{NGINX.digest}")
    found = converted(store, simple(images=images))
    # The digest says which image it is, so the registry may be any.
    assert names(found) == [f"docker.io/library/nginx@{NGINX.digest}", f"gcr.io/acme/app@{OLD.digest}", f"quay.io/acme/app@{OLD.digest}"]
    assert ("missing", f"docker.io/library/pause@{NGINX.digest}") in problems(found)
    assert {name for kind, name in problems(found) if kind == "unnamed"} == {"acme/app:v2", "library/nginx:1.25", "pause:3.5"}


@pytest.mark.parametrize("name", ["Docker.io/Library/Nginx:1.25", "nginx:1.25:2", "", "nginx@sha256:12", "library//nginx", "a b:1"])
def test_convert_invalid_name_is_reported_and_others_are_restored(store: Store, name: str) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed(name)]))
    assert len(names(found)) == 3
    assert problems(found) == [("invalid", name)]


def test_convert_name_without_registry_is_taken_as_docker_hub_and_noted(store: Store) -> None:
    found = converted(store, simple({"acme/app:v2": OLD}, sealer.listed("acme/app:v2")))
    assert names(found) == ["docker.io/acme/app:v2"]
    assert problems(found) == []
    assert found.notes == ("acme/app:v2 is taken as docker.io/acme/app:v2: the annotation names no registry, which means docker.io",)
    # sealer filed this one under nginx, not library/nginx: so it was not Docker Hub that it came from.
    other = converted(store, simple({"nginx:1": NGINX}, sealer.listed("nginx:1")))
    assert problems(other) == [("missing", "docker.io/library/nginx:1"), ("unnamed", "nginx:1")]


def test_convert_names_of_other_platform_are_ignored(store: Store) -> None:
    images = [*NAMES, *sealer.listed("quay.io/acme/app:v2", platform="linux/arm64"), {"image": "nginx:1.25", "platform": None}]
    found = converted(store, simple(images=images))
    assert (len(names(found)), problems(found)) == (3, [])


def test_convert_image_of_other_platform_is_kept_and_noted(store: Store) -> None:
    arm = made.image("arm", platform="linux/arm64")
    found = converted(store, simple({"library/arm:1": arm}, sealer.listed("arm:1")))
    assert (names(found), problems(found)) == (["docker.io/library/arm:1"], [])
    assert found.notes == ("docker.io/library/arm:1 is made for linux/arm64: nodes of linux/amd64 will not run it",)


def test_convert_missing_blob_drops_its_image(store: Store) -> None:
    layer = min(NGINX.blobs)
    files = sealer.storage(TREE)
    del files[sealer.data_path(layer)]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES))
    assert names(found) == ["registry.example.com:5000/acme/app:v2", "registry.k8s.io/pause:3.5"]
    assert problems(found) == [("incomplete", "docker.io/library/nginx:1.25")]
    assert found.problems[0].reason == f"blob {layer} is missing in the tree"
    written(store, found)


@pytest.mark.parametrize("what", ["layer", "manifest"])
def test_convert_corrupt_blob_drops_its_image_despite_good_copy_in_store(store: Store, what: str) -> None:
    digest = NGINX.digest if what == "manifest" else min(NGINX.blobs)
    files = {**sealer.storage(TREE), sealer.data_path(digest): b"{other bytes"}
    for data in (*NGINX.blobs.values(), NGINX.data):
        store.put(data)
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES))
    assert "docker.io/library/nginx:1.25" not in names(found)
    assert problems(found) == [("incomplete", "docker.io/library/nginx:1.25")]
    assert found.problems[0].reason == f"blob {digest} in the tree holds other bytes"
    assert not store.has(digest_of(b"{other bytes"))


@pytest.mark.parametrize("link", [b"", b"latest", b"sha256:12", b"\xff\xfe"])
def test_convert_link_without_digest_drops_its_image(store: Store, link: bytes) -> None:
    files = {**sealer.storage(TREE), sealer.tag_path("library/nginx:1.25"): link, sealer.tag_path("acme/app:v2"): link}
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES[:2]))
    assert names(found) == ["registry.k8s.io/pause:3.5"]
    told = {problem.name: problem for problem in found.problems if problem.kind == "incomplete"}
    assert set(told) == {"docker.io/library/nginx:1.25", "acme/app:v2"}
    assert all("which is not a digest" in problem.reason for problem in told.values())


def test_convert_blob_of_wrong_size_drops_its_image(store: Store) -> None:
    manifest = json.loads(NGINX.data)
    manifest["layers"][0]["size"] += 1
    data = canonical_json(manifest)
    odd = Image(digest_of(data), NGINX.media_type, {digest_of(data): (NGINX.media_type, data)}, NGINX.blobs)
    found = converted(store, simple({"library/odd:1": odd}, sealer.listed("odd:1")))
    assert problems(found) == [("incomplete", "docker.io/library/odd:1")]
    assert "has 2000 bytes instead of 2001" in found.problems[0].reason


def test_convert_manifest_not_linked_by_repository_is_reported_missing(store: Store) -> None:
    link = f"{sealer.STORAGE}/repositories/acme/app/_manifests/revisions/{OLD.digest.replace(':', '/')}/link"
    files = {**sealer.storage(TREE), link: NGINX.digest.encode()}
    images = [*NAMES, *sealer.listed(f"quay.io/acme/app@{OLD.digest}")]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=images))
    assert problems(found) == [("missing", f"quay.io/acme/app@{OLD.digest}")]


def test_convert_link_to_absent_digest_drops_its_image(store: Store) -> None:
    files = {**sealer.storage(TREE), sealer.tag_path("library/nginx:1.25"): digest_of(b"gone").encode()}
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES))
    assert ("incomplete", "docker.io/library/nginx:1.25") in problems(found)
    assert ("unnamed", f"library/nginx@{NGINX.digest}") in problems(found)


@pytest.mark.parametrize(
    "manifest",
    [
        b"not json",
        b"{}",
        b"[]",
        b'{"schemaVersion": 1, "fsLayers": []}',
        b'{"schemaVersion": 2, "config": {"digest": 5}, "layers": []}',
        b'{"schemaVersion": 2, "manifests": []}',
        b'{"schemaVersion": 2, "manifests": [7]}',
        b'{"schemaVersion": 2, "config": 7, "layers": [[]]}',
    ],
)
def test_convert_invalid_manifest_drops_its_image(store: Store, manifest: bytes) -> None:
    digest = digest_of(manifest)
    bad = Image(digest, DOCKER_MANIFEST, {digest: (DOCKER_MANIFEST, manifest)}, {})
    found = converted(store, simple({**TREE, "library/bad:1": bad}, [*NAMES, *sealer.listed("bad:1")]))
    assert len(names(found)) == 3
    assert problems(found) == [("incomplete", "docker.io/library/bad:1")]


def test_convert_index_without_own_platform_is_incomplete(store: Store) -> None:
    arm = made.index({"linux/arm64": made.image("arm", platform="linux/arm64")})
    found = converted(store, simple({"library/arm:1": arm}, sealer.listed("arm:1")))
    assert problems(found) == [("incomplete", "docker.io/library/arm:1")]
    assert "linux/amd64, only for linux/arm64" in found.problems[0].reason


@pytest.mark.parametrize("depth", [DEEPEST_INDEX, DEEPEST_INDEX + 1])
def test_convert_nested_indexes_are_incomplete_beyond_limit(store: Store, depth: int) -> None:
    nested = BOTH
    for _ in range(depth - 1):
        nested = made.index({"linux/amd64": nested})
    found = converted(store, simple({"library/nested:1": nested}, sealer.listed("nested:1")))
    if depth > DEEPEST_INDEX:
        assert problems(found) == [("incomplete", "docker.io/library/nested:1")]
        assert "nest more than 4 deep" in found.problems[0].reason
    else:
        assert problems(found) == []
