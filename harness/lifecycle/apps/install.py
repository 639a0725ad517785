"""``slipway run APPIMAGE``: install an application in a running cluster, or update it there.

The steps are recorded in a journal on the node that launches. Their inputs include the identity of the application's record in the
cluster, so that an application that was removed is launched again; any difference launches all of its commands again, in order.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import cloudimage, log
from harness.cloudimage import CloudImage, ImageSet, Info, PlatformImage, unpacked
from harness.clusterfile import Hook, Phase
from harness.clusterfile import hooks as hook_documents
from harness.clusterfile.application import env_of
from harness.clusterfile.parse import image_hooks
from harness.errors import CheckError, Fault, InputError, SlipwayError, StoreError
from harness.kubefile import version_range
from harness.lifecycle.apps import images, launch, records, tracking, unused
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import IMPORT, REGISTRY, AppTarget, Where, opened
from harness.lifecycle.cluster import request as cluster_request
from harness.lifecycle.kube import readiness, wait
from harness.lifecycle.plan import Journal, Plan, Step, digest, execute
from harness.lifecycle.provision import distribution, registry, rootfs
from harness.lifecycle.steps.launch import launch_title, network_commands
from harness.nodes import Node
from harness.nodes.files import Files, install_files
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes import ClusterNetwork

PHASES = (Phase.PRE_LAUNCH, Phase.POST_LAUNCH, Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST, Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)
"""Phases of the hooks of an application image; all run where its commands are launched."""


@dataclasses.dataclass(frozen=True)
class InstallResult:
    """The outcome of an installation."""

    name: str
    image: str
    digest: str
    cluster: str
    objects: tuple[str, ...]
    """Objects that it created in the cluster."""
    dropped: tuple[str, ...]
    """Objects of an earlier version that this one does not create; they were removed."""
    unknown: tuple[str, ...]
    """Launch commands that ran more than kubectl and helm; slipway cannot undo the rest."""
    seconds: float


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
        return digest(self.record.uid, self.image.digest, files, self.env, self.commands, [hook.data for hook in self.hooks])


# ---- before anything is changed ---------------------------------------------------------------------------------------


def read(request: Request, store: Store) -> CloudImage:
    """Read the image of a request. Raises StoreError when it is missing, or is a cluster image."""
    from harness.trust import policy  # here: its cryptography is slow to load

    name = request.document.image or ""
    image = cloudimage.read(store, name)
    policy.admit(store, name, image.digest)
    if image.platforms[0].info.type != "app":
        raise StoreError(
            f"{name} brings Kubernetes: it makes a cluster", hint=f"slipway run {name} --masters IP; slipway upgrade changes one"
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
        work.hooks = hooks_of(unpacked.unpacked_rootfs(store, work.main.layers))
        work.commands = _launched(work.main.info) if commands is None else commands
        _ = work.files
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
    hooks = hook_documents.merged(image_hooks(rootfs.folder_files(tree, "plugins")), ())
    known = ", ".join(phase.value for phase in PHASES)
    faults = [
        Fault(f"hook {hook.name}", f"type {hook.type} at {', '.join(phase.value for phase in hook.phases)}", f"SHELL at {known}")
        for hook in hooks
        if hook.type != "SHELL" or not set(hook.phases) <= set(PHASES)
    ]
    if faults:
        raise InputError(dataclasses.replace(fault, message=f"{fault.message} is for images of clusters") for fault in faults)
    return hooks


# ---- the recipe -------------------------------------------------------------------------------------------------------


def install(request: Request, where: Where, store: Store, *, home: Path | None = None) -> InstallResult:
    """Install an application. The same call after a kill or a failure finishes the installation; with another image of the same name or
    other values it updates the application.
    """
    started = time.monotonic()
    with store.shared_lease(), prepared(request, where, store, home=home) as work:
        return carry_out(work, started)


def carry_out(work: AppInstall, started: float) -> InstallResult:
    with work.target.exclusive():
        try:
            execute(plan(work), Journal(f"{work.target.root}/journal"))
        finally:
            for exchange in work.exchanges:
                exchange.close()
    created = tuple(str(each) for each in work.record.objects if each.ours)
    return InstallResult(
        work.name,
        work.record.image,
        work.record.digest,
        work.target.name,
        created,
        tuple(map(str, work.dropped)),
        () if _can_be_undone(work.hooks) else work.record.unknown,
        time.monotonic() - started,
    )


def _can_be_undone(hooks: Sequence[Hook]) -> bool:
    """Return whether the image has hooks for its removal."""
    return any(phase in hook.phases for hook in hooks for phase in PHASES[2:])


def plan(work: AppInstall) -> list[Step]:
    """The steps. Images are in place before the workloads that need them are launched."""
    recipe, target = Plan(), work.target
    recipe.add(_begin(work))
    if target.way == REGISTRY:
        recipe.add(_send_images(work))
    if target.ours and target.nodes:
        recipe.add(_tell_nodes(work))
    if target.way == IMPORT and target.nodes:
        recipe.add(_import_images(work))
    recipe.add(_send_files(work))
    recipe.add(*_hooks(work, Phase.PRE_LAUNCH, recipe.last))
    recipe.add(*_launch(work, recipe.last))
    recipe.add(*_hooks(work, Phase.POST_LAUNCH, recipe.last))
    recipe.add(_drop(work, recipe.last), _wait(work), _record(work))
    if work.replaces:
        recipe.add(*unused.step(target, work.store, recipe.last))
    return recipe.steps


def _id(work: AppInstall, text: str) -> str:
    return f"app-{work.name}-{text}"


def _begin(work: AppInstall) -> Step:
    def action() -> str:
        work.record = records.begin(work.target.kubectl, work.record)
        return f"{work.record.image} {work.record.digest[7:19]}"

    return Step("begin", f"note that {work.name} is being installed", action)


def _send_images(work: AppInstall) -> Step:
    """Registries receive what they lack, and keep what they have."""
    layout = functools.cache(lambda: registry.layout(work.store, work.images))
    exchange = distribution.Exchange(work.target.holders)
    work.exchanges.append(exchange)

    def action(node: Node) -> str:
        delivery = exchange.bring(node, layout().name, lambda: registry.parcel(work.store, layout()))
        registry.name(node, work.store, layout())
        return f"{len(layout().blobs)} blobs, {delivery.sent / 1e6:.0f} MB sent"

    return Step("send-images", "send its container images to the registries", action, work.target.holders, after=("begin",))


def _tell_nodes(work: AppInstall) -> Step:
    """Nodes learn where registries are found whose names the cluster did not know yet."""

    def action(node: Node) -> str:
        files = images.hosts_files(work.target, work.request.elsewhere, node, work.record.domains)
        # The default for unknown names belongs to the cluster.
        changed = install_files(node, {path: file for path, file in files.items() if "/_default/" not in path})
        return ", ".join(path.split("/")[-2] for path in changed if path.endswith("/hosts.toml"))

    before = ("begin", "send-images")
    return Step("tell-nodes", "tell the nodes where its images are", action, work.target.nodes, after_all=before)


def _import_images(work: AppInstall) -> Step:
    def action(node: Node) -> str:
        platform = work.target.platforms.get(node.address)
        needed = functools.reduce(ImageSet.union, records.of_platforms(work.image, [platform] if platform else None), ImageSet())
        count = images.import_images(node, work.store, needed)
        return f"{count} of {len(needed.images)} images"

    return Step("import-images", "import its container images on the nodes", action, work.target.nodes, after=("begin",))


def _send_files(work: AppInstall) -> Step:
    def action(node: Node) -> str:
        launch.send_tree(node, unpacked.unpacked_rootfs(work.store, work.main.layers), work.files, work.tree)
        return work.tree

    return Step(
        _id(work, "files"),
        "send its files",
        action,
        (work.target.first,),
        after=("begin",),
        # Before the launch, so that the node has the files of whatever was launched.
        inputs=lambda _: digest(work.record.uid, unpacked.identity(work.main.layers), rootfs.fingerprint(work.files)),
    )


# ---- launching --------------------------------------------------------------------------------------------------------


def _launch(work: AppInstall, after: str) -> list[Step]:
    recipe: list[Step] = []
    for number, command in enumerate(work.commands, 1):
        title = launch_title(command)
        recipe.append(_command(work, after, f"launch-{number}", title, command, "launch command", number, command))
        after = recipe[-1].id
    return recipe


def _hooks(work: AppInstall, phase: Phase, after: str) -> list[Step]:
    recipe: list[Step] = []
    for number, hook in enumerate(hook_documents.at(work.hooks, phase), 1):
        title = f"hook {hook.name} at {phase.value}"
        recipe.append(_command(work, after, f"{phase.value}-{number}", title, hook.data, title, phase.value, number))
        after = recipe[-1].id
    return recipe


def _command(work: AppInstall, after: str, name: str, title: str, command: str, what: str, *inputs: str | int) -> Step:
    return Step(
        _id(work, name),
        title,
        lambda node: run_noted(work, node, command, what),
        (work.target.first,),
        after_all=(after, "begin", "send-images", "tell-nodes", "import-images", _id(work, "files")),
        inputs=lambda _: digest(work.generation, *inputs),
    )


def run_noted(work: AppInstall, node: Node, command: str, what: str) -> None:
    """Run a command in the application's rootfs. Objects that it creates are noted on the node and, when it ends, in the cluster."""
    launch.open_notes(node, work.folder, work.generation, work.record.objects)
    try:
        launch.run(work.target, node, work.name, command, work.env, what)
    except SlipwayError:
        with contextlib.suppress(SlipwayError):
            _take_notes(work, node)
        raise
    _take_notes(work, node)


