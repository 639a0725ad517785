"""The steps that verbs are made of. They share a Setup: what is wanted, and what earlier steps have found out."""

from __future__ import annotations

import dataclasses
import functools
import posixpath
import re
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets, log
from harness.cloudimage import CloudImage, ImageApp, ImageSet, Info, PlatformImage, enforcers
from harness.clusterfile import Clusterfile, serialize, validators, write
from harness.clusterfile.cluster import DUAL_STACK
from harness.clusterfile.config import deep_merge
from harness.clusterfile.kubeadm import gone, modern
from harness.errors import CheckError, CommandError, Fault, InputError, StoreError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.cluster import access
from harness.lifecycle.cluster import record as cluster_record
from harness.lifecycle.cluster.record import ELSEWHERE, OWN, ClusterRecord
from harness.lifecycle.kube import dns, readiness, wait
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import ipvs, node_files, registry, rootfs
from harness.lifecycle.provision.distribution import Exchange
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE, Files, install_files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes import (
    DNS_DOMAIN,
    POD_CIDR,
    ROOTFS,
    SVC_CIDR,
    SYSTEM,
    ClusterNetwork,
    Facts,
    Member,
    Profile,
    RuntimeCluster,
    profiles,
)
from harness.runtimes.addons import namespaces
from harness.runtimes.kubeadm import Kubeadm
from harness.runtimes.kubeconfig import ADMIN
from harness.untrusted import UntrustedTree

FACTS = "etc/slipway.yaml"
"""In the rootfs: what its Kubernetes is."""
ADDONS = "etc/addons"
"""In the rootfs: manifests that are applied when a cluster starts."""
NETWORK_ADDON = "network.yaml"
NETWORK_MANIFEST = f"{ADDONS}/{NETWORK_ADDON}"
DNS_ADDON = "dns.yaml"
PROXY = "KubeProxyConfiguration"
"""Its key for what was not ready before a change that has not come to its end; empty otherwise."""

CONTAINERD_CONFIG = "etc/containerd/config.toml"
"""In the rootfs: what is to be other than in slipway's own configuration of containerd."""
KUBEADM_CONFIG = ("etc/kubeadm.yml", "etc/kubeadm.yaml")
"""In the rootfs: documents of kubeadm, kubelet and kube-proxy that the image wants."""

_WATCH = 10
"""Seconds between two looks at machines that something is waited for from."""

LAUNCHED = ("application/", "charts/", "manifests/", f"{ADDONS}/")
"""Folders of the rootfs that hold what is launched, from the first master."""

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DNS_IN_SERVICE = f"kubernetes.default.svc.{DNS_DOMAIN}"


