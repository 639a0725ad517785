from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, History, ImageApp, ImageSet, Info, PlatformImage
from harness.errors import StoreError
from harness.oci.garbage import collect
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.store import Store

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
INFO = Info(
    kubernetes="v1.36.3",
    env={"MODE": "fast", "A": ""},
    launch=("kubectl apply -f manifests/", "echo 'ü'"),
    apps=(ImageApp("nginx", "kube", ("application/apps/nginx/a.yaml",), {"P": "1"}, ("kubectl apply -f a.yaml",), {"cni": "true"}),),
    labels={"org.example.team": "web"},
    base={"reference": "docker.io/library/kubernetes:v1.36.3", "digest": digest_of(b"base")},
    kube_version=">=1.20",
    cluster_apps=("nginx",),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put_image(store: Store, name: str, *layers: bytes, arm: bool = False) -> ImageSet:
    """A container image under an index that lists a second platform, of which nothing is kept."""
    config = Blob(*reversed_put(store, b'{"os":"linux"}', OCI_CONFIG))
    content = [Blob(*reversed_put(store, layer, OCI_LAYER_GZIP)) for layer in layers]
    manifest_json = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config.to_json(),
        "layers": [blob.to_json() for blob in content],
    }
    manifest = Blob(*reversed_put(store, canonical_json(manifest_json), OCI_MANIFEST))
    elsewhere = Descriptor(OCI_MANIFEST, digest_of(b"other platform"), 14, platform=ARM64)
    index_json = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest.to_json(), elsewhere.to_json()]}
    index = Blob(*reversed_put(store, canonical_json(index_json), OCI_INDEX))
    embedded = EmbeddedImage(name, index.digest, OCI_INDEX, index.size, ("pulled",), ("manifests/a.yaml:3",))
    return ImageSet((embedded,), (index, manifest, config, *content))


def reversed_put(store: Store, data: bytes, media_type: str) -> tuple[str, str, int]:
    digest, size = store.put(data)
    return digest, media_type, size


def platform_image(store: Store, platform: Platform = AMD64, **changes: Any) -> PlatformImage:
    below = write_layer([LayerEntry("bin/kubelet", "file", 0o755, b"kubelet for " + str(platform).encode())], store)
    above = write_layer([LayerEntry("manifests/a.yaml", "file", 0o644, b"kind: Pod")], store)
    image = PlatformImage(
        platform=platform,
        layers=(below.descriptor, above.descriptor),
        diff_ids=(below.diff_id, above.diff_id),
        history=(
            History("FROM scratch", "sha256:1"),
            History("LABEL a=b", "sha256:2", empty=True),
            History("COPY a.yaml manifests/", "sha256:3"),
        ),
        info=INFO,
        images=put_image(store, "docker.io/library/nginx:1.25", b"base", b"nginx").union(
            put_image(store, "registry.k8s.io/pause:3.2", b"pause")
        ),
    )
    return dataclasses.replace(image, **changes)


def write(store: Store, *platforms: PlatformImage, name: str = "web") -> CloudImage:
    store.tag(name, cloudimage.write(store, platforms or [platform_image(store)]))
    return cloudimage.read(store, name)


# The format


def test_what_was_written_is_read(store: Store) -> None:
    written = [platform_image(store), platform_image(store, ARM64)]
    image = write(store, *written)
    assert [dataclasses.replace(platform, images=platform.images.sorted()) for platform in written] == list(image.platforms)
    assert image.name == "web:latest"
    assert cloudimage.read(store, image.digest) == dataclasses.replace(image, name=None)
    cloudimage.verify(store, image)


def test_the_same_image_has_the_same_digest_whatever_the_order_and_the_store(store: Store, tmp_path: Path) -> None:
    first = cloudimage.write(store, [platform_image(store), platform_image(store, ARM64)])
    elsewhere = Store(tmp_path / "elsewhere")
    again = [platform_image(elsewhere, ARM64), platform_image(elsewhere)]
    shuffled = dataclasses.replace(INFO, env=dict(reversed(list(INFO.env.items()))))
    for number, image in enumerate(again):
        images = ImageSet(tuple(reversed(image.images.images)), tuple(reversed(image.images.blobs)) + image.images.blobs[:1])
        again[number] = dataclasses.replace(image, images=images, info=shuffled)
    assert cloudimage.write(elsewhere, again) == first


