"""``slipway apps remove``: what the launch commands of an application made goes; what they used that was there before stays."""

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
from harness.clusterfile import environment as environments
from harness.clusterfile import hooks as values
from harness.clusterfile.parse import image_hooks
from harness.errors import InputError, StoreError, UsageError
from harness.lifecycle.apps import install, launch, records
from harness.lifecycle.apps import target as targets
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.target import Target, Where
from harness.lifecycle.apps.tracking import Object
from harness.lifecycle.plan import Journal, Step, digest, execute
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import read_files
from harness.oci.model import Platform
from harness.oci.store import Store

_BEFORE, _AFTER = (Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST), (Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)


@dataclasses.dataclass(frozen=True)
class Gone:
    """How it ended."""

    name: str
    image: str
    cluster: str
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    """What it used and what stays: it was there before, or another application has it too."""
    unknown: tuple[str, ...]
    """Launch commands that had done more than kubectl and helm, which nobody has taken back."""
    seconds: float


@dataclasses.dataclass
class Work:
    """What the steps share."""

    target: Target
    record: Installed
    store: Store
    timeout: float
    hooks: tuple[Hook, ...] = ()
    kept: tuple[Object, ...] = ()

    @property
    def folder(self) -> str:
        return f"{self.target.root}/{self.record.name}"


@contextmanager
def prepared(name: str, where: Where, store: Store, *, timeout: float = 300, home: Path | None = None) -> Iterator[Work]:
    """Find the application; nothing is changed. Raises UsageError when the cluster has none of that name."""
    with targets.opened(where, nodes=False, home=home) as target:
        yield make(target, name, store, timeout=timeout)


def make(target: Target, name: str, store: Store, *, timeout: float = 300) -> Work:
    """The work on a cluster that is open. Raises as ``prepared``."""
    record = records.find(target.kubectl, name)
    if record is None:
        known = ", ".join(app.name for app in records.listed(target.kubectl))
        raise UsageError(f"{target.name} has no application {name}", hint=f"it has {known}" if known else "slipway run APPIMAGE brings one")
    work = Work(target, record, store, timeout)
    work.hooks = _hooks_of(work)
    work.kept = tuple(one for one in record.objects if not one.ours) + _shared(target, record)
    return work


def _shared(target: Target, record: Installed) -> tuple[Object, ...]:
    """What is ours and another application uses too."""
    others = {one.words for app in records.listed(target.kubectl) if app.name != record.name for one in app.objects}
    return tuple(one for one in record.objects if one.ours and one.words in others)


def remove(name: str, where: Where, store: Store, *, timeout: float = 300, home: Path | None = None) -> Gone:
    """Take an application out of a cluster. The same call after a kill or a failure finishes what was begun.

    Raises CommandError when something refuses to go within ``timeout`` seconds; the application is still known then.
    """
    started = time.monotonic()
    with prepared(name, where, store, timeout=timeout, home=home) as work:
        return carry_out(work, started)


def carry_out(work: Work, started: float) -> Gone:
    with work.target.exclusive():
        execute(plan(work), Journal(f"{work.target.root}/journal"))
    return Gone(
        work.record.name,
        work.record.image,
        work.target.name,
        tuple(str(one) for one in work.record.objects if one.ours and one not in work.kept),
        tuple(map(str, work.kept)),
        () if work.hooks else work.record.unknown,
        time.monotonic() - started,
    )


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: Work) -> list[Step]:
    """What will be done: what the image says itself, then what was noted, last made first removed."""
    recipe = [_begin(work)]
    for phase in _BEFORE:
        recipe += _hooks(work, phase, recipe[-1].id)
    recipe.append(_take_back(work, recipe[-1].id))
    for phase in _AFTER:
        recipe += _hooks(work, phase, recipe[-1].id)
    return [*recipe, _clean(work, recipe[-1].id), _forget(work)]


