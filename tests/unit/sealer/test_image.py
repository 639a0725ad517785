"""Images of sealer: recognised, read, restored, converted; and every way in which one can be wrong."""

from __future__ import annotations

import json
import tarfile
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cli import app as cli
from harness.cloudimage import CloudImage, listing
from harness.errors import StoreError, UsageError
from harness.lifecycle import run
from harness.nodes import Machine
from harness.oci.layer import unpack
from harness.oci.model import DOCKER_MANIFEST, OCI_INDEX, Platform, canonical_json, digest_of
from harness.oci.store import Store
from harness.sealer import image as sealerimage
from harness.sealer import layers as sealertree
from harness.sealer.image import Conversion
from tests.integration import registry as made
from tests.integration import sealer
from tests.integration.registry import Image

NGINX = made.image("nginx", size=2000)
PAUSE = made.image("pause", layers=1, size=500)
OLD = made.image("old", size=2000, docker=True)
BOTH = made.index({"linux/amd64": made.image("both amd64", size=900), "linux/arm64": made.image("both arm64", platform="linux/arm64")})

TREE = {"library/nginx:1.25": NGINX, "pause:3.5": PAUSE, "acme/app:v2": OLD}
NAMES = sealer.listed("docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5", "registry.example.com:5000/acme/app:v2")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return Store(tmp_path / "store")


def simple(tree: Mapping[str, Image] = TREE, images: Any = NAMES, **changes: Any) -> Image:
    """Rootfs below, the registry's storage on top, as sealer's own build commits it."""
    return sealer.image([sealer.ROOTFS, {"manifests/app.yaml": b"kind: Pod\n"}, sealer.storage(tree)], images=images, **changes)


def converted(store: Store, image: Image, **options: Any) -> Conversion:
    sealer.put(store, "sealerio/app:v1", image)
    return sealerimage.convert(store, "sealerio/app:v1", **options)


def written(store: Store, found: Conversion, name: str = "new") -> CloudImage:
    store.tag(name, cloudimage.write(store, found.platforms))
    image = cloudimage.read(store, name)
    cloudimage.verify(store, image)
    return image


def names(found: Conversion) -> list[str]:
    return [image.name for image in found.platforms[0].images.images]


def problems(found: Conversion) -> list[tuple[str, str]]:
    return [(problem.kind, problem.name) for problem in found.problems]


def tree_of(store: Store, found: Conversion, folder: Path) -> dict[str, bytes | str]:
    """The rootfs, unpacked."""
    unpack(store, found.platforms[0].layers, folder)
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# What is made of a good one


def test_the_rootfs_stays_and_the_registry_becomes_an_image_set(store: Store, tmp_path: Path) -> None:
    found = converted(store, simple())
    assert tree_of(store, found, tmp_path / "out") == {**sealer.ROOTFS, "manifests/app.yaml": b"kind: Pod\n"}
    assert not (tmp_path / "out/registry").exists()
    assert (tmp_path / "out/scripts/docker.sh").stat().st_mode & 0o777 == 0o755
    assert (problems(found), found.notes) == ([], ())
    image = written(store, found)
    embedded = {one.name: one for one in image.platforms[0].images.images}
    assert {name: one.digest for name, one in embedded.items()} == {
        "docker.io/library/nginx:1.25": NGINX.digest,
        "registry.example.com:5000/acme/app:v2": OLD.digest,
        "registry.k8s.io/pause:3.5": PAUSE.digest,
    }
    assert embedded["registry.example.com:5000/acme/app:v2"].media_type == DOCKER_MANIFEST
    for one in (NGINX, PAUSE, OLD):
        for digest, data in one.blobs.items():
            assert store.read(digest) == data
        assert store.read(one.digest) == one.data
    carried = {blob.digest for blob in image.platforms[0].images.blobs}
    assert carried == NGINX.digests | PAUSE.digests | OLD.digests


def test_the_same_image_gives_the_same_digest_in_any_store(store: Store, tmp_path: Path) -> None:
    first = cloudimage.write(store, converted(store, simple()).platforms)
    elsewhere = Store(tmp_path / "elsewhere")
    for data in NGINX.blobs.values():
        elsewhere.put(data)
    sealer.put(elsewhere, "another/name", simple())
    sealerimage.look(elsewhere, sealerimage.read(elsewhere, "another/name"))
    assert cloudimage.write(elsewhere, sealerimage.convert(elsewhere, "another/name").platforms) == first


