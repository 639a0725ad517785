"""Steps before Kubernetes: machines are checked, get the rootfs and their files, and start containerd."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence

from harness import log
from harness.cloudimage import PlatformImage, enforcers
from harness.clusterfile.kubeadm import gone, modern
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import ipvs, node_files, registry, rootfs
from harness.lifecycle.steps.context import (
    FACTS,
    NETWORK_MANIFEST,
    ClusterContext,
    ClusterFacts,
    ResolvedCluster,
    own_network,
)
from harness.lifecycle.steps.registries import balancing_wish
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, Files, install_files
from harness.nodes.ssh import SshNode
from harness.oci.store import Store
from harness.runtimes import POD_CIDR, SVC_CIDR, ClusterNetwork, profiles

PROXY = "KubeProxyConfiguration"


def connect(context: ClusterContext, begin: Callable[[], object] = lambda: None) -> Step:
    """``begin`` is called once all are connected, before anything is asked: it raises when another process works on the machines."""

    def action() -> str:
        context.spec.ssh.connect()
        begin()
        return f"{len(context.spec.nodes)} node{'s' if len(context.spec.nodes) > 1 else ''}"

    return Step("connect", "connect to the nodes", action)


def machine_facts(nodes: Sequence[Node], names: Mapping[str, str]) -> dict[str, gather.MachineFacts]:
    """The facts of machines by address; ``names`` are host names that some of them have instead of their own, or will get."""
    pairs = zip(nodes, gather.gather(nodes), strict=True)
    return {node.address: dataclasses.replace(facts, host=names.get(node.address, facts.host)) for node, facts in pairs}


def check_machines(context: ClusterContext, names: Mapping[str, str]) -> Step:
    """``names`` are host names that machines will get, by address."""
    spec = context.spec

    def action() -> str:
        resolved = ResolvedCluster(spec, ClusterFacts(machine_facts(spec.nodes, names)))
        targets = [target(resolved, node) for node in spec.nodes]
        findings = gather.examine({node.address: node for node in spec.nodes}, targets, wanted_of_machines(resolved, targets))
        summary = gather.require(findings, spec.skip_checks)
        balancing = ipvs.choose(balancing_wish(resolved), ipvs.ask(spec.nodes), gather.ours(targets, spec.name))
        context.resolve(ResolvedCluster(spec, dataclasses.replace(resolved.facts, balancing=balancing)))
        return summary

    return Step("check-machines", "check the machines", action, after=("connect",))


def target(resolved: ResolvedCluster, node: SshNode) -> gather.Target:
    """A machine as preflight checks see it."""
    role = "control-plane" if node in resolved.spec.control_plane else "worker"
    return gather.Target(node.address, role, resolved.facts.machines[node.address])


def wanted_of_machines(resolved: ResolvedCluster, targets: Sequence[gather.Target]) -> gather.Wanted:
    """The demands on machines of which the facts are known."""
    available = tuple(image.platform for image in resolved.spec.image.platforms)
    # What is asked of an image that is not there for the machine cannot be known; that it is not there is told.
    fits = all(any(target.machine.platform.matches(platform) for platform in available) for target in targets)
    modes = [document["mode"] for document in resolved.spec.clusterfile.kubeadm if document.get("kind") == PROXY and document.get("mode")]
    return gather.Wanted(
        cluster=resolved.spec.name,
        platforms=available,
        size=resolved.spec.image.size + resolved.spec.apps_size,
        network=resolved.network if fits else ClusterNetwork(POD_CIDR, SVC_CIDR),
        ours=gather.ours(targets, resolved.spec.name),
        proxy_mode=modes[-1] if modes else resolved.spec.proxy_mode,
        vxlan=brings_flannel(resolved.spec.store, resolved.spec.image.platforms[0]),
        registry=resolved.spec.elsewhere is None,
        evicts_later=any("evictionHard" in document for document in resolved.spec.clusterfile.kubeadm),
        enforcers=enforcers.among(image.name for image in resolved.spec.image.platforms[0].images.images),
        sysctls=profiles.sysctls(resolved.spec.profile_name),
    )


def brings_network(store: Store, image: PlatformImage) -> bool:
    """Return True when nodes of an image can become Ready: a pod network is its own or an application's, or hooks may bring one.

    True of an image without Kubernetes: that is another fault.
    """
    if has_network(store, image):
        return True
    tree = rootfs.beneath(rootfs.tree(store, image))
    hooks = any(name.endswith((".yaml", ".yml")) for name in tree.list("plugins"))
    return hooks or not tree.is_file(FACTS)


def has_network(store: Store, image: PlatformImage) -> bool:
    """Return True when an image certainly has a pod network."""
    if own_network(image.info) or rootfs.read_file(store, image, NETWORK_MANIFEST) is not None:
        return True
    tree = rootfs.beneath(rootfs.tree(store, image))
    return tree.is_file(NETWORK_MANIFEST) or bool(node_files.cni_configs(tree))


def brings_flannel(store: Store, image: PlatformImage) -> bool:
    """Return True when the pod network of an image is the one of the base, which connects nodes over VXLAN."""
    manifest = rootfs.read_file(store, image, NETWORK_MANIFEST)
    return not own_network(image.info) and manifest is not None and b"flannel" in manifest


def unpack_rootfs(context: ClusterContext) -> Step:
    def action() -> None:
        resolved = context.resolved
        for image in resolved.variants:
            rootfs.tree(context.spec.store, image)
        for node in context.spec.nodes:
            resolved.files(node)
        warn_of_documents(resolved)

    return Step("unpack-rootfs", "unpack and render the rootfs", action, after=("check-machines",))


def warn_of_documents(resolved: ResolvedCluster) -> None:
    """Warn of what is not as it was in documents of kubeadm and kube-proxy that image and Clusterfile have."""
    for document in resolved.documents:
        for field in gone(document):
            log.warning(f"{document['kind']} .{field}: kubeadm has no such field any more; it is left out")
    if any(document.get("kind") == PROXY and document.get("mode") == "ipvs" for document in resolved.documents):
        log.warning(f"{PROXY} .mode: ipvs is deprecated since Kubernetes 1.35, and will go; nftables takes its place")
    for text in profiles.lacking(resolved.spec.profile_name, resolved.kubernetes.minor):
        log.warning(text)
    for path in profiles.overruled(resolved.profile, modern(resolved.documents)):
        log.warning(f"{path}: what the document says counts, not the profile {resolved.profile.name}")


def make_keys(context: ClusterContext) -> Step:
    def action() -> None:
        context.resolved.runtime.prepare()
        mark_owner(context.resolved, context.spec.first)

    return Step("make-keys", "make the keys of the cluster", action, after=("unpack-rootfs",))


def mark_owner(resolved: ResolvedCluster, node: Node) -> None:
    """Note on a machine which cluster it belongs to."""
    node.run(f"mkdir -p {STATE} && echo {shlex.quote(f'{resolved.spec.name} {resolved.runtime.identity}')} > {rootfs.MARK}")


def send_rootfs(context: ClusterContext) -> Step:
    def action(node: Node) -> str:
        image = context.resolved.platforms[node.address]
        return context.exchange.bring(node, rootfs.parcel_name(image), lambda: rootfs.parcel(context.spec.store, image)).note

    def inputs(node: Node) -> str:
        return rootfs.identity(context.resolved.platforms[node.address])[:16]

    return Step("send-rootfs", "send the rootfs", action, context.nodes, after=("unpack-rootfs",), inputs=inputs)


def send_rendered(context: ClusterContext) -> Step:
    def action(node: Node) -> None:
        rootfs.send_rendered(node, context.resolved.files(node), context.resolved.tree(node))

    def inputs(node: Node) -> str:
        resolved = context.resolved
        return digest(rootfs.identity(resolved.platforms[node.address]), rootfs.fingerprint(resolved.files(node)))

    return Step("send-rendered", "send the rendered files", action, context.nodes, after=("send-rootfs",), inputs=inputs)


def machine_files(resolved: ResolvedCluster, node: Node, domains: Sequence[str] = ()) -> Files:
    """The files of a node outside the rootfs, but for keys; ``domains`` are more registries that images are named after."""
    member = resolved.member(node)
    elsewhere = resolved.spec.elsewhere
    names = sorted({*registry.domains(resolved.images), *resolved.spec.app_domains, *domains})
    alias = registry.alias(resolved.spec.clusterfile)
    config, plugins = resolved.containerd_config(member), node_files.cni_plugins(rootfs.beneath(resolved.tree(node)))
    files = {
        **node_files.files(resolved.cluster, member, config=config, networks=_networks(resolved, node), plugins=plugins),
        **(registry.client_files(names, member.virtual_ip, resolved.login, alias) if elsewhere is None else elsewhere.files(names)),
        **resolved.runtime.units,
    }
    if member.registry and elsewhere is None:
        files |= registry.units()
    return files


def _networks(resolved: ResolvedCluster, node: Node) -> dict[str, str]:
    """Configurations of the image's own pod network, by the names of their files."""
    if resolved.cluster.own_network:
        return {}
    names = node_files.cni_configs(rootfs.beneath(resolved.tree(node)))
    contents = {name: resolved.content(node, f"{node_files.CNI_CONFIGS}/{name}") for name in names}
    return {name: text for name, text in contents.items() if text is not None}


