"""The folder of a site: written whole beside its place, then put there in one move. What fails or is killed leaves the former site."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
from collections.abc import Iterator
from pathlib import Path

from harness.cloudimage import site_index
from harness.errors import StoreError, UsageError
from harness.host import liveness
from harness.untrusted import UntrustedTree

_EXCHANGE = 2
"""RENAME_EXCHANGE of renameat2(2)."""
_HERE = -100
"""AT_FDCWD."""


def check(target: Path) -> None:
    """Raises UsageError for a folder that holds something else than a site, which would be lost."""
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise UsageError(f"--to {target}: it exists and is not a folder", hint="name a new folder")
    if any(target.iterdir()) and not _is_site(target):
        raise UsageError(f"--to {target}: the folder holds other files than a site", hint="name a new folder: all of it is replaced")


def _is_site(target: Path) -> bool:
    try:
        data = UntrustedTree(target).read_bytes(site_index.NAME, limit=site_index.LIMIT)
        site_index.SiteIndex.parse(data, site_index.NAME)
    except (OSError, StoreError):
        return False
    return True


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` when the block ends; when it fails, nothing is left of it.

    Raises UsageError as check() does, and StoreError when the disk refuses.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 -- a link is not followed: it is refused
    check(target)
    prefix = f".{target.name}.slipway-"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in target.parent.glob(f"{glob.escape(prefix)}*"):
            liveness.remove_abandoned(abandoned)
        part = liveness.HeldFolder(target.parent, prefix)
    except OSError as problem:
        raise _refused(target, problem) from problem
    try:
        site = part.path / "site"
        site.mkdir()
        yield site
        # Again, as another process may have made something there meanwhile.
        check(target)
        _exchange(site, target, part.path / "former")
    except OSError as problem:
        raise _refused(target, problem) from problem
    finally:
        part.remove()


def _refused(target: Path, problem: OSError) -> StoreError:
    full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = f"{'see df -h' if full else 'see ls -ld'} {target.parent}, and run the same command again"
    return StoreError(f"{target} cannot be written: {problem.strerror or problem}", hint=hint)


def _exchange(site: Path, target: Path, former: Path) -> None:
    """Put the site in its place. Readers find the former site or the new one at any moment where the file system can exchange names."""
    if not target.exists():
        site.rename(target)
        return
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None and renameat2(_HERE, os.fsencode(site), _HERE, os.fsencode(target), _EXCHANGE) == 0:
        return
    target.rename(former)
    try:
        site.rename(target)
    except OSError:
        former.rename(target)
        raise


def write(site: Path, path: str, data: bytes) -> None:
    """Write a file of the site. Raises OSError."""
    place = site / path
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("xb") as file:
        file.write(data)
