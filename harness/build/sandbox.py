"""Throw-away clusters: booted from the rootfs of an image under construction, pulling everything through the capture proxy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness import cloudimage, log, process, untrusted
from harness.build.capture import Proxy
from harness.build.container_images import Builder
from harness.cloudimage import PlatformImage
from harness.errors import BuildError, CheckError, CommandError
from harness.host import docker, liveness, tools
from harness.lifecycle import run
from harness.lifecycle.checks.facts import release
from harness.lifecycle.cluster import request
from harness.lifecycle.kube import readiness
from harness.lifecycle.plan import execute
from harness.lifecycle.provision import node_files, registry
from harness.lifecycle.steps.context import ADDONS, DNS_ADDON, FACTS, NETWORK_ADDON, NETWORK_MANIFEST
from harness.nodes.container import IMAGE, ContainerProvider, ipv6
from harness.nodes.container import gateway as network_gateway
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.reference import Reference
from harness.oci.registry.sources import Source
from harness.oci.store import Store
from harness.runtimes import DEFAULT_PREFIX6, NFTABLES_KERNEL, ClusterNetwork, Facts

ROOTFS = "/var/lib/slipway/rootfs"
ADMIN = "/etc/kubernetes/admin.conf"


def facts(rootfs: Path) -> Facts | None:
    """Facts about the Kubernetes of a rootfs; None for an application image, which has none. Raises InputError."""
    tree = _beneath(rootfs)
    return Facts.parse(tree.read_text(FACTS), FACTS) if tree.is_file(FACTS) else None


def _beneath(rootfs: Path) -> untrusted.UntrustedTree:
    return untrusted.UntrustedTree(rootfs, what="the rootfs of the image", error=BuildError)


def _program(rootfs: Path, name: str) -> Path:
    """The real path of a program of the rootfs: Docker follows the links of what it mounts, wherever they lead."""
    if not _beneath(rootfs).is_file(f"bin/{name}"):
        raise BuildError(f"the rootfs has no program bin/{name}", hint="build the image FROM one with Kubernetes")
    return (rootfs / "bin" / name).resolve()


def environment(facts_of_rootfs: Facts, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that every image's templates can use, overridden by the image's own."""
    network = ClusterNetwork.parse(env.get("PodCIDR", facts_of_rootfs.pod_cidr), env.get("SvcCIDR", facts_of_rootfs.svc_cidr))
    # Normalised, also where the image sets them.
    return {**network.variables, **env, "PodCIDR": network.pods, "SvcCIDR": network.services}


@dataclasses.dataclass(frozen=True)
class SandboxPlan:
    """Inputs of a throw-away cluster. ``rootfs`` is rendered, and belongs to the cluster while it runs."""

    rootfs: Path
    facts: Facts
    env: Mapping[str, str]
    """Values for templates and launch commands, stand-ins included."""
    image: PlatformImage
    """The image under construction: everything but the container images that discovery looks for."""
    own_network: bool
    """True when an application of the image is the pod network (CNI), so that the base's is not installed."""
    keep: bool = False

    @property
    def addon_network(self) -> bool:
        """An addon of the image is the network."""
        return not self.own_network and _beneath(self.rootfs).is_file(NETWORK_MANIFEST)

    @property
    def cni_configs(self) -> dict[str, str]:
        """CNI configurations to write before the kubelet starts, by name. An image without network gets one for a single node."""
        if self.own_network:
            return {}
        tree = _beneath(self.rootfs)
        configs = {name: tree.read_text(f"{node_files.CNI_CONFIGS}/{name}") for name in node_files.cni_configs(tree)}
        return (
            configs
            if configs or self.addon_network
            else {SINGLE_NODE_NETWORK: single_node_network(ClusterNetwork(self.env["PodCIDR"], self.env["SvcCIDR"]))}
        )


