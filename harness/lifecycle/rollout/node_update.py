"""The update of a node in a rollout: it is drained, goes to the other image, and takes part again."""

from __future__ import annotations

from collections.abc import Sequence

from harness import assets, log
from harness.clusterfile import WORKER, Phase
from harness.errors import CheckError, CommandError, SlipwayError
from harness.lifecycle.cluster.change import UPGRADE
from harness.lifecycle.kube import drain, etcd, objects, readiness, wait
from harness.lifecycle.plan import Step
from harness.lifecycle.provision import node_files, registry, rootfs_update
from harness.lifecycle.rollout import (
    BACKUP,
    BALANCER,
    CONTAINERD,
    CONTROL_PLANE,
    KUBELET,
    REGISTRY,
    RolloutWork,
    changed_files,
    moves,
    takes_pods,
)
from harness.lifecycle.steps import bootstrap, hooks, preparation, registries, waits
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, install_files
from harness.nodes.ssh import SshNode
from harness.runtimes import ROOTFS, SYSTEM, static_pods
from harness.runtimes.kubeadm import KUBECTL
from harness.runtimes.kubeconfig import ADMIN

_CORDONED = "cordoned"
"""Noted beside the parts: this rollout has cordoned the node."""


def update_batch(work: RolloutWork, number: int, role: str, nodes: tuple[SshNode, ...], after: str) -> Step:
    """Change the nodes of a batch, all of one role. The id of the step is in journals of nodes, and stays."""
    what = f"worker{'s' if len(nodes) > 1 else ''}" if role == WORKER else "control-plane node"
    names = ", ".join(work.name(node) for node in nodes)

    def action(node: SshNode) -> str:
        return _change(work, node, nodes)

    return Step(f"turn-{number}", f"change {what} {names}", action, nodes, after_all=(after,), inputs=lambda _: work.move.id)


def _change(work: RolloutWork, node: SshNode, together: Sequence[SshNode]) -> str:
    """All of a node, in an order in which it may be repeated from the beginning at any time."""
    parts = _with_registry(work, node, rootfs_update.begin(node))
    moved = _empty(work, node, together, parts)
    if CONTROL_PLANE in parts:
        client = etcd.Etcd(work.found.control_plane)
        members = client.members()
        etcd.require_health(members, client.sick(members), f"{work.name(node)} is not touched")
        static_pods.keep(node)
    rootfs_update.switch(node, work.move.id)
    install_files(node, preparation.machine_files(work.resolved, node))
    node_files.set_hosts(node, work.resolved.hosts_lines(node))
    node.run(node_files.apply(work.resolved.cluster), timeout=LONG_TIMEOUT)
    for step in hooks.at(work.context, work.hooks, Phase.UPGRADE_HOST, (), among={node.address}) if work.move.kind == UPGRADE else ():
        if node in step.nodes:
            step.action(node)
    _start(work, node, parts)
    if _CORDONED in parts or moved is not None:
        drain.Api(work.beside(node)).uncordon(work.name(node))
    _note_all(work, node)
    static_pods.forget(node)
    rootfs_update.done(node)
    return "" if moved is None else f"{work.name(node)}: {moved} pod{'' if moved == 1 else 's'} moved"


def _with_registry(work: RolloutWork, node: SshNode, parts: frozenset[str]) -> frozenset[str]:
    """With the registry of a node, if it has one with other settings. An earlier slipway, which staged the change, did not know these."""
    serves = work.spec.elsewhere is None and work.resolved.member(node).registry
    if REGISTRY in parts or not serves or not changed_files(node, registry.settings(work.resolved.login)):
        return parts
    rootfs_update.note(node, REGISTRY)
    return parts | {REGISTRY}