def test_how_it_runs_is_kept(store: Store) -> None:
    labels = {
        "cluster.alpha.sealer.io/cluster-runtime-type": "kubernetes",
        "cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15",
        "cluster.alpha.sealer.io/kube-cni-calico": "true",
        "app.alpha.sealer.io/supported-kube-version": ">=1.20",
    }
    apps = [
        {"name": "web", "type": "kube", "files": ["a.yaml", "b c.yaml"], "env": {"Port": "8 0"}},
        {"name": "calico", "type": "kube", "files": ["tigera.yaml"]},
        {"name": "db", "type": "helm", "files": ["Chart.yaml", "values.yaml", "templates/x.yaml"]},
        {"name": "own", "type": "", "cmds": ["kubectl apply", "-f x.yaml"]},
        {"name": "early", "type": "shell", "launchfiles": ["go.sh"]},
    ]
    launch = {"app_names": ["calico", "web", "db", "own", "early"], "cmds": ["never"]}
    info = converted(store, simple(says=sealer.extension(applications=apps, launch=launch), labels=labels)).platforms[0].info
    assert (info.type, info.kubernetes, info.runtime, info.kube_version) == ("kube", "v1.22.15", "kubeadm", ">=1.20")
    assert info.env == {"Mode": "fast"}
    assert {**labels, "io.sealer.version": "0.11.0"}.items() <= info.labels.items()
    assert [(app.name, app.kind) for app in info.apps] == [
        ("web", "kube"), ("calico", "kube"), ("db", "helm"), ("own", "mixed"), ("early", "shell"),
    ]  # fmt: skip
    assert info.cluster_apps == ("calico",)
    assert info.launch == (
        "kubectl apply -f application/apps/calico/tigera.yaml",
        "export Port='8 0' && kubectl apply -f application/apps/web/a.yaml",
        "export Port='8 0' && kubectl apply -f 'application/apps/web/b c.yaml'",
        "helm install db application/apps/db",
        "cd application/apps/own && kubectl apply -f x.yaml",
        "bash application/apps/early/go.sh",
    )
    assert info.converted_from == {"tool": "sealer", "version": "0.11.0", "digest": simple(
        says=sealer.extension(applications=apps, launch=launch), labels=labels).digest}  # fmt: skip


def test_raw_commands_are_launched_when_no_application_is(store: Store) -> None:
    says = sealer.extension(launch={"cmds": ["kubectl apply -f manifests/", "", "sh x.sh"]})
    assert converted(store, simple(says=says)).platforms[0].info.launch == ("kubectl apply -f manifests/", "sh x.sh")


def test_an_application_installer_is_an_application_image(store: Store) -> None:
    says = sealer.extension(type="app-installer")
    labels = {"cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15"}
    info = converted(store, simple(says=says, labels=labels)).platforms[0].info
    assert (info.type, info.kubernetes) == ("app", None)


def test_the_history_stays_and_a_step_that_held_the_registry_only_is_empty(store: Store) -> None:
    image = written(store, converted(store, simple()))
    assert [row.layer is None for row in listing.history(image)] == [False, True, False, True]
    assert listing.history(image)[1].created_by.endswith("LABEL a=b")


def test_an_image_without_history_gets_a_step_for_each_layer(store: Store) -> None:
    image = written(store, converted(store, simple(history=False)))
    assert [row.layer is None for row in listing.history(image)] == [False, False, True]


def test_what_the_info_says_survives_the_store(store: Store) -> None:
    found = converted(store, simple())
    assert written(store, found).platforms[0].info == found.platforms[0].info


@pytest.mark.parametrize("place", ["manifest", "labels", "config"])
def test_annotations_are_found_wherever_they_travelled(store: Store, place: str) -> None:
    found = converted(store, simple(annotations_in=place, docker=place == "labels"))
    assert len(names(found)) == 3
    assert not [key for key in found.platforms[0].info.labels if key.startswith("sealer.image")]


def test_docker_media_types_are_no_hindrance(store: Store, tmp_path: Path) -> None:
    found = converted(store, simple(docker=True))
    assert len(names(found)) == 3
    assert tree_of(store, found, tmp_path / "out")["Metadata"] == sealer.ROOTFS["Metadata"]