def test_the_artifact_is_the_format_to_the_letter(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    index = store.json(image.digest)
    assert set(index) == {"schemaVersion", "mediaType", "manifests", "annotations"}
    assert (index["schemaVersion"], index["mediaType"]) == (2, OCI_INDEX)
    assert index["annotations"] == {"dev.slipway.kind": "cloudimage"}
    entries = [(entry["platform"]["architecture"], entry.get("annotations"), entry["mediaType"]) for entry in index["manifests"]]
    imageset = {"dev.slipway.kind": "imageset"}
    assert entries == [(arch, kind, OCI_MANIFEST) for arch in ("amd64", "arm64") for kind in (None, imageset)]

    rootfs = store.json(index["manifests"][0]["digest"])
    assert rootfs["config"]["mediaType"] == OCI_CONFIG
    assert {layer["mediaType"] for layer in rootfs["layers"]} == {OCI_LAYER_GZIP}
    info = json.loads(rootfs["annotations"]["dev.slipway.cloudimage"])
    assert (info["schemaVersion"], info["type"], info["kubernetes"], info["kubeVersion"]) == (1, "kube", "v1.36.3", ">=1.20")
    assert info["launch"] == list(INFO.launch)
    config = store.json(rootfs["config"]["digest"])
    assert (config["os"], config["architecture"], config["created"]) == ("linux", "amd64", "1970-01-01T00:00:00Z")
    assert config["config"]["Labels"] == INFO.labels
    assert config["history"] == [
        {"created": "1970-01-01T00:00:00Z", "created_by": "FROM scratch", "comment": "sha256:1"},
        {"created": "1970-01-01T00:00:00Z", "created_by": "LABEL a=b", "comment": "sha256:2", "empty_layer": True},
        {"created": "1970-01-01T00:00:00Z", "created_by": "COPY a.yaml manifests/", "comment": "sha256:3"},
    ]

    images = store.json(index["manifests"][1]["digest"])
    assert images["config"]["mediaType"] == "application/vnd.slipway.imageset.v1+json"
    assert {layer["mediaType"] for layer in images["layers"]} == {"application/vnd.slipway.blob.v1"}
    digests = [layer["digest"] for layer in images["layers"]]
    assert digests == sorted(set(digests))
    listed = store.json(images["config"]["digest"])
    assert {blob["digest"] for blob in listed["blobs"]} == set(digests)
    assert listed["images"][0]["name"] == "docker.io/library/nginx:1.25"
    assert set(listed["images"][0]) == {"name", "digest", "mediaType", "size", "foundBy", "requestedBy"}
    assert "artifactType" not in json.dumps([index, rootfs, images])


def test_an_image_of_nothing_but_a_name_is_an_image(store: Store) -> None:
    image = write(store, PlatformImage(AMD64, (), (), info=Info(type="app")))
    assert image.platforms[0].info == Info(type="app")
    assert image.platforms[0].images == ImageSet()


def test_what_a_newer_slipway_added_to_the_info_is_kept(store: Store) -> None:
    value = {**INFO.to_json(), "rollout": {"waves": 3}}
    info = Info.from_json(value)
    assert info.extra == {"rollout": {"waves": 3}}
    assert write(store, platform_image(store, info=info)).platforms[0].info.to_json() == value


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"diff_ids": ()}, "2 layers, 0 diff ids"),
        ({"history": (History("FROM scratch"),)}, "1 history entries"),
        ({"layers": (Descriptor(OCI_LAYER_GZIP, digest_of(b"gone"), 4),) * 2}, digest_of(b"gone")),
        ({"images": ImageSet((), (Blob(digest_of(b"gone"), OCI_LAYER_GZIP, 4),))}, digest_of(b"gone")),
    ],
)
def test_what_is_not_whole_is_not_written(store: Store, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(StoreError, match=why):
        cloudimage.write(store, [platform_image(store, **changes)])


def test_one_platform_once_and_at_least_one(store: Store) -> None:
    with pytest.raises(StoreError, match="at least one"):
        cloudimage.write(store, [])
    with pytest.raises(StoreError, match="two images for one platform"):
        cloudimage.write(store, [platform_image(store, ARM64), platform_image(store, Platform("linux", "arm64", "v8"))])


# Reading what is not right


def test_an_ordinary_image_is_no_cloudimage(store: Store) -> None:
    store.tag("nginx", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    with pytest.raises(StoreError, match="nginx:latest is an image, but not a CloudImage"):
        cloudimage.read(store, "nginx")
    store.tag("index", Descriptor(OCI_INDEX, *store.put(b'{"manifests": []}')))
    with pytest.raises(StoreError, match="not a CloudImage"):
        cloudimage.read(store, "index")


def test_any_missing_or_damaged_part_is_noticed(store: Store) -> None:
    image = write(store)
    for blob in image.blobs:
        data = store.read(blob.digest)
        for damage in (None, data[:-1]):
            store.path(blob.digest).unlink()
            if damage is not None:
                store.path(blob.digest).write_bytes(damage)
            with pytest.raises(StoreError, match=blob.digest):
                cloudimage.read(store, "web")
            store.put(data)
    assert cloudimage.read(store, "web") == image


def test_changed_bytes_of_the_same_length_are_found_by_verify(store: Store) -> None:
    image = write(store)
    layer = image.platforms[0].images.blobs[0].digest
    store.path(layer).write_bytes(bytes(store.size(layer)))
    with pytest.raises(StoreError, match=f"{layer}.*damaged"):
        cloudimage.verify(store, image)


def retag(store: Store, index: dict[str, Any]) -> None:
    store.tag("web", Descriptor(OCI_INDEX, *store.put(canonical_json(index))))


def test_an_image_of_a_newer_format_says_so(store: Store) -> None:
    index = store.json(write(store).digest)
    rootfs = store.json(index["manifests"][0]["digest"])
    rootfs["annotations"]["dev.slipway.cloudimage"] = '{"schemaVersion": 2}'
    index["manifests"][0].update(zip(("digest", "size"), store.put(canonical_json(rootfs)), strict=True))
    retag(store, index)
    with pytest.raises(StoreError, match="format version 2") as caught:
        cloudimage.read(store, "web")
    assert "newer slipway" in (caught.value.hint or "")


@pytest.mark.parametrize("damage", ["no image set", "no platform", "no entries", "no info", "no layers", "an image that is not carried"])
def test_an_index_that_is_not_ours_is_an_error_not_a_crash(store: Store, damage: str) -> None:
    index = store.json(write(store).digest)
    rootfs, images = index["manifests"]
    manifest = store.json(rootfs["digest"])
    if damage == "no image set":
        index["manifests"] = [rootfs]
    elif damage == "no platform":
        del rootfs["platform"]
    elif damage == "no entries":
        index["manifests"] = []
    elif damage == "an image that is not carried":
        carrying = {**store.json(images["digest"]), "layers": []}
        images.update(zip(("digest", "size"), store.put(canonical_json(carrying)), strict=True))
    else:
        del manifest["annotations" if damage == "no info" else "layers"]
        rootfs.update(zip(("digest", "size"), store.put(canonical_json(manifest)), strict=True))
    retag(store, index)
    with pytest.raises(StoreError, match="cannot be understood"):
        cloudimage.read(store, "web")


def test_entries_of_a_kind_from_the_future_are_left_alone(store: Store) -> None:
    image = write(store)
    index = store.json(image.digest)
    index["manifests"].append({**index["manifests"][1], "annotations": {"dev.slipway.kind": "signature"}})
    retag(store, index)
    assert cloudimage.read(store, "web").platforms == image.platforms


def test_a_platform_that_is_not_in_it_is_answered_with_those_that_are(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    assert image.platform(Platform("linux", "arm64", "v8")).platform == ARM64
    with pytest.raises(StoreError, match="only for linux/amd64, linux/arm64"):
        image.platform(Platform("linux", "s390x"))


# Image sets


def test_a_union_keeps_each_blob_once_and_everyone_who_asked(store: Store) -> None:
    one, two = put_image(store, "docker.io/library/a:1", b"base", b"a"), put_image(store, "docker.io/library/b:1", b"base", b"b")
    declared = dataclasses.replace(one.images[0], found_by=("declared",), requested_by=("charts/x",))
    both = one.union(two).union(ImageSet((declared,), one.blobs))
    assert [image.name for image in both.images] == ["docker.io/library/a:1", "docker.io/library/b:1"]
    assert both.images[0].found_by == ("declared", "pulled")
    assert both.images[0].requested_by == ("charts/x", "manifests/a.yaml:3")
    assert len(both.blobs) == len({blob.digest for blob in both.blobs}) == 8
    assert both == both.union(both) == two.union(one).union(ImageSet((declared,)))


def test_a_name_means_what_it_means_in_the_newer_set(store: Store) -> None:
    old, new = put_image(store, "docker.io/library/a:1", b"old"), put_image(store, "docker.io/library/a:1", b"new")
    assert [image.digest for image in old.union(new).images] == [new.images[0].digest]


# What people see


def test_the_description_is_plain_data_with_everything(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    value = json.loads(json.dumps(cloudimage.describe(image)))
    assert (value["name"], value["digest"], value["size"]) == ("web:latest", image.digest, image.size)
    amd64, arm64 = value["platforms"]
    assert (amd64["platform"], arm64["platform"]) == ("linux/amd64", "linux/arm64")
    assert amd64["info"] == INFO.to_json()
    assert [layer["diffId"] for layer in amd64["rootfs"]["layers"]] == list(image.platforms[0].diff_ids)
    assert [embedded["name"] for embedded in amd64["images"]] == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.2"]
    assert amd64["images"][0]["foundBy"] == ["pulled"]


def test_the_size_counts_each_blob_once(store: Store) -> None:
    image = write(store, platform_image(store), platform_image(store, ARM64))
    collect(store)
    assert image.size == sum(path.stat().st_size for path in (store.root / "blobs/sha256").iterdir())


def test_images_are_listed_with_what_is_wrong_with_them(store: Store) -> None:
    assert cloudimage.images(store) == ()
    image = write(store)
    write(store, platform_image(store, info=Info(type="app"), images=ImageSet()), name="ghcr.io/x/small:1")
    store.tag("plain", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    small, web = cloudimage.images(store)
    assert (web.name, web.digest, web.platforms, web.size, web.images) == ("web:latest", image.digest, ("linux/amd64",), image.size, 2)
    assert (web.kubernetes, web.problem) == ("v1.36.3", None)
    assert (small.name, small.images, small.kubernetes) == ("ghcr.io/x/small:1", 0, None)
    gone = next(blob.digest for blob in image.platforms[0].images.blobs)
    store.path(gone).unlink()
    small, web = cloudimage.images(store)
    assert small.problem is None
    assert gone in (web.problem or "")
    store.path(image.digest).write_bytes(b"")
    assert "damaged" in (cloudimage.images(store)[1].problem or "")


def test_history_says_which_instruction_made_which_layer(store: Store) -> None:
    image = write(store)
    below, above = image.platforms[0].layers
    assert [(row.created_by, row.step, row.layer, row.size) for row in cloudimage.history(image)] == [
        ("FROM scratch", "sha256:1", below.digest, below.size),
        ("LABEL a=b", "sha256:2", None, 0),
        ("COPY a.yaml manifests/", "sha256:3", above.digest, above.size),
    ]


def test_tag_gives_one_more_name(store: Store) -> None:
    image = write(store)
    assert cloudimage.tag(store, "web", "ghcr.io/x/web:2").digest == image.digest
    assert set(store.names()) == {"web:latest", "ghcr.io/x/web:2"}
    with pytest.raises(StoreError, match="no such image"):
        cloudimage.tag(store, "wab", "x")


def test_remove_frees_an_image_with_its_last_name(store: Store) -> None:
    write(store)
    cloudimage.tag(store, "web", "alias")
    removed, freed = cloudimage.remove(store, ["web"])
    assert (removed, freed) == (("web:latest",), (0, 0, False))
    size = cloudimage.read(store, "alias").size
    removed, freed = cloudimage.remove(store, ["alias"])
    assert freed.bytes == size
    assert not list((store.root / "blobs/sha256").iterdir())


def test_remove_takes_all_names_or_none(store: Store) -> None:
    image = write(store)
    with pytest.raises(StoreError, match="no such image"):
        cloudimage.remove(store, ["web", "nothing"])
    cloudimage.tag(store, "web", "alias")
    with pytest.raises(StoreError, match="several names: alias:latest, web:latest"):
        cloudimage.remove(store, [image.digest])
    assert set(store.names()) == {"web:latest", "alias:latest"}
    cloudimage.remove(store, ["alias", "alias:latest"])
    assert cloudimage.remove(store, [image.digest[7:19]])[0] == ("web:latest",)
    with pytest.raises(StoreError):
        cloudimage.remove(store, [image.digest])


def test_an_image_of_which_one_platform_was_fetched_is_read_for_that_one(store: Store) -> None:
    index = cloudimage.write(store, [platform_image(store), platform_image(store, Platform.parse("linux/arm64"))])
    store.tag("web", index)
    rootfs = {entry["platform"]["architecture"]: entry["digest"] for entry in store.json(index.digest)["manifests"][::2]}
    store.path(rootfs["arm64"]).unlink()
    image = cloudimage.read(store, "web")
    assert [str(one.platform) for one in image.platforms] == ["linux/amd64"]
    assert image.absent == (Platform.parse("linux/arm64"),)
    with pytest.raises(StoreError, match=r"without its part for linux/arm64"):
        image.platform(Platform.parse("arm64"))
    store.path(rootfs["amd64"]).unlink()
    with pytest.raises(StoreError, match=r"is not in"):
        cloudimage.read(store, "web")
