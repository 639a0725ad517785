"""The Clusterfile: how to run a CloudImage. This module has its values; ``parse`` makes them from text, and no other code reads its YAML.

Secrets are in no ``repr``: passwords, the data of Config documents and hooks, environments, commands,
kubeadm documents.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import posixpath
from collections.abc import Mapping
from typing import Any

from harness.errors import Fault

API_VERSION = "slipway.dev/v1"
"""apiVersion of slipway's documents. sealer's are read too."""

ALL = "ALL"
"""In place of the name of an application: all that the image has."""
CONTROL_PLANE, WORKER, FIRST = "control-plane", "worker", "master0"
ROLES = {CONTROL_PLANE: CONTROL_PLANE, WORKER: WORKER, "master": CONTROL_PLANE, "node": WORKER}
"""The roles of Kubernetes by every name: sealer, earlier releases and labels of old clusters call them master and node."""
THIS_MACHINE = "localhost"
"""The name that makes the machine which runs slipway a node."""
PROFILES = ("cis",)
"""Profiles that a cluster can be made with: how its parts are hardened."""
REDACTED = "<redacted "
"""Prefix of a redacted value (see ``harness.clusterfile.secrets``)."""


def is_redacted(value: object) -> bool:
    """Return True for a value of a stored Clusterfile that was redacted, because it was or may have been a secret."""
    return isinstance(value, str) and value.startswith(REDACTED)


@dataclasses.dataclass(frozen=True)
class Password:
    """Source of a password: text, a file, or an environment variable. All None: no password."""

    text: str | None = dataclasses.field(default=None, repr=False)
    file: str | None = None
    variable: str | None = None

    def __bool__(self) -> bool:
        return self != Password()


@dataclasses.dataclass(frozen=True)
class JumpSettings:
    """Jump host (``ssh -J``)."""

    host: str
    user: str | None = None
    port: int | None = None
    key: str | None = None
    passphrase: str | None = dataclasses.field(default=None, repr=False)
    password: Password = Password()


@dataclasses.dataclass(frozen=True)
class SshSettings:
    """SSH settings of machines. None: not set in the Clusterfile, so the command line or a default counts."""

    user: str | None = None
    port: int | None = None
    key: str | None = None
    """Path of the private key, as it is written."""
    passphrase: str | None = dataclasses.field(default=None, repr=False)
    password: Password = Password()
    jump: JumpSettings | None = None

    def over(self, default: SshSettings) -> SshSettings:
        """These settings, with unset ones taken from ``default``."""
        return SshSettings(
            user=self.user or default.user,
            port=self.port or default.port,
            key=self.key or default.key,
            passphrase=self.passphrase or default.passphrase,
            password=self.password or default.password,
            jump=self.jump or default.jump,
        )


@dataclasses.dataclass(frozen=True, order=True)
class Taint:
    """A taint to put onto a node, or with ``remove`` to take off it. ``effect`` None: all of this key (only with ``remove``)."""

    key: str
    value: str = ""
    effect: str | None = None
    remove: bool = False

    def __str__(self) -> str:
        value = f"={self.value}" if self.value else ""
        return f"{self.key}{value}{f':{self.effect}' if self.effect else ''}{'-' if self.remove else ''}"


@dataclasses.dataclass(frozen=True)
class Host:
    """Machines with the same settings. Either ``ips`` are given, or a ``count`` of machines that the provider makes."""

    ips: tuple[str, ...]
    """Addresses; names as well, until ``lifecycle.cluster.hosts`` has resolved them."""
    roles: tuple[str, ...]
    """``control-plane`` or ``worker`` first, then custom roles, which become ``node-role.kubernetes.io/<role>``."""
    ssh: SshSettings = SshSettings()
    """Merged with the cluster's own settings."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    count: int | None = None

    @property
    def is_control_plane(self) -> bool:
        return CONTROL_PLANE in self.roles


