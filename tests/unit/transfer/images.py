"""CloudImages for the tests of this folder."""

from __future__ import annotations

import random

from harness import cloudimage
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.oci.graph import closure, is_manifest
from harness.oci.model import OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.unit.oci.standin import HOST

TARGET = Reference.parse(f"{HOST}/team/web:1")
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


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