SINGLE_NODE_NETWORK = "99-slipway-build.conflist"
"""The pod network of a throw-away cluster of an image that has none: it ends at the node."""


def single_node_network(network: ClusterNetwork) -> str:
    """A CNI configuration for the only node of a cluster."""
    prefixes = {4: 24, 6: network.node_prefix6 or DEFAULT_PREFIX6}
    whole = network.pod_networks
    ranges = [
        [{"subnet": str(next(pod_network.subnets(new_prefix=max(pod_network.prefixlen, prefixes[pod_network.version]))))}]
        for pod_network in whole
    ]
    bridge = {"type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipMasq": True, "hairpinMode": True}
    plugins = [{**bridge, "ipam": {"type": "host-local", "ranges": ranges}}, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "1.0.0", "name": "build", "plugins": plugins})


class Sandbox:
    """A running throw-away cluster of one node: a Kubectl, and a place where launch commands run."""

    def __init__(self, container: Any, proxy: Proxy, env: Mapping[str, str]) -> None:
        self.container = container
        self.proxy = proxy
        self.env = {**env, "KUBECONFIG": ADMIN}

    def run(self, *argv: str) -> str:
        """kubectl. Raises CommandError."""
        return docker.command_output(self.container, ["kubectl", "--kubeconfig", ADMIN, *argv])

    def apply(self, manifest: str) -> None:
        """Apply one manifest of the rootfs. Raises CommandError."""
        self.run("apply", "-f", f"{ROOTFS}/{manifest}")

    def launch(self, command: str) -> None:
        """Run a launch command in the rootfs as `slipway run` does on the first control-plane node. Raises BuildError with its output."""
        # The PATH of a login shell is not known: use the container's own plus the rootfs.
        script = f"cd {ROOTFS} && export PATH={ROOTFS}/bin:$PATH && {command}"
        code, output = self.container.exec_run(["/bin/bash", "-c", script], environment=dict(self.env))
        text = output.decode(errors="replace").strip()
        for line in text.splitlines():
            log.debug(line)
        if code != 0:
            raise BuildError(f"the launch command failed with exit code {code}: {command}", details="\n".join(text.splitlines()[-20:]))


@contextlib.contextmanager
def kind(plan: SandboxPlan, sources: Sequence[Source], store: Store, builder: Builder, work: Path) -> Iterator[Sandbox]:
    """Boot a kind cluster from ``plan``; everything is gone when the block ends, however it ends."""
    program = tools.kind()
    client = docker.connect()
    sweep(client)
    node_image = builder.engine_image(client, Reference.parse(IMAGE))
    name = f"slipway-{os.getpid()}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(_network(client, name, dual=_is_dual(plan), keep=plan.keep))
        proxy = stack.enter_context(Proxy(sources, store, host=gateway))
        configuration = _kind_files(plan, node_image, proxy.hosts_toml(gateway), work, str(client.info().get("KernelVersion") or ""))
        environment = {"KIND_EXPERIMENTAL_DOCKER_NETWORK": name}
        kubeconfig = work / "kubeconfig"
        if plan.keep:
            stack.callback(
                log.info,
                f"the throw-away cluster stays (docker exec -it {name}-control-plane bash); remove it with\n"
                f"  {program} delete cluster --name {name} && docker network rm {name}",
            )
        with log.step("boot a kind cluster from the image") as shown:
            try:
                process.run(
                    [program, "create", "cluster", "--name", name, "--config", configuration, "--kubeconfig", kubeconfig, "--retain"],
                    env=environment, timeout=600,
                )  # fmt: skip
            except CommandError as error:
                raise BuildError(
                    "the throw-away cluster did not boot",
                    details=_boot_failure(client, f"{name}-control-plane", proxy, error.details or error.message),
                ) from error
            shown.note = f"Kubernetes {plan.facts.kubernetes}"
        sandbox = Sandbox(client.containers.get(f"{name}-control-plane"), proxy, plan.env)
        _addons(sandbox, plan)
        yield sandbox