def _take_notes(work: AppInstall, node: Node) -> None:
    noted = launch.read_notes(node, work.folder)
    if noted != work.record.objects:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, objects=noted))


# ---- afterwards -------------------------------------------------------------------------------------------------------


def _drop(work: AppInstall, after: str) -> Step:
    """Remove objects that an earlier version created and this one does not touch."""

    def action(node: Node) -> str:
        touched = node.run(f"cat {shlex.quote(work.folder)}/touched 2>/dev/null || true").stdout
        obsolete = tracking.dropped(work.record.objects, touched)
        if obsolete:
            kept = launch.remove_objects(work.target, node, work.name, obsolete, work.request.timeout)
            obsolete = tuple(each for each in obsolete if each not in kept)
            rest = tuple(each for each in work.record.objects if each not in obsolete)
            work.dropped += obsolete
            work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, objects=rest))
            node.run(f"cat > {shlex.quote(work.folder)}/objects", input=tracking.text(rest))
        return f"{len(obsolete)} objects" if obsolete else "nothing"

    return Step("drop", "remove objects of an earlier version", action, (work.target.first,), after_all=(after, "begin"))


def _wait(work: AppInstall) -> Step:
    def action() -> str:
        if not work.waits:
            return "later"
        owned = launch.OwnedObjects(work.target.kubectl, work.record.objects)
        items = wait.settle(owned, timeout=work.request.timeout, quiet=1 if work.commands else 0)
        return f"{len(readiness.of_kind(items, 'Pod'))} pods"

    return Step("wait", "wait for its workloads", action, after_all=("drop",))


def _record(work: AppInstall) -> Step:
    def action() -> None:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, state=records.INSTALLED))

    return Step("record", "record it in the cluster", action, after_all=("wait",))