@dataclasses.dataclass
class Setup:
    """What a verb works on. The first part is given; the second is found out by its steps, in this order."""

    name: str
    image: CloudImage
    store: Store
    ssh: SshConnections
    masters: tuple[SshNode, ...]
    workers: tuple[SshNode, ...]
    env: Mapping[str, str]
    """From the command line and the Clusterfile; wins over the image's."""
    launch: tuple[str, ...] | None = None
    """Instead of what the image launches."""
    state: ClusterState = dataclasses.field(default_factory=lambda: ClusterState.of("default"))
    edit: rootfs.Edit | None = None
    """Changes the rootfs before it is rendered (Config documents)."""
    host_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """More environment, by address of a node."""
    elsewhere: registry.Elsewhere | None = None
    """A registry that has every image, used in place of one of the cluster's own."""
    timeout: float = 600
    """Seconds for the API to answer, and again for nodes, and for workloads, to become ready."""

    clusterfile: Clusterfile = dataclasses.field(default_factory=lambda: Clusterfile(""))
    """All that was asked for; what is recorded."""
    previous: Clusterfile | None = None
    """What was asked for the last time, where the cluster is there already."""
    app_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """More environment, by name of an application."""
    host_names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names that machines are to get, by address."""
    added_names: tuple[str, ...] = ()
    """Names that the API server's certificates have been given since the cluster was made."""
    claim: Callable[[], object] = lambda: None
    """Called once all are connected, before anything is asked: raises UsageError when somebody else is at work on the machines."""

    fresh: frozenset[str] | None = None
    """Addresses of machines that join a cluster which is there; None: all make one. Only they are worked on."""
    away: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Members that do not answer: names by address."""
    holders: frozenset[str] | None = None
    """Addresses of the masters that hold images; None: the first ones."""
    proxy_mode: str | None = None
    """kube-proxy's mode in a cluster that is there."""
    requires_login: bool = True
    """The cluster's registries require a login. False: an earlier slipway made them, and members may lack it (see registry)."""
    app_images: ImageSet = dataclasses.field(default_factory=ImageSet)
    """Of applications that were put into the cluster: registries hold them too."""
    app_domains: tuple[str, ...] = ()
    """The registries that these are named after."""

    skip_checks: frozenset[str] = frozenset()
    """Checks of machines in spite of which it goes on."""
    ailing: Collection[str] = ()
    """Workloads that were not ready before, and are not waited for: titles, as ``readiness.ailing`` gives them."""

    machines: dict[str, gather.MachineFacts] = dataclasses.field(default_factory=dict)
    balancing: ipvs.Choice = dataclasses.field(default_factory=ipvs.Choice)

    def on(self, nodes: Sequence[SshNode]) -> tuple[SshNode, ...]:
        """Those of the nodes that are to be worked on."""
        return tuple(node for node in nodes if self.fresh is None or node.address in self.fresh)

    @property
    def registries(self) -> tuple[SshNode, ...]:
        """The masters that hold images."""
        if self.holders is None:
            return self.masters[: registry.MOST]
        return tuple(node for node in self.masters if node.address in self.holders)

    @property
    def nodes(self) -> tuple[SshNode, ...]:
        return (*self.masters, *self.workers)

    @property
    def balanced(self) -> tuple[SshNode, ...]:
        """Those that need a way to others: for the API, or at least for images."""
        return (*(node for node in self.masters if node not in self.registries), *self.workers)

    @property
    def first(self) -> SshNode:
        """The first master that answers."""
        return next((node for node in self.masters if node.address not in self.away), self.masters[0])

    @functools.cached_property
    def platforms(self) -> Mapping[str, PlatformImage]:
        """The image for each node, by address."""
        return {node.address: self.image.platform(self.machines[node.address].platform) for node in self.nodes}

    @functools.cached_property
    def main(self) -> PlatformImage:
        """The image for the first master: what it says about launching holds for the cluster."""
        return self.platforms[self.first.address] if self.machines else self.image.platforms[0]

    @functools.cached_property
    def facts(self) -> Facts:
        """Raises StoreError when the image brings no Kubernetes."""
        data = rootfs.read_file(self.store, self.main, FACTS)
        if data is None:
            raise StoreError(
                f"{self.image.name or self.image.digest} brings no Kubernetes: it has no {FACTS}",
                hint="build it FROM a base image with Kubernetes; an application image runs on a cluster that is there",
            )
        text = data.decode(errors="replace")
        if "kubernetes:" not in text and self.main.info.kubernetes:
            text += f"\nkubernetes: {self.main.info.kubernetes}\n"
        return Facts.parse(text, FACTS)

    @functools.cached_property
    def network(self) -> ClusterNetwork:
        env = {**self.main.info.env, **self.env}
        network = ClusterNetwork.parse(env.get("PodCIDR", self.facts.pod_cidr), env.get("SvcCIDR", self.facts.svc_cidr))
        if env.get(DUAL_STACK, "").lower() == "true" and not network.dual:
            message = f"both families are asked for, and PodCIDR {network.pods} and SvcCIDR {network.services} are of one"
            raise InputError([Fault(DUAL_STACK, message, f"PodCIDR={network.pods},fd00:... and SvcCIDR={network.services},fd00:...")])
        return network

    @functools.cached_property
    def images(self) -> ImageSet:
        """Of every platform that the cluster has."""
        used = {str(image.platform): image for image in self.platforms.values()}
        return functools.reduce(ImageSet.union, (image.images for image in used.values()), ImageSet())

    @functools.cached_property
    def layout(self) -> registry.Layout:
        return registry.layout(self.store, self.images.union(self.app_images))

    @functools.cached_property
    def login(self) -> Credential | None:
        """The login with which members pull from the cluster's registries; known once the keys are."""
        return registry.login(self.runtime.secret(registry.PURPOSE)) if self.requires_login else None

    @functools.cached_property
    def exchange(self) -> Exchange:
        """How machines hand on to each other what they have; it ends with the connections."""
        made = Exchange(node for node in self.nodes if node.address not in self.away)
        self.ssh.at_end.append(made.close)
        return made

    @functools.cached_property
    def cluster(self) -> RuntimeCluster:
        tree = rootfs.beneath(self.tree(self.first))
        env = {**self.main.info.env, **self.env}
        return RuntimeCluster(
            name=self.name,
            facts=self.facts,
            network=self.network,
            members=tuple(self._member(node) for node in self.nodes),
            cert_sans=tuple(word.strip() for word in env.get("CertSANs", "").split(",") if word.strip()),
            own_network=own_network(self.main.info),
            own_dns=tree.is_file(f"{ADDONS}/{DNS_ADDON}"),
            documents=tuple(modern(self.documents)),
            proxy_mode=self.proxy_mode,
            certificate_days=self._certificate_days,
            virtual_ip=self.balancing.virtual_ip,
            added_names=self.added_names,
            profile=self.profile,
        )

    @property
    def profile_name(self) -> str | None:
        return self.clusterfile.cluster.profile if self.clusterfile.cluster else None

    @functools.cached_property
    def profile(self) -> Profile:
        if self.profile_name is None:
            return Profile()
        exempt = {*SYSTEM, *namespaces(addons(self).values())}
        return profiles.of(self.profile_name, self.facts.minor, exempt, modern(self.documents))

    @functools.cached_property
    def documents(self) -> tuple[Mapping[str, Any], ...]:
        """Documents for kubeadm and its like, as image and Clusterfile have them."""
        return (*self._image_documents(), *self.clusterfile.kubeadm)

    def _image_documents(self) -> list[Mapping[str, Any]]:
        """Documents for kubeadm and its like that the rootfs has, as rendered for the first master."""
        found: list[Mapping[str, Any]] = []
        for path in KUBEADM_CONFIG:
            text = self.content(self.first, path)
            if text is not None:
                try:
                    found += [document for document in serialize.read_documents(text) if isinstance(document, Mapping)]
                except ValueError as wrong:
                    raise InputError([Fault(path, f"is not YAML: {wrong}")]) from wrong
        return found

    @property
    def _certificate_days(self) -> int | None:
        cluster = self.clusterfile.cluster
        validity = cluster.certificate_validity if cluster else None
        return max(1, validity.days) if validity else None

    def content(self, node: Node, path: str) -> str | None:
        """The text of a file of the rootfs as a node gets it."""
        file = self.rendered[node.address].get(path)
        if file is not None:
            return file.data.decode()
        tree = rootfs.beneath(self.tree(node))
        return tree.read_text(path) if tree.is_file(path) else None

    def hosts_lines(self, node: Node) -> tuple[str, ...]:
        """What a node's /etc/hosts says in addition."""
        aliases = self.clusterfile.cluster.host_aliases if self.clusterfile.cluster else ()
        lines = (f"{alias.ip} {' '.join(alias.hostnames)} {node_files.HOSTS_MARK}" for alias in aliases)
        return (*node_files.hosts_lines(self.member(node)), *lines)

    def containerd_config(self, member: Member) -> str:
        """slipway's configuration of containerd, with what the rootfs says over it."""
        ours = node_files.containerd_config(self.facts.pause_image, member)
        text = self.content(member.node, CONTAINERD_CONFIG)
        if text is None:
            return ours
        try:
            theirs = serialize.read_toml(text)
            _require_version(theirs)
            return serialize.write_toml(deep_merge(serialize.read_toml(ours), theirs))
        except ValueError as wrong:
            raise InputError([Fault(CONTAINERD_CONFIG, f"is not TOML: {wrong}")]) from wrong

    def _member(self, node: SshNode) -> Member:
        found = self.machines[node.address]
        return Member(
            node=node,
            name=found.host,
            address=node.address,
            role="master" if node in self.masters else "node",
            registry=node in self.registries,
            away=node.address in self.away,
            systemd_cgroups=found.cgroup == 2,
            resolv_conf="/run/systemd/resolve/resolv.conf" if found.resolved else None,
            restrict_oom=found.restrict_oom,
            nftables=found.nftables,
            address6=found.address6(node.address) if self.network.dual else None,
            virtual_ip=self.balancing.of(node.address),
        )

    def member(self, node: Node) -> Member:
        return next(member for member in self.cluster.members if member.address == node.address)

    @functools.cached_property
    def runtime(self) -> Kubeadm:
        return Kubeadm(self.cluster)

    @functools.cached_property
    def kubectl(self) -> NodeKubectl:
        return NodeKubectl(self.first)

    def tree(self, node: Node) -> Path:
        return rootfs.tree(self.store, self.platforms[node.address])

    def environment(self, node: Node) -> dict[str, str]:
        """What templates and launch commands see on a node. What describes the cluster itself cannot be set."""
        return {
            **self.main.info.env,
            **self.env,
            **self.host_env.get(node.address, {}),
            **self.network.variables,
            "HostIP": node.address,
        }

    @functools.cached_property
    def rendered(self) -> dict[str, Files]:
        """The rendered files of each node, by address."""
        return {node.address: self.render(node) for node in dict.fromkeys((self.first, *self.on(self.nodes)))}

    def render(self, node: Node) -> Files:
        """The files of a node's rootfs that are other than the image has them."""
        apps = {app.name: self._app_environment(node, app) for app in self.main.info.apps}
        return self.needed(node, rootfs.rendered(self.tree(node), self.environment(node), apps, self.edit))

    def needed(self, node: Node, files: Files) -> Files:
        """The files that a node is to have: workers launch nothing, so they get what is launched only when a hook reads it."""
        if any(node.address == master.address for master in self.masters):
            return files
        scripts = self.hook_scripts
        return {path: file for path, file in files.items() if not path.startswith(LAUNCHED) or any(reads(text, path) for text in scripts)}

    @functools.cached_property
    def hook_scripts(self) -> tuple[str, ...]:
        """The texts of all hooks, of the image and of the Clusterfile."""
        tree = UntrustedTree(self.tree(self.first), what=str(self.image.name))
        return (
            *(tree.read_text(f"plugins/{name}") for name in tree.list("plugins") if name.endswith((".yaml", ".yml"))),
            *(hook.data for hook in self.clusterfile.hooks),
        )

    def _app_environment(self, node: Node, app: ImageApp) -> dict[str, str]:
        own = {**app.env, **self.env, **self.app_env.get(app.name, {}), **self.host_env.get(node.address, {})}
        return {**self.environment(node), **own}


