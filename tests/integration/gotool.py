"""Programs of others that tests hold ours against, compiled from the Go modules that tests/tools locks. Nothing of ours is in them."""

from __future__ import annotations

from pathlib import Path

from harness.host import gotools

FOLDER = Path(__file__).parents[1] / "tools"
REGISTRY = Path(__file__).parents[2] / "images/registry"


def version(name: str) -> str:
    """The locked version of a program, as ``0.22.1``."""
    return gotools.Recipe.read(FOLDER / name).version.removeprefix("v")


def distribution() -> Path:
    """The registry that clusters have, version 3: the base image has the same program. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(REGISTRY, pinned=True)


def cosign() -> Path:
    """Signs and verifies what is in a registry. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "cosign")


def oras() -> Path:
    """A client of registries. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "oras")


def sealer() -> Path:
    """Builds images that slipway reads. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "sealer")


def crane() -> Path:
    """The other client of registries, which copies many blobs at once. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "crane")
