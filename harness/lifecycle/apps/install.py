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
from collections.abc import Sequence
from pathlib import Path

from harness import log
from harness.cloudimage import ImageSet, unpacked
from harness.clusterfile import Hook, Phase
from harness.clusterfile import hooks as clusterfile_hooks
from harness.errors import SlipwayError
from harness.lifecycle.apps import image_policy, images, launch, records, tracking, unused
from harness.lifecycle.apps.installation import PHASES, AppInstall, prepared
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import IMPORT, POINTED, REGISTRY, Where
from harness.lifecycle.kube import readiness, wait
from harness.lifecycle.plan import Journal, Plan, Step, digest, execute
from harness.lifecycle.provision import distribution, registry, rootfs
from harness.lifecycle.steps.launch import launch_title
from harness.nodes import Node
from harness.nodes.files import install_files
from harness.oci.store import Store
from harness.transfer import mirror


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
    if target.way == POINTED:
        recipe.add(_fill_registry(work))
    recipe.add(_send_files(work))
    if target.way == POINTED:
        recipe.add(_point_pods(work))
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


def _fill_registry(work: AppInstall) -> Step:
    """Put the images into the registry of the site, each under its own name there."""
    registry = work.target.registry
    assert registry is not None

    def action() -> str:
        with registry.client() as client:
            result = mirror.expand(work.store, work.image, registry.site, client)
        work.partly = frozenset(result.partly)
        return f"{len(result.images)} images, {log.size(result.sent)} sent"

    return Step("fill-registry", f"send its container images to {registry.site}", action, after=("begin",))


def _point_pods(work: AppInstall) -> Step:
    """Make the policy before the first pod: a pod that was made with another name keeps it."""
    registry = work.target.registry
    assert registry is not None
    file = f"{work.folder}/image-policy.yaml"

    def action(node: Node) -> str:
        changed = image_policy.names(work.images.images, registry.site, work.partly)
        node.put(image_policy.manifests(work.name, changed, work.target.policy_version).encode(), file)
        # By the server: kubectl would keep the list of names a second time, in an annotation, which is limited.
        run_noted(work, node, f"kubectl apply --server-side --force-conflicts --filename={shlex.quote(file)}", "policy of images")
        image_policy.await_force(work.target.kubectl, changed)
        return f"{len(work.images.images)} images"

    title, after = f"point pods at {registry.site}", (_id(work, "files"), "fill-registry")
    return Step(_id(work, "pods"), title, action, (work.target.first,), after_all=after)


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
    for number, hook in enumerate(clusterfile_hooks.at(work.hooks, phase), 1):
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