def _require_version(config: Mapping[str, Any]) -> None:
    """Raises InputError for a configuration of containerd with the tables of 1.x; those that matter here are the same in 3 and 4."""
    plugins = config.get("plugins")
    cri = plugins.get("io.containerd.grpc.v1.cri") if isinstance(plugins, Mapping) else None
    moved = {"containerd", "cni", "registry", "sandbox_image"} & set(cri if isinstance(cri, Mapping) else ())
    if config.get("version", 3) not in (3, 4) or moved:
        message = "is not of version 3 or 4: its tables would be joined with none of slipway's own"
        raise InputError([Fault(CONTAINERD_CONFIG, message, "`containerd config migrate` writes it anew")])


def own_network(info: Info) -> bool:
    """Whether an application of an image brings the pod network."""
    apps = {app.name: app for app in info.apps}
    return any(is_network(apps[name].labels) for name in info.cluster_apps if name in apps)


def brings_network(store: Store, image: PlatformImage) -> bool:
    """Whether nodes of an image can become Ready: a pod network is its own or an application's, or hooks may bring one.

    True of an image without Kubernetes: that is another fault.
    """
    if own_network(image.info) or rootfs.read_file(store, image, NETWORK_MANIFEST) is not None:
        return True
    tree = rootfs.beneath(rootfs.tree(store, image))
    hooks = any(name.endswith((".yaml", ".yml")) for name in tree.list("plugins"))
    return tree.is_file(NETWORK_MANIFEST) or bool(node_files.cni_configs(tree)) or hooks or not tree.is_file(FACTS)