def _empty(work: RolloutWork, node: SshNode, together: Sequence[SshNode], parts: frozenset[str]) -> int | None:
    """Move the pods of a node elsewhere, if it is to stop for a while and there is an elsewhere; how many that were."""
    if not parts & {CONTAINERD, KUBELET}:
        return None
    api, name = drain.Api(work.beside(node)), work.name(node)
    leaving = frozenset(work.name(one) for one in together)
    listed = readiness.of_kind(readiness.get(api.kubectl, "nodes"), "Node")
    if not any(takes_pods(one) for one in listed if one["metadata"]["name"] not in leaving):
        log.warning(f"{name}: no other node takes its pods; they stay while its services restart")
        return None
    mine = next((one for one in listed if one["metadata"]["name"] == name), None)
    if mine is None:
        # Deleted by hand: its kubelet registers it again when it starts.
        return None
    if mine["spec"].get("unschedulable") and _CORDONED not in parts:
        # Somebody else's wish: it stays so afterwards.
        drain.drain(api, name, force=work.force, leaving=leaving, machine=node, timeout=work.drain_timeout)
        return None
    rootfs_update.note(node, _CORDONED)
    return drain.drain(api, name, force=work.force, leaving=leaving, machine=node, timeout=work.drain_timeout)


def _start(work: RolloutWork, node: SshNode, parts: frozenset[str]) -> None:
    if CONTAINERD in parts:
        node_files.start_containerd(node)
    if REGISTRY in parts:
        registries.start_registry(work.context).action(node)
    if BALANCER in parts:
        registries.start_balancers(work.context).action(node)
    if CONTROL_PLANE in parts:
        _control_plane(work, node)
    if KUBELET in parts:
        _start_kubelet(work, node)


def _start_kubelet(work: RolloutWork, node: SshNode) -> None:
    """Start the kubelet, and wait until its node is Ready.

    One of another version makes other pods of the same manifests, and starts all static pods again, as it likes. So they end in good
    order before it starts, and the step does not end before they are at work again: else no endpoint would follow when pods are moved.
    """
    member = work.resolved.member(node)
    again = member.is_control_plane and moves(work, node)
    if again:
        static_pods.halt(node, _patience(work), others=len(work.spec.control_plane) > 1)
    since = node.run("date -u +%Y-%m-%dT%H:%M:%SZ").stdout.strip()
    work.resolved.runtime.start_kubelet(member)
    if again:
        static_pods.come_back(node)
        static_pods.wait(node, dict.fromkeys(static_pods.PARTS, ()), _patience(work))
    _wait_ready(work, node, since)
    if again:
        _await_leaders(work, node)


def _patience(work: RolloutWork) -> float:
    """Seconds that a part of a control-plane node may take to end, or to come up."""
    return min(300.0, work.spec.timeout)


def _control_plane(work: RolloutWork, node: SshNode) -> None:
    """etcd where its image is another one, then the API, then what stands on it. What does not come up is as it was again.

    An API server answers with errors while its etcd is away: where others serve it ends before etcd does, and comes back after it.
    """
    member, runtime = work.resolved.member(node), work.resolved.runtime
    patience = _patience(work)
    several = len(work.spec.control_plane) > 1
    try:
        runtime.configure(member)
        image = runtime.store_image(member)
        if several:
            static_pods.leave(node, patience)
        if image and f"image: {image}\n" not in node.run(f"cat {etcd.MANIFEST}").stdout:
            static_pods.replace(node, ("etcd",), lambda: runtime.join_store(member, _peers(work)), timeout=patience, serves=not several)
            runtime.configure(member)
        static_pods.replace(node, ("kube-apiserver",), lambda: runtime.join_control_plane(member), timeout=patience)
        static_pods.replace(
            node, ("kube-controller-manager", "kube-scheduler"), lambda: runtime.start_controllers(member), timeout=patience
        )
        if several:
            static_pods.come_back(node)
        _await_leaders(work, node)
        _require_version(work, node)
    except (CheckError, CommandError) as error:
        raise _taken_back(work, node, error) from error


def _peers(work: RolloutWork) -> str:
    members = etcd.Etcd(work.found.control_plane).members()
    return ",".join(f"{member.name}={url}" for member in members for url in member.peers)