@dataclasses.dataclass(frozen=True)
class HookTarget:
    """Address, roles and labels of a machine, for the selectors of hooks."""

    address: str
    roles: tuple[str, ...]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class HostAlias:
    """A line for the nodes' /etc/hosts."""

    ip: str
    hostnames: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LocalRegistry:
    """Settings of the cluster's own registry. ``domain`` and ``port`` are one more name for it."""

    domain: str | None = None
    port: int | None = None
    username: str | None = None
    password: Password = Password()
    ha: bool = True
    """On up to three control-plane nodes, not only on the first."""
    insecure: bool = False
    """Read only: nodes trust the certificate of the registry."""
    dns_names: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExternalRegistry:
    """A registry of the site that has all images."""

    domain: str
    port: int | None = None
    path: str = ""
    """Path prefix of the images."""
    username: str | None = None
    password: Password = Password()
    plain_http: bool = False
    ca: str | None = None
    """Path of its CA certificate."""

    @property
    def host(self) -> str:
        """``harbor.example.com:8443``."""
        domain = f"[{self.domain}]" if ":" in self.domain else self.domain
        return f"{domain}:{self.port}" if self.port else domain


@dataclasses.dataclass(frozen=True)
class CloudSettings:
    """Machines of a cloud, in its own words. Empty and None: not set in the Clusterfile."""

    size: str | None = None
    image: str | None = None
    subnet: str | None = None
    security_groups: tuple[str, ...] = ()
    public: bool = False
    """They are reached by public addresses."""


@dataclasses.dataclass(frozen=True)
class ClusterDocument:
    """A document Cluster, of whatever version."""

    name: str
    image: str
    """The image of the cluster; with ``images``, the first of the list."""
    hosts: tuple[Host, ...] = ()
    """Empty when the command line is to name the machines."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    commands: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    """Launch commands in place of the image's (``cmd``)."""
    command_args: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Values for what ARG declares in the image's CMD (``cmd_args``)."""
    app_names: tuple[str, ...] | None = None
    """The applications to launch, in order, in place of the image's choice; empty for none."""
    ssh: SshSettings = SshSettings()
    provider: str | None = None
    """``BAREMETAL``, ``CONTAINER``, ``AWS`` or ``ALI_CLOUD``."""
    cloud: CloudSettings = CloudSettings()
    pod_cidr: str | None = None
    svc_cidr: str | None = None
    cert_sans: tuple[str, ...] = ()
    container_runtime: str | None = None
    """``containerd``."""
    host_aliases: tuple[HostAlias, ...] = ()
    local_registry: LocalRegistry | None = None
    external_registry: ExternalRegistry | None = None
    data_root: str | None = None
    load_balancing: str = "auto"
    """``auto``, ``haproxy`` or ``ipvs``."""
    certificate_validity: datetime.timedelta | None = None
    profile: str | None = None
    """One of ``PROFILES``; None: kubeadm's own defaults."""
    ssh_hosts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names that SSH connects to, by address: host names, or entries of ssh_config."""
    images: tuple[str, ...] = ()
    """Images beside ``image``. One of them all brings Kubernetes, the others are applications: only the store knows which."""

    @property
    def control_plane(self) -> tuple[str, ...]:
        """Addresses, in order; the first one is where applications are launched from."""
        return tuple(address for host in self.hosts if host.is_control_plane for address in host.ips)

    @property
    def workers(self) -> tuple[str, ...]:
        """Addresses of the workers."""
        return tuple(address for host in self.hosts if not host.is_control_plane for address in host.ips)

    @property
    def places(self) -> tuple[HookTarget, ...]:
        """Every machine, control-plane nodes first."""
        hosts = sorted(self.hosts, key=lambda host: not host.is_control_plane)
        return tuple(HookTarget(address, host.roles, host.labels) for host in hosts for address in host.ips)

    def host(self, address: str) -> Host | None:
        """The host entry of a machine."""
        return next((host for host in self.hosts if address in host.ips), None)

    def counted(self, role: str) -> int:
        """Number of machines that the provider makes for ``control-plane`` or ``worker``."""
        return sum(host.count or 0 for host in self.hosts if host.roles[0] == role)


@dataclasses.dataclass(frozen=True)
class Config:
    """A document Config: it overwrites a file of the rootfs, or merges into it."""

    name: str
    path: str
    """Relative to the rootfs, or to the application's folder."""
    data: str | Mapping[str, Any] = dataclasses.field(repr=False)
    strategy: str = "overwrite"
    """``overwrite`` or ``merge``."""
    process: tuple[str, ...] = ()
    """From left to right: ``value``, ``toJson``, ``toBase64``, ``toSecret``."""
    app: str | None = None
    where: str = dataclasses.field(default="", compare=False)
    """For faults: ``Clusterfile:31``."""

    @property
    def target(self) -> str:
        """The file, relative to the rootfs."""
        path = posixpath.normpath(self.path.lstrip("/"))
        return f"application/apps/{self.app}/{path}" if self.app else path

    @property
    def redacted(self) -> bool:
        return is_redacted(self.data)


