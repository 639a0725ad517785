"""Preparation of a rollout beside what runs: files and images that a node needs when it is updated."""

from __future__ import annotations

from collections.abc import Iterable

from harness.errors import CheckError
from harness.lifecycle.cluster.change import ROLLBACK
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import node_files, rootfs, rootfs_update
from harness.lifecycle.rollout import BALANCER, CONTAINERD, CONTROL_PLANE, KUBELET, REGISTRY, RolloutWork, changed_files
from harness.lifecycle.steps import bootstrap, preparation, registries
from harness.nodes import Node
from harness.nodes.files import install_files
from harness.nodes.ssh import SshNode


def tell_nodes(work: RolloutWork, after: str) -> Step:
    """Give nodes the way to their images, which they may know early; everything else waits for the update of the node.

    This step is not journalled: a registry requires the login from the update of its node on, and an earlier slipway, which began the
    change, gave it to no node.
    """

    def action(node: Node) -> None:
        files = preparation.machine_files(work.resolved, node)
        install_files(node, {path: file for path, file in files.items() if path.startswith("/etc/containerd/certs.d/")})

    return Step("tell-nodes", "tell the nodes where images are", action, work.spec.nodes, after_all=(after,))


def stage(work: RolloutWork, after: str) -> Step:
    back = work.move.kind == ROLLBACK

    def action(node: SshNode) -> str:
        image, delta = work.resolved.platforms[node.address], work.deltas[node.address]

        def bring() -> str:
            name = rootfs.parcel_name(image)
            return work.context.exchange.bring(node, name, lambda: rootfs_update.parcel(work.spec.store, image, back=back)).note

        return rootfs_update.stage(node, delta, bring, work.resolved.files(node), work.move.id, _parts(work, node, delta))

    return Step(
        "stage", "bring the new files", action, work.spec.nodes, after=("tell-nodes",), after_all=(after,), inputs=lambda _: work.move.id
    )


def _parts(work: RolloutWork, node: SshNode, delta: rootfs_update.Delta) -> frozenset[str]:
    """The parts of a node that will be restarted."""
    member = work.resolved.member(node)
    placed = changed_files(node, preparation.machine_files(work.resolved, node))
    libraries = any(path.startswith("lib/") for path in delta.changed)

    def changes(programs: Iterable[str], files: str) -> bool:
        starts = tuple(f"bin/{program}" for program in programs)
        return any(path.startswith(starts) for path in delta.changed) or any(files in path for path in placed)

    parts = set()
    if libraries or changes(("containerd", "runc"), "/containerd.service") or any(path.endswith("/config.toml") for path in placed):
        parts.add(CONTAINERD)
    if changes(("kubelet",), "/kubelet.service") or not work.journal.holds(node, bootstrap.start_kubelets(work.context)):
        parts.add(KUBELET)
    if member.is_control_plane and not work.journal.holds(node, bootstrap.start_control_plane(work.context)):
        parts.add(CONTROL_PLANE)
    if member.registry and work.spec.elsewhere is None and (libraries or changes(("registry",), "registry.")):
        parts.add(REGISTRY)
    if node in work.spec.balanced and (libraries or changes(("haproxy", "ipvsadm"), "balancer.") or changes((), "/ipvs.")):
        parts.add(BALANCER)
    return frozenset(parts)


def fetch(work: RolloutWork) -> Step:
    """Fetch the images of Kubernetes that a node runs before it is updated, so that a failure is reported while nothing has changed."""

    def action(node: SshNode) -> str:
        names = registries.images_needed_to_be_ready(work.resolved, node)
        node_files.fetch(node, names)
        listed = node.run("/usr/local/bin/ctr -n k8s.io images ls -q").stdout.split()
        missing = [name for name in names if name not in listed]
        if missing:
            raise CheckError(
                f"{work.name(node)} cannot pull {', '.join(missing)}; nothing that runs has been changed",
                hint="is the registry up? slipway status; one elsewhere must have the new images: slipway push --expand",
            )
        return f"{len(names)} images"

    return Step(
        "fetch-images",
        "fetch the images of Kubernetes",
        action,
        work.spec.nodes,
        after=("stage",),
        after_all=("send-images",),
        inputs=lambda _: digest(sorted(image.digest for image in work.resolved.images.images), work.move.id),
    )
