"""``slipway apps remove``: remove the objects that the launch commands of an application created; objects that existed before stay."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness import cloudimage, log
from harness.cloudimage import unpacked
from harness.clusterfile import Hook, Phase, is_redacted
from harness.clusterfile import environment as clusterfile_environment
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.parse import image_hooks
from harness.errors import InputError, StoreError, UsageError
from harness.lifecycle.apps import installation, launch, records, unused
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.target import AppTarget, Where, opened
from harness.lifecycle.apps.tracking import TrackedObject
from harness.lifecycle.plan import Journal, Step, digest, execute
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import read_files
from harness.oci.model import Platform
from harness.oci.store import Store

_BEFORE, _AFTER = (Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST), (Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)


@dataclasses.dataclass(frozen=True)
class RemovalResult:
    """The outcome of a removal."""

    name: str
    image: str
    cluster: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """Objects that it used and that stay: they existed before, or another application has them too."""
    unknown: tuple[str, ...]
    """Launch commands that ran more than kubectl and helm, which was not undone."""
    seconds: float


@dataclasses.dataclass
class AppRemoval:
    """State that the steps of a removal share."""

    target: AppTarget
    record: Installed
    store: Store
    timeout: float
    hooks: tuple[Hook, ...] = ()
    kept: tuple[TrackedObject, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.target.root}/{self.record.name}"


@contextmanager
def prepared(
    name: str, where: Where, store: Store | None = None, *, timeout: float = 300, home: Path | None = None
) -> Iterator[AppRemoval]:
    """Find the application; nothing is changed. Raises UsageError when the cluster does not have it."""
    with opened(where, nodes=False, home=home) as target:
        yield make(target, name, store or Store.default(), timeout=timeout)


def make(target: AppTarget, name: str, store: Store, *, timeout: float = 300) -> AppRemoval:
    """Prepare a removal from a cluster that is open. Raises as ``prepared`` does."""
    record = records.find(target.kubectl, name)
    if record is None:
        names = ", ".join(app.name for app in records.listed(target.kubectl))
        raise UsageError(f"{target.name} has no application {name}", hint=f"it has {names}" if names else "slipway run APPIMAGE adds one")
    work = AppRemoval(target, record, store, timeout)
    work.hooks = _hooks_of(work)
    work.kept = tuple(each for each in record.objects if not each.ours) + _shared(target, record)
    return work


def _shared(target: AppTarget, record: Installed) -> tuple[TrackedObject, ...]:
    """Objects of the application that another one uses too."""
    others = {each.words for app in records.listed(target.kubectl) if app.name != record.name for each in app.objects}
    return tuple(each for each in record.objects if each.ours and each.words in others)


def remove(name: str, where: Where, store: Store | None = None, *, timeout: float = 300, home: Path | None = None) -> RemovalResult:
    """Remove an application from a cluster. The same call after a kill or a failure finishes the removal.

    Raises CommandError when an object is not gone within ``timeout`` seconds; the application is still recorded then.
    """
    started = time.monotonic()
    with prepared(name, where, store, timeout=timeout, home=home) as work:
        return carry_out(work, started)


def carry_out(work: AppRemoval, started: float) -> RemovalResult:
    with work.target.exclusive():
        execute(plan(work), Journal(f"{work.target.root}/journal"))
    return RemovalResult(
        work.record.name,
        work.record.image,
        work.target.name,
        tuple(str(each) for each in work.record.objects if each.ours and each not in work.kept),
        tuple(map(str, work.kept)),
        () if work.hooks else work.record.unknown,
        time.monotonic() - started,
    )


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: AppRemoval) -> list[Step]:
    """The steps: hooks of the image, and the noted objects in reverse order of creation."""
    recipe = [_begin(work)]
    for phase in _BEFORE:
        recipe += _hooks(work, phase, recipe[-1].id)
    recipe.append(_remove_objects(work, recipe[-1].id))
    for phase in _AFTER:
        recipe += _hooks(work, phase, recipe[-1].id)
    recipe += [_clean(work, recipe[-1].id), _forget(work)]
    return [*recipe, *unused.step(work.target, work.store, recipe[-1].id)]


def _begin(work: AppRemoval) -> Step:
    def action() -> None:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, state=records.REMOVING))

    return Step("begin", f"note that {work.record.name} is being removed", action)


def _hooks(work: AppRemoval, phase: Phase, after: str) -> list[Step]:
    recipe: list[Step] = []
    for number, hook in enumerate(clusterfile_hooks.at(work.hooks, phase), 1):

        def action(node: Node, hook: Hook = hook) -> None:
            _run_hook(work, node, hook, phase)

        def inputs(_: Node, hook: Hook = hook) -> str:
            return digest(work.record.uid, hook.data)

        title, step = f"hook {hook.name} at {phase.value}", f"app-{work.record.name}-{phase.value}-{number}"
        recipe.append(Step(step, title, action, (work.target.first,), after_all=(after,), inputs=inputs))
        after = recipe[-1].id
    return recipe


def _run_hook(work: AppRemoval, node: Node, hook: Hook, phase: Phase) -> None:
    if not node.run(f"[ -d {shlex.quote(work.folder)}/rootfs ]", check=False).ok:
        _bring_files(work, node)
    application = work.record.application
    recorded = application.env if application else {}
    env = {key: value for key, value in recorded.items() if not is_redacted(value)}
    env = {**clusterfile_environment.environment({}, None, env), **work.target.facts, "HostIP": node.address}
    launch.run(work.target, node, work.record.name, hook.data, env, f"hook {hook.name} at {phase.value}")


def _bring_files(work: AppRemoval, node: Node) -> None:
    """Send the files of the image to a node: the one that launched it is gone."""
    platform = work.target.platforms.get(node.address) or Platform.host()
    image = cloudimage.read(work.store, work.record.digest).platform(platform)
    launch.send_tree(node, unpacked.unpacked_rootfs(work.store, image.layers), {}, f"{work.folder}/rootfs")


def _hooks_of(work: AppRemoval) -> tuple[Hook, ...]:
    """The hooks of its image: from its files on the node, else from the store."""
    node, folder = work.target.first, f"{work.folder}/rootfs"
    listed = node.run(f"cd {shlex.quote(folder)}/plugins 2>/dev/null && ls -A || true").stdout.splitlines()
    names = [f"{folder}/plugins/{name}" for name in listed if name.endswith((".yaml", ".yml"))]
    try:
        if names:
            documents = {path.removeprefix(f"{folder}/"): data for path, data in read_files(node, names).items()}
            hooks = clusterfile_hooks.merged(image_hooks(documents), ())
        elif node.run(f"[ -d {shlex.quote(folder)} ]", check=False).ok:
            return ()
        else:
            image = cloudimage.read(work.store, work.record.digest)
            hooks = installation.hooks_of(unpacked.unpacked_rootfs(work.store, image.platforms[0].layers))
    except (InputError, StoreError) as error:
        log.warning(f"the hooks of {work.record.image} for its removal are not known: {error.message}")
        return ()
    return tuple(hook for hook in hooks if set(hook.phases) & {*_BEFORE, *_AFTER})


def _remove_objects(work: AppRemoval, after: str) -> Step:
    def action(node: Node) -> str:
        created = tuple(each for each in work.record.objects if each.ours and each not in work.kept)
        kept = launch.remove_objects(work.target, node, work.record.name, created, work.timeout)
        return f"{len(created) - len(kept)} removed"

    return Step("take-back", "remove the objects that it created", action, (work.target.first,), after_all=(after,))


def _clean(work: AppRemoval, after: str) -> Step:
    def action(node: Node) -> None:
        # The journal goes with the last application.
        root = shlex.quote(work.target.root)
        node.run(
            f'rm -rf {shlex.quote(work.folder)}; if [ "$(ls -A {root} 2>/dev/null)" = journal ]; then rm -r {root}; fi',
            timeout=LONG_TIMEOUT,
        )

    return Step("clean", "remove its files", action, work.target.control_plane, after_all=(after,))


def _forget(work: AppRemoval) -> Step:
    return Step("forget", "remove its record", lambda: records.forget(work.target.kubectl, work.record.name), after_all=("clean",))