def test_of_an_embedded_index_the_index_and_the_platform_come_along(store: Store) -> None:
    arm = next(digest for digest in BOTH.manifests if digest != BOTH.digest and b"arm64" not in BOTH.manifests[digest][1])
    files = sealer.storage({"library/both:1": BOTH})
    amd64, arm64 = (child["digest"] for child in json.loads(BOTH.data)["manifests"])
    assert arm in (amd64, arm64)
    # sealer keeps the manifest and the blobs of its own platform only.
    del files[sealer.data_path(arm64)]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=sealer.listed("both:1")))
    assert problems(found) == []
    assert found.platforms[0].images.images[0].digest == BOTH.digest
    carried = {blob.digest for blob in found.platforms[0].images.blobs}
    assert {BOTH.digest, amd64} < carried
    assert arm64 not in carried


def test_an_index_of_two_platforms_becomes_a_cloudimage_of_two(store: Store) -> None:
    arm_tree = {"library/nginx:1.25": made.image("nginx arm", platform="linux/arm64")}
    arm = simple(arm_tree, sealer.listed("nginx:1.25", platform="linux/arm64"), platform="linux/arm64")
    both = made.index({"linux/amd64": simple(), "linux/arm64": arm}, docker=True)
    found = converted(store, both)
    assert problems(found) == []
    image = written(store, found)
    assert [str(part.platform) for part in image.platforms] == ["linux/amd64", "linux/arm64"]
    assert [len(part.images.images) for part in image.platforms] == [3, 1]
    only = sealerimage.convert(store, "sealerio/app:v1", platform=Platform.parse("arm64"))
    assert [str(part.platform) for part in only.platforms] == ["linux/arm64"]
    with pytest.raises(StoreError, match="only for linux/amd64, linux/arm64"):
        sealerimage.convert(store, "sealerio/app:v1", platform=Platform.parse("linux/arm/v7"))


def test_a_platform_that_was_not_pulled_is_said(store: Store) -> None:
    arm = simple(platform="linux/arm64")
    sealer.put(store, "app", made.index({"linux/amd64": simple(), "linux/arm64": arm}), without=arm.digests - simple().digests)
    found = sealerimage.convert(store, "app")
    assert found.notes == ("linux/arm64 is in the index, but not in the store",)
    assert len(found.platforms) == 1


# The storage in layers


def test_the_storage_may_be_spread_over_layers(store: Store) -> None:
    files = list(sealer.storage(TREE).items())
    spread = [dict(files[number::3]) for number in range(3)]
    found = converted(store, sealer.image([sealer.ROOTFS, *spread], images=NAMES))
    assert (len(names(found)), problems(found)) == (3, [])


def test_a_layer_can_take_away_what_lower_ones_have(store: Store, tmp_path: Path) -> None:
    above = {
        f"{sealer.STORAGE}/repositories/library/.wh.nginx": b"",
        "manifests/.wh.app.yaml": b"",
        "etc/.wh..wh..opq": b"",
        "etc/new.yml": b"new",
    }
    image = sealer.image([{**sealer.ROOTFS, "manifests/app.yaml": b""}, sealer.storage(TREE), above], images=NAMES)
    found = converted(store, image)
    assert problems(found) == [("missing", "docker.io/library/nginx:1.25")]
    out = tree_of(store, found, tmp_path / "out")
    assert "manifests/app.yaml" not in out
    assert {path for path in out if path.startswith("etc/")} == {"etc/new.yml"}


@pytest.mark.parametrize("removal", [".wh.registry", "registry/.wh..wh..opq", "registry/docker/.wh.registry"])
def test_a_registry_that_was_taken_away_and_made_again_is_the_new_one(store: Store, removal: str) -> None:
    new = {removal: b"", **sealer.storage({"pause:3.5": PAUSE})}
    found = converted(store, sealer.image([sealer.ROOTFS, sealer.storage(TREE), new], images=NAMES))
    assert names(found) == ["registry.k8s.io/pause:3.5"]
    assert {name for kind, name in problems(found) if kind == "missing"} == {
        "docker.io/library/nginx:1.25", "registry.example.com:5000/acme/app:v2",
    }  # fmt: skip


def test_a_file_may_take_the_place_of_the_registry_and_the_other_way_round(store: Store) -> None:
    file: sealer.Files = {"registry/docker": b"a file"}
    gone = converted(store, sealer.image([sealer.ROOTFS, sealer.storage(TREE), file], images=NAMES[:1]))
    assert problems(gone) == [("missing", "docker.io/library/nginx:1.25"), ("stray", "registry/docker")]
    there = converted(store, sealer.image([sealer.ROOTFS, file, sealer.storage(TREE)], images=NAMES))
    assert (len(names(there)), problems(there)) == (3, [])


