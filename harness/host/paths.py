"""Paths on this machine. State under ``$SLIPWAY_HOME``; caches, which may be deleted at any time, beside it."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from harness.errors import UsageError


def expanded(path: str | Path) -> Path:
    """Replace ``~`` or ``~USER`` at the beginning of a path by the home folder. Raises UsageError when there is no such folder."""
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError) as wrong:
        user = Path(path).parts[0].removeprefix("~")
        if not user:
            raise UsageError(f"{path}: the home folder of this user is not known", hint="set HOME, or write the whole path") from wrong
        raise UsageError(f"{path}: this machine has no user {user}, or the user has no home folder", hint="write the whole path") from wrong


def user_home() -> Path:
    """Home folder of this user. Raises UsageError when neither ``$HOME`` nor the system has one."""
    return expanded("~")


def home() -> Path:
    """The store of CloudImages and what is remembered of clusters.

    ``$SLIPWAY_HOME``, ``$XDG_DATA_HOME/slipway`` or ``~/.local/share/slipway``.
    """
    chosen = os.environ.get("SLIPWAY_HOME")
    if chosen:
        return expanded(chosen).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or user_home() / ".local/share") / "slipway"


def cache() -> Path:
    """Fetched tools, built container images, step records: ``$SLIPWAY_CACHE`` or ``~/.cache/slipway``."""
    chosen = os.environ.get("SLIPWAY_CACHE")
    if chosen:
        return expanded(chosen).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or user_home() / ".cache") / "slipway"


def ssh_config() -> Path | None:
    """``$SLIPWAY_SSH_CONFIG``: the ssh_config to read in place of ``~/.ssh/config``, which ssh finds by itself."""
    chosen = os.environ.get("SLIPWAY_SSH_CONFIG")
    return expanded(chosen).absolute() if chosen else None


def architecture() -> str:
    """This machine's architecture in OCI words: ``amd64``, ``arm64``."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