@contextlib.contextmanager
def container(plan: SandboxPlan, sources: Sequence[Source], store: Store, builder: Builder, work: Path) -> Iterator[Sandbox]:
    """One container node, made a cluster as `slipway run` makes one; on a network without a way out but the capture proxy."""
    client = docker.connect()
    sweep(client)
    node_image = builder.engine_image(client, Reference.parse(IMAGE))
    name = f"{os.getpid()}-{secrets.token_hex(3)}"
    provider = ContainerProvider(client, work)
    with contextlib.ExitStack() as stack:
        if plan.keep:
            stack.callback(log.info, f"the throw-away node stays: docker exec -it slipway-{name}-master-1 bash")
        else:
            stack.callback(provider.down, name)
        group = provider.up(name, 1, 0, image=node_image, labels={docker.LABEL_BUILD: liveness.process_label()})
        node = client.containers.get(f"slipway-{name}-master-1")
        gateway = str(next(iter(node.attrs["NetworkSettings"]["Networks"].values()))["Gateway"] or _gateway(client, node))
        proxy = stack.enter_context(Proxy(sources, store, host=gateway))
        image = cloudimage.write(store, [_with_network(plan, store)])
        wanted = request.of_machines(f"build-{name}", image.digest, group.masters, env={**plan.image.info.env, **plan.env})
        options = run.RunOptions(elsewhere=registry.Anything(proxy.hosts_toml(gateway)))
        with log.step("make a container node a cluster of the image") as shown:
            context = run.prepare(wanted, store, options, home=work)
            try:
                with context.spec.ssh:
                    execute(run.cluster_steps(context).steps)
            except (CommandError, CheckError) as error:
                reasons = [f"image {refused}: {reason}" for refused, reason in proxy.failures.items()]
                details = "\n".join([*reasons, error.details or ""]).strip()
                raise BuildError(f"the throw-away cluster did not boot: {error.message}", details=details) from error
            shown.note = f"Kubernetes {plan.facts.kubernetes}"
        yield Sandbox(node, proxy, plan.env)


def _with_network(plan: SandboxPlan, store: Store) -> PlatformImage:
    """The image with the pod network that its nodes are to have; itself when it brings that."""
    image = plan.image
    text = plan.cni_configs.get(SINGLE_NODE_NETWORK)
    if text is None:
        return image
    layer = write_layer([LayerEntry(f"{node_files.CNI_CONFIGS}/{SINGLE_NODE_NETWORK}", "file", 0o644, text.encode())], store)
    return dataclasses.replace(image, layers=(*image.layers, layer.descriptor), diff_ids=(*image.diff_ids, layer.diff_id))


def _gateway(client: docker.Client, node: Any) -> str:
    """Address of this machine on a node's network; Docker does not report it for internal networks."""
    name = next(iter(node.attrs["NetworkSettings"]["Networks"]))
    return network_gateway(client.networks.get(name))


@contextlib.contextmanager
def _network(client: docker.Client, name: str, *, dual: bool, keep: bool) -> Iterator[str]:
    """Make a network for this build, dual-stack with ``dual``. Returns its gateway: the address of this machine.

    At the end its containers are removed too, also those that are just being started. Raises BuildError when ``dual`` needs IPv6 and
    the engine has none.
    """
    options: dict[str, Any] = {"driver": "bridge", "labels": {docker.LABEL_BUILD: liveness.process_label()}}
    try:
        network = client.networks.create(name, **options, **(ipv6() if dual else {}))
    except docker.APIError as refused:
        hint = "the image's networks are of both families: build it where Docker can have IPv6, or with one network each"
        raise BuildError(f"the engine makes no network: {refused.explanation}", hint=hint if dual else None) from refused
    cut_short = True
    try:
        yield network_gateway(network)
        cut_short = False
    finally:
        if not keep:
            # kind may have been stopped between asking the engine for a container and getting it.
            _remove_all(client, name, patience=2 if cut_short else 0)
            _forgiving(network.remove)