def _begin(work: Work) -> Step:
    def action() -> None:
        work.record = records.write(work.target.kubectl, dataclasses.replace(work.record, state=records.REMOVING))

    return Step("begin", f"note that {work.record.name} is being removed", action)


def _hooks(work: Work, phase: Phase, after: str) -> list[Step]:
    made: list[Step] = []
    for number, hook in enumerate(values.at(work.hooks, phase), 1):

        def action(node: Node, hook: Hook = hook) -> None:
            _run_hook(work, node, hook, phase)

        def inputs(_: Node, hook: Hook = hook) -> str:
            return digest(work.record.uid, hook.data)

        title, step = f"hook {hook.name} at {phase.value}", f"app-{work.record.name}-{phase.value}-{number}"
        made.append(Step(step, title, action, (work.target.first,), after_all=(after,), inputs=inputs))
        after = made[-1].id
    return made


def _run_hook(work: Work, node: Node, hook: Hook, phase: Phase) -> None:
    if not node.run(f"[ -d {shlex.quote(work.folder)}/rootfs ]", check=False).ok:
        _bring_files(work, node)
    application = work.record.application
    known = application.env if application else {}
    env = {key: value for key, value in known.items() if not is_redacted(value)}
    env = {**environments.environment({}, None, env), **work.target.facts, "HostIP": node.address}
    launch.run(work.target, node, work.record.name, hook.data, env, f"hook {hook.name} at {phase.value}")


def _bring_files(work: Work, node: Node) -> None:
    """The machine that had launched it is gone, and its files with it: as the image has them, they are here again."""
    platform = work.target.platforms.get(node.address) or Platform.host()
    image = cloudimage.read(work.store, work.record.digest).platform(platform)
    launch.send_tree(node, unpacked.unpacked_rootfs(work.store, image.layers), {}, f"{work.folder}/rootfs")


def _hooks_of(work: Work) -> tuple[Hook, ...]:
    """The hooks of its image: from its files, else from the store."""
    node, folder = work.target.first, f"{work.folder}/rootfs"
    listed = node.run(f"cd {shlex.quote(folder)}/plugins 2>/dev/null && ls -A || true").stdout.splitlines()
    names = [f"{folder}/plugins/{name}" for name in listed if name.endswith((".yaml", ".yml"))]
    try:
        if names:
            found = {path.removeprefix(f"{folder}/"): data for path, data in read_files(node, names).items()}
            hooks = values.merged(image_hooks(found), ())
        elif node.run(f"[ -d {shlex.quote(folder)} ]", check=False).ok:
            return ()
        else:
            image = cloudimage.read(work.store, work.record.digest)
            hooks = install.hooks_of(unpacked.unpacked_rootfs(work.store, image.platforms[0].layers))
    except (InputError, StoreError) as error:
        log.warning(f"what {work.record.image} says about its removal is not known here: {error.message}")
        return ()
    return tuple(hook for hook in hooks if set(hook.phases) & {*_BEFORE, *_AFTER})


def _take_back(work: Work, after: str) -> Step:
    def action(node: Node) -> str:
        going = tuple(one for one in work.record.objects if one.ours and one not in work.kept)
        left = launch.take_back(work.target, node, work.record.name, going, work.timeout)
        return f"{len(going) - len(left)} removed"

    return Step("take-back", "remove what it made", action, (work.target.first,), after_all=(after,))


def _clean(work: Work, after: str) -> Step:
    def action(node: Node) -> None:
        # With the last application goes what was noted about them.
        root = shlex.quote(work.target.root)
        node.run(
            f'rm -rf {shlex.quote(work.folder)}; if [ "$(ls -A {root} 2>/dev/null)" = journal ]; then rm -r {root}; fi',
            timeout=LONG_TIMEOUT,
        )

    return Step("clean", "remove its files", action, work.target.masters, after_all=(after,))


def _forget(work: Work) -> Step:
    return Step("forget", "forget it", lambda: records.forget(work.target.kubectl, work.record.name), after_all=("clean",))
