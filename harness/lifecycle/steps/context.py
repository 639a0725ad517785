"""The context of the steps of a verb: the cluster as it is wanted, the facts of its machines, and everything that follows from both."""

from __future__ import annotations

import copy
import dataclasses
import functools
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.cloudimage import CloudImage, ImageApp, ImageSet, Info, PlatformImage
from harness.clusterfile import Clusterfile, serialize
from harness.clusterfile.application import env_of
from harness.clusterfile.cluster import DUAL_STACK
from harness.clusterfile.config import deep_merge
from harness.clusterfile.kubeadm import modern
from harness.errors import Fault, InputError, StoreError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.checks.facts import MachineFacts
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.plan import Journal
from harness.lifecycle.provision import ipvs, node_files, registry, rootfs
from harness.lifecycle.provision.distribution import Exchange
from harness.nodes import Node
from harness.nodes.files import Files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes import ROOTFS, SYSTEM, ClusterNetwork, Facts, Member, Profile, RuntimeCluster, profiles
from harness.runtimes.addons import namespaces
from harness.runtimes.kubeadm import Kubeadm
from harness.untrusted import UntrustedTree

FACTS = "etc/slipway.yaml"
"""File of the rootfs that describes its Kubernetes."""
ADDONS = "etc/addons"
"""Folder of the rootfs for manifests that are applied when a cluster starts."""
NETWORK_ADDON = "network.yaml"
NETWORK_MANIFEST = f"{ADDONS}/{NETWORK_ADDON}"
DNS_ADDON = "dns.yaml"

CONTAINERD_CONFIG = "etc/containerd/config.toml"
"""File of the rootfs that is merged over slipway's own configuration of containerd."""
KUBEADM_CONFIG = ("etc/kubeadm.yml", "etc/kubeadm.yaml")
"""Files of the rootfs with documents of kubeadm, kubelet and kube-proxy."""

LAUNCHED = ("application/", "charts/", "manifests/", f"{ADDONS}/")
"""Folders of the rootfs for what is launched, from the first control-plane node."""


@dataclasses.dataclass(frozen=True)
class ClusterSpec:
    """A cluster as it is wanted, with the connections to its machines. Nothing in it was asked of a machine by a step."""

    image: CloudImage
    store: Store
    ssh: SshConnections
    state: ClusterState
    control_plane: tuple[SshNode, ...]
    workers: tuple[SshNode, ...]
    clusterfile: Clusterfile
    """The whole request, as it is recorded."""
    previous: Clusterfile | None = None
    """The request before this one, of a cluster that exists."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment of all nodes; it wins over the image's."""
    host_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """More environment, by address of a node."""
    app_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """More environment, by name of an application."""
    launch: tuple[str, ...] | None = None
    """Launch commands in place of the image's."""
    edit: rootfs.Edit | None = None
    """Changes the rootfs before it is rendered (Config documents)."""
    elsewhere: registry.Elsewhere | None = None
    """A registry that has every image, used in place of one of the cluster's own."""
    timeout: float = 600
    """Seconds for the API to answer, and again for nodes, and for workloads, to become ready."""
    skip_checks: frozenset[str] = frozenset()
    """Preflight checks whose failures are ignored."""

    unreachable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names of members that do not answer, by address."""
    registry_hosts: frozenset[str] | None = None
    """Addresses of the control-plane nodes that hold images; None: the first ones."""
    requires_login: bool = True
    """The cluster's registries require a login. False: an earlier slipway made them, and members may lack it (see registry)."""
    proxy_mode: str | None = None
    """kube-proxy's mode in a cluster that exists."""
    added_names: tuple[str, ...] = ()
    """Names that the API server's certificates have been given since the cluster was made."""
    app_images: ImageSet = dataclasses.field(default_factory=ImageSet)
    """Images of installed applications: registries hold them too."""
    app_domains: tuple[str, ...] = ()
    """The registries that these are named after."""
    apps_size: int = 0
    """Bytes of the images of applications that are installed with the cluster."""

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def nodes(self) -> tuple[SshNode, ...]:
        return (*self.control_plane, *self.workers)

    @property
    def first(self) -> SshNode:
        """The first control-plane node that answers."""
        return next((node for node in self.control_plane if node.address not in self.unreachable), self.control_plane[0])

    @property
    def registries(self) -> tuple[SshNode, ...]:
        """The control-plane nodes that hold images."""
        if self.registry_hosts is None:
            return self.control_plane[: registry.most(self.clusterfile)]
        return tuple(node for node in self.control_plane if node.address in self.registry_hosts)

    @property
    def balanced(self) -> tuple[SshNode, ...]:
        """Nodes that need a balancer: for the API, or at least for images."""
        return (*(node for node in self.control_plane if node not in self.registries), *self.workers)

    @property
    def info(self) -> Info:
        """The image's settings for launching, the same for all of its platforms."""
        return self.image.platforms[0].info

    @property
    def profile_name(self) -> str | None:
        return self.clusterfile.cluster.profile if self.clusterfile.cluster else None


