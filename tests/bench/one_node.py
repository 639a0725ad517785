"""One booted container node to Ready with DNS, beside ``kind create cluster --wait`` with the same binaries and images.

Ours: a machine that has booted and holds nothing of Kubernetes becomes a cluster by ``slipway run`` (rootfs and images are sent over SSH).
The peer: kind boots its node from an image in which binaries and container images lie already, as kind's own node images have them.
The clock of both stops when cluster DNS has a ready endpoint, which takes a node that is Ready; each is watched by the same loop in its
node. The second row is the time to the end of the command: ours then has answers of DNS, and metrics and storage ready, kind a node that
is Ready.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import templates
from harness.build import container_images, sandbox_plan
from harness.cloudimage import PlatformImage, read
from harness.host import docker, tools
from harness.nodes.container import IMAGE, ContainerProvider
from harness.oci import layer
from harness.oci.model import INDEXES, Platform
from harness.oci.store import Store
from harness.runtimes import kubeconfig

PROJECT = Path(__file__).parents[2]
NAME = f"bench-{os.getpid()}"
PRELOADED = "slipway-bench-node:latest"
KUBELET = {"kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "failSwapOn": False, "failCgroupV1": False}
"""What a kubelet needs in a container of a machine whose cgroups are those of version 1, too."""
ROUNDS = 2
SMOKE = {"rounds": 1}


def cli(*words: str) -> str:
    command = [sys.executable, "-m", "harness.cli", "--quiet", *words]
    return subprocess.run(command, check=True, cwd=PROJECT, capture_output=True, text=True).stdout


def measure(*, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    cli("build", "-t", "kubernetes", "kubefiles/kubernetes")
    client = docker.connect()
    with tempfile.TemporaryDirectory() as scratch:
        rootfs = Path(scratch, "rootfs")
        image = read(Store.default(), "kubernetes").platforms[0]
        layer.unpack(Store.default(), image.layers, rootfs)
        preload(client, rootfs, image)
        configuration = kind_configuration(rootfs, Path(scratch))
        ours, peer = [], []
        for number in range(rounds):
            ours.append(_ours(client, number))
            peer.append(_kind(client, configuration))
    rows = [
        {"ours": round(min(mine), 1), "peer": round(min(kinds), 1), "unit": "s"}
        for mine, kinds in zip(zip(*ours, strict=True), zip(*peer, strict=True), strict=True)
    ]
    titles = ("one-node: a booted node to Ready with DNS", "one-node: to the end of the command")
    return [
        {**row, "name": name, "peer_name": "kind create cluster --wait, images preloaded"} for name, row in zip(titles, rows, strict=True)
    ]


Seconds = tuple[float, float]
"""To a ready DNS, and to the end of the command."""


def _ours(client: docker.Client, number: int) -> Seconds:
    provider, name = ContainerProvider(client), f"{NAME}-{number}"
    group = provider.up(name, 1, 0, image=container_images.package_image(client, IMAGE))
    try:
        made = ["--control-plane", group.control_plane[0].address, "--key", str(group.login.key), "--cluster", name]
        command = [sys.executable, "-m", "harness.cli", "--quiet", "run", "kubernetes", *made]
        return _timed(client, f"slipway-{name}-control-plane-1", command)
    finally:
        provider.down(name)


def _kind(client: docker.Client, configuration: Path) -> Seconds:
    program = str(tools.kind())
    common = ["--name", NAME, "--kubeconfig", str(configuration.with_name("kubeconfig"))]
    try:
        command = [program, "create", "cluster", *common, "--config", str(configuration), "--wait", "300s"]
        return _timed(client, f"{NAME}-control-plane", command)
    finally:
        _quietly([program, "delete", "cluster", *common])


def _timed(client: docker.Client, container: str, command: Sequence[str]) -> Seconds:
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, subprocess.Popen(command, cwd=PROJECT, stdout=output, stderr=output) as running:
        ready = _await_dns(client, container, running) - started
        if running.wait() != 0:
            output.seek(0)
            raise RuntimeError(f"{command[0]}: exit code {running.returncode}: {output.read()[-2000:]}")
        return ready, time.monotonic() - started


def _quietly(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def _await_dns(
    client: docker.Client, container: str, running: subprocess.Popen[bytes] | subprocess.Popen[str], seconds: float = 300
) -> float:
    """Return the time at which the Service of cluster DNS has a ready endpoint. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    command = ["kubectl", f"--kubeconfig={kubeconfig.ADMIN}", "--namespace=kube-system", "get", "endpointslices", "--output=json"]
    command += ["--selector=kubernetes.io/service-name=kube-dns", "--request-timeout=2s"]
    while time.monotonic() < deadline and running.poll() in (None, 0):
        with contextlib.suppress(docker.APIError):
            node: Any = client.containers.get(container)
            code, output = node.exec_run(command, demux=True)
            slices = json.loads(output[0])["items"] if code == 0 else ()
            if any(endpoint["conditions"].get("ready") for one in slices for endpoint in one.get("endpoints") or ()):
                return time.monotonic()
        time.sleep(0.2)
    raise TimeoutError(f"cluster DNS is not ready after {seconds:g} s, or the command failed: {running.poll()}")


