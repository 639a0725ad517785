"""A cluster of 3+2 nodes through its life: join, apply with nothing to do, remove, delete of all six machines.

The peer of ``slipway join`` is a plain ``kubeadm join`` on a machine that has everything already: rootfs, containerd, images' registry.
The others have none: nobody else does it in one command.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import runtimes
from harness.build import container_images
from harness.host import docker
from harness.nodes import NodeGroup
from harness.nodes.container import IMAGE, ContainerProvider
from harness.runtimes import kubeconfig
from tests.bench.one_node import cli

NAME = f"bench-{os.getpid()}"
SMOKE = {"control_plane": 1, "workers": 2}


def measure(*, control_plane: int = 3, workers: int = 3) -> list[dict[str, Any]]:
    cli("build", "-t", "kubernetes", "kubefiles/kubernetes")
    provider = ContainerProvider()
    group = provider.up(NAME, control_plane, workers, image=container_images.package_image(provider.client, IMAGE))
    try:
        return _life(provider, group)
    finally:
        provider.down(NAME)


def _life(provider: ContainerProvider, group: NodeGroup) -> list[dict[str, Any]]:
    control_plane = [made.address for made in group.control_plane]
    *workers, late = [made.address for made in group.workers]
    key = str(group.login.key)
    words = ["--control-plane", ",".join(control_plane), "--workers", ",".join(workers), "--key", key, "--cluster", NAME]
    cli("run", "kubernetes", *words)
    joined = _timed(lambda: cli("join", NAME, "--workers", late, "--key", key))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "Clusterfile")
        whole = ["--control-plane", ",".join(control_plane), "--workers", ",".join([*workers, late]), "--key", key, "--cluster", NAME]
        path.write_text(cli("generate", "kubernetes", *whole))
        cli("apply", "-f", str(path))
        applied = _timed(lambda: cli("apply", "-f", str(path)))
    removed = _timed(lambda: cli("remove", NAME, late, "--yes"))
    plain = _kubeadm_join(provider, group, late, control_plane[0], key)
    deleted = _timed(lambda: cli("delete", NAME, "--yes"))
    none = {"peer": None, "peer_name": "nobody does it in one command", "unit": "s"}
    return [
        {
            "name": "lifecycle: join of a worker",
            "ours": joined,
            "peer": plain,
            "peer_name": "kubeadm join on a machine that has everything",
            "unit": "s",
        },
        {"name": "lifecycle: apply, nothing to do", "ours": applied, **none},
        {"name": "lifecycle: remove of a worker", "ours": removed, **none},
        {"name": f"lifecycle: delete of {len(group.members)} machines", "ours": deleted, **none},
    ]


def _timed(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return round(time.monotonic() - started, 1)


def _kubeadm_join(provider: ContainerProvider, group: NodeGroup, worker: str, node: str, key: str) -> float:
    """Joined by us, reset by kubeadm, joined by kubeadm: only the last is timed."""
    cli("join", NAME, "--workers", worker, "--key", key)
    containers = {made.address: provider.client.containers.get(f"slipway-{made.name}") for made in group.members}
    name = next(made.name for made in group.members if made.address == worker)
    admin = ["env", f"KUBECONFIG={kubeconfig.ADMIN}"]
    kubectl, kubeadm = (f"{runtimes.ROOTFS}/bin/{program}" for program in ("kubectl", "kubeadm"))
    docker.command_output(containers[worker], [kubeadm, "reset", "--force"])
    docker.command_output(containers[node], [*admin, kubectl, "delete", "node", name])
    command = docker.command_output(containers[node], [*admin, kubeadm, "token", "create", "--print-join-command"]).split()
    # kubeadm may end before the kubelet has registered its node.
    waits = [[*admin, kubectl, "wait", f"--for={what}", f"node/{name}", "--timeout=120s"] for what in ("create", "condition=Ready")]

    def action() -> None:
        docker.command_output(containers[worker], [kubeadm, *command[1:], "--skip-phases=preflight"])
        for wait in waits:
            docker.command_output(containers[node], wait)

    return _timed(action)