@dataclasses.dataclass(frozen=True)
class ClusterFacts:
    """Answers of the machines to the check step."""

    machines: Mapping[str, MachineFacts]
    """By address."""
    balancing: ipvs.Choice = dataclasses.field(default_factory=ipvs.Choice)


@dataclasses.dataclass(frozen=True, eq=False)
class ResolvedCluster:
    """Everything that follows from a spec and the facts of its machines. Each part is computed once, when it is first read."""

    spec: ClusterSpec
    facts: ClusterFacts
    _files: dict[str, Files] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def platforms(self) -> Mapping[str, PlatformImage]:
        """The image for each node, by address."""
        return {node.address: self.spec.image.platform(self.facts.machines[node.address].platform) for node in self.spec.nodes}

    @property
    def main(self) -> PlatformImage:
        """The image for the first control-plane node."""
        return self.platforms[self.spec.first.address]

    @functools.cached_property
    def kubernetes(self) -> Facts:
        """Raises StoreError when the image brings no Kubernetes."""
        data = rootfs.read_file(self.spec.store, self.main, FACTS)
        if data is None:
            raise StoreError(
                f"{self.spec.image.name or self.spec.image.digest} brings no Kubernetes: it has no {FACTS}",
                hint="build it FROM a base image with Kubernetes; an application image runs on a cluster that is there",
            )
        text = data.decode(errors="replace")
        if "kubernetes:" not in text and self.main.info.kubernetes:
            text += f"\nkubernetes: {self.main.info.kubernetes}\n"
        return Facts.parse(text, FACTS)

    @property
    def env(self) -> dict[str, str]:
        """The environment of all nodes."""
        return {**self.main.info.env, **self.spec.env}

    @functools.cached_property
    def network(self) -> ClusterNetwork:
        env = self.env
        network = ClusterNetwork.parse(env.get("PodCIDR", self.kubernetes.pod_cidr), env.get("SvcCIDR", self.kubernetes.svc_cidr))
        if env.get(DUAL_STACK, "").lower() == "true" and not network.dual:
            message = f"both families are asked for, and PodCIDR {network.pods} and SvcCIDR {network.services} are of one"
            raise InputError([Fault(DUAL_STACK, message, f"PodCIDR={network.pods},fd00:... and SvcCIDR={network.services},fd00:...")])
        return network

    @property
    def variants(self) -> tuple[PlatformImage, ...]:
        """The image for every platform that the cluster has, each once."""
        return tuple({str(image.platform): image for image in self.platforms.values()}.values())

    @functools.cached_property
    def images(self) -> ImageSet:
        """Container images of every platform that the cluster has."""
        return functools.reduce(ImageSet.union, (image.images for image in self.variants), ImageSet())

    @functools.cached_property
    def layout(self) -> registry.Layout:
        return registry.layout(self.spec.store, self.images.union(self.spec.app_images))

    # ---- the rootfs of a node -----------------------------------------------------------------------------------------

    def tree(self, node: Node) -> Path:
        return rootfs.tree(self.spec.store, self.platforms[node.address])

    def environment(self, node: Node) -> dict[str, str]:
        """The environment of templates and launch commands on a node. What describes the cluster itself cannot be set."""
        return {**self.env, **self.spec.host_env.get(node.address, {}), **self.network.variables, "HostIP": node.address}

    def files(self, node: Node) -> Files:
        """The rendered files of a node."""
        if node.address not in self._files:
            self._files[node.address] = self.render(node)
        return self._files[node.address]

    def render(self, node: Node) -> Files:
        """The files of a node's rootfs that are other than the image has them."""
        apps = {app.name: self._app_environment(node, app) for app in self.main.info.apps}
        return self.needed(node, rootfs.rendered(self.tree(node), self.environment(node), apps, self.spec.edit, self._declared))

    @functools.cached_property
    def _declared(self) -> frozenset[str]:
        """Names that the image expects or that a host has: a node that lacks one of them lacks a value."""
        return frozenset({value.name for value in self.spec.info.values}.union(*self.spec.host_env.values()))

    def needed(self, node: Node, files: Files) -> Files:
        """The files that a node needs: workers launch nothing, so they get what is launched only when a hook reads it."""
        if any(node.address == one.address for one in self.spec.control_plane):
            return files

        def is_needed(path: str) -> bool:
            return not path.startswith(LAUNCHED) or any(command_reads(text, path) for text in self._hook_scripts)

        return {path: file for path, file in files.items() if is_needed(path)}

    @functools.cached_property
    def _hook_scripts(self) -> tuple[str, ...]:
        """The texts of all hooks, of the image and of the Clusterfile."""
        tree = UntrustedTree(self.tree(self.spec.first), what=str(self.spec.image.name))
        return (
            *(tree.read_text(f"plugins/{name}") for name in tree.list("plugins") if name.endswith((".yaml", ".yml"))),
            *(hook.data for hook in self.spec.clusterfile.hooks),
        )

    def _app_environment(self, node: Node, app: ImageApp) -> dict[str, str]:
        own = {**app.env, **self.spec.env, **env_of(self.spec.app_env, app.name), **self.spec.host_env.get(node.address, {})}
        return {**self.environment(node), **own}

    def content(self, node: Node, path: str) -> str | None:
        """The text of a file of the rootfs as a node gets it."""
        file = self.files(node).get(path)
        if file is not None:
            return file.data.decode()
        tree = rootfs.beneath(self.tree(node))
        return tree.read_text(path) if tree.is_file(path) else None

    @functools.cached_property
    def addons(self) -> dict[str, str]:
        """The addons of the image by file name, rendered for the first control-plane node."""
        files = self.files(self.spec.first)
        tree = rootfs.beneath(self.tree(self.spec.first))
        texts: dict[str, str] = {}
        for name in tree.list(ADDONS):
            path = f"{ADDONS}/{name}"
            if name.endswith(".yaml") and not name.startswith("."):
                file = files.get(path)
                texts[name] = file.data.decode() if file else tree.read_text(path)
        return texts

    @property
    def network_addon(self) -> dict[str, str]:
        """The addon that is the pod network, by file name; none when an application brings the network."""
        return {name: text for name, text in self.addons.items() if name == NETWORK_ADDON and not self.cluster.own_network}

    # ---- Kubernetes ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def cluster(self) -> RuntimeCluster:
        tree = rootfs.beneath(self.tree(self.spec.first))
        return RuntimeCluster(
            name=self.spec.name,
            facts=self.kubernetes,
            network=self.network,
            members=tuple(self._member(node) for node in self.spec.nodes),
            cert_sans=tuple(word.strip() for word in self.env.get("CertSANs", "").split(",") if word.strip()),
            own_network=own_network(self.main.info),
            own_dns=tree.is_file(f"{ADDONS}/{DNS_ADDON}"),
            documents=tuple(modern(self.documents)),
            proxy_mode=self.spec.proxy_mode,
            certificate_days=self._certificate_days,
            virtual_ip=self.facts.balancing.virtual_ip,
            added_names=self.spec.added_names,
            profile=self.profile,
        )

    @functools.cached_property
    def runtime(self) -> Kubeadm:
        return Kubeadm(self.cluster)

    @functools.cached_property
    def login(self) -> Credential | None:
        """The login with which members pull from the cluster's registries. The runtime has its keys before this is read."""
        return registry.login(self.runtime.secret(registry.PURPOSE)) if self.spec.requires_login else None

    @functools.cached_property
    def profile(self) -> Profile:
        if self.spec.profile_name is None:
            return Profile()
        exempt = {*SYSTEM, *namespaces(self.addons.values())}
        return profiles.of(self.spec.profile_name, self.kubernetes.minor, exempt, modern(self.documents))

    @functools.cached_property
    def documents(self) -> tuple[Mapping[str, Any], ...]:
        """Documents for kubeadm and its like: those of the rootfs, as rendered for the first control-plane node, and the Clusterfile's."""
        of_image = [each for path in KUBEADM_CONFIG for each in kubeadm_documents(self.content(self.spec.first, path) or "", path)]
        return (*of_image, *self.spec.clusterfile.kubeadm)

    @property
    def _certificate_days(self) -> int | None:
        cluster = self.spec.clusterfile.cluster
        validity = cluster.certificate_validity if cluster else None
        return max(1, validity.days) if validity else None

    def _member(self, node: SshNode) -> Member:
        machine = self.facts.machines[node.address]
        return Member(
            node=node,
            name=machine.host,
            address=node.address,
            role="control-plane" if node in self.spec.control_plane else "worker",
            registry=node in self.spec.registries,
            away=node.address in self.spec.unreachable,
            systemd_cgroups=machine.cgroup == 2,
            resolv_conf="/run/systemd/resolve/resolv.conf" if machine.resolved else None,
            restrict_oom=machine.restrict_oom,
            nftables=machine.nftables,
            address6=machine.address6(node.address) if self.network.dual else None,
            virtual_ip=self.facts.balancing.of(node.address),
        )

    def member(self, node: Node) -> Member:
        return next(member for member in self.cluster.members if member.address == node.address)

    def hosts_lines(self, node: Node) -> tuple[str, ...]:
        """Lines that are added to a node's /etc/hosts."""
        aliases = self.spec.clusterfile.cluster.host_aliases if self.spec.clusterfile.cluster else ()
        lines = (f"{alias.ip} {' '.join(alias.hostnames)} {node_files.HOSTS_MARK}" for alias in aliases)
        return (*node_files.hosts_lines(self.member(node)), *lines)

    def containerd_config(self, member: Member) -> str:
        """slipway's configuration of containerd, with that of the rootfs merged over it."""
        default = node_files.containerd_config(self.kubernetes.pause_image, member)
        of_image = self.containerd_overrides(member.node)
        return serialize.write_toml(deep_merge(serialize.read_toml(default), of_image)) if of_image else default

    def containerd_overrides(self, node: Node) -> Mapping[str, Any]:
        """The rootfs's own settings of containerd; empty when it has none. Raises InputError."""
        return containerd_overrides(self.content(node, CONTAINERD_CONFIG) or "")


