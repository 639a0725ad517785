"""Hooks as steps: those of the image and those of the Clusterfile, at the phases of a verb, each once, in order."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from harness import untrusted
from harness.clusterfile import Hook, HookTarget, Phase
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.parse import image_hooks
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host import durable, paths
from harness.lifecycle.kube import etcd, readiness, wait
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import rootfs
from harness.lifecycle.steps import labels, launch
from harness.lifecycle.steps.context import ClusterContext, ClusterSpec
from harness.nodes import Node
from harness.nodes.files import STATE
from harness.runtimes import ROOTFS

FOLDER = "plugins"
"""In the rootfs: the hooks of an image."""

_SETTLE = 900
"""Seconds that CLUSTERCHECK waits at most, as sealer's does."""

SNAPSHOTS = "snapshots"
"""In the cluster's folder here: what hooks of type ETCD write that the user has not given."""

_MOST_SNAPSHOTS = 1000

BEFORE_JOINING = (Phase.PRE_SCALE_UP, Phase.PRE_INIT_HOST, Phase.PRE_JOIN)
AFTER_JOINING = (Phase.POST_INIT_HOST, Phase.PRE_LAUNCH, Phase.POST_JOIN, Phase.POST_SCALE_UP)
BEFORE_NODES = (Phase.PRE_INSTALL, Phase.PRE_INIT_HOST, Phase.PRE_INIT)
AFTER_NODES = (Phase.POST_INIT_HOST, Phase.POST_INSTALL)
NAMING = frozenset({Phase.ORIGINALLY, *BEFORE_NODES, Phase.PRE_JOIN})
"""Phases whose hooks of type HOSTNAME give machines their names."""


def of_image(tree: Path) -> tuple[Hook, ...]:
    """The hooks that a rootfs brings. Raises InputError with all that is wrong with them, StoreError for links out of the rootfs."""
    return image_hooks(rootfs.folder_files(tree, FOLDER))


def of(spec: ClusterSpec) -> tuple[Hook, ...]:
    """All hooks of what is run. Raises InputError for those that were kept without their data, for it may have been a secret."""
    all_hooks = clusterfile_hooks.merged(of_image(rootfs.tree(spec.store, spec.image.platforms[0])), spec.clusterfile.hooks)
    lost = [hook for hook in all_hooks if hook.redacted]
    if lost:
        raise InputError(
            Fault(f"Hook {hook.name}", "its data was not kept, since it may hold a secret", "give the Clusterfile: -f") for hook in lost
        )
    return all_hooks


def at(
    context: ClusterContext,
    hooks: Iterable[Hook],
    phase: Phase,
    after: Sequence[str],
    *,
    among: Collection[str] | None = None,
    change: str = "",
) -> list[Step]:
    """A step for each hook of a phase, one after the other, the first one after all of ``after``.

    ``among`` are the addresses that the phase is about, such as those that join; None for all. ``change`` is the id of a change in which
    every hook runs once, whatever its data.
    """
    steps: list[Step] = []
    require_no_paths(clusterfile_hooks.at(hooks, phase))
    for number, hook in enumerate(clusterfile_hooks.at(hooks, phase), 1):
        nodes = _nodes(context, hook, phase, among)
        if nodes and hook.type != "HOSTNAME":
            steps.append(_step(context, hook, phase, number, nodes, tuple(after), among, change))
            after = (steps[-1].id,)
    return steps


def _step(
    context: ClusterContext,
    hook: Hook,
    phase: Phase,
    number: int,
    nodes: tuple[Node, ...],
    after: tuple[str, ...],
    among: Collection[str] | None,
    change: str,
) -> Step:
    def action(node: Node) -> str | None:
        return _ACTIONS[hook.type](context, hook, phase, node, among)

    def inputs(_: Node) -> str:
        return change or digest(context.spec.name, hook.name, hook.type, hook.data, hook.output, sorted(among or ()))

    title = f"hook {hook.name} at {phase.value}"
    return Step(f"hook-{phase.value}-{number}-{hook.name}", title, action, nodes, after_all=after, inputs=inputs)


def _nodes(context: ClusterContext, hook: Hook, phase: Phase, among: Collection[str] | None) -> tuple[Node, ...]:
    """The nodes that a hook runs on. With labels in its selectors they are chosen again when nodes have some."""
    if hook.type != "SHELL":
        return (context.spec.first,)
    if any(selector.labels for selector in hook.on):
        return tuple(node for node in context.spec.nodes if among is None or node.address in among)
    chosen = clusterfile_hooks.targets(hook, phase, places(context), among=among)
    return tuple(node for node in context.spec.nodes if node.address in chosen and node.address not in context.spec.unreachable)


def places(context: ClusterContext) -> tuple[HookTarget, ...]:
    return context.spec.clusterfile.cluster.places if context.spec.clusterfile.cluster else ()


# ---- what each type does ----------------------------------------------------------------------------------------------


def _shell(context: ClusterContext, hook: Hook, phase: Phase, node: Node, among: Collection[str] | None) -> str | None:
    if any(selector.labels for selector in hook.on):
        node_labels = {member.address: labels.of_node(context.kubectl, member.name) for member in context.resolved.cluster.members}
        if node.address not in clusterfile_hooks.targets(hook, phase, places(context), among=among, labels=node_labels):
            return "not every node has its labels"
    shell(node, hook, phase, context.resolved.environment(node))
    return None