def preload(client: docker.Client, rootfs: Path, image: PlatformImage) -> None:
    """A node image with binaries and images in it."""
    with tempfile.TemporaryDirectory(dir=rootfs.parent) as scratch:
        archive(image, Path(scratch, "images.tar"))
        container = client.containers.run(
            container_images.package_image(client, IMAGE),
            ["infinity"],
            entrypoint="sleep",
            privileged=True,
            detach=True,
            volumes={scratch: {"bind": "/images", "mode": "rw"}},
        )
        try:
            _run(container, "mkdir -p /kind/manifests; nohup containerd > /tmp/containerd.log 2>&1 & sleep 1; ctr version > /dev/null")
            install(str(container.id), rootfs)
            _run(container, "ctr --namespace k8s.io images import --no-unpack /images/images.tar; pkill -TERM containerd; sleep 1")
            repository, tag = PRELOADED.split(":")
            container.commit(repository, tag, changes=['ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]', "CMD []"])
        finally:
            container.remove(force=True, v=True)


def install(container: str, rootfs: Path) -> None:
    """Put Kubernetes and the configuration of the pod network into a container, where any machine has them."""
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for program in ("kubeadm", "kubelet", "kubectl"):
                tar.add(rootfs / "bin" / program, f"usr/bin/{program}")
            tar.add(rootfs / "etc/cni", "etc/cni/net.d")
        file.seek(0)
        subprocess.run(["docker", "cp", "-", f"{container}:/"], stdin=file, check=True, capture_output=True)


def archive(image: PlatformImage, path: Path) -> None:
    """Write the container images of a CloudImage as containerd imports them: an OCI image layout, each under its own name."""
    store = Store.default()
    index: list[dict[str, Any]] = []
    for one in image.images.images:
        found: dict[str, Any] = {"mediaType": one.media_type, "digest": one.digest, "size": one.size}
        if one.media_type in INDEXES:
            # The blobs of other platforms are not there.
            found = next(
                entry for entry in store.json(one.digest)["manifests"] if Platform.from_json(entry["platform"]).matches(image.platform)
            )
        index.append({**found, "annotations": {"io.containerd.image.name": one.name}})
    with tarfile.open(path, "w") as tar:

        def add(name: str, text: str) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))

        add("oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}))
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": index}))
        for blob in image.images.blobs:
            tar.add(store.path(blob.digest), f"blobs/{blob.digest.replace(':', '/')}")


def _run(container: Any, script: str) -> None:
    code, output = container.exec_run(["bash", "-c", script])
    if code != 0:
        raise RuntimeError(f"{script}: {output.decode(errors='replace')}")


def addon(rootfs: Path, name: str, env: Mapping[str, str]) -> str:
    """An addon of the image, rendered as `slipway run` would."""
    path = f"etc/addons/{name}"
    return templates.render((rootfs / path).read_text(), env, path)


def kind_configuration(rootfs: Path, work: Path) -> Path:
    facts = sandbox_plan.facts(rootfs)
    assert facts is not None
    env = sandbox_plan.environment(facts, {})
    (work / "manifests").mkdir()
    (work / "manifests/default-cni.yaml").write_text(addon(rootfs, "network.yaml", env))
    # What else slipway would start.
    others = "\n---\n".join(addon(rootfs, name, env) for name in ("storage.yaml", "metrics.yaml"))
    (work / "manifests/default-storage.yaml").write_text(others)
    (work / "version").write_text(facts.kubernetes + "\n")
    mounts = [{"hostPath": str(work / name), "containerPath": f"/kind/{name}"} for name in ("version", "manifests")]
    node = {"role": "control-plane", "image": PRELOADED, "extraMounts": mounts, "kubeadmConfigPatches": [yaml.safe_dump(KUBELET)]}
    networking = {"podSubnet": env["PodCIDR"], "serviceSubnet": env["SvcCIDR"], "kubeProxyMode": "nftables"}
    path = work / "kind.yaml"
    path.write_text(yaml.safe_dump({"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "networking": networking, "nodes": [node]}))
    return path