def _remove_all(client: docker.Client, cluster: str, *, patience: float) -> None:
    """Remove the containers of a kind cluster, and those that appear within ``patience`` seconds of the last one."""
    quiet_since = time.monotonic()
    while True:
        containers = client.containers.list(all=True, ignore_removed=True, filters={"label": f"io.x-k8s.kind.cluster={cluster}"})
        for container in containers:
            _forgiving(lambda container=container: container.remove(force=True, v=True))
        if containers:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= patience:
            return
        time.sleep(0.1)


def _addons(sandbox: Sandbox, plan: SandboxPlan) -> None:
    """Apply the addons that the runtime applies on real nodes, except those that kind brings."""
    tree = _beneath(plan.rootfs)
    if tree.is_file(f"{ADDONS}/{DNS_ADDON}"):
        # kubeadm has added CoreDNS, which this image does not use.
        sandbox.run("-n", "kube-system", "delete", "deployment", "coredns", "--ignore-not-found", "--wait=false")
    for name in tree.list(ADDONS):
        if name.endswith(".yaml") and not name.startswith(".") and name != NETWORK_ADDON:
            sandbox.apply(f"{ADDONS}/{name}")


def _is_dual(plan: SandboxPlan) -> bool:
    return ClusterNetwork(plan.env["PodCIDR"], plan.env["SvcCIDR"]).dual


def _kind_files(plan: SandboxPlan, node_image: str, hosts_toml: str, work: Path, kernel: str = "") -> Path:
    """The files that kind reads: here and, mounted, in its node. ``kernel`` is the release of the engine's."""
    (work / "certs.d/_default").mkdir(parents=True)
    (work / "certs.d/_default/hosts.toml").write_text(hosts_toml)
    (work / "version").write_text(plan.facts.kubernetes + "\n")
    (work / "manifests").mkdir()
    tree, builtin = _beneath(plan.rootfs), plan.addon_network
    (work / "manifests/default-cni.yaml").write_text(tree.read_text(NETWORK_MANIFEST) if builtin else "")
    # kind makes a StorageClass of its own where it is given nothing to apply; the image brings one.
    (work / "manifests/default-storage.yaml").write_text(yaml.safe_dump(_NOTHING))
    mounts: dict[str, Path] = {
        "/etc/containerd/certs.d": work / "certs.d", "/kind/version": work / "version", "/kind/manifests": work / "manifests",
        **{f"/usr/bin/{program}": _program(plan.rootfs, program) for program in ("kubeadm", "kubelet", "kubectl")},
    }  # fmt: skip
    (work / "cni").mkdir()
    for name, text in plan.cni_configs.items():
        (work / "cni" / name).write_text(text)
        mounts[f"/etc/cni/net.d/{name}"] = work / "cni" / name
    readable = [{"hostPath": str(path), "containerPath": inside, "readOnly": True} for inside, path in mounts.items()]
    kubelet = {"kind": "KubeletConfiguration", "cgroupDriver": "cgroupfs", "nodeStatusUpdateFrequency": "2s", "failCgroupV1": False}
    cluster: dict[str, Any] = {"kind": "ClusterConfiguration"}
    if plan.facts.image_repository:
        cluster["imageRepository"] = plan.facts.image_repository
    prefix = ClusterNetwork(plan.env["PodCIDR"], plan.env["SvcCIDR"]).node_prefix6
    if prefix not in (None, DEFAULT_PREFIX6):
        cluster["controllerManager"] = {"extraArgs": [{"name": "node-cidr-mask-size-ipv6", "value": str(prefix)}]}
    if plan.facts.etcd_image_tag:
        cluster["etcd"] = {"local": {"imageTag": plan.facts.etcd_image_tag}}
    document = {
        "kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {
            **({"ipFamily": "dual"} if _is_dual(plan) else {}),
            "podSubnet": plan.env["PodCIDR"], "serviceSubnet": plan.env["SvcCIDR"], "disableDefaultCNI": not builtin,
            "kubeProxyMode": "nftables" if release(kernel)[:2] >= NFTABLES_KERNEL else "iptables",
        },
        "nodes": [{
            "role": "control-plane", "image": node_image,
            "extraMounts": [*readable, {"hostPath": str(plan.rootfs), "containerPath": ROOTFS}],
            "kubeadmConfigPatches": [yaml.safe_dump(patch) for patch in (kubelet, cluster)],
        }],
    }  # fmt: skip
    if plan.facts.pause_image:
        document["containerdConfigPatches"] = [_PAUSE % json.dumps(plan.facts.pause_image)]
    path = work / "kind.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