class ClusterContext:
    """A cluster while a verb works on it."""

    def __init__(self, spec: ClusterSpec, joining: frozenset[str] | None = None) -> None:
        """``joining``: addresses of the machines that join a cluster; only they are worked on. None: all are."""
        self.spec = spec
        self.joining = joining
        self.kubectl = NodeKubectl(spec.first)
        self.exchange = Exchange(node for node in spec.nodes if node.address not in spec.unreachable)
        """Distributes files between the machines; it ends with the connections."""
        spec.ssh.at_end.append(self.exchange.close)
        self.unready_before: Collection[str] = ()
        """Workloads that were not ready before, and are not waited for: titles, as ``readiness.ailing`` gives them."""
        self._resolved: ResolvedCluster | None = None

    @property
    def resolved(self) -> ResolvedCluster:
        """The cluster with the facts of its machines. Raises RuntimeError before a step has gathered them."""
        if self._resolved is None:
            raise RuntimeError("the machines have not been checked yet")
        return self._resolved

    def resolve(self, cluster: ResolvedCluster) -> None:
        """Set ``resolved``, once."""
        if self._resolved is not None:
            raise RuntimeError("the machines have been checked already")
        self._resolved = cluster

    def selected(self, nodes: Sequence[SshNode]) -> tuple[SshNode, ...]:
        """The nodes that are worked on."""
        return tuple(node for node in nodes if self.joining is None or node.address in self.joining)

    @property
    def nodes(self) -> tuple[SshNode, ...]:
        """All nodes that are worked on."""
        return self.selected(self.spec.nodes)

    def whole(self) -> ClusterContext:
        """The same cluster, all of whose nodes are worked on."""
        context = copy.copy(self)
        context.joining = None
        return context