def test_a_tag_that_an_upper_layer_moved_means_the_new_image(store: Store) -> None:
    newer = made.image("nginx, newer")
    layers = [sealer.ROOTFS, sealer.storage({"library/nginx:1": NGINX}), sealer.storage({"library/nginx:1": newer})]
    found = converted(store, sealer.image(layers, images=sealer.listed("nginx:1")))
    assert found.platforms[0].images.images[0].digest == newer.digest
    # The old one is there still, without a tag.
    assert problems(found) == [("unnamed", f"library/nginx@{NGINX.digest}")]


def test_hard_links_stay_whichever_name_comes_first(store: Store, tmp_path: Path) -> None:
    made_by_tar = sealer.layer({"lib/z": b"content", "lib/b": b"other"}, hardlinks={"lib/a": "lib/z", "lib/m": "./lib/a"})
    found = converted(store, sealer.image([made_by_tar]))
    unpack(store, found.platforms[0].layers, tmp_path / "out")
    inodes = {(tmp_path / "out/lib" / name).stat().st_ino for name in ("a", "m", "z")}
    assert len(inodes) == 1
    assert (tmp_path / "out/lib/m").read_bytes() == b"content"


@pytest.mark.parametrize(
    ("name", "kind", "target", "says"),
    [
        ("../escape", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("/etc/passwd", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("registry/../../x", tarfile.REGTYPE, "", "leaves the rootfs"),
        ("dev/sda", tarfile.BLKTYPE, "", "is a device"),
        ("a/.wh..", tarfile.REGTYPE, "", "removes something outside"),
        (".wh..wh..opq", tarfile.REGTYPE, "", "removes the whole rootfs"),
        ("bin/x", tarfile.LNKTYPE, "bin/nothere", "is not a file of this layer"),
        (f"{sealer.STORAGE}/blobs/sha256/aa/x", tarfile.LNKTYPE, "bin/kubeadm", "is not before it"),
    ],
)
def test_a_layer_with_what_no_rootfs_has_is_refused(store: Store, name: str, kind: bytes, target: str, says: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    with pytest.raises(StoreError, match=says):
        converted(store, sealer.image([sealer.layer(sealer.ROOTFS, extra=[entry])]))


def test_a_layer_that_is_missing_or_damaged_stops_it(store: Store) -> None:
    image = simple()
    layer = json.loads(image.data)["layers"][0]["digest"]
    sealer.put(store, "app", image, without=[layer])
    with pytest.raises(StoreError, match=f"{layer} is not in"):
        sealerimage.convert(store, "app")
    store.path(layer).write_bytes(b"garbage")
    with pytest.raises(StoreError, match="damaged"):
        sealerimage.convert(store, "app")


def test_links_and_odd_files_in_the_registry_are_said_and_do_not_come_along(store: Store, tmp_path: Path) -> None:
    extra: sealer.Files = {"registry/notes.txt": b"x", "registry/away": "/etc", "registry/scheduler-state.json": b"{}"}
    found = converted(store, sealer.image([sealer.ROOTFS, {**sealer.storage(TREE), **extra}], images=NAMES))
    assert problems(found) == [("stray", "registry/away"), ("stray", "registry/notes.txt")]
    assert not any(path.startswith("registry") for path in tree_of(store, found, tmp_path / "out"))


def test_a_large_blob_is_never_in_memory(store: Store) -> None:
    large = made.image("large", layers=1, size=32 << 20)
    sealer.put(store, "app", simple({"library/large:1": large}, sealer.listed("large:1")))
    tracemalloc.start()
    try:
        found = sealerimage.convert(store, "app")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert names(found) == ["docker.io/library/large:1"]
    assert peak < 12 << 20


def test_what_was_read_once_is_not_read_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = converted(store, simple())

    def refuse(*_: object) -> None:
        pytest.fail("a layer is read again")

    monkeypatch.setattr(sealertree, "open_layer", refuse)
    assert sealerimage.convert(store, "sealerio/app:v1") == first
    sealerimage.look(store, sealerimage.read(store, "sealerio/app:v1"))


def test_looking_keeps_only_manifests_and_converting_afterwards_gets_the_rest(store: Store) -> None:
    sealer.put(store, "app", simple())
    (inside,) = sealerimage.look(store, sealerimage.read(store, "app"))
    layer = next(digest for digest, data in NGINX.blobs.items() if not data.startswith(b"{"))
    assert not store.has(layer)
    assert inside.sizes["docker.io/library/nginx:1.25"] == sum(map(len, NGINX.blobs.values())) + len(NGINX.data)
    written(store, sealerimage.convert(store, "app"))
    assert store.has(layer)


def test_blobs_that_were_collected_since_are_taken_from_the_layer_again(store: Store) -> None:
    first = converted(store, simple())
    for digest in NGINX.digests:
        store.path(digest).unlink()
    again = sealerimage.convert(store, "sealerio/app:v1")
    assert again == first
    written(store, again)


# Names


def test_what_no_annotation_names_is_left_out_and_said(store: Store) -> None:
    found = converted(store, simple(images=NAMES[:1]))
    assert names(found) == ["docker.io/library/nginx:1.25"]
    assert problems(found) == [("unnamed", "acme/app:v2"), ("unnamed", "pause:3.5")]
    assert "no name for it" in found.problems[0].reason
    assert {blob.digest for blob in found.platforms[0].images.blobs} == NGINX.digests


def test_the_user_may_say_where_the_nameless_come_from(store: Store) -> None:
    found = converted(store, simple(images=False), registry="registry.example.com:5000")
    assert names(found) == [f"registry.example.com:5000/{name}" for name in sorted(TREE)]
    assert problems(found) == []
    # Docker Hub has no repository without a second part.
    hub = sealerimage.convert(store, "sealerio/app:v1", registry="docker.io")
    assert names(hub) == ["docker.io/acme/app:v2", "docker.io/library/nginx:1.25"]
    assert problems(hub) == [("unnamed", "pause:3.5")]


@pytest.mark.parametrize("registry", ["", "acme", "a b", "docker.io/library", "https://x.y"])
def test_a_registry_must_be_one(store: Store, registry: str) -> None:
    with pytest.raises(UsageError, match="not the address of a registry"):
        converted(store, simple(), registry=registry)


def test_a_name_that_the_tree_lacks_is_said(store: Store) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed("quay.io/acme/app:v3", "quay.io/other:1")]))
    assert len(names(found)) == 3
    assert problems(found) == [("missing", "quay.io/acme/app:v3"), ("missing", "quay.io/other:1")]