def brings_flannel(store: Store, image: PlatformImage) -> bool:
    """Whether the pod network of an image is the one of the base, which nodes reach each other by over VXLAN."""
    manifest = rootfs.read_file(store, image, NETWORK_MANIFEST)
    return not own_network(image.info) and manifest is not None and b"flannel" in manifest


def is_network(labels: Mapping[str, str]) -> bool:
    """Whether the labels of an application say that it is a pod network."""
    return any("cni" in name.lower() for name in labels)


# ---- before anything is changed ---------------------------------------------------------------------------------------


def connect(setup: Setup) -> Step:
    def action() -> str:
        setup.ssh.connect()
        setup.claim()
        return f"{len(setup.nodes)} node{'s' if len(setup.nodes) > 1 else ''}"

    return Step("connect", "connect to the nodes", action)


def check_machines(setup: Setup) -> Step:
    def action() -> str:
        gathered = gather.gather(setup.nodes)
        setup.machines = {
            node.address: dataclasses.replace(facts, host=setup.host_names.get(node.address, facts.host))
            for node, facts in zip(setup.nodes, gathered, strict=True)
        }
        targets = [
            gather.Target(node.address, "master" if node in setup.masters else "node", setup.machines[node.address]) for node in setup.nodes
        ]
        found = gather.examine({node.address: node for node in setup.nodes}, targets, wanted_of_machines(setup, targets))
        said = gather.require(found, setup.skip_checks)
        setup.balancing = ipvs.choose(balancing_wish(setup), ipvs.ask(setup.nodes), gather.ours(targets, setup.name))
        return said

    return Step("check-machines", "check the machines", action, after=("connect",))


def wanted_of_machines(setup: Setup, targets: Sequence[gather.Target]) -> gather.Wanted:
    """What is asked of machines of which the facts are known."""
    available = tuple(image.platform for image in setup.image.platforms)
    # What is asked of an image that is not there for the machine cannot be known; that it is not there is told.
    fits = all(any(target.machine.platform.matches(platform) for platform in available) for target in targets)
    modes = [document["mode"] for document in setup.clusterfile.kubeadm if document.get("kind") == PROXY and document.get("mode")]
    return gather.Wanted(
        cluster=setup.name,
        platforms=available,
        size=setup.image.size,
        network=setup.network if fits else ClusterNetwork(POD_CIDR, SVC_CIDR),
        ours=gather.ours(targets, setup.name),
        proxy_mode=modes[-1] if modes else setup.proxy_mode,
        vxlan=brings_flannel(setup.store, setup.image.platforms[0]),
        registry=setup.elsewhere is None,
        evicts_later=any("evictionHard" in document for document in setup.clusterfile.kubeadm),
        enforcers=enforcers.among(image.name for image in setup.image.platforms[0].images.images),
        sysctls=profiles.sysctls(setup.profile_name),
    )


# ---- what every node gets ---------------------------------------------------------------------------------------------


def unpack_rootfs(setup: Setup) -> Step:
    def action() -> None:
        for image in {str(image.platform): image for image in setup.platforms.values()}.values():
            rootfs.tree(setup.store, image)
        _ = setup.rendered
        warn_of_documents(setup)

    return Step("unpack-rootfs", "unpack and render the rootfs", action, after=("check-machines",))


def warn_of_documents(setup: Setup) -> None:
    """Tell what is not as it was in documents of kubeadm and kube-proxy that image and Clusterfile have."""
    for document in setup.documents:
        for field in gone(document):
            log.warning(f"{document['kind']} .{field}: kubeadm has no such field any more; it is left out")
    if any(document.get("kind") == PROXY and document.get("mode") == "ipvs" for document in setup.documents):
        log.warning(f"{PROXY} .mode: ipvs is deprecated since Kubernetes 1.35, and will go; nftables takes its place")
    for text in profiles.lacking(setup.profile_name, setup.facts.minor):
        log.warning(text)
    for path in profiles.overruled(setup.profile, modern(setup.documents)):
        log.warning(f"{path}: what the document says counts, not the profile {setup.profile.name}")


def make_keys(setup: Setup) -> Step:
    def action() -> None:
        setup.runtime.prepare()
        mark(setup, setup.first)

    return Step("make-keys", "make the keys of the cluster", action, after=("unpack-rootfs",))


def mark(setup: Setup, node: Node) -> None:
    """Note on a machine which cluster it belongs to."""
    node.run(f"mkdir -p {STATE} && echo {shlex.quote(f'{setup.name} {setup.runtime.identity}')} > {rootfs.MARK}")