class Phase(enum.Enum):
    """Phases of hooks, in the order of a run. The values are slipway's names; sealer's, old and new, are read too."""

    ORIGINALLY = "originally"
    """Before anything is sent to the node."""
    PRE_SCALE_UP = "pre-scaleup"
    """Before nodes join: once."""
    PRE_INSTALL = "pre-install"
    """The rootfs is there; nothing of it runs: once, before a cluster is made."""
    PRE_INIT_HOST = "pre-init-host"
    """On every machine that becomes a node, before it does."""
    PRE_INIT = "pre-init"
    """As ``pre-init-host``, only when the cluster is made."""
    PRE_JOIN = "pre-join"
    """As ``pre-init-host``, only when nodes join later."""
    POST_INIT_HOST = "post-init-host"
    """On every machine that has become a node."""
    POST_INSTALL = "post-install"
    """The cluster is ready, nothing is launched yet: once."""
    PRE_LAUNCH = "pre-launch"
    """On nodes, right before applications are launched, and when nodes have joined."""
    POST_JOIN = "post-join"
    """On nodes that have joined later."""
    POST_SCALE_UP = "post-scaleup"
    """After nodes have joined: once."""
    POST_LAUNCH = "post-launch"
    """On nodes, after applications were launched."""
    PRE_UPGRADE = "pre-upgrade"
    """Before the first node goes to another image, when all checks have passed: once."""
    UPGRADE_HOST = "upgrade-host"
    """On every machine that received the files of another image, before its services restart."""
    UPGRADE = "upgrade"
    """All nodes have the other image, nothing of it is launched yet: once. Not when a former image comes back."""
    ROLLBACK = "rollback"
    """As ``upgrade``, only when a former image comes back."""
    POST_UPGRADE = "post-upgrade"
    """After an upgrade, when the applications are ready again: once."""
    PRE_UNINSTALL = "pre-uninstall"
    PRE_CLEAN_HOST = "pre-clean-host"
    POST_CLEAN_HOST = "post-clean-host"
    POST_UNINSTALL = "post-uninstall"

    @property
    def order(self) -> int:
        return list(Phase).index(self)

    @property
    def has_rootfs(self) -> bool:
        """True when scripts of this phase start in the rootfs: it exists on the machine by then."""
        return self is not Phase.ORIGINALLY

    @property
    def has_node(self) -> bool:
        """True when the machine is a node of the cluster in this phase, so that labels and taints are possible."""
        return self in _WITH_NODE


_WITH_NODE = frozenset(
    {
        Phase.POST_INIT_HOST,
        Phase.POST_INSTALL,
        Phase.PRE_LAUNCH,
        Phase.POST_JOIN,
        Phase.POST_SCALE_UP,
        Phase.POST_LAUNCH,
        Phase.PRE_UPGRADE,
        Phase.UPGRADE_HOST,
        Phase.UPGRADE,
        Phase.ROLLBACK,
        Phase.POST_UPGRADE,
        Phase.PRE_UNINSTALL,
        Phase.PRE_CLEAN_HOST,
    }
)