def test_two_names_that_differ_in_the_registry_only_are_both_left_out(store: Store) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed("quay.io/acme/app:v2")]))
    assert names(found) == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5"]
    assert problems(found) == [("ambiguous", "quay.io/acme/app:v2"), ("ambiguous", "registry.example.com:5000/acme/app:v2")]
    assert "quay.io/acme/app:v2" in found.problems[1].reason


def test_one_name_that_two_applications_want_is_one_image(store: Store) -> None:
    images = [*sealer.listed("nginx:1.25", app="web"), *sealer.listed("docker.io/library/nginx:1.25", app="db")]
    found = converted(store, simple({"library/nginx:1.25": NGINX}, images))
    assert problems(found) == []
    (nginx,) = found.platforms[0].images.images
    assert nginx.requested_by == ("application/apps/db", "application/apps/web")


def test_names_with_a_digest_are_found_by_it(store: Store) -> None:
    by_tag = f"quay.io/acme/app:v2@{OLD.digest}"
    images = sealer.listed(f"nginx@{NGINX.digest}", by_tag, f"gcr.io/acme/app@{OLD.digest}", f"pause@{NGINX.digest}")
    found = converted(store, simple(images=images))
    # The digest says which image it is, so the registry may be any.
    assert names(found) == [f"docker.io/library/nginx@{NGINX.digest}", f"gcr.io/acme/app@{OLD.digest}", f"quay.io/acme/app@{OLD.digest}"]
    assert ("missing", f"docker.io/library/pause@{NGINX.digest}") in problems(found)
    assert {name for kind, name in problems(found) if kind == "unnamed"} == {"acme/app:v2", "library/nginx:1.25", "pause:3.5"}


@pytest.mark.parametrize("name", ["Docker.io/Library/Nginx:1.25", "nginx:1.25:2", "", "nginx@sha256:12", "library//nginx", "a b:1"])
def test_an_odd_name_is_said_and_the_others_are_restored(store: Store, name: str) -> None:
    found = converted(store, simple(images=[*NAMES, *sealer.listed(name)]))
    assert len(names(found)) == 3
    assert problems(found) == [("invalid", name)]


