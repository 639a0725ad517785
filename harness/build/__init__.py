"""Kubefile -> CloudImage: layers, discovery of the container images by running them, and the image in the store.

``Kubefile text -> Kubefile -> steps with ids -> layers -> throw-away cluster -> image set -> index -> tag``

An image may be for several platforms. Layers are made for each; the cluster runs on this machine's, and what it pulled is what the
others need too, each resolved for its platform. An image without Kubernetes runs on another one, its ``cluster_base``.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from harness import cloudimage, log
from harness.build import cluster_base, dry_run, exercise, image_choice, image_lock, run_steps
from harness.build.base_pull import pull_bases
from harness.build.image_choice import ImageChoice
from harness.build.image_discovery import discover_images
from harness.build.image_lists import ListedLogins, sections_in
from harness.build.layers import BuildStep
from harness.build.options import BuildOptions, read_all, settled
from harness.build.platform_build import PlatformBuilder
from harness.cloudimage import CloudImage
from harness.errors import Fault, InputError
from harness.host import scratch, tools
from harness.kubefile import Kubefile
from harness.lifecycle.cluster.request import check_env
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.registry import config
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.guarded import GuardedSource, NoLogins, Permits
from harness.oci.store import Store
from harness.trust import policy


@dataclasses.dataclass(frozen=True)
class Built:
    """Result of a build. ``cached``: every layer was in the store already; ``booted``: discovery ran a cluster."""

    image: CloudImage
    steps: tuple[BuildStep, ...]
    booted: bool
    undeclared: tuple[str, ...]
    unpulled: tuple[str, ...]
    locked: Mapping[str, str] | None = None
    """The digests in ``images.lock``, where the build wrote them."""

    @property
    def cached(self) -> bool:
        return all(step.cached for step in self.steps if step.layer) and not self.booted


def build(options: BuildOptions, store: Store) -> Built:
    """Build a CloudImage and tag it. Raises InputError, BuildError, StoreError or EngineError; the store stays whole."""
    check_env(options.env)
    options = settled(options)
    kubefiles = read_all(options)
    reference = _tag(options.tag)
    if options.network == run_steps.HOST:
        log.warning(
            "--network host: RUN and Dockerfiles share the network of this machine: they reach its services on loopback, and abstract "
            "sockets; use it only for files that you trust"
        )
    with contextlib.ExitStack() as stack:
        rules, permits = config.load(), Permits(options.allow_login)
        logins = ListedLogins(sections_in(options.context), CredentialStore())
        client, anonymous = Client(rules, logins), Client(rules, NoLogins())
        stack.callback(client.close)
        stack.callback(anonymous.close)
        pull_bases(options, kubefiles.values(), store, client)
        stack.enter_context(store.shared_lease())
        stack.enter_context(scratch.cleaned())
        remote = GuardedSource(client, anonymous, permits, policy.gate(allow_older=options.allow_older).admit_remote)
        choice = ImageChoice(options.images_from, image_choice.probe(rules, NoLogins()))
        builder = PlatformBuilder(options, store, remote, choice, stack)
        _check_base(options, store, kubefiles.values())
        parts = [builder.build(platform, parsed) for platform, parsed in kubefiles.items()]
        discovered = discover_images(options, parts, builder.build_for_host)
        descriptor = cloudimage.write(
            store, [part.image(discovered[part.platform].images, discovered[part.platform].proven) for part in parts]
        )
        store.tag(str(reference), descriptor)
        image = cloudimage.read(store, reference.familiar)
    locked = None
    if options.lock:
        embedded = [pair for part in parts for pair in part.from_registries(discovered[part.platform].images)]
        locked = image_lock.complete(options.path, embedded)
    steps = tuple(step for part in parts for step in part.steps)
    every = [discovered[part.platform] for part in parts]
    return Built(
        image, steps, any(images.booted for images in discovered.values()),
        tuple(dict.fromkeys(name for images in every for name in images.undeclared)),
        tuple(dict.fromkeys(name for images in every for name in images.unpulled)),
        locked,
    )  # fmt: skip


def _check_base(options: BuildOptions, store: Store, kubefiles: Iterable[Kubefile]) -> None:
    """Before anything is built: raises as ``cluster_base.named`` does for the image of ``--on``."""
    if options.on not in (cluster_base.AUTO, cluster_base.NONE):
        for kube_version in dict.fromkeys(parsed.kube_version for parsed in kubefiles):
            cluster_base.named(store, options.on, Platform.host(), kube_version)


def _tag(text: str) -> Reference:
    try:
        reference = Reference.parse(text)
    except ValueError as error:
        raise InputError([Fault(f"--tag {text}", str(error))]) from error
    if reference.digest:
        raise InputError([Fault(f"--tag {text}", "a tag cannot hold a digest")])
    return reference


def check(options: BuildOptions) -> dict[str, Any]:
    """Return what ``build --check`` prints, as JSON values. Needs neither base image nor engine nor network. Raises InputError."""
    if options.images_from == image_choice.AUTO:
        options = dataclasses.replace(options, images_from=image_choice.BUILT)
    options = settled(options, ask=False)
    image_lock.beside(options.path)
    steps = options.path.parent
    helm, kubectl = tools.present_helm(), tools.present_kubectl()
    plans = [
        {
            **dry_run.plan(parsed, options.context, helm=helm, kubectl=kubectl, image_list=options.image_list, possible=options.possible),
            "exercise": [step.title for step in exercise.read(parsed, steps)],
        }
        for parsed in read_all(options, warn=False).values()
    ]
    return plans[0] if len(plans) == 1 else {**plans[0], "platforms": [plan["platform"] for plan in plans]}
