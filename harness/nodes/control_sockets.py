"""Folders for the control sockets of shared SSH connections. Those of killed commands and of clusters that are gone are removed,
and their connections closed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from pathlib import Path

from harness import process
from harness.errors import CommandError, UsageError
from harness.host import liveness

_CLUSTER = "cluster"
"""Symbolic link in a lasting folder: to the folder of the cluster whose connections are shared there."""


def held() -> liveness.HeldFolder:
    """Make a folder of this process, and remove those of processes that have ended and of clusters whose folder is gone."""
    root = _root()
    for folder in list(root.iterdir()):
        end = functools.partial(_end_connections, folder)
        if "-" in folder.name:
            liveness.remove_abandoned(folder, end)
        elif _is_orphan(folder):
            # Another process may just have made the cluster, and use the folder: it is looked at again while it is locked.
            liveness.remove_abandoned(folder, end, only_if=functools.partial(_is_orphan, folder))
    return liveness.HeldFolder(root)


def lasting(name: str, cluster: Path | None = None) -> Path:
    """A folder that outlives this process. With ``cluster``, a folder that is there, it goes once that is gone."""
    path = _root() / name
    if cluster is None:
        return _checked(path)
    while True:
        with contextlib.suppress(FileNotFoundError), liveness.kept(_checked(path)):
            with contextlib.suppress(FileExistsError):
                (path / _CLUSTER).symlink_to(cluster.absolute())
            return path


def _is_orphan(folder: Path) -> bool:
    """Return True for a lasting folder of a cluster whose folder is gone; one that names no cluster is none."""
    link = folder / _CLUSTER
    try:
        link.stat()
    except FileNotFoundError:
        return link.is_symlink()
    except OSError:
        pass
    return False


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