def test_a_name_without_registry_is_docker_hubs_and_that_is_told(store: Store) -> None:
    found = converted(store, simple({"acme/app:v2": OLD}, sealer.listed("acme/app:v2")))
    assert names(found) == ["docker.io/acme/app:v2"]
    assert problems(found) == []
    assert found.notes == ("acme/app:v2 is taken as docker.io/acme/app:v2: the annotation names no registry, which means docker.io",)
    # sealer filed this one under nginx, not library/nginx: so it was not Docker Hub that it came from.
    other = converted(store, simple({"nginx:1": NGINX}, sealer.listed("nginx:1")))
    assert problems(other) == [("missing", "docker.io/library/nginx:1"), ("unnamed", "nginx:1")]


def test_names_for_another_platform_are_not_of_this_one(store: Store) -> None:
    images = [*NAMES, *sealer.listed("quay.io/acme/app:v2", platform="linux/arm64"), {"image": "nginx:1.25", "platform": None}]
    found = converted(store, simple(images=images))
    assert (len(names(found)), problems(found)) == (3, [])


def test_an_image_for_another_platform_comes_along_and_that_is_told(store: Store) -> None:
    arm = made.image("arm", platform="linux/arm64")
    found = converted(store, simple({"library/arm:1": arm}, sealer.listed("arm:1")))
    assert (names(found), problems(found)) == (["docker.io/library/arm:1"], [])
    assert found.notes == ("docker.io/library/arm:1 is made for linux/arm64: nodes of linux/amd64 will not run it",)


# Damage in the tree


def test_a_blob_that_is_missing_leaves_its_image_out(store: Store) -> None:
    layer = min(NGINX.blobs)
    files = sealer.storage(TREE)
    del files[sealer.data_path(layer)]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES))
    assert names(found) == ["registry.example.com:5000/acme/app:v2", "registry.k8s.io/pause:3.5"]
    assert problems(found) == [("incomplete", "docker.io/library/nginx:1.25")]
    assert found.problems[0].reason == f"blob {layer} is missing in the tree"
    written(store, found)


@pytest.mark.parametrize("what", ["layer", "manifest"])
def test_a_blob_with_other_bytes_leaves_its_image_out_also_when_the_store_has_the_right_ones(store: Store, what: str) -> None:
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
def test_a_link_that_names_no_digest_leaves_its_image_out(store: Store, link: bytes) -> None:
    files = {**sealer.storage(TREE), sealer.tag_path("library/nginx:1.25"): link, sealer.tag_path("acme/app:v2"): link}
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=NAMES[:2]))
    assert names(found) == ["registry.k8s.io/pause:3.5"]
    told = {problem.name: problem for problem in found.problems if problem.kind == "incomplete"}
    assert set(told) == {"docker.io/library/nginx:1.25", "acme/app:v2"}
    assert all("which is not a digest" in problem.reason for problem in told.values())


def test_a_blob_of_another_size_than_its_manifest_says_leaves_its_image_out(store: Store) -> None:
    manifest = json.loads(NGINX.data)
    manifest["layers"][0]["size"] += 1
    data = canonical_json(manifest)
    odd = Image(digest_of(data), NGINX.media_type, {digest_of(data): (NGINX.media_type, data)}, NGINX.blobs)
    found = converted(store, simple({"library/odd:1": odd}, sealer.listed("odd:1")))
    assert problems(found) == [("incomplete", "docker.io/library/odd:1")]
    assert "has 2000 bytes instead of 2001" in found.problems[0].reason


def test_a_manifest_that_its_repository_does_not_link_is_not_in_it(store: Store) -> None:
    link = f"{sealer.STORAGE}/repositories/acme/app/_manifests/revisions/{OLD.digest.replace(':', '/')}/link"
    files = {**sealer.storage(TREE), link: NGINX.digest.encode()}
    images = [*NAMES, *sealer.listed(f"quay.io/acme/app@{OLD.digest}")]
    found = converted(store, sealer.image([sealer.ROOTFS, files], images=images))
    assert problems(found) == [("missing", f"quay.io/acme/app@{OLD.digest}")]


def test_a_link_to_a_digest_that_is_not_there_leaves_its_image_out(store: Store) -> None:
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
def test_something_that_is_no_manifest_leaves_its_image_out(store: Store, manifest: bytes) -> None:
    digest = digest_of(manifest)
    bad = Image(digest, DOCKER_MANIFEST, {digest: (DOCKER_MANIFEST, manifest)}, {})
    found = converted(store, simple({**TREE, "library/bad:1": bad}, [*NAMES, *sealer.listed("bad:1")]))
    assert len(names(found)) == 3
    assert problems(found) == [("incomplete", "docker.io/library/bad:1")]


