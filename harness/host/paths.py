"""Paths on this machine. State under ``$SLIPWAY_HOME``; caches, which may be deleted at any time, beside it."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def home() -> Path:
    """The store of CloudImages and what is remembered of clusters: ``$SLIPWAY_HOME`` or ``~/.local/share/slipway``."""
    chosen = os.environ.get("SLIPWAY_HOME")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "slipway"


def cache() -> Path:
    """Fetched tools, built container images, step records: ``$SLIPWAY_CACHE`` or ``~/.cache/slipway``."""
    chosen = os.environ.get("SLIPWAY_CACHE")
    if chosen:
        return Path(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"


def architecture() -> str:
    """This machine's architecture in OCI words: ``amd64``, ``arm64``."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
