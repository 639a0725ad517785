"""The base image of a Kubefile."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import cloudimage, kubefile
from harness.build.base_image import base_digest, base_image
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.errors import BuildError
from harness.oci.model import Platform
from harness.oci.store import Store

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def part(platform: Platform) -> PlatformImage:
    return PlatformImage(platform, (), (), (), Info(), ImageSet())


def test_base_image_of_scratch_is_none(tmp_path: Path) -> None:
    assert base_image(kubefile.parse("FROM scratch\n", "K"), Store(tmp_path), AMD64) is None


def test_base_image_that_the_store_lacks_is_a_fault_of_its_line(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"K:2: the base image kube:1 is not in the local store") as caught:
        base_image(kubefile.parse("\nFROM kube:1\n", "K"), Store(tmp_path), AMD64)
    assert caught.value.hint


def test_base_digest_does_not_depend_on_other_platforms(tmp_path: Path) -> None:
    store, parsed = Store(tmp_path), kubefile.parse("FROM kube:1\n", "K")
    digests = []
    for platforms in ((AMD64,), (AMD64, ARM64)):
        store.tag("kube:1", cloudimage.write(store, [part(platform) for platform in platforms]))
        base = base_image(parsed, store, AMD64)
        assert base is not None
        digests.append(base_digest(parsed, store, base))
    assert digests[0] == digests[1]
