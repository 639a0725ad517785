"""A rollout before anything is changed: whether the cluster is well, what the image asks for, and what each node lacks."""

from __future__ import annotations

from collections.abc import Sequence

from harness import untrusted
from harness.cloudimage import enforcers
from harness.errors import CheckError, CommandError
from harness.lifecycle.apps import obsolete, records
from harness.lifecycle.cluster import certificates
from harness.lifecycle.kube import drain, etcd, readiness
from harness.lifecycle.plan import Step
from harness.lifecycle.provision import registry, rootfs, rootfs_update
from harness.lifecycle.rollout import RolloutWork, moves, takes_pods
from harness.lifecycle.steps import preparation, registries
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE
from harness.nodes.ssh import SshNode
from harness.runtimes import SYSTEM, static_pods

_ROOM = 256 << 20
"""Bytes that stay free on every node beside what is brought."""


_UNPACKED = 3
"""An image takes its size as it travels and, once more, unpacked, which is about twice that."""


def check(work: RolloutWork) -> Step:
    """Everything must be well, unless this goes on with what has not come to its end: that may be what is to be mended."""

    def action() -> str:
        if work.resumed:
            each(work.found.control_plane, static_pods.resume)
        unfit = records.unfit(work.apps, work.move.after.kubernetes)
        if unfit:
            raise CheckError("\n".join(unfit), hint="bring them to a version that admits it first, or take them out: slipway apps")
        client = etcd.Etcd(work.found.control_plane)
        members = client.members()
        etcd.require_health(members, client.sick(members), f"no {work.move.kind}")
        require_etcd(work)
        _require_enforcement(work)
        items = readiness.get(work.kubectl)
        if not work.resumed:
            _require_calm(work, items)
        if not work.force:
            _require_owners(work, items)
        return f"{len(work.spec.nodes)} nodes, {work.move.before.kubernetes} to {work.move.after.kubernetes}"

    return Step("check", "check the cluster", action)


def require_etcd(work: RolloutWork) -> None:
    """Raises CheckError when etcd cannot go from what a control-plane node runs to what the image has."""
    for runs in each(work.found.control_plane, etcd.image_of):
        etcd.require_step(runs, registries.etcd_image(work.resolved))


def _require_enforcement(work: RolloutWork) -> None:
    """Raises CheckError when a kernel cannot do what the image enforces NetworkPolicies by."""
    wanted = enforcers.among(image.name for image in work.resolved.images.images)
    unable = {work.name(node): enforcers.unserved(wanted, work.resolved.facts.machines[node.address].has) for node in work.spec.nodes}
    lines = [f"{name}: NetworkPolicies would protect nothing: {why}" for name, why in unable.items() if why]
    if lines:
        raise CheckError(
            "\n".join([*lines, "nothing has been changed"]), hint="another kernel, or an image without it (POLICY=none of the base)"
        )


def _require_calm(work: RolloutWork, items: Sequence[readiness.Resource]) -> None:
    system = [item for item in items if item["kind"] == "Node" or item["metadata"].get("namespace") in SYSTEM]
    problems = readiness.explain(work.kubectl, system, static=False)
    if problems:
        raise CheckError(
            f"the cluster is not healthy: {problems[0].object}: {problems[0].reason}; nothing has been changed",
            hint=f"put that right first: slipway check {work.spec.name}",
            details="\n".join(str(problem) for problem in problems),
        )


def _require_owners(work: RolloutWork, items: Sequence[readiness.Resource]) -> None:
    """Pods that a drain would end for good are told now, and not when some nodes have been done."""
    nodes = readiness.of_kind(items, "Node")
    ours = {work.name(node) for node in work.spec.nodes if moves(work, node)}
    # The only one that takes pods is not drained.
    names = {name for name in ours if any(takes_pods(node) for node in nodes if node["metadata"]["name"] != name)}
    pods = [pod for pod in readiness.of_kind(items, "Pod") if pod["spec"].get("nodeName") in names]
    alone = [f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in drain.sort(pods).alone]
    if alone:
        raise CheckError(
            f"nothing would start {', '.join(alone)} again elsewhere; nothing has been changed",
            hint="delete them, or use --force: they are then lost",
        )