@dataclasses.dataclass(frozen=True)
class Selector:
    """Selects machines: by role (``control-plane``, ``worker``, ``master0`` or a custom role), by address, or with all of the labels."""

    role: str | None = None
    addresses: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.role or ",".join(self.addresses) or ",".join(f"{key}={value}" for key, value in self.labels)


@dataclasses.dataclass(frozen=True)
class Hook:
    """A custom step in one or more phases."""

    name: str
    phases: tuple[Phase, ...]
    """In the order in which they come."""
    type: str = "SHELL"
    """``SHELL``, ``HOSTNAME``, ``LABEL``, ``TAINT``, ``CLUSTERCHECK`` or ``ETCD``."""
    on: tuple[Selector, ...] = ()
    """Any of these; empty for every machine that the phase is about."""
    data: str = dataclasses.field(default="", repr=False)
    output: str | None = None
    """ETCD: the file of the snapshot, on the machine that runs slipway."""
    given: bool = dataclasses.field(default=False, compare=False)
    """The user gives it with the command that runs. Those of an image, and those that a cluster keeps, may name no path of this machine."""
    where: str = dataclasses.field(default="", compare=False)

    @property
    def redacted(self) -> bool:
        return is_redacted(self.data)


@dataclasses.dataclass(frozen=True)
class AppFile:
    """A file of an application, overwritten or merged into; ``path`` is relative to the application's folder."""

    path: str
    data: str | Mapping[str, Any] = dataclasses.field(repr=False)
    strategy: str = "overwrite"
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class AppConfig:
    """Overrides for one application."""

    name: str
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    files: tuple[AppFile, ...] = ()
    commands: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    """In place of those of the image."""
    where: str = dataclasses.field(default="", compare=False)


@dataclasses.dataclass(frozen=True)
class ApplicationDocument:
    """A document Application: overrides for applications of the cluster's image or, with ``image``, an application to install."""

    name: str
    commands: tuple[str, ...] | None = dataclasses.field(default=None, repr=False)
    """In place of launching applications."""
    launch: tuple[str, ...] | None = None
    """The applications to launch; None leaves it to the image, empty launches none."""
    configs: tuple[AppConfig, ...] = ()
    where: str = dataclasses.field(default="", compare=False)
    image: str | None = None
    """The application CloudImage."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """For all applications of ``image``."""

    @property
    def files(self) -> tuple[Config, ...]:
        """The files of all applications as Config values: what overwrites comes before what merges."""
        app_files = [
            Config(f"{config.name}-{index}", file.path, file.data, file.strategy, (), config.name, file.where)
            for config in self.configs
            for index, file in enumerate(config.files)
        ]
        return tuple(sorted(app_files, key=lambda config: config.strategy == "merge"))


@dataclasses.dataclass(frozen=True)
class Clusterfile:
    """All documents of a Clusterfile."""

    path: str = dataclasses.field(compare=False)
    cluster: ClusterDocument | None = None
    """None when the command line is to name image and machines."""
    configs: tuple[Config, ...] = ()
    hooks: tuple[Hook, ...] = ()
    application: ApplicationDocument | None = None
    apps: tuple[ApplicationDocument, ...] = ()
    """Applications with an image of their own, in the order in which they are launched."""
    kubeadm: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), repr=False)
    """Documents of kubeadm, kubelet and kube-proxy, as plain data."""
    warnings: tuple[Fault, ...] = dataclasses.field(default=(), compare=False)
    """Warnings about settings that may not do what their author expects."""

    @property
    def files(self) -> tuple[Config, ...]:
        """Everything that changes files of the rootfs, in order."""
        return (*self.configs, *(self.application.files if self.application else ()))

    @property
    def commands(self) -> tuple[str, ...] | None:
        """Launch commands in place of the image's: those of the cluster win over those of Application."""
        own = self.cluster.commands if self.cluster else None
        return own if own is not None or self.application is None else self.application.commands

    @property
    def launch(self) -> tuple[str, ...] | None:
        """The applications to launch in place of the image's choice: what the cluster says wins over Application."""
        own = self.cluster.app_names if self.cluster else None
        return own if own is not None or self.application is None else self.application.launch