@dataclasses.dataclass
class MemberChange:
    """State that the steps of a change to a running cluster share."""

    found: Gathered
    context: ClusterContext
    journal: Journal = dataclasses.field(default_factory=Journal, kw_only=True)

    @property
    def spec(self) -> ClusterSpec:
        return self.context.spec

    @property
    def resolved(self) -> ResolvedCluster:
        return self.context.resolved


def kubeadm_documents(text: str, path: str) -> tuple[Mapping[str, Any], ...]:
    """The documents of a rootfs's own file for kubeadm, kubelet and kube-proxy. Raises InputError."""
    try:
        return tuple(document for document in serialize.read_documents(text) if isinstance(document, Mapping))
    except ValueError as wrong:
        raise InputError([Fault(path, f"is not YAML: {wrong}")]) from wrong


def containerd_overrides(text: str) -> Mapping[str, Any]:
    """The settings of a rootfs's own file for containerd. Raises InputError."""
    try:
        of_image = serialize.read_toml(text)
    except ValueError as wrong:
        raise InputError([Fault(CONTAINERD_CONFIG, f"is not TOML: {wrong}")]) from wrong
    _require_version(of_image)
    return of_image


def _require_version(config: Mapping[str, Any]) -> None:
    """Raises InputError for a configuration of containerd with the tables of 1.x; those that matter here are the same in 3 and 4."""
    plugins = config.get("plugins")
    cri = plugins.get("io.containerd.grpc.v1.cri") if isinstance(plugins, Mapping) else None
    moved = {"containerd", "cni", "registry", "sandbox_image"} & set(cri if isinstance(cri, Mapping) else ())
    if config.get("version", 3) not in (3, 4) or moved:
        message = "is not of version 3 or 4: its tables would be joined with none of slipway's own"
        raise InputError([Fault(CONTAINERD_CONFIG, message, "`containerd config migrate` rewrites it")])


def own_network(info: Info) -> bool:
    """Return True when an application of an image brings the pod network."""
    apps = {app.name: app for app in info.apps}
    return any(is_network(apps[name].labels) for name in info.cluster_apps if name in apps)


def is_network(labels: Mapping[str, str]) -> bool:
    """Return True when the labels of an application say that it is a pod network."""
    return any("cni" in name.lower() for name in labels)


def command_reads(command: str, path: str) -> bool:
    """Return True when a launch command depends on a file of the rootfs: it names the file or its folder. A script may read anything."""
    if re.search(r"\.sh\b", command):
        return True
    words = (word.removeprefix(f"{ROOTFS}/") for word in re.split(r"[\s'\"=,;&|()<>]+", command))
    # Of a pattern counts what stands before its first wildcard.
    named = [(posixpath.normpath(start), start != word) for word in words if (start := re.split(r"[*?\[]", word)[0]).strip("./")]
    return any(path == name or path.startswith(f"{name}/") or (cut and path.startswith(name)) for name, cut in named)