def unpack(work: RolloutWork) -> Step:
    def action() -> None:
        for image in work.resolved.variants:
            rootfs_update.contents(rootfs.tree(work.spec.store, image))
        for node in work.spec.nodes:
            work.resolved.files(node)
        preparation.warn_of_documents(work.resolved)
        _require_network(work)

    return Step("unpack-rootfs", "unpack and render the rootfs", action)


def _require_network(work: RolloutWork) -> None:
    """Raises CheckError when the image has another pod network than the cluster: pods that run would be cut off."""
    runs = obsolete.networks(work.kubectl)
    brings = {one.name for one in obsolete.objects_of(work.resolved.network_addon) if one.kind == "DaemonSet"}
    if runs and not brings & set(runs):
        raise CheckError(
            f"{work.move.after.image} has another pod network than {', '.join(runs)}, which the cluster runs; nothing has been changed",
            hint="the network of a cluster stays as it is: make a new cluster, and move there what this one runs",
        )


def find_keys(work: RolloutWork) -> Step:
    """The keys are those of the cluster: new ones, as ``run`` would make them, would be another cluster's."""

    def action() -> None:
        if not certificates.any_has_keys(work.found.control_plane, encrypts=work.resolved.profile.encrypts):
            raise CheckError("no control-plane node has the keys of the cluster", hint="put them back from a backup")
        work.resolved.runtime.prepare()

    return Step("make-keys", "find the keys of the cluster", action, after=("unpack-rootfs", "check"))


def compare(work: RolloutWork) -> Step:
    """Compare what each node has with what it needs, and check that it has room for the rest."""

    def action() -> str:
        lacking = _blobs(work)
        fresh = max(lacking.values(), default=0)

        def one(node: SshNode) -> tuple[rootfs_update.Delta, str]:
            target = rootfs_update.wanted(work.resolved.tree(node), work.resolved.files(node))
            delta = rootfs_update.compare(target, rootfs_update.ask(node), rootfs_update.ask(node, rootfs_update.FORMER))
            small = sum(entry.size for path, entry in target.items() if not path.startswith(("bin/", "lib/")))
            needed = delta.bytes + small + lacking.get(node.address, 0) + _UNPACKED * fresh + _ROOM
            free = _free(node)
            short = f"{work.name(node)} has {free / 1e6:.0f} MB free in {STATE}, {needed / 1e6:.0f} MB are needed"
            return delta, short if free < needed and (delta.bytes or fresh) else ""

        results = each(work.spec.nodes, one)
        full = [short for _, short in results if short]
        if full:
            raise CheckError("\n".join([*full, "nothing has been changed"]), hint="free some, or mount a larger disk there")
        work.deltas = {node.address: delta for node, (delta, _) in zip(work.spec.nodes, results, strict=True)}
        most = max(delta.bytes for delta, _ in results)
        return f"{fresh / 1e6:.0f} MB of images and {most / 1e6:.0f} MB of files are new"

    return Step("compare", "see what the nodes have", action, after=("make-keys",))


def _free(node: Node) -> int:
    """Bytes. Raises CommandError for an answer that is no number."""
    kilobytes = untrusted.number(node.run(f"df -Pk {STATE} | tail -n 1 | awk '{{print $4}}'").stdout.strip())
    if kilobytes is None:
        raise CommandError(f"{node.name}: df does not say how much of {STATE} is free")
    return kilobytes * 1024


def _blobs(work: RolloutWork) -> dict[str, int]:
    """Bytes of images that the registries lack, by address."""
    if work.spec.elsewhere is not None:
        return {}

    def one(node: SshNode) -> int:
        result = node.run(
            f"cd {registry.STORAGE} 2>/dev/null || exit 0; find . -type f -name data -exec stat -c '%s %n' {{}} + || true",
            timeout=LONG_TIMEOUT,
        )
        lines = (line.partition(" ") for line in result.stdout.splitlines())
        has = {path.removeprefix("./"): untrusted.number(size) for size, _, path in lines}
        return sum(blob.size for path, blob in work.resolved.layout.blobs.items() if has.get(path) != blob.size)

    return dict(zip((node.address for node in work.spec.registries), each(work.spec.registries, one), strict=True))
