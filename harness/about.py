"""The version of slipway, and the name under which it is distributed."""

from __future__ import annotations

DISTRIBUTION = "slipway-cluster"
"""The command is ``slipway``; that name on the package index belongs to another project."""


def version() -> str:
    """Return the installed version, or ``unknown`` when slipway runs from a source tree that was not installed."""
    from importlib import metadata  # here: it loads the reader of mails, and most commands show no version

    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
