"""Debian packages by the machine's own apt: what the suite has, vouched for by the archive's signatures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness import log, process
from harness.errors import CommandError

APT = Path("/usr/bin/apt-get")


def available() -> bool:
    """Return True when this process may install packages: root on a machine with apt."""
    return os.geteuid() == 0 and APT.exists()


def install(*names: str) -> None:
    """Install packages from the archives that this machine uses. Raises CommandError with apt's own words."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with log.step(f"install {' '.join(names)}"):
        # Another apt may hold the lock for a while; a refreshed index may be needed on a fresh machine.
        common = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
        process.run([*common, "update"], env=environment, check=False)
        process.run([*common, "install", "-y", "--no-install-recommends", *names], env=environment)


def ensure(program: str, package: str) -> str:
    """Path of ``program``, installed from ``package`` when it is missing and this process may. Raises CommandError."""
    path = shutil.which(program)
    if path is None and available():
        install(package)
        path = shutil.which(program)
    if path is None:
        raise CommandError(f"{program} is needed and not installed", hint=f"install the package {package}")
    return path
