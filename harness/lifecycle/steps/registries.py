"""Steps for container images: the registries of the cluster, the balancers that lead to them and to the API, and early pulls."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping

from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import ipvs, node_files, registry, rootfs
from harness.lifecycle.steps.context import NETWORK_ADDON, ClusterContext, ResolvedCluster
from harness.nodes import Node
from harness.nodes.files import Files, NodeFile, read_files


def send_images(context: ClusterContext) -> Step:
    def action(node: Node) -> str:
        among = [holder for holder in context.spec.registries if holder.address not in context.spec.unreachable]
        store, layout = context.spec.store, context.resolved.layout
        brought = context.exchange.bring(node, layout.name, lambda: registry.parcel(store, layout), among)
        registry.name(node, store, layout)
        return brought.note

    def inputs(_: Node) -> str:
        layout = context.resolved.layout
        return digest(sorted(layout.links.items()), sorted(layout.blobs))

    holders = context.selected(context.spec.registries)
    return Step("send-images", "send the container images", action, holders, after=("check-machines",), inputs=inputs)


def start_registry(context: ClusterContext) -> Step:
    if context.spec.elsewhere is not None:
        return Step("start-registry", "use a registry elsewhere", lambda: None, after=("check-machines",))

    def hosts() -> tuple[str, ...]:
        virtual_ip = context.resolved.facts.balancing.virtual_ip
        return ("127.0.0.1", *([virtual_ip] if virtual_ip else []), *(node.address for node in context.spec.registries),
                *registry.sans(context.spec.clusterfile))  # fmt: skip

    def action(node: Node) -> None:
        resolved = context.resolved
        registry.start(node, *resolved.runtime.serving(hosts(), "slipway-registry"), registry.settings(resolved.login))

    def inputs(node: Node) -> str:
        # The password is derived from the key whose certificate the identity is of: the configuration alone says whether there is one.
        resolved = context.resolved
        identity = rootfs.identity(resolved.platforms[node.address])
        return digest(resolved.runtime.identity, hosts(), registry.config(resolved.login), identity)

    return Step(
        "start-registry",
        "start the registry",
        action,
        context.selected(context.spec.registries),
        after=("send-images", "send-rootfs"),
        # It requires the login, which every machine must have by then.
        after_all=("set-up-machines",),
        inputs=inputs,
    )


def start_balancers(context: ClusterContext) -> Step:
    def config(node: Node) -> str:
        return node_files.balancer_config(context.resolved.cluster, context.resolved.member(node))

    def action(node: Node) -> str:
        node_files.start_balancer(node, config(node))
        return "by rules of the kernel" if context.resolved.facts.balancing.of(node.address) else ""

    def inputs(node: Node) -> str:
        return digest(config(node), rootfs.identity(context.resolved.platforms[node.address]))

    nodes = context.selected(context.spec.balanced)
    return Step("start-balancers", "start the balancers", action, nodes, after=("send-rootfs", "set-up-machines"), inputs=inputs)


def balancing_wish(resolved: ResolvedCluster) -> ipvs.Wish:
    """The balancing that is asked for on the way to the control plane, and for which nodes."""
    asked = resolved.spec.clusterfile.cluster.load_balancing if resolved.spec.clusterfile.cluster else "auto"
    balanced = tuple(node.address for node in resolved.spec.balanced)

    def brings() -> bool:
        nodes = [node for node in resolved.spec.nodes if node.address in balanced] or resolved.spec.nodes
        return all(rootfs.beneath(resolved.tree(node)).is_file(f"bin/{program}") for node in nodes for program in ipvs.PROGRAMS)

    return ipvs.Wish(asked, balanced, resolved.network, resolved.env, brings)


def etcd_image(resolved: ResolvedCluster) -> str:
    """The image of etcd that the control-plane nodes run; empty when the image of the cluster has none."""
    names = [image.name for image in resolved.images.images if "/etcd:" in image.name]
    tag = resolved.kubernetes.etcd_image_tag
    return next((name for name in names if tag and name.endswith(f":{tag}")), names[0] if names else "")


_IMAGE = re.compile(r"^[ \t]*+image:[ \t]*+[\"']?([^\s\"']+)", re.MULTILINE)


_CONTROL_PLANE = re.compile(r"/(kube-apiserver|etcd|kube-controller-manager|kube-scheduler):")


def images_needed_to_be_ready(resolved: ResolvedCluster, node: Node) -> list[str]:
    """The images that a node must have to become Ready, in the order in which it needs them; the pod network is among them."""
    texts = resolved.addons
    network, used = (set(_IMAGE.findall(text)) for text in (texts.get(NETWORK_ADDON, ""), "\n".join(texts.values())))
    ranks: tuple[Callable[[str], object], ...] = (
        lambda name: name == resolved.kubernetes.pause_image,
        lambda name: resolved.member(node).is_control_plane and _CONTROL_PLANE.search(name),
        lambda name: name in network,
        lambda name: "/kube-proxy:" in name,
        lambda name: "/coredns:" in name,
        lambda name: name in used,
    )
    names = sorted(image.name for image in resolved.images.images)
    return list(dict.fromkeys(name for wanted in ranks for name in names if wanted(name)))


def fetch_images(context: ClusterContext) -> Step:
    """Pull what every node runs while its kubelet is still getting ready. Only saves time: what fails here, the kubelet tries again."""

    def action(node: Node) -> str:
        names = images_needed_to_be_ready(context.resolved, node)
        node_files.fetch(node, names)
        return f"{len(names)} images"

    return Step(
        "fetch-images",
        "fetch the images of Kubernetes",
        action,
        context.nodes,
        after=("start-containerd",),
        after_all=("start-registry",),
        inputs=lambda _: digest(sorted(image.digest for image in context.resolved.images.images)),
    )


@dataclasses.dataclass(frozen=True)
class AsThere:
    """Registries as a member of the cluster has them: what was said about them when the cluster was made."""

    found: Mapping[str, bytes] = dataclasses.field(repr=False)

    @classmethod
    def of(cls, node: Node) -> AsThere:
        return cls(read_files(node, [*registry.hosts_paths(node), registry.CA_OF_SITE]))

    def files(self, names: Iterable[str]) -> Files:  # noqa: ARG002 -- it knows them all
        return {path: registry.hosts_file(data) if path.endswith(".toml") else NodeFile(data) for path, data in self.found.items()}