def shell(node: Node, hook: Hook, phase: Phase, env: Mapping[str, str]) -> None:
    """Run a script of a hook: in the rootfs where there is one, else in the root. Raises CommandError with what it said."""
    in_rootfs = phase.has_rootfs and node.run(f"test -d {ROOTFS}", check=False).ok
    launch.run_in_rootfs(node, hook.data, env, what=f"hook {hook.name} at {phase.value}", folder=ROOTFS if in_rootfs else "/")


def _label(context: ClusterContext, hook: Hook, _: Phase, node: Node, __: Collection[str] | None) -> str | None:
    names = _names(context)
    commands = [labels.label(names[address], pairs) for address, pairs in clusterfile_hooks.labels(hook).items() if address in names]
    node.run(labels.script(commands), timeout=120)
    return None


def _taint(context: ClusterContext, hook: Hook, _: Phase, node: Node, __: Collection[str] | None) -> str | None:
    names = _names(context)
    commands = [
        labels.taint(names[address], taint)
        for address, taints in clusterfile_hooks.taints(hook).items()
        for taint in taints
        if address in names
    ]
    node.run(labels.script(commands), timeout=120)
    return None


def _names(context: ClusterContext) -> dict[str, str]:
    return {member.address: member.name for member in context.resolved.cluster.members}


def _clustercheck(context: ClusterContext, _: Hook, __: Phase, ___: Node, ____: Collection[str] | None) -> str | None:
    resources = wait.settle(context.kubectl, timeout=_SETTLE, quiet=0)
    return f"{len(readiness.of_kind(resources, 'Node'))} nodes, {len(readiness.of_kind(resources, 'Pod'))} pods"


def _etcd(context: ClusterContext, hook: Hook, _: Phase, __: Node, ___: Collection[str] | None) -> str | None:
    """All of etcd as one file on this machine, for the eyes of its owner: it holds every secret of the cluster."""
    if not hook.given:
        return _etcd_kept(context, hook)
    target = paths.expanded(hook.output or f"{context.spec.name}-etcd.db")
    target.parent.mkdir(parents=True, exist_ok=True)
    with durable.replacing(target) as file:
        etcd.take_snapshot(context.spec.first, file)
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB"


def _etcd_kept(context: ClusterContext, hook: Hook) -> str:
    """For a hook that the user has not given: a new file in a folder of the cluster's own; what is there is never replaced."""
    name = hook.output or f"{context.spec.name}-etcd.db"
    state = context.spec.state.folder
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = untrusted.UntrustedTree(state, what=f"hook {hook.name}", error=UsageError)
    for number in range(_MOST_SNAPSHOTS):
        path = f"{SNAPSHOTS}/{untrusted.name(name, what=f'hook {hook.name}', error=UsageError)}{f'.{number}' if number else ''}"
        try:
            file = folder.create(path)
        except FileExistsError:
            continue
        break
    else:
        raise UsageError(f"hook {hook.name}: {state / SNAPSHOTS} is full", hint="remove the snapshots that you do not need")
    target = state / path
    with file, tempfile.TemporaryFile(dir=state) as part:
        try:
            etcd.take_snapshot(context.spec.first, cast("BinaryIO", part))
            part.seek(0)
            shutil.copyfileobj(part, file)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB"


def require_no_paths(hooks: Iterable[Hook]) -> None:
    """Raises InputError for hooks that name a file of this machine, though the user has not given them with this command."""
    faults = []
    for hook in hooks:
        if hook.type == "ETCD" and hook.output is not None and not hook.given:
            try:
                untrusted.name(hook.output, what="")
            except StoreError:
                faults.append(
                    Fault(
                        hook.where or f"Hook {hook.name}",
                        f"hook {hook.name} names {untrusted.shown(hook.output)[:200]}: an image, or the Clusterfile that a cluster keeps, "
                        "may not choose a place on this machine",
                        f"give a plain name, for a file in {SNAPSHOTS}/ of the cluster's folder here, or the hook in a Clusterfile with -f",
                    )
                )
    if faults:
        raise InputError(faults)


_ACTIONS: Mapping[str, Callable[[ClusterContext, Hook, Phase, Node, Collection[str] | None], str | None]] = {
    "SHELL": _shell,
    "LABEL": _label,
    "TAINT": _taint,
    "CLUSTERCHECK": _clustercheck,
    "ETCD": _etcd,
}


# ---- names of machines ------------------------------------------------------------------------------------------------


def host_names(hooks: Iterable[Hook], phases: Collection[Phase]) -> dict[str, str]:
    """The names that machines are to get, by address; of several hooks the last one counts."""
    names: dict[str, str] = {}
    for hook in sorted(hooks, key=lambda hook: hook.name):
        if hook.type == "HOSTNAME" and any(phase in phases for phase in hook.phases):
            names |= clusterfile_hooks.host_names(hook)
    return names


def set_names(context: ClusterContext, names: Mapping[str, str], after: str) -> list[Step]:
    """A step that gives machines their names, before anything goes by them. The old ones come back when the cluster goes."""
    nodes = tuple(node for node in context.nodes if node.address in names)

    def action(node: Node) -> str:
        name = names[node.address]
        node.run(_NAME.format(name=shlex.quote(name)))
        return name

    step = Step("set-host-names", "give the machines their names", action, nodes, after=(after,), inputs=lambda node: names[node.address])
    return [step] if nodes else []


# In a container /etc/hostname is a mount: it is written in place.
_NAME = f"""set -e
umask 022
mkdir -p {STATE}/before
if [ ! -e {STATE}/before/hostname ]; then uname -n > {STATE}/before/hostname.new; mv {STATE}/before/hostname.new {STATE}/before/hostname; fi
hostname {{name}}
printf '%s\\n' {{name}} > /etc/hostname
"""