def send_rootfs(setup: Setup) -> Step:
    def action(node: Node) -> str:
        image = setup.platforms[node.address]
        return setup.exchange.bring(node, rootfs.parcel_name(image), lambda: rootfs.parcel(setup.store, image)).note

    def inputs(node: Node) -> str:
        return rootfs.identity(setup.platforms[node.address])[:16]

    return Step("send-rootfs", "send the rootfs", action, setup.on(setup.nodes), after=("unpack-rootfs",), inputs=inputs)


def send_rendered(setup: Setup) -> Step:
    def action(node: Node) -> None:
        rootfs.send_rendered(node, setup.rendered[node.address], setup.tree(node))

    def inputs(node: Node) -> str:
        return digest(rootfs.identity(setup.platforms[node.address]), rootfs.fingerprint(setup.rendered[node.address]))

    return Step("send-rendered", "send the rendered files", action, setup.on(setup.nodes), after=("send-rootfs",), inputs=inputs)


def machine_files(setup: Setup, node: Node) -> Files:
    """The files of a node outside the rootfs that make it one, but for keys."""
    member = setup.member(node)
    elsewhere = setup.elsewhere
    names = sorted({*registry.domains(setup.images), *setup.app_domains})
    config, plugins = setup.containerd_config(member), node_files.cni_plugins(rootfs.beneath(setup.tree(node)))
    found = {
        **node_files.files(setup.cluster, member, config=config, networks=_networks(setup, node), plugins=plugins),
        **(registry.client_files(names, member.virtual_ip, setup.login) if elsewhere is None else elsewhere.files(names)),
        **setup.runtime.units,
    }
    if member.registry and elsewhere is None:
        found |= registry.units()
    return found


def _networks(setup: Setup, node: Node) -> dict[str, str]:
    """Configurations of the image's own pod network, by the names of their files."""
    if setup.cluster.own_network:
        return {}
    names = node_files.cni_configs(rootfs.beneath(setup.tree(node)))
    found = {name: setup.content(node, f"{node_files.CNI_CONFIGS}/{name}") for name in names}
    return {name: text for name, text in found.items() if text is not None}


def set_up_machines(setup: Setup) -> Step:
    def action(node: Node) -> None:
        node.run(node_files.note_state(setup.profile.sysctls), timeout=LONG_TIMEOUT)
        mark(setup, node)
        install_files(node, machine_files(setup, node))
        node_files.set_hosts(node, setup.hosts_lines(node))
        node.run(node_files.apply(setup.cluster), timeout=LONG_TIMEOUT)

    def inputs(node: Node) -> str:
        # The password of the registry in them is 256 random bits: this digest does not help to guess it.
        files = {path.lstrip("/"): file for path, file in machine_files(setup, node).items()}
        return digest(rootfs.fingerprint(files), setup.hosts_lines(node))

    return Step("set-up-machines", "set up the machines", action, setup.on(setup.nodes), after=("make-keys",), inputs=inputs)


def start_containerd(setup: Setup) -> Step:
    def inputs(node: Node) -> str:
        return digest(rootfs.identity(setup.platforms[node.address]), setup.containerd_config(setup.member(node)))

    return Step(
        "start-containerd",
        "start containerd",
        node_files.start_containerd,
        setup.on(setup.nodes),
        after=("send-rootfs", "set-up-machines"),
        inputs=inputs,
    )


# ---- registry and balancer --------------------------------------------------------------------------------------------


def send_images(setup: Setup) -> Step:
    def action(node: Node) -> str:
        among = [holder for holder in setup.registries if holder.address not in setup.away]
        brought = setup.exchange.bring(node, setup.layout.name, lambda: registry.parcel(setup.store, setup.layout), among)
        registry.name(node, setup.store, setup.layout)
        return brought.note

    def inputs(_: Node) -> str:
        return digest(sorted(setup.layout.links.items()), sorted(setup.layout.blobs))

    holders = setup.on(setup.registries)
    return Step("send-images", "send the container images", action, holders, after=("check-machines",), inputs=inputs)


def start_registry(setup: Setup) -> Step:
    if setup.elsewhere is not None:
        return Step("start-registry", "use a registry elsewhere", lambda: None, after=("check-machines",))

    def hosts() -> tuple[str, ...]:
        virtual = [setup.balancing.virtual_ip] if setup.balancing.virtual_ip else []
        return ("127.0.0.1", *virtual, *(node.address for node in setup.registries))

    def action(node: Node) -> None:
        registry.start(node, *setup.runtime.serving(hosts(), "slipway-registry"), registry.settings(setup.login))

    def inputs(node: Node) -> str:
        # The password is derived from the key whose certificate the identity is of: the configuration alone says whether there is one.
        return digest(setup.runtime.identity, hosts(), registry.config(setup.login), rootfs.identity(setup.platforms[node.address]))

    return Step(
        "start-registry",
        "start the registry",
        action,
        setup.on(setup.registries),
        after=("send-images", "send-rootfs"),
        # It requires the login, which every machine must have by then.
        after_all=("set-up-machines",),
        inputs=inputs,
    )


def start_balancers(setup: Setup) -> Step:
    def config(node: Node) -> str:
        return node_files.balancer_config(setup.cluster, setup.member(node))

    def action(node: Node) -> str:
        node_files.start_balancer(node, config(node))
        return "by rules of the kernel" if setup.balancing.of(node.address) else ""

    def inputs(node: Node) -> str:
        return digest(config(node), rootfs.identity(setup.platforms[node.address]))

    nodes = setup.on(setup.balanced)
    return Step("start-balancers", "start the balancers", action, nodes, after=("send-rootfs", "set-up-machines"), inputs=inputs)


