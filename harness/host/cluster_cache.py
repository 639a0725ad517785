"""Local cache of a cluster: access to its nodes, pinned host keys, a kubeconfig. All of it may be lost."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness import untrusted
from harness.errors import SlipwayError, UsageError
from harness.host import durable, liveness, paths

DEFAULT_NAME = "default"
FORMER_KEYS = {"masters": "controlPlane", "nodes": "workers"}
"""Keys in files of an earlier slipway, with the present ones."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class ClusterState:
    """The folder of one cluster. Nothing in it is a password; the kubeconfig is readable by its owner only."""

    name: str
    folder: Path

    @classmethod
    def of(cls, name: str, home: Path | None = None) -> ClusterState:
        """Raises UsageError for a name that is no DNS label."""
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is not a name for a cluster", hint="use lower-case letters, digits and hyphens, at most 63")
        return cls(name, (home or paths.home()) / "clusters" / name)

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    def authority(self) -> bytes | None:
        """The certificate of the cluster's authority (PEM) in the kubeconfig that is kept here; None when none is."""
        with contextlib.suppress(OSError, SlipwayError):
            return untrusted.kube_identity(self.kubeconfig.read_bytes(), what=str(self.kubeconfig)).authority
        return None

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def exists(self) -> bool:
        return (self.folder / "cluster.json").exists()

    def read(self) -> dict[str, Any]:
        """Return the cached facts; empty when there are none, or they cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            facts: dict[str, Any] = json.loads((self.folder / "cluster.json").read_text())
            if isinstance(facts, dict):
                return {FORMER_KEYS.get(key, key): value for key, value in facts.items()}
        return {}

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Add to what is remembered; the new values win."""
        self.write("cluster.json", json.dumps({**self.read(), **facts}, indent=2, sort_keys=True) + "\n")

    def write(self, name: str, text: str) -> Path:
        """Write a file of the folder in one move, for the eyes of its owner only. Raises StoreError when the disk refuses."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        target = self.folder / name
        durable.write(target, text)
        return target

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only command that changes this cluster from here. Raises UsageError when another one is at it; ends with the process."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(liveness.locked(self.folder / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
            except BlockingIOError as error:
                raise UsageError(f"another command is changing the cluster {self.name}", hint="wait for its end") from error
            yield

    def forget(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def known(home: Path | None = None) -> tuple[ClusterState, ...]:
    """The clusters that are remembered here, by name."""
    root = (home or paths.home()) / "clusters"
    if not root.is_dir():
        return ()
    return tuple(ClusterState(folder.name, folder) for folder in sorted(root.iterdir()) if (folder / "cluster.json").exists())


def unpin(addresses: Iterable[str], home: Path | None = None) -> None:
    """Forget the host keys of machines that are no more, in every cluster: their addresses will be given to others."""
    gone = frozenset(addresses)
    root = (home or paths.home()) / "clusters"
    for pins in root.glob("*/known_hosts") if root.is_dir() else ():
        lines = pins.read_text().splitlines()
        kept = [line for line in lines if not gone & frozenset(re.findall(r"[^\[\],\s]+", line.split(" ", maxsplit=1)[0]))]
        if kept != lines:
            ClusterState(pins.parent.name, pins.parent).write("known_hosts", "".join(f"{line}\n" for line in kept))
