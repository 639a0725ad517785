"""The version of slipway, and the name under which it is distributed."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "slipway-cluster"
"""The command is ``slipway``; that name on the package index belongs to another project."""


def version() -> str:
    """Return the installed version, or ``unknown`` when slipway runs from a source tree that was not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