def balancing_wish(setup: Setup) -> ipvs.Wish:
    """How the way to the masters is asked to be balanced, and for whom."""
    asked = setup.clusterfile.cluster.load_balancing if setup.clusterfile.cluster else "auto"
    balanced = tuple(node.address for node in setup.balanced)

    def brings() -> bool:
        nodes = [node for node in setup.nodes if node.address in balanced] or setup.nodes
        return all(rootfs.beneath(setup.tree(node)).is_file(f"bin/{program}") for node in nodes for program in ipvs.PROGRAMS)

    return ipvs.Wish(asked, balanced, setup.network, {**setup.main.info.env, **setup.env}, brings)


# ---- Kubernetes -------------------------------------------------------------------------------------------------------


def kubernetes_inputs(setup: Setup, node: Node) -> str:
    cluster = setup.cluster
    members = [(member.name, member.address, member.role) for member in cluster.members if member.is_master]
    return digest(
        setup.runtime.identity,
        dataclasses.astuple(cluster.facts),
        members,
        cluster.cert_sans,
        cluster.network.pods,
        cluster.network.services,
        node.address,
        *([setup.member(node).address6] if cluster.network.dual else []),
        *(cluster.documents),
        *([cluster.certificate_days] if cluster.certificate_days else []),
        *([cluster.virtual_ip] if cluster.virtual_ip else []),
        # Its files are named after their content.
        *([cluster.profile.name, *cluster.profile.documents] if cluster.profile.name else []),
    )


def start_kubelets(setup: Setup) -> Step:
    return Step(
        "start-kubelets",
        "start the kubelets",
        lambda node: setup.runtime.start_kubelet(setup.member(node)),
        setup.on(setup.nodes),
        after=("start-containerd",),
        inputs=lambda node: kubernetes_inputs(setup, node),
    )


def certify_masters(setup: Setup) -> Step:
    return Step(
        "certify-masters",
        "write the certificates of the masters",
        lambda node: setup.runtime.certify(setup.member(node)),
        setup.on(setup.masters),
        after=("start-kubelets",),
        inputs=lambda node: kubernetes_inputs(setup, node),
    )


def start_masters(setup: Setup) -> Step:
    return Step(
        "start-masters",
        "start the masters",
        lambda node: setup.runtime.start_master(setup.member(node)),
        setup.masters,
        after=("certify-masters", "start-registry"),
        inputs=lambda node: kubernetes_inputs(setup, node),
    )


def etcd_image(setup: Setup) -> str:
    """The image of etcd that the masters run; empty when the image of the cluster has none."""
    names = [image.name for image in setup.images.images if "/etcd:" in image.name]
    tag = setup.facts.etcd_image_tag
    return next((name for name in names if tag and name.endswith(f":{tag}")), names[0] if names else "")


_IMAGE = re.compile(r"^[ \t]*+image:[ \t]*+[\"']?([^\s\"']+)", re.MULTILINE)
_CONTROL_PLANE = re.compile(r"/(kube-apiserver|etcd|kube-controller-manager|kube-scheduler):")


def essential(setup: Setup, node: Node) -> list[str]:
    """The images without which a node is none, in the order in which it needs them: until it has its pod network it is not Ready."""
    texts = addons(setup)
    network, used = (set(_IMAGE.findall(text)) for text in (texts.get(NETWORK_ADDON, ""), "\n".join(texts.values())))
    ranks: tuple[Callable[[str], object], ...] = (
        lambda name: name == setup.facts.pause_image,
        lambda name: setup.member(node).is_master and _CONTROL_PLANE.search(name),
        lambda name: name in network,
        lambda name: "/kube-proxy:" in name,
        lambda name: "/coredns:" in name,
        lambda name: name in used,
    )
    names = sorted(image.name for image in setup.images.images)
    return list(dict.fromkeys(name for wanted in ranks for name in names if wanted(name)))


def fetch_images(setup: Setup) -> Step:
    """Pull what every node runs while its kubelet is still getting ready. Only saves time: what fails here, the kubelet tries again."""

    def action(node: Node) -> str:
        names = essential(setup, node)
        node_files.fetch(node, names)
        return f"{len(names)} images"

    return Step(
        "fetch-images",
        "fetch the images of Kubernetes",
        action,
        setup.on(setup.nodes),
        after=("start-containerd",),
        after_all=("start-registry",),
        inputs=lambda _: digest(sorted(image.digest for image in setup.images.images)),
    )


def wait_for_api(setup: Setup) -> Step:
    """Every time: what comes then needs an API that answers now, and machines may have booted since it did."""
    return Step(
        "wait-for-api",
        "wait for the API",
        lambda node: setup.runtime.wait_api(setup.member(node), setup.timeout),
        setup.on(setup.masters),
        after=("start-masters",),
    )


def addons(setup: Setup) -> dict[str, str]:
    """The addons of the image by file name, rendered for the first master."""
    files = setup.rendered[setup.first.address]
    tree = rootfs.beneath(setup.tree(setup.first))
    found: dict[str, str] = {}
    for name in tree.list(ADDONS):
        path = f"{ADDONS}/{name}"
        if name.endswith(".yaml") and not name.startswith("."):
            file = files.get(path)
            found[name] = file.data.decode() if file else tree.read_text(path)
    return found


