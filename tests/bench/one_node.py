"""One booted container node to Ready with DNS, beside ``kind create cluster --wait`` with the same binaries and images.

Ours: a machine that has booted and holds nothing of Kubernetes becomes a cluster by ``slipway run`` (rootfs and images are sent over SSH).
The peer: kind boots its node from an image in which binaries and container images lie already, as kind's own node images have them.
Both end when the node is Ready and cluster DNS has a ready endpoint.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import engine, render, sandbox, tools
from harness.cloudimage import read
from harness.images import Builder, bundled
from harness.nodes.container import ContainerProvider
from harness.oci import layer
from harness.oci.reference import Reference
from harness.oci.store import Store

PROJECT = Path(__file__).parents[2]
NAME = f"bench-{os.getpid()}"
PRELOADED = "slipway-bench-node:latest"
ROUNDS = 2
SMOKE = {"rounds": 1}


def cli(*words: str) -> str:
    command = [sys.executable, "-m", "harness.cli", "--quiet", *words]
    return subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True).stdout


def measure(*, rounds: int = ROUNDS) -> dict[str, Any]:
    cli("build", "-t", "kubernetes", "kubefiles/kubernetes")
    client = engine.connect()
    Builder(Store.default(), tuple(bundled())).engine_image(client, Reference.parse(sandbox.NODE_IMAGE))
    with tempfile.TemporaryDirectory() as scratch:
        rootfs = Path(scratch, "rootfs")
        image = read(Store.default(), "kubernetes").platforms[0]
        layer.unpack(Store.default(), image.layers, rootfs)
        _preload(client, rootfs, [one.name for one in image.images.images])
        configuration = _kind_configuration(rootfs, Path(scratch))
        ours, peer = [], []
        for number in range(rounds):
            ours.append(_ours(client, number))
            peer.append(_kind(client, configuration))
    return {
        "ours": round(min(ours), 1),
        "peer": round(min(peer), 1),
        "peer_name": "kind create cluster --wait, images preloaded",
        "unit": "s",
    }


def _ours(client: engine.Client, number: int) -> float:
    provider, name = ContainerProvider(client), f"{NAME}-{number}"
    group = provider.up(name, 1, 0)
    try:
        started = time.monotonic()
        made = ["--masters", group.masters[0].address, "--key", str(group.login.key), "--name", name]
        cli("run", "kubernetes", *made)
        _await_dns(client.containers.get(f"slipway-{name}-master-1"))
        return time.monotonic() - started
    finally:
        provider.down(name)


def _kind(client: engine.Client, configuration: Path) -> float:
    program = str(tools.kind())
    kubeconfig = configuration.with_name("kubeconfig")
    common = ["--name", NAME, "--kubeconfig", str(kubeconfig)]
    try:
        started = time.monotonic()
        _quietly([program, "create", "cluster", *common, "--config", str(configuration), "--wait", "300s"])
        _await_dns(client.containers.get(f"{NAME}-control-plane"))
        return time.monotonic() - started
    finally:
        _quietly([program, "delete", "cluster", *common])


def _quietly(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _await_dns(container: Any, seconds: float = 300) -> None:
    """Until the Service of cluster DNS has a ready endpoint."""
    deadline = time.monotonic() + seconds
    command = ["kubectl", f"--kubeconfig={sandbox.ADMIN}", "--namespace=kube-system", "get", "endpoints", "kube-dns", "--output=json"]
    while time.monotonic() < deadline:
        code, output = container.exec_run(command, demux=True)
        if code == 0 and any(subset.get("addresses") for subset in json.loads(output[0]).get("subsets") or ()):
            return
        time.sleep(0.2)
    raise TimeoutError(f"cluster DNS is not ready after {seconds:g} s")


def _preload(client: engine.Client, rootfs: Path, names: Sequence[str]) -> None:
    """A node image with binaries and images in it."""
    with tempfile.TemporaryDirectory(dir=rootfs.parent) as scratch:
        container = client.containers.run(
            sandbox.NODE_IMAGE,
            ["infinity"],
            entrypoint="sleep",
            privileged=True,
            detach=True,
            volumes={scratch: {"bind": "/images", "mode": "rw"}},
        )
        try:
            _run(container, "mkdir -p /kind/manifests; nohup containerd > /tmp/containerd.log 2>&1 & sleep 1; ctr version > /dev/null")
            for program in ("kubeadm", "kubelet", "kubectl"):
                subprocess.run(
                    ["docker", "cp", str(rootfs / "bin" / program), f"{container.id}:/usr/bin/{program}"], check=True, capture_output=True
                )
            for number, name in enumerate(names):
                with Path(scratch, f"{number}.tar").open("wb") as archive:
                    subprocess.run(["docker", "save", name], check=True, stdout=archive)
                _run(container, f"ctr --namespace k8s.io images import --no-unpack /images/{number}.tar")
            _run(
                container, "ctr --namespace k8s.io images tag slipway.dev/dns:1 slipway.dev/coredns:1.7.0; pkill -TERM containerd; sleep 1"
            )
            repository, tag = PRELOADED.split(":")
            container.commit(repository, tag, changes=['ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]', "CMD []"])
        finally:
            container.remove(force=True, v=True)


def _run(container: Any, script: str) -> None:
    code, output = container.exec_run(["bash", "-c", script])
    if code != 0:
        raise RuntimeError(f"{script}: {output.decode(errors='replace')}")


def addon(rootfs: Path, name: str, env: Mapping[str, str]) -> str:
    """An addon of the image, rendered as `slipway run` would."""
    path = f"etc/addons/{name}"
    return render.render((rootfs / path).read_text(), env, path)


def _kind_configuration(rootfs: Path, work: Path) -> Path:
    facts = sandbox.facts(rootfs)
    assert facts is not None
    env = sandbox.environment(facts, {})
    network = addon(rootfs, "network.yaml", env)
    # There is no CoreDNS here; our DNS goes in with the network and answers for the Service that kubeadm makes.
    documents = [one for one in yaml.safe_load_all(addon(rootfs, "dns.yaml", env)) if one["kind"] != "Service"]
    (work / "manifests").mkdir()
    (work / "manifests/default-cni.yaml").write_text(f"{network}\n---\n{yaml.safe_dump_all(documents)}")
    (work / "manifests/default-storage.yaml").write_text(yaml.safe_dump(sandbox.STORAGE_CLASS))
    (work / "version").write_text(facts.kubernetes + "\n")
    patch = {
        "kind": "ClusterConfiguration",
        "imageRepository": facts.image_repository,
        "etcd": {"local": {"imageTag": facts.etcd_image_tag}},
    }
    mounts = [{"hostPath": str(work / name), "containerPath": f"/kind/{name}"} for name in ("version", "manifests")]
    node = {"role": "control-plane", "image": PRELOADED, "extraMounts": mounts, "kubeadmConfigPatches": [yaml.safe_dump(patch)]}
    networking = {"podSubnet": env["PodCIDR"], "serviceSubnet": env["SvcCIDR"]}
    path = work / "kind.yaml"
    path.write_text(yaml.safe_dump({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "networking": networking, "nodes": [node]}))
    return path