_NOTHING = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
"""An object that every cluster has."""
_PAUSE = """version = 3

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %s
"""


def _boot_failure(client: docker.Client, container: str, proxy: Proxy, output: str) -> str:
    """Why a cluster did not boot: images that could not be served, what kind said, what the kubelet said last."""
    lines = [f"image {name}: {reason}" for name, reason in proxy.failures.items()]
    lines += output.splitlines()[-15:]
    with contextlib.suppress(docker.NotFound, CommandError):
        node = client.containers.get(container)
        lines += docker.command_output(node, ["journalctl", "--unit=kubelet", "--lines=8", "--output=cat", "--no-pager"]).splitlines()
    return "\n".join(lines)


def _forgiving(action: Any) -> None:
    """Ignore a failure to remove one resource: cleanup continues, and the next build sweeps the rest."""
    try:
        action()
    except (CommandError, docker.APIError, docker.NotFound) as error:
        log.debug(f"not removed: {error}")


def sweep(client: docker.Client) -> None:
    """Remove what builds left whose process was killed: their networks and the containers on them."""
    left = [network for network in client.networks.list(filters={"label": docker.LABEL_BUILD}) if _is_dead(network.attrs["Labels"])]
    for network in left:
        for container in client.containers.list(all=True, filters={"network": str(network.name)}):
            _forgiving(lambda container=container: container.remove(force=True, v=True))
        _forgiving(network.remove)
    for container in client.containers.list(all=True, filters={"label": docker.LABEL_BUILD}):
        if _is_dead(container.labels):
            _forgiving(lambda container=container: container.remove(force=True, v=True))


def _is_dead(labels: Mapping[str, str]) -> bool:
    """Return True when the build that made a resource has certainly ended. A build in another container may still be alive."""
    label = labels.get(docker.LABEL_BUILD, "")
    return liveness.has_ended(label) or (docker.is_local() and liveness.is_of_earlier_boot(label))


def requesters(kubectl: Sandbox) -> dict[str, tuple[str, ...]]:
    """Workloads that use each image: canonical name -> ``Deployment default/web``, without generated suffixes."""
    items = readiness.get(kubectl, "pods,replicasets,jobs")
    known = readiness.by_uid(items)
    workloads: dict[str, set[str]] = {}
    for pod in (item for item in items if item["kind"] == "Pod"):
        spec = pod["spec"]
        for container in (*spec.get("containers", ()), *spec.get("initContainers", ()), *spec.get("ephemeralContainers", ())):
            with contextlib.suppress(ValueError):
                workloads.setdefault(str(Reference.parse(container["image"])), set()).add(_maker(pod, known))
    return {name: tuple(sorted(owners)) for name, owners in sorted(workloads.items())}


def _maker(pod: readiness.Resource, known: Mapping[str, readiness.Resource]) -> str:
    owner = readiness.controller(pod)
    if owner is not None and owner["kind"] == "Node":
        return readiness.title(pod).removesuffix("-" + owner["name"])
    return readiness.maker(pod, known)