def test_an_index_without_the_platform_is_incomplete(store: Store) -> None:
    arm = made.index({"linux/arm64": made.image("arm", platform="linux/arm64")})
    found = converted(store, simple({"library/arm:1": arm}, sealer.listed("arm:1")))
    assert problems(found) == [("incomplete", "docker.io/library/arm:1")]
    assert "linux/amd64, only for linux/arm64" in found.problems[0].reason


def test_indexes_within_indexes_end_somewhere(store: Store) -> None:
    nested = BOTH
    for _ in range(6):
        nested = made.index({"linux/amd64": nested})
    found = converted(store, simple({"library/nested:1": nested}, sealer.listed("nested:1")))
    assert problems(found) == [("incomplete", "docker.io/library/nested:1")]
    assert "nest more than 4 deep" in found.problems[0].reason


# Annotations


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("{not json", "is not usable JSON"),
        ('"text"', "is not a JSON object"),
        ("[]", "is not a JSON object"),
        (sealer.extension(type="app-image"), "has the type 'app-image'"),
        (sealer.extension(type=None), "has the type None"),
        (sealer.extension(env={"A": 1}), "something in env that is not text"),
        (sealer.extension(launch=["x"]), "launch that is not an object"),
        (sealer.extension(applications=[{"type": "kube"}]), "an application without a name"),
        (sealer.extension(applications={"a": 1}), "applications that are not a list"),
        (False, "does not exist"),
    ],
)
def test_without_an_extension_nothing_is_converted_and_it_can_still_be_looked_at(store: Store, says: Any, message: str) -> None:
    sealer.put(store, "app", simple(says=says))
    with pytest.raises(StoreError, match=message) as caught:
        sealerimage.convert(store, "app")
    assert "loses annotations" in (caught.value.hint or "")
    (inside,) = sealerimage.look(store, sealerimage.read(store, "app"))
    assert len(inside.restored.images.images) == 3
    assert [problem.kind for problem in inside.problems] == ["annotation"]


@pytest.mark.parametrize("images", ["[not json", '{"image": "x"}', '[{"name": "x"}]', '["nginx"]', "7", '[{"image": 7}]'])
def test_a_list_of_images_that_cannot_be_read_names_none(store: Store, images: str) -> None:
    found = converted(store, simple(images=images))
    assert names(found) == []
    assert problems(found) == [
        ("annotation", sealerimage.CONTAINER_IMAGES),
        ("unnamed", "acme/app:v2"),
        ("unnamed", "library/nginx:1.25"),
        ("unnamed", "pause:3.5"),
    ]


def test_an_unknown_schema_is_said(store: Store) -> None:
    assert problems(converted(store, simple(says=sealer.extension(schemaVersion="v2")))) == [("annotation", sealerimage.EXTENSION)]


def test_an_image_without_embedded_images_says_so(store: Store) -> None:
    found = converted(store, sealer.image([sealer.ROOTFS], images=False))
    assert (names(found), problems(found)) == ([], [])
    assert "embeds no container images" in found.notes[0]


def test_applications_that_cannot_be_launched_are_said(store: Store) -> None:
    says = sealer.extension(applications=[{"name": "own", "files": ["x"]}], launch={"app_names": ["own", "gone"]})
    found = converted(store, simple(says=says))
    assert problems(found) == [("launch", "own"), ("launch", "gone")]
    assert found.platforms[0].info.launch == ()


def test_other_images_are_not_sealers(store: Store) -> None:
    sealer.put(store, "plain", NGINX)
    written(store, converted(store, simple()), "ours")
    for name in ("plain", "ours"):
        assert not sealerimage.is_sealer(store, store.resolve(name))
        with pytest.raises(StoreError, match="is not an image of sealer"):
            sealerimage.read(store, name)
    assert [row.name for row in sealerimage.rows(store)] == ["sealerio/app:v1"]


def test_a_manifest_that_makes_no_sense_is_not_sealers(store: Store) -> None:
    manifests: list[dict[str, Any]] = [{"config": 7}, {"config": {"digest": "x"}}, {"manifests": 7}, {"manifests": [{}]}]
    for number, manifest in enumerate(manifests):
        data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, **manifest})
        sealer.put(store, f"odd:{number}", Image(digest_of(data), OCI_INDEX, {digest_of(data): (OCI_INDEX, data)}, {}))
        assert not sealerimage.is_sealer(store, store.resolve(f"odd:{number}"))


