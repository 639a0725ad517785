"""Inputs of a throw-away cluster, read from the rootfs that it boots from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from harness import untrusted
from harness.cloudimage import PlatformImage
from harness.errors import BuildError
from harness.lifecycle.provision import node_files
from harness.lifecycle.steps.context import FACTS, NETWORK_MANIFEST
from harness.nodes.files import STATE
from harness.runtimes import DEFAULT_PREFIX6, ClusterNetwork, Facts


def facts(rootfs: Path) -> Facts | None:
    """Facts about the Kubernetes of a rootfs; None for an application image, which has none. Raises InputError."""
    tree = beneath(rootfs)
    return Facts.parse(tree.read_text(FACTS), FACTS) if tree.is_file(FACTS) else None


def beneath(rootfs: Path) -> untrusted.UntrustedTree:
    """The reader of files in a rootfs. It raises BuildError for a link that leads out of it."""
    return untrusted.UntrustedTree(rootfs, what="the rootfs of the image", error=BuildError)


def environment(facts_of_rootfs: Facts, env: Mapping[str, str]) -> dict[str, str]:
    """Variables that every image's templates can use, overridden by the image's own."""
    network = ClusterNetwork.parse(env.get("PodCIDR", facts_of_rootfs.pod_cidr), env.get("SvcCIDR", facts_of_rootfs.svc_cidr))
    # Normalised, also where the image sets them.
    return {**network.variables, **env, "PodCIDR": network.pods, "SvcCIDR": network.services}


def application_environment(env_of_cluster: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Variables of an application image in a cluster: the networks, and the image's own, as ``slipway apps install`` gives them."""
    return {**ClusterNetwork(env_of_cluster["PodCIDR"], env_of_cluster["SvcCIDR"]).variables, **env}


@dataclasses.dataclass(frozen=True)
class SandboxApplication:
    """The application image that runs on a throw-away cluster of another image. ``tree``, its rootfs, is rendered."""

    name: str
    tree: Path
    env: Mapping[str, str]

    @property
    def folder(self) -> str:
        """Of its rootfs on the first node."""
        return f"{STATE}/apps/{self.name}/rootfs"


@dataclasses.dataclass(frozen=True)
class SandboxPlan:
    """Inputs of a throw-away cluster. ``rootfs`` is rendered, and belongs to the cluster while it runs."""

    rootfs: Path
    facts: Facts
    env: Mapping[str, str]
    image: PlatformImage
    """The image that the nodes boot from: the one under construction, without the container images that discovery looks for, or the one
    that an application runs on."""
    own_network: bool
    """True when an application of the image is the pod network (CNI), so that the base's is not installed."""
    keep: bool = False
    workers: int = 0
    application: SandboxApplication | None = None

    @property
    def addon_network(self) -> bool:
        """An addon of the image is the network."""
        return not self.own_network and beneath(self.rootfs).is_file(NETWORK_MANIFEST)

    @property
    def network(self) -> ClusterNetwork:
        return ClusterNetwork(self.env["PodCIDR"], self.env["SvcCIDR"])

    @property
    def cni_configs(self) -> dict[str, str]:
        """CNI configurations to write before the kubelet starts, by name. An image without network gets one for a single node.

        Raises BuildError when there are workers as well: that network ends at its node.
        """
        if self.own_network:
            return {}
        tree = beneath(self.rootfs)
        configs = {name: tree.read_text(f"{node_files.CNI_CONFIGS}/{name}") for name in node_files.cni_configs(tree)}
        if configs or self.addon_network:
            return configs
        if self.workers:
            raise BuildError(
                f"--workers {self.workers}: the image brings no pod network, and pods on several nodes would not reach each other",
                hint=f"add {NETWORK_MANIFEST} or CNI, or build it on a base with NETWORK=flannel",
            )
        return {SINGLE_NODE_NETWORK: single_node_network(self.network)}


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
