"""``kind``, ``helm`` and ``hydrophone``: taken from PATH, or compiled once into the cache from the Go modules that assets/tools locks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from harness import assets, log, process
from harness.host import gotools, paths

FOLDER = assets.FOLDER / "tools"
KIND_MINIMUM = (0, 32)
"""Older ones write a configuration that kubeadm 1.37 does not read."""


def kind() -> Path:
    """The kind program. Raises CommandError when it is neither on PATH, new enough, nor can be compiled."""
    program = shutil.which("kind")
    if program and _new_enough(program):
        return Path(program)
    return gotools.compiled(FOLDER / "kind")


def _new_enough(program: str) -> bool:
    output = process.run([program, "--version"], check=False).stdout
    version = next((gotools.numbers(word.removeprefix("v")) for word in output.split() if word.removeprefix("v")[:1].isdigit()), ())
    if version < KIND_MINIMUM:
        log.warning(f"{program} is older than {'.'.join(map(str, KIND_MINIMUM))}, and is not used")
    return version >= KIND_MINIMUM


def helm() -> Path:
    """The helm program. Raises CommandError when it is not on PATH and cannot be compiled."""
    program = shutil.which("helm")
    # The one that goes into images, so that it is compiled once.
    return Path(program) if program else pinned_helm(paths.architecture())


def hydrophone() -> Path:
    """The hydrophone program, which starts the end-to-end tests of Kubernetes. Raises CommandError when it cannot be had either way."""
    program = shutil.which("hydrophone")
    return Path(program) if program else gotools.compiled(FOLDER / "hydrophone")


def present_helm() -> Path | None:
    """The helm program on PATH, or the one that was compiled before; nothing is compiled."""
    on_path = shutil.which("helm")
    return Path(on_path) if on_path else gotools.cached(FOLDER / "helm", architecture=paths.architecture(), stamps=_helm_stamps())


def present_kubectl() -> Path | None:
    """The kubectl program on PATH."""
    on_path = shutil.which("kubectl")
    return Path(on_path) if on_path else None


def pinned_helm(architecture: str) -> Path:
    """The helm that goes into images for ``architecture``, never the one on PATH: the same bytes from any machine. Raises CommandError."""
    return gotools.compiled(FOLDER / "helm", architecture=architecture, pinned=True, stamps=_helm_stamps())


def helm_key(architecture: str) -> str:
    """Cache key of ``pinned_helm``: a digest of its inputs."""
    return gotools.pinned_key(FOLDER / "helm", architecture, _helm_stamps())


def _helm_stamps() -> Mapping[str, str]:
    """Values that helm's own build sets: its version, and the Kubernetes version of its API objects."""
    recipe = gotools.Recipe.read(FOLDER / "helm")
    minor = recipe.modules["k8s.io/client-go"].split(".")[1]
    stamps = {"helm.sh/helm/v3/internal/version.version": recipe.version}
    for package in ("lint/rules", "chartutil"):
        stamps[f"helm.sh/helm/v3/pkg/{package}.k8sVersionMajor"] = "1"
        stamps[f"helm.sh/helm/v3/pkg/{package}.k8sVersionMinor"] = minor
    return stamps
