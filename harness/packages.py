"""Debian packages by the machine's own apt: installing them, and unpacking one from another suite without installing it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from harness import log, process
from harness.errors import CommandError

APT = Path("/usr/bin/apt-get")


def available() -> bool:
    """Whether we may install packages: root on a machine that has apt."""
    return os.geteuid() == 0 and APT.exists()


def install(*names: str) -> None:
    """Install packages from the archives that this machine uses. Raises CommandError with apt's own words."""
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with log.step(f"install {' '.join(names)}"):
        # Somebody else's apt may hold the lock for a while; a refreshed index may be needed on a fresh machine.
        common = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-qq"]
        process.run([*common, "update"], env=environment, check=False)
        process.run([*common, "install", "-y", "--no-install-recommends", *names], env=environment)


def ensure(program: str, package: str) -> str:
    """The path of ``program``, which is installed from ``package`` when it is missing and we may. Raises CommandError."""
    found = shutil.which(program)
    if found is None and available():
        install(package)
        found = shutil.which(program)
    if found is None:
        raise CommandError(f"{program} is needed and not installed", hint=f"install the package {package}")
    return found


def sources(suite: str) -> str:
    """The machine's own main archive as a sources file for another ``suite``. Raises CommandError when none is found."""
    for path in sorted(Path("/etc/apt/sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            names = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE)
            if names and "security" not in names[1] and re.search(r"^Types:.*\bdeb\b", stanza, re.MULTILINE):
                return re.sub(r"^Suites:.*$", f"Suites: {suite}", stanza, flags=re.MULTILINE).strip() + "\n"
    for path in [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            found = re.match(r"deb\s+(\[[^]]*\]\s+)?(\S+)\s+(\S+)", line)
            if found and "security" not in found[3]:
                return f"Types: deb\nURIs: {found[2]}\nSuites: {suite}\nComponents: main\n"
    raise CommandError("no package archive is configured for apt", hint="add a Debian source, or install the tool by hand")


def unpack(package: str, version: str, suite: str, sha256: str, destination: Path) -> None:
    """Download ``package`` at exactly ``version`` from ``suite``, verify the .deb, and unpack it (not install it) into ``destination``.

    Raises CommandError when the archive does not have it or the file has another digest.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-apt-") as scratch:
        work = Path(scratch)
        (work / "lists/partial").mkdir(parents=True)
        (work / "cache/archives/partial").mkdir(parents=True)
        (work / "suite.sources").write_text(sources(suite))
        # apt drops to its own user to download; the folder must be open to it.
        work.chmod(0o755)
        options = [
            *("-o", "Dir::Etc::SourceParts=/dev/null", "-o", f"Dir::Etc::sourcelist={work}/suite.sources"),
            *("-o", f"Dir::State::Lists={work}/lists", "-o", f"Dir::Cache={work}/cache", "-o", "APT::Sandbox::User=root"),
        ]
        process.run(["apt-get", *options, "-qq", "update"])
        process.run(["apt-get", *options, "-qq", "download", f"{package}={version}"], cwd=work)
        deb = next(work.glob("*.deb"))
        found = hashlib.sha256(deb.read_bytes()).hexdigest()
        if found != sha256:
            raise CommandError(
                f"{package} {version} has digest sha256:{found}, not the pinned sha256:{sha256}", hint=f"install {package} by hand"
            )
        process.run(["dpkg-deb", "-x", deb, destination])
