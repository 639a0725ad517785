"""A cluster goes from one image to another, node by node, and serves all the time: what ``upgrade`` and ``rollback`` share.

Everything is made ready beside what runs: blobs in the registries, a second rootfs on each node, the images of Kubernetes. Then each
control-plane node and each batch of workers is updated. A ConfigMap of the cluster says which change this is, from what to what;
with it the same command again, or the way back, knows what was begun.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import cloudimage, log
from harness.clusterfile import Phase
from harness.errors import SlipwayError, StoreError
from harness.lifecycle.apps import obsolete, unused
from harness.lifecycle.cluster import backup
from harness.lifecycle.cluster.change import DONE, UPGRADE, write
from harness.lifecycle.kube import drain
from harness.lifecycle.plan import Plan, Step
from harness.lifecycle.provision import node_files
from harness.lifecycle.rollout import BACKUP, RolloutWork, checks, node_update, staging
from harness.lifecycle.steps import bootstrap, hooks, launch, record, registries, waits
from harness.lifecycle.steps.context import ResolvedCluster
from harness.nodes import Node, each
from harness.nodes.files import received
from harness.nodes.ssh import SshNode


def batches(work: RolloutWork) -> tuple[tuple[str, tuple[SshNode, ...]], ...]:
    """The nodes that are updated together, one batch after the other, each with its role: control-plane nodes singly, workers in batches.

    No kubelet may be newer than an API server: to a lower minor version the workers go first.
    """
    control_plane = tuple(("control-plane", (node,)) for node in work.spec.control_plane)
    workers = tuple(("worker", batch) for batch in work.worker_batches)
    down = drain.minor(work.move.after.kubernetes) < drain.minor(work.move.before.kubernetes)
    return (*workers, *control_plane) if down else (*control_plane, *workers)


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: RolloutWork) -> list[Step]:
    """List the steps. Until ``begin`` nothing is changed, until the first batch nothing that runs."""
    upgrades, recipe = work.move.kind == UPGRADE, Plan()
    recipe.add(checks.check(work), checks.unpack(work), checks.find_keys(work), checks.compare(work), _begin(work), _keep_backup(work))
    if upgrades:
        recipe.add(*_once(work, Phase.PRE_UPGRADE, recipe.last))
    before = recipe.last
    if work.spec.elsewhere is None:
        recipe.add(registries.send_images(work.context), after=(), after_all=(before,))
    recipe.add(staging.tell_nodes(work, before), staging.stage(work, before), staging.fetch(work))
    _add_batches(work, recipe)
    recipe.add(*_once(work, Phase.UPGRADE if upgrades else Phase.ROLLBACK, recipe.last))
    _add_launch(work, recipe)
    if upgrades:
        recipe.add(*_once(work, Phase.POST_UPGRADE, recipe.last))
    recipe.add(_end(work, recipe.last))
    return recipe.steps


def _add_batches(work: RolloutWork, recipe: Plan) -> None:
    """Update every batch; after all control-plane nodes, what exists once for the whole cluster."""
    control_plane_left = len(work.spec.control_plane)
    for number, (role, nodes) in enumerate(batches(work), 1):
        recipe.add(node_update.update_batch(work, number, role, nodes, recipe.last))
        recipe.add(node_update.healthy(work, str(number), recipe.last))
        control_plane_left -= role == "control-plane"
        if role == "control-plane" and control_plane_left == 0:
            _add_whole_cluster(work, recipe)


def _add_whole_cluster(work: RolloutWork, recipe: Plan) -> None:
    """Configuration in the cluster, the pod network and the addons."""
    configure = Step(
        "update-cluster",
        "update the cluster's configuration",
        lambda _: work.resolved.runtime.update(work.resolved.network_addon),
        (work.spec.first,),
        after_all=(recipe.last,),
        inputs=lambda _: work.move.id,
    )
    recipe.add(configure, *_network_commands(work, configure.id, work.move.id))
    recipe.add(bootstrap.start_addons(work.context, recipe.last))
    recipe.add(_prune(work, recipe.last))
    # While its kube-proxy is replaced a node does not hear of pods that end: no pod is moved then.
    recipe.add(node_update.healthy(work, "cluster", recipe.last))


def _network_commands(work: RolloutWork, after: str, change: str = "") -> list[Step]:
    commands = launch.network_commands(work.resolved.main.info)
    return launch.launch_commands(work.context, commands, "cluster-app", after, change)


def _prune(work: RolloutWork, after: str) -> Step:
    """Remove what only the image before had of addons."""

    def action(_: Node) -> str:
        others = [one for app in work.apps for one in app.objects]
        try:
            pruned = obsolete.prune(work.kubectl, work.resolved.addons, _former_addons(work), others)
        except StoreError as error:
            log.warning(f"addons that the image has not any more stay: {error.message}")
            return ""
        # Else what they send to an enforcer that has gone would be dropped.
        tables = obsolete.idle_tables(work.kubectl)
        each(work.spec.nodes, lambda node: node_files.drop_tables(node, tables))
        return str(pruned)

    title = "remove addons that the image has not any more"
    return Step("prune-addons", title, action, (work.spec.first,), after_all=(after,), inputs=lambda _: work.move.id)


def _former_addons(work: RolloutWork) -> dict[str, str]:
    """The addons of the image that the cluster comes from, as its first control-plane node had them; none when it is not here."""
    try:
        former = cloudimage.read(work.spec.store, work.move.before.digest)
        return ResolvedCluster(dataclasses.replace(work.spec, image=former, edit=None), work.resolved.facts).addons
    except SlipwayError as error:
        log.debug(f"what addons {work.move.before.image} had is not known: {error.message}")
        return {}


def _add_launch(work: RolloutWork, recipe: Plan) -> None:
    """As ``run`` and ``apply`` end, and with the hooks that we could have."""
    recipe.add(*hooks.at(work.context, work.hooks, Phase.PRE_LAUNCH, (recipe.last,)))
    recipe.add(*launch.launch_commands(work.context, work.launch, "launch", recipe.last, work.move.id))
    recipe.add(*hooks.at(work.context, work.hooks, Phase.POST_LAUNCH, (recipe.last,)))
    recipe.add(waits.wait_for_workloads(work.context, recipe.last, launched=bool(work.launch)))
    recipe.add(record.record(work.context, recipe.last))


def _once(work: RolloutWork, phase: Phase, after: str) -> list[Step]:
    """The hooks of a phase: each once in every change."""
    return hooks.at(work.context, work.hooks, phase, (after,), change=work.move.id)


# ---- before anything is changed ---------------------------------------------------------------------------------------


# ---- made ready -------------------------------------------------------------------------------------------------------


def _begin(work: RolloutWork) -> Step:
    def action() -> None:
        waits.record_unready_workloads(work.context)
        write(work.kubectl, work.move)

    return Step("begin", f"note that the {work.move.kind} begins", action, after=("check", "compare"))


def _keep_backup(work: RolloutWork) -> Step:
    """Once in every change, on all control-plane nodes: what it was like before."""
    cluster = work.found
    target = BACKUP.replace(UPGRADE, work.move.kind)

    def action() -> str:
        if all(each(cluster.control_plane, lambda node: work.journal.has(node, "keep-backup", work.move.id))):
            return "done before"
        with tempfile.TemporaryDirectory(prefix="slipway-backup-") as folder:
            file = Path(folder, "backup")
            machines = [node.machine for node in (cluster.first, *(node for node in cluster.control_plane if node is not cluster.first))]
            workers, home = [node.machine for node in cluster.workers], cluster.state.folder.parent.parent
            saved = backup.backup(file, cluster.state.name, machines, workers, home=home)

            def keep(node: SshNode) -> None:
                with file.open("rb") as content:
                    node.run(received(target, saved.size), input=content, timeout=1800)
                work.journal.add(node, "keep-backup", work.move.id)

            each(cluster.control_plane, keep)
        return f"{saved.size / 1e6:.1f} MB, {saved.keys} keys"

    return Step("keep-backup", "keep a backup on the control-plane nodes", action, after=("begin",))


# ---- the end ----------------------------------------------------------------------------------------------------------


def _end(work: RolloutWork, after: str) -> Step:
    def action() -> str:
        # As `run` starts them, with their record, which is there by now.
        launched = (*_network_commands(work, ""), *launch.launch_commands(work.context, work.launch, "launch", ""))
        for step in (bootstrap.start_addons(work.context, "", obsolete.with_record), *launched):
            work.journal.note(work.spec.first, step)
        work.resolved.runtime.registered()
        write(work.kubectl, dataclasses.replace(work.move, state=DONE))
        return _tidy(work) if work.move.kind == UPGRADE else ""

    return Step("end", f"note that the {work.move.kind} has ended", action, after_all=(after,))


def _tidy(work: RolloutWork) -> str:
    """Take out of the registries what neither this image, nor the one before it, nor an application has."""
    if work.spec.elsewhere is not None:
        return ""
    images = (work.move.after.digest, work.move.before.digest)
    return unused.remove_others(work.kubectl, work.spec.registries, images, work.apps, work.spec.store)


def described(work: RolloutWork) -> Iterator[dict[str, Any]]:
    """Nodes for ``--plan``: what each runs and will run, and the number of its batch, ``turn`` as earlier releases called it."""
    for number, (role, nodes) in enumerate(batches(work), 1):
        for node in nodes:
            now = work.versions.get(node.address)
            yield {
                "node": work.name(node), "address": node.address, "role": role,
                "from": now, "to": work.move.after.kubernetes, "turn": number,
            }  # fmt: skip
