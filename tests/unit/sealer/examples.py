"""Images of sealer for tests, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cli import app as cli_app
from harness.cloudimage import CloudImage
from harness.oci.layer import unpack
from harness.oci.store import Store
from harness.sealer import convert
from harness.sealer.convert import Conversion
from tests.integration import registry as made
from tests.integration import sealer
from tests.integration.registry import Image

NGINX = made.image("nginx", size=2000)
PAUSE = made.image("pause", layers=1, size=500)
OLD = made.image("old", size=2000, docker=True)
BOTH = made.index({"linux/amd64": made.image("both amd64", size=900), "linux/arm64": made.image("both arm64", platform="linux/arm64")})
TREE = {"library/nginx:1.25": NGINX, "pause:3.5": PAUSE, "acme/app:v2": OLD}
NAMES = sealer.listed("docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5", "registry.example.com:5000/acme/app:v2")


def simple(tree: Mapping[str, Image] = TREE, images: Any = NAMES, **changes: Any) -> Image:
    """Rootfs below, the registry's storage on top, as sealer's own build commits it."""
    return sealer.image([sealer.ROOTFS, {"manifests/app.yaml": b"kind: Pod\n"}, sealer.storage(tree)], images=images, **changes)


def converted(store: Store, image: Image, **options: Any) -> Conversion:
    sealer.put(store, "sealerio/app:v1", image)
    return convert.convert(store, "sealerio/app:v1", **options)


def names(found: Conversion) -> list[str]:
    return [image.name for image in found.platforms[0].images.images]


def written(store: Store, found: Conversion, name: str = "new") -> CloudImage:
    store.tag(name, cloudimage.write(store, found.platforms))
    image = cloudimage.read(store, name)
    cloudimage.verify(store, image)
    return image


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


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    assert cli_app.execute(list(words)) == code
    found = capsys.readouterr()
    return found.out, found.err