# The command line


@pytest.fixture
def app(store: Store) -> Image:
    image = simple(images=NAMES[:2], labels={"cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15"})
    sealer.put(store, "sealerio/app:v1", image)
    return image


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert cli.execute(list(words)) == code
    found = capsys.readouterr()
    return found.out, found.err


def test_images_lists_it_with_its_kind(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    header, line = said(capsys, "images")[0].splitlines()
    assert header.split() == ["NAME", "DIGEST", "KIND", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"]
    assert line.split()[:6] == ["sealerio/app:v1", app.digest[7:19], "sealer", "linux/amd64", "v1.22.15", "2"]
    (row,) = json.loads(said(capsys, "images", "-o", "json")[0])
    assert (row["kind"], row["size"]) == ("sealer", sum(map(len, app.blobs.values())) + len(app.data))


def test_inspect_shows_what_it_is_and_what_cannot_be_restored(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "inspect", "sealerio/app:v1")[0]
    for line in ("made by     sealer 0.11.0, v1alpha1", "type        kube-installer, Kubernetes v1.22.15", "env         Mode=fast",
                 "app         web (kube)", "launch      web", "label       io.sealer.version=0.11.0"):  # fmt: skip
        assert line in out.splitlines()
    assert "docker.io/library/nginx:1.25  " in out
    assert "unnamed  acme/app:v2  no name for it" in out
    value = json.loads(said(capsys, "inspect", app.digest, "-o", "json")[0])
    (platform,) = value["platforms"]
    assert (value["kind"], platform["extension"]["type"], platform["kubernetes"]) == ("sealer", "kube-installer", "v1.22.15")
    assert [image["name"] for image in platform["images"]] == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5"]
    assert [(problem["kind"], problem["name"]) for problem in platform["problems"]] == [("unnamed", "acme/app:v2")]


def test_convert_warns_and_tags(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "convert", "sealerio/app:v1")
    assert "warning: acme/app:v2: no name for it" in err
    assert out.splitlines()[0].startswith("sealerio/app:v1-slipway  sha256:")
    assert "1 thing could not be restored" in out
    assert len(cloudimage.read(store, "sealerio/app:v1-slipway").platforms[0].images.images) == 2
    assert store.resolve("sealerio/app:v1").digest == app.digest
    assert f"made from   an image of sealer 0.11.0  {app.digest[7:19]}" in said(capsys, "inspect", "sealerio/app:v1-slipway")[0]
    value = json.loads(said(capsys, "convert", "sealerio/app:v1", "-t", "x", "--registry", "quay.io", "-o", "json")[0])
    assert (value["name"], value["problems"]) == ("x:latest", [])
    assert value["source"] == {"name": "sealerio/app:v1", "digest": app.digest}


def test_strict_tags_nothing_when_something_is_lost(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "convert", "sealerio/app:v1", "-t", "x", "--strict", code=4)
    assert "cannot be converted whole: 1 problem" in err
    assert "acme/app:v2: no name for it" in err
    assert list(store.names()) == ["sealerio/app:v1"]
    said(capsys, "convert", "sealerio/app:v1", "-t", "x", "--strict", "--registry", "quay.io")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["convert", "nothere"], 4, "no such image"),
        (["convert", "plain"], 4, "is not an image of sealer"),
        (["convert", "sealerio/app:v1", "--registry", "x"], 2, "not the address of a registry"),
        (["convert", "sealerio/app:v1", "-t", "UPPER"], 4, "must be lower case"),
        (["history", "sealerio/app:v1"], 4, "not a CloudImage"),
    ],
)
def test_what_goes_wrong_is_said(
    store: Store, app: Image, words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sealer.put(store, "plain", NGINX)
    assert message in said(capsys, *words, code=code)[1]


def test_a_digest_without_a_name_needs_one(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    assert "say how the CloudImage shall be called" in said(capsys, "convert", app.digest, code=2)[1]
    said(capsys, "convert", app.digest, "-t", "x")


def test_a_converted_cluster_image_is_not_run_and_says_what_is_missing(store: Store) -> None:
    written(store, converted(store, simple()))
    with pytest.raises(StoreError, match=r"was made by sealer.*etc/slipway\.yaml.*bin/containerd") as caught:
        run.prepare(run.Options("new", (Machine("10.0.0.1"),)), store)
    assert "FROM a CloudImage with Kubernetes" in (caught.value.hint or "")
