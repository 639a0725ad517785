"""Container images of images/ as sources for a cluster: built when they are pulled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from harness.build import container_images
from harness.build.image_choice import ImageChoice
from harness.cloudimage import EmbeddedImage
from harness.oci.reference import OWN_DOMAIN, Reference
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import LayoutSource, Source, Stream, stored_manifest


class BuiltImages(Source):
    """Container images of images/, built when a cluster pulls them."""

    def __init__(self, builder: container_images.Builder, arguments: Mapping[str, str], choice: ImageChoice) -> None:
        self.builder = builder
        self.arguments = arguments
        self.choice = choice
        self.used: dict[str, str] = {}
        self.absent: set[str] = set()
        """Names in ``used`` that their registry does not have."""

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002 -- built images have one form
        if reference.digest:
            is_used = reference.digest in self.used.values()
            return stored_manifest(self.builder.store, reference.digest, "images/") if is_used else None
        return self.make(reference) if self.builder.builds(reference, self.choice) else None

    def make(self, reference: Reference) -> Manifest | None:
        """Build the image; None when no folder defines it. Raises BuildError."""
        manifest = self.builder.ensure(reference, self.arguments)
        if manifest is None:
            return None
        self.used[str(reference)] = manifest.digest
        return stored_manifest(self.builder.store, manifest.digest, "images/")

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        names = {
            name: digest_of_name for name, digest_of_name in self.used.items() if Reference.parse(name).repository == reference.repository
        }
        return LayoutSource(self.builder.store, names, "images/").blob(reference, digest, size)

    def admit(self, pinned: Reference) -> bool:
        return pinned.digest in self.used.values()

    def marked(self, image: EmbeddedImage) -> EmbeddedImage:
        """The image with its origin, when it was built here under the name of another project."""
        reference = Reference.parse(image.name)
        if self.used.get(image.name) != image.digest or reference.domain == OWN_DOMAIN:
            return image
        return dataclasses.replace(image, built=self.builder.origin(reference, self.arguments))

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Return True when every image that an earlier discovery built would be built again, with the same key."""
        absent = record.get("absent", ())
        built = {Reference.parse(name): (key, name in absent) for name, key in record["built"].items()}
        return all(self.builder.key(name) == key and (was_absent or self.choice.builds(name)) for name, (key, was_absent) in built.items())


class BuiltAsLastResort(Source):
    """Container images of images/, built because their registry does not have them. The last source."""

    def __init__(self, own: BuiltImages) -> None:
        self.own = own

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:  # noqa: ARG002
        if reference.digest or not self.own.choice.may_build(reference) or self.own.builder.find(reference) is None:
            return None
        built = self.own.make(reference)
        self.own.absent.add(str(reference))
        return built

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:  # noqa: ARG002
        return None

    def admit(self, pinned: Reference) -> bool:  # noqa: ARG002
        return False
