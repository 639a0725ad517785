"""The base image of a Kubefile: admitted by policy, read from the store, converted where it is sealer's."""

from __future__ import annotations

import contextlib
import re

from harness import cloudimage, log
from harness.cloudimage import CloudImage, PlatformImage
from harness.errors import BuildError, StoreError
from harness.kubefile import Kubefile
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.sealer.convert import convert
from harness.sealer.image import is_sealer
from harness.trust import policy

RUNTIMES = ("kubeadm",)
"""Runtimes that make nodes a cluster."""
_OTHER_RUNTIMES = {
    "k0s": "k0s",
    "k3s": "k3s",
    "microk8s": "MicroK8s",
    "minikube": "minikube",
    "rke": "RKE",
    "rke2": "RKE2",
    "talos": "Talos",
}


def other_runtime(name: str) -> str | None:
    """The other project whose runtime an image is named after."""
    return _OTHER_RUNTIMES.get(re.sub(r"[:@].*", "", name.rpartition("/")[2]).lower())


def base_image(parsed: Kubefile, store: Store, platform: Platform) -> PlatformImage | None:
    if parsed.base.image == "scratch":
        return None
    where = parsed.where(parsed.base)
    try:
        descriptor = store.resolve(parsed.base.image)
        sealer = is_sealer(store, descriptor)
        image = None if sealer else cloudimage.read(store, parsed.base.image)
    except StoreError as error:
        raise _absent(parsed, store, error) from error
    try:
        policy.admit(store, parsed.base.image, descriptor.digest)
        base = _converted(parsed, store, platform) if image is None else image.platform(platform)
    except StoreError as error:
        raise BuildError(f"{where}: the base image {error.message}", hint=error.hint) from error
    if base.info.kubernetes and _other_version(parsed.base.image, base.info.kubernetes):
        log.info(f"{where}: {parsed.base.image} brings Kubernetes {base.info.kubernetes}")
    return base


def _other_version(name: str, kubernetes: str) -> bool:
    """Return True when the tag of an image says a version, and not that of its Kubernetes."""
    tag = re.search(r":v?(\d+\.\d+[^:/@]*)(?:@|$)", name)
    return tag is not None and tag[1] != kubernetes.removeprefix("v")


def _absent(parsed: Kubefile, store: Store, error: StoreError) -> BuildError:
    """The error for a base image that is not in the store. A runtime of another project will never be in it."""
    name = parsed.base.image
    message = f"{parsed.where(parsed.base)}: the base image {name} is not in the local store"
    runtime = other_runtime(name)
    if runtime is None:
        return BuildError(f"{message}: {error.message}", hint=error.hint or "build, pull or load it first")
    return BuildError(f"{message}, and slipway does not run {runtime}", hint=runtime_hint(store))


def runtime_hint(store: Store) -> str:
    """The runtimes and base images that there are, in place of a runtime of another project."""
    bases = ", ".join(_bases(store)) or "none is in the local store: slipway build kubefiles/kubernetes makes one"
    return f"runtimes: {', '.join(RUNTIMES)}; base images: {bases}"


def _bases(store: Store) -> list[str]:
    """Names of the images in the store that bring Kubernetes."""
    names = []
    for name, descriptor in sorted(store.names().items()):
        with contextlib.suppress(StoreError):
            if not is_sealer(store, descriptor) and any(part.info.kubernetes for part in cloudimage.read(store, name).platforms):
                names.append(name)
    return names


def _converted(parsed: Kubefile, store: Store, platform: Platform) -> PlatformImage:
    """Convert a base image of sealer to a CloudImage; log what cannot be restored."""
    where = parsed.where(parsed.base)
    try:
        conversion = convert(store, parsed.base.image, platform=platform)
    except StoreError as error:
        raise BuildError(f"{where}: {error.message}", hint=error.hint) from error
    for problem in conversion.problems:
        log.warning(f"{where}: {conversion.source.name}: {problem}")
    for note in conversion.notes:
        log.info(f"{where}: {conversion.source.name}: {note}")
    return conversion.platforms[0]


def base_digest(parsed: Kubefile, store: Store, base: PlatformImage) -> str:
    """Digest of the base as an image for this platform alone, so that the result does not depend on its other platforms."""
    named = store.resolve(parsed.base.image)
    if base.info.converted_from and is_sealer(store, named):
        return base.info.converted_from["digest"]
    return digest_alone(store, cloudimage.read(store, parsed.base.image), base)


def digest_alone(store: Store, whole: CloudImage, part: PlatformImage) -> str:
    """Digest of ``part`` of an image as an image for its platform alone, whichever of its other platforms are in the store."""
    return whole.digest if len(whole.platforms) + len(whole.absent) == 1 else cloudimage.write(store, [part]).digest
