"""The Debian packages of a built image, and those that its Dockerfile names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from harness import untrusted
from harness.build.definitions import Definition
from harness.oci.graph import below_of
from harness.oci.layer import Layer
from harness.oci.layer.extract import open_layer
from harness.oci.model import Descriptor
from harness.oci.store import Store
from harness.trust.sbom import packages

_TOLD = 6
"""Packages that are named in a line."""


def layers_of(store: Store, manifest: Descriptor) -> list[Layer]:
    """The layers of an image manifest that is in the store."""
    config, *layers = below_of(store.json(manifest.digest), manifest.digest)
    diff_ids = store.json(config.digest)["rootfs"]["diff_ids"]
    return [Layer(layer, diff_id) for layer, diff_id in zip(layers, diff_ids, strict=True)]


def packages_in(store: Store, layers: Iterable[Layer]) -> dict[str, str]:
    """The Debian packages that files of an image are from, with the versions that the archive had: name -> version."""
    records: dict[str, bytes] = {}
    for layer in layers:
        with open_layer(store, layer.descriptor) as tar:
            for entry in tar:
                path = entry.name.removeprefix("./").removeprefix("rootfs/")
                if entry.kind == "file" and packages.is_record(path):
                    records[path] = tar.head(untrusted.FILE_LIMIT)
    return {package.name: package.version for package in packages.packages(records)}


def asked_for(definition: Definition, versions: Mapping[str, str]) -> str:
    """The packages that the Dockerfile names, with the versions that were found, in a line: some of them where they are many."""
    packages = [f"{name} {version}" for name, version in named_packages(definition, versions).items()]
    rest = [f"{len(packages) - _TOLD} more"] if len(packages) > _TOLD else []
    return ", ".join([*packages[:_TOLD], *rest])


def named_packages(definition: Definition, versions: Mapping[str, str]) -> dict[str, str]:
    """Packages of an image that its Dockerfile names, sorted."""
    words = set(re.findall(r"[a-z0-9][a-z0-9+.-]+", (definition.folder / "Dockerfile").read_text()))
    return {name: version for name, version in sorted(versions.items()) if name in words}
