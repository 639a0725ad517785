"""SBOM of an image, as a CycloneDX 1.6 document: files of the rootfs, packages, Go modules, and each embedded image.

Two documents of one image are the same bytes: the serial number is made of the image's digest, and there is no time in it.

``cyclonedx-python-lib`` does not write it: it has no compositions, which say what could not be looked into. The unit tests validate the
documents with it, by CycloneDX's schema.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness import about, log
from harness.cloudimage import CloudImage, EmbeddedImage, PlatformImage
from harness.errors import StoreError
from harness.oci.model import INDEXES, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust.sbom import packages
from harness.trust.sbom.files import Inventory, ScannedFile
from harness.trust.sbom.package_url import image_purl, purl

MEDIA_TYPE = "application/vnd.cyclonedx+json"
PREDICATE = "https://cyclonedx.org/bom"
"""The predicate type of an in-toto statement that holds such a document."""
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def make(store: Store, image: CloudImage, reference: Reference) -> dict[str, Any]:
    """The document for an image of the store, named as ``reference``. Reads every layer once. Raises StoreError."""
    main = image_purl(str(reference), image.digest)
    inventory = Inventory(store)
    parts: list[_Part] = []
    with log.step(f"list what is in {reference.familiar}") as shown:
        for platform in image.platforms:
            parts.append(_rootfs(inventory, platform))
            parts += [_embedded(store, inventory, platform, one) for one in platform.images.images]
        shown.note = f"{len(parts)} parts, {sum(len(part.component['components']) for part in parts)} components"
    document = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, main)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "slipway", "version": about.version()}]},
            "component": {
                "type": "container",
                "bom-ref": main,
                "name": reference.repository,
                "version": image.digest,
                "purl": main,
                "hashes": _hashes(image.digest),
            },
        },
        "components": [part.component for part in parts],
        "dependencies": [{"ref": main, "dependsOn": [part.ref for part in parts]}, *({"ref": part.ref} for part in parts)],
    }
    # A platform that was not fetched is not listed either.
    complete = {main: not image.absent, **{part.ref: not part.unknown for part in parts}}
    document["compositions"] = [
        {"aggregate": "complete" if whole else "incomplete", "assemblies": [ref]} for ref, whole in complete.items()
    ]
    return document


@dataclasses.dataclass(frozen=True)
class _Part:
    """The rootfs or one embedded image. ``unknown`` says what could not be looked into, empty when all could."""

    ref: str
    component: dict[str, Any]
    unknown: str = ""


def _rootfs(inventory: Inventory, platform: PlatformImage) -> _Part:
    ref = f"rootfs {platform.platform}"
    files = inventory.files(platform.layers)
    component = {
        "type": "container",
        "bom-ref": ref,
        "name": "rootfs",
        "properties": _properties({"platform": str(platform.platform), "kubernetes": platform.info.kubernetes or ""}),
        "components": [*_packages(ref, files), *_files(ref, files)],
    }
    return _Part(ref, component)


def _embedded(store: Store, inventory: Inventory, platform: PlatformImage, image: EmbeddedImage) -> _Part:
    """An embedded image: its packages, and its files when no package manager vouches for them."""
    name = image_purl(image.name, image.digest)
    ref = f"{name} {platform.platform}"
    unknown, inside = "", []
    try:
        files = inventory.files(_layers(store, platform, image))
        inside = _packages(ref, files)
        managed = any(path in files for path in (packages.DPKG, *packages.APK))
        inside += [] if managed else _files(ref, files)
        if any(path.startswith(packages.UNREADABLE) for path in files):
            unknown = "it has RPM packages, whose records are not read"
    except StoreError as problem:
        unknown = problem.message
        log.warning(f"{image.name}: {unknown}")
    component = {
        "type": "container",
        "bom-ref": ref,
        "name": Reference.parse(image.name).repository,
        "version": image.digest,
        "purl": name,
        "hashes": _hashes(image.digest),
        "properties": _properties(
            {"platform": str(platform.platform), "name": image.name, "foundBy": ",".join(image.found_by), "unknown": unknown}
        ),
        "components": inside,
    }
    return _Part(ref, component, unknown)


def _layers(store: Store, platform: PlatformImage, image: EmbeddedImage) -> list[Descriptor]:
    """The layers of an embedded image for one platform."""
    types = {blob.digest: blob.media_type for blob in platform.images.blobs}
    try:
        manifest = store.json(_manifest(store, platform, image, types))
        layers = [Descriptor.from_json(layer) for layer in manifest["layers"]]
    except (KeyError, TypeError, ValueError) as wrong:
        raise StoreError(f"its manifest cannot be understood: {wrong!r}") from wrong
    return layers


def _manifest(store: Store, platform: PlatformImage, image: EmbeddedImage, types: Mapping[str, str]) -> str:
    if image.media_type not in INDEXES:
        return image.digest
    for entry in (Descriptor.from_json(child) for child in store.json(image.digest)["manifests"]):
        if entry.digest in types and _is_for(entry.platform, platform.platform):
            return entry.digest
    raise StoreError(f"nothing of it is for {platform.platform}")


def _is_for(platform: Platform | None, wanted: Platform) -> bool:
    return platform is None or platform.matches(wanted)


# Components


def _packages(parent: str, files: Mapping[str, ScannedFile]) -> list[dict[str, Any]]:
    records = {path: file.record for path, file in files.items() if file.record is not None}
    here = packages.system(records)
    components: list[dict[str, Any]] = []
    if here.name:
        components.append({"type": "operating-system", "bom-ref": f"{parent} os", "name": here.name, "version": here.version})
    for package in packages.packages(records):
        component = {
            "type": "library",
            "bom-ref": f"{parent} {package.purl}",
            "name": package.name,
            "version": package.version,
            "purl": package.purl,
        }
        if package.licenses:
            component["licenses"] = [{"license": {"name": package.licenses}}]  # type: ignore[assignment]
        components.append(component)
    return components


def _files(parent: str, files: Mapping[str, ScannedFile]) -> list[dict[str, Any]]:
    components = []
    for path, file in files.items():
        ref = f"{parent} {path}"
        component: dict[str, Any] = {"type": "file", "bom-ref": ref, "name": path, "hashes": _hashes(f"sha256:{file.sha256}")}
        if file.go:
            component["components"] = list(_modules(ref, file))
        components.append(component)
    return components


def _modules(parent: str, file: ScannedFile) -> Iterator[dict[str, Any]]:
    """The Go modules in a program, and Go's own library, whose faults are the program's too."""
    if file.go is None:
        return
    every = dict.fromkeys([("stdlib", file.go.version.removeprefix("go")), *file.go.modules])
    for path, version in every:
        known_version = "" if version == "(devel)" else version
        namespace, _, name = path.rpartition("/")
        component = {"type": "library", "name": path, "version": known_version, "purl": purl("golang", namespace, name, known_version)}
        yield {**component, "bom-ref": f"{parent} {component['purl']}"}


def _hashes(digest: str) -> list[dict[str, str]]:
    algorithm, _, digits = digest.partition(":")
    return [{"alg": {"sha256": "SHA-256", "sha512": "SHA-512"}[algorithm], "content": digits}]


def _properties(values: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": f"slipway:{name}", "value": value} for name, value in dict(values).items() if value]
