"""3+3 nodes, booted and with no images on them, to all nodes and kube-system pods Ready, beside the usual serial way.

Ours: ``slipway run`` from a machine that has the CloudImage; rootfs and images go over SSH. The peer, ``serial.sh``: the same binaries and
images, where the binaries lie on the nodes already; an archive of images into each node, ``kubeadm init``, then one ``kubeadm join``
after the other. The time that machines take to boot is in neither.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from harness.build import container_images, sandbox_plan
from harness.cloudimage import read
from harness.host import docker
from harness.nodes import NodeGroup
from harness.nodes.container import IMAGE, ContainerProvider
from harness.oci import layer
from harness.oci.store import Store
from harness.runtimes import kubeconfig
from tests.bench.one_node import KUBELET, addon, archive, cli, install

NAME = f"bench-{os.getpid()}"
WITH_BINARIES = "slipway-bench-serial:latest"
CONTROL_PLANE = WORKERS = 3
SMOKE = {"control_plane": 1, "workers": 1}


def measure(*, control_plane: int = CONTROL_PLANE, workers: int = WORKERS) -> list[dict[str, Any]]:
    cli("build", "-t", "kubernetes", "kubefiles/kubernetes")
    client = docker.connect()
    provider = ContainerProvider(client)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = _prepare(client, Path(scratch))
        peer = _serial(provider, prepared, control_plane, workers)
        summary, ours = _ours(provider, control_plane, workers)
    rows = [
        {
            "ours": round(ours, 1),
            "peer": round(peer, 1),
            "peer_name": "serial.sh: images into each node, kubeadm init, kubeadm join",
            "unit": "s",
        }
    ]
    if "sent" in summary:
        size = read(Store.default(), "kubernetes").size
        row = {"name": "six-nodes: sent from here", "ours": round(summary["sent"] / 1e6), "peer": round(size / 1e6)}
        rows.append({**row, "peer_name": "the size of the CloudImage", "unit": "MB"})
    return rows


def _ours(provider: ContainerProvider, control_plane_count: int, worker_count: int) -> tuple[dict[str, Any], float]:
    name = f"{NAME}-ours"
    group = provider.up(name, control_plane_count, worker_count, image=container_images.package_image(provider.client, IMAGE))
    try:
        control_plane, workers = (",".join(made.address for made in some) for some in (group.control_plane, group.workers))
        started = time.monotonic()
        made = cli(
            "run",
            "kubernetes",
            "--control-plane",
            control_plane,
            "--workers",
            workers,
            "--key",
            str(group.login.key),
            "--cluster",
            name,
            "-o",
            "json",
        )
        ended = time.monotonic() - started
        _check(provider, group)
        return json.loads(made), ended
    finally:
        provider.down(name)


def _serial(provider: ContainerProvider, work: Path, control_plane: int, workers: int) -> float:
    name = f"{NAME}-serial"
    group = provider.up(name, control_plane, workers, image=WITH_BINARIES)
    try:
        _configure(work, group)
        containers = [f"slipway-{made.name}" for made in group.members]
        started = time.monotonic()
        command = [
            "sh",
            str(Path(__file__).with_name("serial.sh")),
            str(work),
            *containers[:control_plane],
            "--",
            *containers[control_plane:],
        ]
        subprocess.run(command, check=True)
        ended = time.monotonic() - started
        _check(provider, group)
        return ended
    finally:
        provider.down(name)


def _check(provider: ContainerProvider, group: NodeGroup) -> None:
    """Raises RuntimeError unless every node is Ready: whoever says so too early would seem quick."""
    first = provider.client.containers.get(f"slipway-{group.members[0].name}")
    listing = docker.command_output(first, ["kubectl", f"--kubeconfig={kubeconfig.ADMIN}", "get", "nodes", "--no-headers"])
    ready = [line for line in listing.splitlines() if line.split()[1] == "Ready"]
    if len(ready) != len(group.members):
        raise RuntimeError(f"not all nodes are Ready:\n{listing}")


def _prepare(client: docker.Client, work: Path) -> Path:
    """The archive of images and the manifests, and a node image with the binaries."""
    rootfs = work / "rootfs"
    image = read(Store.default(), "kubernetes").platforms[0]
    layer.unpack(Store.default(), image.layers, rootfs)
    archive(image, work / "images.tar")
    facts = sandbox_plan.facts(rootfs)
    assert facts is not None
    env = sandbox_plan.environment(facts, {})
    for name in ("network.yaml", "storage.yaml", "metrics.yaml"):
        (work / name).write_text(addon(rootfs, name, env))
    container = client.containers.create(container_images.package_image(client, IMAGE))
    try:
        install(str(container.id), rootfs)
        repository, tag = WITH_BINARIES.split(":")
        container.commit(repository, tag)
    finally:
        container.remove(force=True, v=True)
    (work / "facts.json").write_text(json.dumps({"version": facts.kubernetes, **env}))
    return work


def _configure(work: Path, group: NodeGroup) -> None:
    facts = json.loads((work / "facts.json").read_text())
    first = group.control_plane[0].address
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "InitConfiguration",
            "certificateKey": secrets.token_hex(32),
            "localAPIEndpoint": {"advertiseAddress": first, "bindPort": 6443},
            "nodeRegistration": {"criSocket": "unix:///run/containerd/containerd.sock"},
        },
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "kubernetesVersion": facts["version"],
            "controlPlaneEndpoint": f"{first}:6443",
            "networking": {"podSubnet": facts["PodCIDR"], "serviceSubnet": facts["SvcCIDR"]},
        },
        {"apiVersion": "kubelet.config.k8s.io/v1beta1", **KUBELET},
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "conntrack": {"maxPerCore": 0},
        },
    ]
    (work / "init.yaml").write_text(yaml.safe_dump_all(documents))
