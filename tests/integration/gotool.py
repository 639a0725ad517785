"""Programs of others that tests hold ours against, compiled from the Go modules that tests/tools locks. Nothing of ours is in them."""

from __future__ import annotations

from pathlib import Path

from harness import gotools

FOLDER = Path(__file__).parents[1] / "tools"


def cosign() -> Path:
    """Signs and verifies what is in a registry. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "cosign")


def oras() -> Path:
    """A client of registries. Raises CommandError when it cannot be compiled."""
    return gotools.compiled(FOLDER / "oras")