def _await_leaders(work: RolloutWork, node: SshNode) -> None:
    """Until a controller manager and a scheduler are at work again: before that no endpoint would follow when pods are moved.

    What the ended ones of this node held is released; else no other would be at work until it runs out, a quarter of a minute later.
    """
    script = assets.script("await_leaders", admin=ADMIN, node=work.name(node), rootfs=ROOTFS, state=STATE)
    result = node.run(script, check=False, timeout=150)
    if not result.ok:
        raise CheckError(
            f"{work.name(node)}: {result.output.strip() or 'no controller manager or scheduler leads'} a minute after its start"
        )


def _require_version(work: RolloutWork, node: SshNode) -> None:
    asked = node.run(f"{KUBECTL} --request-timeout=10s get --raw /version", timeout=30).stdout
    runs = objects.version(asked, where=work.name(node))
    if runs != work.move.after.kubernetes:
        raise CheckError(f"{work.name(node)}: its API server is {runs}, and not {work.move.after.kubernetes}")


def _taken_back(work: RolloutWork, node: SshNode, error: SlipwayError) -> CheckError:
    name, after = work.name(node), work.move.after
    try:
        static_pods.put_back(node, others=len(work.spec.control_plane) > 1)
    except SlipwayError as worse:
        return CheckError(
            f"{name}: the control plane of {after} did not come up, nor the one before it: {error.message}; {worse.message}",
            hint=f"where etcd has changed its data the backup is the way: {BACKUP} on the control-plane nodes, slipway restore",
            details=error.details,
        )
    return CheckError(
        f"{name}: the control plane of {after} did not come up, the one before it serves again: {error.message}",
        hint="/var/log/pods and `journalctl -u kubelet` there say why",
        details=error.details,
    )


def _wait_ready(work: RolloutWork, node: SshNode, since: str) -> None:
    """Until a node is Ready and has said so after ``since`` (its own clock), with the version that it is to have."""
    name, timeout = work.name(node), work.spec.timeout
    condition = '{{if eq .type "Ready"}} {{.status}} {{.lastHeartbeatTime}}{{end}}'
    ready = f"{{{{.status.nodeInfo.kubeletVersion}}}}{{{{range .status.conditions}}}}{condition}{{{{end}}}}"
    script = assets.script(
        "await_ready",
        admin=ADMIN,
        node=name,
        rootfs=ROOTFS,
        since=since,
        state=STATE,
        template=ready,
        timeout=int(timeout),
        version=work.move.after.kubernetes,
    )
    result = work.beside(node).run(script, check=False, timeout=timeout + 60)
    if not result.ok:
        message = f"{name} is not Ready after {timeout:.0f} s: {result.output or 'no answer'}"
        raise CheckError(message, details=waits.kubelet_log(node, name))


def _note_all(work: RolloutWork, node: SshNode) -> None:
    """Note on a node that what ``run`` would do there is done."""
    makers = (
        registries.send_images, preparation.send_rootfs, preparation.set_up_machines, preparation.start_containerd,
        registries.start_registry, registries.start_balancers, bootstrap.start_kubelets, bootstrap.certify_control_plane,
        bootstrap.start_control_plane, bootstrap.wait_for_api, preparation.send_rendered, bootstrap.finish_cluster,
        bootstrap.register_control_plane,
    )  # fmt: skip
    for make in makers:
        if work.spec.elsewhere is not None and make in (registries.send_images, registries.start_registry):
            continue
        step = make(work.context)
        if node in step.nodes:
            work.journal.note(node, step)


def healthy(work: RolloutWork, what: str, after: str) -> Step:
    """Between batches: every node is Ready, and everything of the cluster itself. ``what`` is what has been changed."""

    def action(_: Node) -> None:
        names = [work.name(node) for node in work.spec.nodes]
        watch = waits.watching(work.spec.nodes)
        wait.settle(work.kubectl, timeout=work.spec.timeout, quiet=0, namespaces=SYSTEM, nodes=names, progress=watch)

    # Noted: when the next batch was cut off, its node is not well, and has to be finished rather than waited for.
    where = (work.spec.first,)
    return Step(f"healthy-{what}", "see that the cluster is well", action, where, after_all=(after,), inputs=lambda _: work.move.id)
