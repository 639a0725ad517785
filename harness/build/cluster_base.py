"""The CloudImage that an application image runs on while it is built: chosen, admitted by policy, read. It is not part of the image."""

from __future__ import annotations

import dataclasses

from harness import cloudimage, log
from harness.build.base_image import digest_alone, other_runtime, runtime_hint
from harness.cloudimage import CloudImage, PlatformImage, listing, search
from harness.errors import Fault, InputError, StoreError
from harness.kubefile import version_range
from harness.lifecycle.run import check_image
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.trust import policy

AUTO = "auto"
NONE = "none"
"""In place of a name: read the application, and do not run it."""
HINT = "--on IMAGE names one; slipway build kubefiles/kubernetes makes one; --on none reads files only"

_CATALOGUE_ENTRY = "kubernetes"
"""The base image of the catalogue that came with slipway."""


@dataclasses.dataclass(frozen=True)
class ClusterBase:
    """A CloudImage with Kubernetes, for one platform. ``digest`` is that of an image for this platform alone, as of FROM."""

    reference: str
    digest: str
    image: PlatformImage

    @property
    def kubernetes(self) -> str:
        """Version with its ``v``."""
        return self.image.info.kubernetes or ""


def named(store: Store, name: str, platform: Platform, kube_version: str | None) -> ClusterBase:
    """The image that ``--on`` names. Raises InputError for one that no cluster is made of, or whose version KUBEVERSION does not admit;
    StoreError for one that is not in the store or that the policy refuses.
    """
    try:
        image = cloudimage.read(store, name)
    except StoreError as missing:
        if runtime := other_runtime(name):
            message = f"--on {name}: {missing.message}, and slipway does not run {runtime}"
            raise StoreError(message, hint=runtime_hint(store)) from missing
        raise StoreError(f"--on {name}: {missing.message}", hint=missing.hint or "build, pull or load it first") from missing
    policy.admit(store, name, image.digest)
    part = image.platform(platform)
    try:
        check_image(dataclasses.replace(image, platforms=(part,)), name)
    except StoreError as unfit:
        raise InputError([Fault(f"--on {name}", unfit.message, HINT)]) from unfit
    if not admits(part, kube_version):
        raise InputError([Fault(f"--on {name}", f"KUBEVERSION {kube_version} does not admit its Kubernetes {part.info.kubernetes}", HINT)])
    return ClusterBase(image.name or image.digest, digest_alone(store, image, part), part)


def newest(store: Store, platform: Platform, kube_version: str | None) -> ClusterBase | None:
    """The base image with the highest Kubernetes that fits, the one with the shortest name among equals; None when none fits.

    A base image is one that was built FROM no other: it has no applications beside those of a cluster. The policy is asked about the
    chosen one alone. Raises StoreError when it refuses.
    """
    chosen: tuple[CloudImage, PlatformImage] | None = None
    for name in sorted(
        (row.name for row in listing.images(store) if row.kubernetes and not row.problem), key=lambda name: (len(name), name)
    ):
        image = cloudimage.read(store, name)
        part = next((part for part in image.platforms if part.platform.matches(platform)), None)
        if part is None or part.info.base or part.info.type != "kube" or part.info.converted_from or not admits(part, kube_version):
            continue
        if chosen is None or version_range.older(str(chosen[1].info.kubernetes), str(part.info.kubernetes)):
            chosen = image, part
    if chosen is None:
        return None
    image, part = chosen
    policy.admit(store, image.name or image.digest, image.digest)
    return ClusterBase(image.name or image.digest, digest_alone(store, image, part), part)


def admits(part: PlatformImage, kube_version: str | None) -> bool:
    """Return True when the Kubernetes of an image is in the range of KUBEVERSION."""
    version = part.info.kubernetes
    try:
        return bool(version) and (kube_version is None or version_range.admits(str(version), kube_version))
    except ValueError:
        return False


def choose(store: Store, on: str, platform: Platform, kube_version: str | None, path: str) -> ClusterBase | None:
    """The image to run an application on, and a line that says which. ``on`` is a name, AUTO or NONE. Raises as ``named`` does.

    None when the application is only read; a warning says that nothing was proven then. ``path`` is the Kubefile's.
    """
    wanted = f"{platform}{f' and KUBEVERSION {kube_version}' if kube_version else ''}"
    if on == NONE:
        log.warning(
            f"{path}: --on none: NOTHING IS PROVEN: the application does not run, so only the images that its files declare are known"
        )
        return None
    if on != AUTO:
        base = named(store, on, platform, kube_version)
        log.info(f"the application runs on {base.reference} (Kubernetes {base.kubernetes}), as --on says")
        return base
    newest_base = newest(store, platform, kube_version)
    if newest_base is None:
        log.warning(
            f"{path}: NOTHING IS PROVEN: no base image in the local store is for {wanted}, so the application does not run and only the "
            f"images that its files declare are known ({_to_get_one(kube_version)})"
        )
        return None
    log.info(
        f"the application runs on {newest_base.reference} (Kubernetes {newest_base.kubernetes}): "
        f"the newest base image in the local store for {wanted}; --on IMAGE takes another"
    )
    return newest_base


def _to_get_one(kube_version: str | None) -> str:
    """The commands that give a base image: from a registry, for there is no list of registries to look through, or from the catalogue."""
    name = "REGISTRY/kubernetes:VERSION"
    ways = [f"`slipway build --on {name}` or `slipway pull {name}` takes one from a registry"]
    for entry in search.catalogue(search.bundled(), _CATALOGUE_ENTRY):
        if entry.name != _CATALOGUE_ENTRY:
            continue
        command = f"slipway build -t {entry.name} {entry.folder}"
        if kube_version and not (entry.kubernetes and version_range.admits(entry.kubernetes, kube_version)):
            lowest = version_range.lowest(kube_version)
            if lowest is None:
                continue
            # The newest patch of the lowest minor version: a first one is seldom the one that is wanted.
            command = f"slipway build --build-arg VERSION={'.'.join(lowest.split('.')[:2])} -t {entry.name} {entry.folder}"
        ways.append(f"`{command}` makes one")
    return "; ".join([*ways, "--on none reads files only"])


def refuse(on: str, path: str) -> None:
    """Raises InputError for an image that brings Kubernetes itself, when ``--on`` names another."""
    if on not in (AUTO, NONE):
        raise InputError([Fault(f"--on {on}", f"{path} makes an image with Kubernetes, which runs on itself", "leave --on out")])
