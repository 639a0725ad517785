"""An installation before anything is changed: the image, the values, the commands and hooks, judged for the cluster that is to run them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import cloudimage, log
from harness.cloudimage import CloudImage, ImageSet, Info, PlatformImage, unpacked
from harness.clusterfile import Hook, Phase
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.application import env_of
from harness.clusterfile.parse import image_hooks
from harness.errors import CheckError, Fault, InputError, StoreError
from harness.kubefile import version_range
from harness.lifecycle.apps import images, records, tracking
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import AppTarget, Where, opened
from harness.lifecycle.cluster import request as cluster_request
from harness.lifecycle.plan import digest
from harness.lifecycle.provision import distribution, registry, rootfs
from harness.lifecycle.steps.launch import network_commands
from harness.nodes.files import Files
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes import ClusterNetwork

PHASES = (Phase.PRE_LAUNCH, Phase.POST_LAUNCH, Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST, Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)
"""Phases of the hooks of an application image; all run where its commands are launched."""


@dataclasses.dataclass
class AppInstall:
    """State that the steps of an installation share."""

    target: AppTarget
    request: Request
    image: CloudImage
    store: Store
    record: Installed
    """The record as the cluster stores it; it has a uid from then on."""
    commands: tuple[str, ...]
    hooks: tuple[Hook, ...]
    dropped: list[tracking.TrackedObject] = dataclasses.field(default_factory=list)
    exchanges: list[distribution.Exchange] = dataclasses.field(default_factory=list)
    waits: bool = True
    """The installation waits for its workloads; False where a later step of the caller does."""
    replaces: bool = False
    """It replaces another image of the same application."""
    partly: frozenset[str] = frozenset()
    """Names of images of which the registry of the site has some platforms only."""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def folder(self) -> str:
        """On the node that launches."""
        return f"{self.target.root}/{self.name}"

    @property
    def tree(self) -> str:
        return f"{self.folder}/rootfs"

    @property
    def main(self) -> PlatformImage:
        """The image for the node that launches."""
        platform = self.target.platforms.get(self.target.first.address) or Platform.host()
        return self.image.platform(platform)

    @functools.cached_property
    def images(self) -> ImageSet:
        """Container images for every platform of the cluster that the image is made for."""
        return functools.reduce(ImageSet.union, records.of_platforms(self.image, set(self.target.platforms.values())), ImageSet())

    @functools.cached_property
    def env(self) -> dict[str, str]:
        """Environment of templates and commands: of the cluster, of the image, of the request."""
        facts = dict(self.target.facts)
        if {"PodCIDR", "SvcCIDR"} <= set(facts):
            # The cluster of another tool may have networks that slipway does not make clusters with.
            with contextlib.suppress(ValueError, IndexError):
                facts |= ClusterNetwork(facts["PodCIDR"], facts["SvcCIDR"]).variables
        return {**facts, "HostIP": self.target.first.address, **self.main.info.env, **self.request.document.env}

    @functools.cached_property
    def files(self) -> Files:
        """The files of its rootfs that differ from the image. Raises InputError."""
        own = cluster_request.app_env(self.request.effective)
        app_env = {app.name: {**self.env, **app.env, **self.request.document.env, **env_of(own, app.name)} for app in self.main.info.apps}
        tree, declared = unpacked.unpacked_rootfs(self.store, self.main.layers), {value.name for value in self.main.info.values}
        return rootfs.rendered(tree, self.env, app_env, cluster_request.edit(self.request.effective), declared)

    @functools.cached_property
    def generation(self) -> str:
        """Digest of everything that its launch depends on, secrets included."""
        files = rootfs.fingerprint(self.files)
        site = [str(self.target.registry.site)] if self.target.registry else []
        return digest(self.record.uid, self.image.digest, files, self.env, self.commands, [hook.data for hook in self.hooks], *site)


def read(request: Request, store: Store) -> CloudImage:
    """Read the image of a request. Raises StoreError when it is missing, or is a cluster image."""
    from harness.trust import policy  # here: its cryptography is slow to load

    name = request.document.image or ""
    image = cloudimage.read(store, name)
    policy.admit(store, name, image.digest)
    if image.platforms[0].info.type != "app":
        raise StoreError(
            f"{name} brings Kubernetes: it makes a cluster", hint=f"slipway run {name} --control-plane IP; slipway upgrade changes one"
        )
    return image


@contextmanager
def prepared(request: Request, where: Where, store: Store, *, home: Path | None = None) -> Iterator[AppInstall]:
    """Open the cluster and check that the application may run in it; nothing is changed.

    Raises InputError for applications that the image lacks, CheckError when it does not admit the cluster's Kubernetes.
    """
    image = read(request, store)
    with opened(where, home=home) as target:
        yield make(target, request, image, store)


def make(target: AppTarget, request: Request, image: CloudImage, store: Store) -> AppInstall:
    """Prepare an installation in a cluster that is open. Raises as ``prepared`` does."""
    before = records.find(target.kubectl, request.document.name)
    work = work_of(target, request.over(before) if before else request, image, store)
    # One that was not finished may have replaced an image already.
    work.replaces = before is not None and (before.digest, before.state) != (image.digest, records.INSTALLED)
    images.warn_of_platforms(target, work.record.image, image)
    images.warn_of_others(target, store, work.name, work.images)
    return work


def work_of(target: AppTarget, request: Request, image: CloudImage, store: Store) -> AppInstall:
    """The installation in a cluster, which is not asked anything. Raises InputError and CheckError for what it cannot be given."""
    document = request.document
    records.check_parts(image, document.launch or ())
    cluster_request.check_env(document.env)
    check_version(image, target.kubernetes)
    commands = cluster_request.launch(request.effective, image.platforms[0].info)
    record = Installed(
        name=document.name,
        image=image.name or image.digest,
        digest=image.digest,
        clusterfile=request.clusterfile,
        kube_version=image.platforms[0].info.kube_version,
        by_file=request.by_file,
        where=target.first.address,
    )
    work = AppInstall(target, request, image, store, record, (), ())
    cluster_request.require_values(work.main.info, [work.env], request.effective)
    with log.step("unpack and render the application"):
        tree = unpacked.unpacked_rootfs(store, work.main.layers)
        work.hooks = hooks_of(tree)
        work.commands = _launched(work.main.info) if commands is None else commands
        _ = work.files
        own = (*cluster_request.app_env(request.effective).values(), *(app.env for app in work.main.info.apps))
        cluster_request.warn_of_text(work.main.info, tree, set(work.env).union(*own), request.effective)
    work.record = dataclasses.replace(record, domains=registry.domains(work.images), unknown=_unknown(work.commands))
    return work


def _launched(info: Info) -> tuple[str, ...]:
    """The launch commands of an image: those of its CNI and CSI applications, which start by themselves, come first."""
    started = (command for command in network_commands(info) if command not in info.launch)
    return (*started, *info.launch)


def check_version(image: CloudImage, kubernetes: str) -> None:
    """Raises CheckError when KUBEVERSION of an image does not admit a version of Kubernetes."""
    required = image.platforms[0].info.kube_version
    if required and not version_range.admits(kubernetes, required):
        raise CheckError(
            f"{image.name or image.digest} is made for Kubernetes {required}, and the cluster has {kubernetes}; nothing has been changed",
            hint="use another version of the image, or change KUBEVERSION in its Kubefile",
        )


def _unknown(commands: Sequence[str]) -> tuple[str, ...]:
    """Unknown commands as they are shown and stored: one that may hold a secret is replaced."""
    from harness.clusterfile import secrets

    return tuple("<a command that may hold a secret>" if secrets.holds_secret(each) else each for each in tracking.unknown(commands))


def hooks_of(tree: Path) -> tuple[Hook, ...]:
    """The hooks of an application image. Raises InputError for hooks of cluster images."""
    hooks = clusterfile_hooks.merged(image_hooks(rootfs.folder_files(tree, "plugins")), ())
    phases = ", ".join(phase.value for phase in PHASES)
    faults = [
        Fault(f"hook {hook.name}", f"type {hook.type} at {', '.join(phase.value for phase in hook.phases)}", f"SHELL at {phases}")
        for hook in hooks
        if hook.type != "SHELL" or not set(hook.phases) <= set(PHASES)
    ]
    if faults:
        raise InputError(dataclasses.replace(fault, message=f"{fault.message} is for images of clusters") for fault in faults)
    return hooks