def finish_cluster(setup: Setup) -> Step:
    """What is done once: kubeadm's cluster-wide phases, and the pod network unless an application brings it."""

    def network() -> dict[str, str]:
        return {name: text for name, text in addons(setup).items() if name == NETWORK_ADDON and not setup.cluster.own_network}

    return Step(
        "finish-cluster",
        "configure the cluster",
        lambda _: setup.runtime.finish(network()),
        (setup.first,),
        after=("wait-for-api",),
        inputs=lambda node: digest(kubernetes_inputs(setup, node), network(), setup.cluster.chosen_proxy_mode),
    )


def welcome_masters(setup: Setup) -> Step:
    """On each master once its own API answers: one whose first run was cut off may not even have its rootfs yet."""
    return Step(
        "welcome-masters",
        "tell the cluster of the masters",
        lambda node: setup.runtime.welcome(setup.member(node)),
        setup.masters,
        after=("wait-for-api",),
        after_all=("finish-cluster",),
        inputs=lambda node: kubernetes_inputs(setup, node),
    )


def start_addons(setup: Setup, after: str, beside: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda _: {}) -> Step:
    """The addons of the image besides the pod network: they need a node that is ready. ``beside`` gives manifests for all addons."""

    def others() -> dict[str, str]:
        every = addons(setup)
        return {**{name: text for name, text in every.items() if name != NETWORK_ADDON}, **beside(every)}

    return Step(
        "start-addons",
        "start the addons",
        # Whoever waits longer for a node is told by the next step, which sees whether the machines are there still.
        lambda _: setup.runtime.apply(others(), min(setup.timeout, 60)),
        (setup.first,),
        after_all=(after,),
        inputs=lambda node: digest(kubernetes_inputs(setup, node), others()),
    )


def launch_commands(setup: Setup, commands: tuple[str, ...], kind: str, after: str) -> list[Step]:
    """A step for each command, one after the other: a run that was killed does not launch again what it has launched."""
    made: list[Step] = []
    for number, command in enumerate(commands, 1):

        def action(node: Node, command: str = command) -> None:
            run_in_rootfs(node, command, setup.environment(node))

        def inputs(node: Node, command: str = command) -> str:
            used = {path: file for path, file in setup.rendered[node.address].items() if reads(command, path)}
            return digest(setup.runtime.identity, setup.image.digest, command, setup.environment(node), rootfs.fingerprint(used))

        made.append(Step(f"{kind}-{number}", launch_title(command), action, (setup.first,), after_all=(after,), inputs=inputs))
        after = made[-1].id
    return made


def launch_title(command: str) -> str:
    """How a launch command is shown."""
    text = " ".join(command.split())
    return f"launch: {text if len(text) < 70 else f'{text[:67]}...'}"


def reads(command: str, path: str) -> bool:
    """Whether a launch command has to do with a file of the rootfs: it names it, or a folder it is in. A script may read anything."""
    if re.search(r"\.sh\b", command):
        return True
    words = (word.removeprefix(f"{ROOTFS}/") for word in re.split(r"[\s'\"=,;&|()<>]+", command))
    # Of a pattern counts what stands before its first wildcard.
    named = [(posixpath.normpath(start), start != word) for word in words if (start := re.split(r"[*?\[]", word)[0]).strip("./")]
    return any(path == name or path.startswith(f"{name}/") or (cut and path.startswith(name)) for name, cut in named)


# A launch command may run again, with other values or after a kill: what is installed already is then brought up to date.
HELM = assets.script("helm_upgrades")


def run_in_rootfs(node: Node, command: str, env: Mapping[str, str], *, what: str = "launch command", folder: str = ROOTFS) -> str:
    """Run a shell command in the rootfs of a master as the cluster's administrator; returns its output.

    The environment goes by a file that only root can read: it may hold secrets. ``what`` the command is, for errors; ``folder``: where it
    starts.
    """
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(env.items()) if _ENV_NAME.fullmatch(name))
    script = f"cd {folder} || exit 1\n{exports}export KUBECONFIG={ADMIN} PATH={ROOTFS}/bin:$PATH\n{HELM}{command}\n"
    # Before and after a cluster nothing of ours is to be on the machine.
    path = f"{f'{STATE}/' if folder == ROOTFS else '/run/slipway-'}launch-{digest(command)}.sh"
    node.put(script.encode(), path, 0o600)
    # One at a time: what an earlier run began goes on when that was killed, and two of the same would be in each other's way.
    alone = "$(command -v flock > /dev/null && echo 'flock -o /run/lock')"
    try:
        return node.run(f"exec {alone} $(command -v bash || command -v sh) {path} < /dev/null", timeout=3600).stdout
    except CommandError as error:
        raise CommandError(f"{node.name}: {what} failed: {command.strip()}", hint=error.hint, details=error.details) from error
    finally:
        node.run(f"rm -f {path}", check=False)


# ---- waiting and telling ----------------------------------------------------------------------------------------------


