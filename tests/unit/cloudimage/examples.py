"""CloudImages for tests, and the container images in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Blob, CloudImage, EmbeddedImage, History, ImageApp, ImageSet, Info, PlatformImage, diff, diff_side
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
PLAIN = Info()


def container_image(store: Store, name: str, content: bytes) -> ImageSet:
    """An embedded image of one layer."""
    blobs = [Descriptor(OCI_CONFIG, *store.put(b'{"os":"linux"}')), Descriptor(OCI_LAYER_GZIP, *store.put(content))]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blobs[0].to_json(), "layers": [blobs[1].to_json()]}
    blobs.append(Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    embedded = EmbeddedImage(name, blobs[2].digest, OCI_MANIFEST, blobs[2].size, ("pulled",))
    return ImageSet((embedded,), tuple(Blob(blob.digest, blob.media_type, blob.size) for blob in blobs))


def images(store: Store, named: Mapping[str, bytes]) -> ImageSet:
    found = ImageSet()
    for name, content in named.items():
        found = found.union(container_image(store, name, content))
    return found


def put(
    store: Store,
    name: str,
    *layers: list[LayerEntry],
    info: Info = PLAIN,
    embedded: Mapping[str, bytes] | None = None,
    history: tuple[str, ...] = (),
    platforms: tuple[Platform, ...] = (AMD64,),
) -> CloudImage:
    made = [write_layer(entries, store) for entries in layers]
    part = PlatformImage(
        AMD64,
        tuple(layer.descriptor for layer in made),
        tuple(layer.diff_id for layer in made),
        tuple(History(line, empty=number >= len(made)) for number, line in enumerate(history)),
        info,
        images(store, embedded or {}),
    )
    store.tag(name, cloudimage.write(store, [dataclasses.replace(part, platform=platform) for platform in platforms]))
    return cloudimage.read(store, name)


def file(path: str, content: bytes | str = b"", mode: int = 0o644) -> LayerEntry:
    return LayerEntry(path, "file", mode, content.encode() if isinstance(content, str) else content)


def no_client() -> Any:
    pytest.fail("a registry is asked")


def changes(store: Store, old: str, new: str, **options: Any) -> list[diff.ImageChange]:
    sides = [diff_side.find(store, name, no_client) for name in (old, new)]
    return [change for part in diff.compare(store, *sides, **options).platforms for change in part.changes]


def attach(store: Store, image: CloudImage, suffix: str = ".sig", repository: str = "web") -> str:
    """Something under a tag made of the image's digest."""
    config = Descriptor(OCI_CONFIG, *store.put(f"about {image.digest}{suffix}".encode()))
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": []}
    name = f"{repository}:{image.digest.replace(':', '-')}{suffix}"
    store.tag(name, Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))))
    return name


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
