"""Folders for the control sockets of shared SSH connections. Those of killed commands are removed, and their connections closed."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from harness import process
from harness.errors import CommandError, UsageError
from harness.host import liveness


def held() -> liveness.HeldFolder:
    """Make a folder of this process, and remove those of processes that have ended."""
    root = _root()
    for other in root.glob("*-*"):
        liveness.remove_abandoned(other, lambda other=other: _end_connections(other))  # type: ignore[misc]
    return liveness.HeldFolder(root)


def lasting(name: str) -> Path:
    """A folder that outlives this process."""
    return _checked(_root() / name)


def _root() -> Path:
    """The folder of the folders for shared connections: a short path, since a socket's may have 104 characters only."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    short = runtime and len(runtime) < 20 and Path(runtime).is_dir()
    return _checked(Path(runtime) / "slipway" if runtime and short else Path(f"/tmp/slipway-{os.getuid()}"))


def _checked(path: Path) -> Path:
    """Raises UsageError when another user owns the place, or may write there."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(f"{path} is not a folder that only this user can change", hint="remove it")
    return path


def _end_connections(folder: Path) -> None:
    """Close the persistent connections; each would stay open for two minutes."""
    for socket in folder.glob("*"):
        if socket.is_socket():
            with contextlib.suppress(CommandError):
                process.run(["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "--", "nobody"], check=False, timeout=10)
