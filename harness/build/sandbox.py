"""Throw-away clusters: booted from the rootfs of an image under construction, pulling everything through the capture proxy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage, log, process
from harness.build import kind_config
from harness.build.capture import Proxy
from harness.build.container_images import Builder
from harness.build.sandbox_plan import SINGLE_NODE_NETWORK, SandboxApplication, SandboxPlan, beneath
from harness.cloudimage import PlatformImage
from harness.errors import BuildError, CheckError, CommandError
from harness.host import docker, liveness, tools
from harness.lifecycle import run
from harness.lifecycle.apps.launch import send_tree
from harness.lifecycle.cluster import request
from harness.lifecycle.kube import readiness
from harness.lifecycle.plan import execute
from harness.lifecycle.provision import node_files, registry
from harness.lifecycle.steps.context import ADDONS, DNS_ADDON, NETWORK_ADDON
from harness.lifecycle.steps.launch import HELM
from harness.nodes.container import IMAGE, ContainerProvider, ipv6
from harness.nodes.container import gateway as network_gateway
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.reference import Reference
from harness.oci.registry.sources import Source
from harness.oci.store import Store
from harness.runtimes import ROOTFS, addons
from harness.runtimes.kubeconfig import ADMIN


class Sandbox:
    """A running throw-away cluster: a Kubectl, and a place on its first node where launch commands run.

    ``env`` is what templates and launch commands know of the image, ``address`` that of the node.
    """

    def __init__(self, container: Any, proxy: Proxy, env: Mapping[str, str], address: str, folder: str = ROOTFS) -> None:
        self.container = container
        self.proxy = proxy
        self.address = address
        self.folder = folder
        self.env = {"HostIP": address, **env, "KUBECONFIG": ADMIN}

    def of_application(self, application: SandboxApplication) -> Sandbox:
        """The same cluster, with launch commands in the rootfs of an application."""
        return Sandbox(self.container, self.proxy, application.env, self.address, application.folder)

    def run(self, *argv: str) -> str:
        """kubectl. Raises CommandError."""
        return docker.command_output(self.container, ["kubectl", "--kubeconfig", ADMIN, *argv])

    def apply(self, manifest: str) -> None:
        """Apply one manifest of the rootfs. Raises CommandError."""
        self.run("apply", "-f", f"{ROOTFS}/{manifest}")

    def label(self, name: str, text: str) -> None:
        """Label the objects of an addon as `slipway run` does; ``text`` is its content. Raises CommandError."""
        if not addons.labelled(text):
            self.run("label", "--overwrite", "-f", f"{ROOTFS}/{ADDONS}/{name}", f"{addons.LABEL}={addons.value(name)}")

    def launch(self, command: str, *, what: str = "launch command", title: str = "") -> None:
        """Run a command in the rootfs as `slipway run` does on the first control-plane node, as `slipway apps install` does one of an
        application. Raises BuildError with its output; ``what`` and ``title`` name the command there.
        """
        # The PATH of a login shell is not known: use the container's own plus the rootfs.
        programs = ":".join(dict.fromkeys([f"{self.folder}/bin", f"{ROOTFS}/bin"]))
        script = f"cd {self.folder} || exit 1\nexport PATH={programs}:$PATH\n{HELM}{command}\n"
        code, output = self.container.exec_run(["/bin/bash", "-c", script], environment=dict(self.env))
        text = output.decode(errors="replace").strip()
        for line in text.splitlines():
            log.debug(line)
        if code != 0:
            details = "\n".join(text.splitlines()[-20:])
            raise BuildError(f"the {what} failed with exit code {code}: {title or command}", details=details)


@contextlib.contextmanager
def kind(plan: SandboxPlan, sources: Sequence[Source], store: Store, builder: Builder, work: Path) -> Iterator[Sandbox]:
    """Boot a kind cluster from ``plan``; everything is gone when the block ends, however it ends."""
    program = tools.kind()
    client = docker.connect()
    sweep(client)
    node_image = builder.engine_image(client, Reference.parse(IMAGE))
    name = f"slipway-{os.getpid()}-{secrets.token_hex(3)}"
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(_network(client, name, dual=plan.network.dual, keep=plan.keep))
        proxy = stack.enter_context(Proxy(sources, store, host=gateway))
        kernel = str(client.info().get("KernelVersion") or "")
        configuration = kind_config.write_files(plan, node_image, proxy.hosts_toml(gateway), work, kernel)
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
            shown.note = _made(plan)
        first = client.containers.get(f"{name}-control-plane")
        for node in docker.all_containers(client, label=f"{_KIND_CLUSTER}={name}"):
            docker.command_output(node, ["/bin/sh", "-c", _PLUGINS])
        sandbox = Sandbox(first, proxy, plan.env, str(first.attrs["NetworkSettings"]["Networks"][name]["IPAddress"]))
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
            stack.callback(log.info, f"the throw-away node stays: docker exec -it slipway-{name}-control-plane-1 bash")
        else:
            stack.callback(provider.down, name)
        group = provider.up(name, 1, plan.workers, image=node_image, labels={docker.LABEL_BUILD: liveness.process_label()})
        node = client.containers.get(f"slipway-{name}-control-plane-1")
        gateway = str(next(iter(node.attrs["NetworkSettings"]["Networks"].values()))["Gateway"] or _gateway(client, node))
        proxy = stack.enter_context(Proxy(sources, store, host=gateway))
        image = cloudimage.write(store, [_with_network(plan, store)])
        env = {**plan.image.info.env, **plan.env}
        wanted = request.of_machines(f"build-{name}", image.digest, group.control_plane, group.workers, env=env)
        options = run.RunOptions(elsewhere=registry.Anything(proxy.hosts_toml(gateway)))
        with log.step("make a container node a cluster of the image") as shown:
            context = run.prepare(wanted, store, options, home=work)
            try:
                with context.spec.ssh:
                    execute(run.cluster_steps(context).steps)
                    if plan.application:
                        send_tree(context.spec.first, plan.application.tree, {}, plan.application.folder)
            except (CommandError, CheckError) as error:
                reasons = [f"image {refused}: {reason}" for refused, reason in proxy.failures.items()]
                details = "\n".join([*reasons, error.details or ""]).strip()
                raise BuildError(f"the throw-away cluster did not boot: {error.message}", details=details) from error
            shown.note = _made(plan)
        yield Sandbox(node, proxy, plan.env, group.control_plane[0].address)


def _made(plan: SandboxPlan) -> str:
    return f"Kubernetes {plan.facts.kubernetes}{f', {plan.workers + 1} nodes' if plan.workers else ''}"


_PLUGINS = f"""mkdir -p /opt/cni/bin
for plugin in {ROOTFS}/{node_files.CNI_PLUGINS}/*; do [ ! -e "$plugin" ] || ln -sf "$plugin" /opt/cni/bin/; done"""
"""Links to the CNI plugins of the image, as every machine of a cluster has them. Not mounts: a pod network may replace them."""


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
        containers = docker.all_containers(client, label=f"{_KIND_CLUSTER}={cluster}")
        for container in containers:
            _remove(container)
        if containers:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= patience:
            return
        time.sleep(0.1)


def _addons(sandbox: Sandbox, plan: SandboxPlan) -> None:
    """Apply the addons that the runtime applies on real nodes, except those that kind brings."""
    tree = beneath(plan.rootfs)
    if tree.is_file(f"{ADDONS}/{DNS_ADDON}"):
        # A kubeadm that cannot leave CoreDNS out has added it.
        sandbox.run("-n", "kube-system", "delete", "deployment", "coredns", "--ignore-not-found", "--wait=false")
    for name in tree.list(ADDONS):
        if not name.endswith(".yaml") or name.startswith(".") or (name == NETWORK_ADDON and not plan.addon_network):
            continue
        if name != NETWORK_ADDON:
            sandbox.apply(f"{ADDONS}/{name}")
        sandbox.label(name, tree.read_text(f"{ADDONS}/{name}"))


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


_KIND_CLUSTER = "io.x-k8s.kind.cluster"
_OWN_CLUSTER = re.compile(r"slipway-[0-9]+-[0-9a-f]{6}")


def sweep(client: docker.Client) -> None:
    """Remove what builds left whose process was killed: their networks and the containers on them, and containers whose network is gone."""
    # Before the networks: the network of a container that exists by now is in their list, unless its build has ended.
    of_kind = docker.all_containers(client, label=_KIND_CLUSTER)
    networks = client.networks.list()
    dead = [network for network in networks if _is_dead(network.attrs.get("Labels") or {})]
    for network in dead:
        for container in docker.all_containers(client, network=str(network.name)):
            _remove(container)
        _forgiving(network.remove)
    for container in docker.all_containers(client, label=docker.LABEL_BUILD):
        if _is_dead(container.labels):
            _remove(container)
    # A busy engine may have made a container of kind after its build was interrupted and had removed its network.
    names = {str(network.name) for network in networks if network not in dead}
    for container in of_kind:
        cluster = str(container.labels.get(_KIND_CLUSTER))
        if _OWN_CLUSTER.fullmatch(cluster) and cluster not in names:
            _remove(container)


def _remove(container: Any) -> None:
    _forgiving(lambda: container.remove(force=True, v=True))


def _is_dead(labels: Mapping[str, str]) -> bool:
    """Return True when the build that made a resource has certainly ended. A build in another container may still be alive."""
    label = labels.get(docker.LABEL_BUILD, "")
    return liveness.has_ended(label) or (docker.is_local() and liveness.is_of_earlier_boot(label))


def requesters(kubectl: Sandbox) -> dict[str, tuple[str, ...]]:
    """Workloads that use each image: canonical name -> ``Deployment default/web``, without generated suffixes."""
    items = readiness.get(kubectl, "pods,replicasets,jobs")
    by_uid = readiness.by_uid(items)
    workloads: dict[str, set[str]] = {}
    for pod in (item for item in items if item["kind"] == "Pod"):
        spec = pod["spec"]
        for container in (*spec.get("containers", ()), *spec.get("initContainers", ()), *spec.get("ephemeralContainers", ())):
            with contextlib.suppress(ValueError):
                workloads.setdefault(str(Reference.parse(container["image"])), set()).add(_maker(pod, by_uid))
    return {name: tuple(sorted(owners)) for name, owners in sorted(workloads.items())}


def _maker(pod: readiness.Resource, by_uid: Mapping[str, readiness.Resource]) -> str:
    owner = readiness.controller(pod)
    if owner is not None and owner["kind"] == "Node":
        return readiness.title(pod).removesuffix("-" + owner["name"])
    return readiness.maker(pod, by_uid)