def wait_for_nodes(setup: Setup, after: str) -> Step:
    """Until every node is Ready, everything of the cluster itself is, and its DNS answers."""

    def action() -> str:
        names = [member.name for member in setup.cluster.members]
        try:
            wait.settle(
                setup.kubectl,
                timeout=setup.timeout,
                quiet=0,
                namespaces=SYSTEM,
                nodes=names,
                progress=watching(setup.nodes),
                heal=lambda items: wake(setup.kubectl, items),
            )
        except CheckError as error:
            raise CheckError(error.message, hint=error.hint, details=f"{error.details or ''}\n{_kubelet_logs(setup)}".strip()) from error
        setup.runtime.registered()
        wait_for_dns(setup)
        return f"{len(names)} Ready"

    return Step("wait-for-nodes", "wait for the nodes", action, after=(after, "wait-for-api", "start-kubelets"))


def watching(nodes: Sequence[Node]) -> Callable[[object], None]:
    """To be called while something is waited for: from time to time sees whether the machines are there still.

    It raises NodeError when one is not: what is waited for would not come about.
    """
    asked = time.monotonic()

    def watch(_: object) -> None:
        nonlocal asked
        if time.monotonic() - asked >= _WATCH:
            each(nodes, lambda node: node.run("true", timeout=60))
            asked = time.monotonic()

    return watch


def wake(kubectl: NodeKubectl, items: Iterable[readiness.Resource]) -> None:
    """A kubelet that began a pod too early looks at it again after ten to fifteen seconds, or at once when something about it changes."""
    for namespace, name in readiness.waiting_for_services(items):
        try:
            kubectl.run("annotate", "pod", name, f"--namespace={namespace}", "--overwrite", f"slipway.dev/woken={time.time():.0f}")
        except CommandError as error:
            log.debug(f"{name} is not woken: {error.message}")


def _kubelet_logs(setup: Setup) -> str:
    """What the kubelets of nodes that are not Ready say."""
    ready = {
        node["metadata"]["name"]
        for node in readiness.of_kind(readiness.get(setup.kubectl, "nodes"), "Node")
        if readiness.node_problem(node) is None
    }
    parts = []
    for member in setup.cluster.members:
        if member.name not in ready:
            journal = "journalctl --no-pager -o cat"
            said = member.node.run(f"{journal} -u slipway-balancer -n 6; {journal} -u kubelet -n 8", check=False, timeout=30).stdout.strip()
            parts.append(f"log of {member.name}:\n{said}")
    return "\n".join(parts)


def wait_for_dns(setup: Setup) -> None:
    """Raises CheckError when the cluster's DNS does not answer from the first master within a minute."""
    problem = dns.problem(setup.first, setup.network.dns, _DNS_IN_SERVICE, expected=setup.network.api, seconds=60)
    if problem:
        raise CheckError(f"the cluster's DNS does not answer: {problem}", hint="see the pods labelled k8s-app=kube-dns in kube-system")


def wait_for_workloads(setup: Setup, after: str, *, launched: bool) -> Step:
    """Until everything is ready and, when something was launched, nothing more appears."""

    def action() -> str:
        quiet = 1 if launched else 0
        found = wait.settle(setup.kubectl, timeout=setup.timeout, quiet=quiet, progress=watching(setup.nodes), but=setup.ailing)
        return f"{len(readiness.of_kind(found, 'Pod'))} pods"

    return Step("wait-for-workloads", "wait for the workloads", action, after=(after,))


def see_what_ails(setup: Setup) -> None:
    """Before anything is changed in a cluster that is there: what is not ready now is not waited for afterwards.

    The cluster keeps it until ``record``: when a change is cut off, the next must not take for old what that one broke.
    """
    noted = cluster_record.read(setup.kubectl).unready_workloads()
    if noted is None:
        noted = sorted(readiness.ailing(readiness.get(setup.kubectl)))
        cluster_record.note_unready(setup.kubectl, noted)
    setup.ailing = noted
    for name in setup.ailing:
        log.warning(f"{name}: was not ready before; it is not waited for")


def record(setup: Setup, after: str) -> Step:
    """Keep in the cluster what was applied, without secrets, and here how to get at it."""

    def action() -> None:
        write_record(setup, clusterfile(setup), unready="")

    return Step("record", "record the cluster", action, after=(after,))


def write_record(setup: Setup, text: str, unready: str | None = None) -> None:
    """Record the cluster with the Clusterfile ``text``, and cache here how it is reached."""
    image, registry = setup.image, OWN if setup.elsewhere is None else ELSEWHERE
    cluster_record.apply(setup.first, ClusterRecord(image.name or image.digest, image.digest, text, registry, unready=unready))
    keep_access(setup)


def keep_access(setup: Setup) -> None:
    """Cache on this machine a kubeconfig and how the nodes are reached."""
    setup.state.write("kubeconfig", setup.runtime.kubeconfig(setup.first.address).decode())
    image = {"image": setup.image.name, "digest": setup.image.digest}
    access.remember(setup.state, setup.masters, setup.workers, image=image)


def clusterfile(setup: Setup) -> str:
    """The Clusterfile that says what was run. In the place of what is or may be a secret stands a mark."""
    return write.redacted(setup.clusterfile)


def check_env(env: Mapping[str, str]) -> None:
    """Raises InputError for what is no name of an environment value."""
    faults = [
        Fault(f"-e {name}", "is not a name for a variable", "use letters, digits and _")
        for name in env
        if not re.fullmatch(validators.ENV_NAME, name)
    ]
    if faults:
        raise InputError(faults)