def set_up_machines(context: ClusterContext) -> Step:
    def action(node: Node) -> None:
        resolved = context.resolved
        node.run(node_files.note_state(resolved.profile.sysctls), timeout=LONG_TIMEOUT)
        mark_owner(resolved, node)
        install_files(node, machine_files(resolved, node))
        node_files.set_hosts(node, resolved.hosts_lines(node))
        node.run(node_files.apply(resolved.cluster), timeout=LONG_TIMEOUT)

    def inputs(node: Node) -> str:
        # The password of the registry in them is 256 random bits: this digest does not help to guess it.
        files = {path.lstrip("/"): file for path, file in machine_files(context.resolved, node).items()}
        return digest(rootfs.fingerprint(files), context.resolved.hosts_lines(node))

    return Step("set-up-machines", "set up the machines", action, context.nodes, after=("make-keys",), inputs=inputs)


def start_containerd(context: ClusterContext) -> Step:
    def inputs(node: Node) -> str:
        resolved = context.resolved
        return digest(rootfs.identity(resolved.platforms[node.address]), resolved.containerd_config(resolved.member(node)))

    return Step(
        "start-containerd",
        "start containerd",
        node_files.start_containerd,
        context.nodes,
        after=("send-rootfs", "set-up-machines"),
        inputs=inputs,
    )
