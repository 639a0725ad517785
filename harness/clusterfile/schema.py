"""The schema of a Clusterfile: its kinds of documents, and the keys of each at every depth. Parser and JSON schema both read these tables.

sealer's versions differ in keys, not in what a key means, so all are known in every version; where two say the same, one may be given.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from harness.clusterfile import API_VERSION, PROFILES, Password, validators
from harness.clusterfile.machines import CLOUD, MAKERS
from harness.clusterfile.shapes import (
    AnyShape,
    ChoiceShape,
    Field,
    FlagShape,
    FormShape,
    ListShape,
    MapShape,
    NumberShape,
    ParsedMapping,
    RecordShape,
    Shape,
    TextShape,
)
from harness.clusterfile.validators import FieldError
from harness.clusterfile.yaml_nodes import FaultReport, YamlNode, key_path

SEALER_VERSIONS = (
    "zlink.aliyun.com/v1alpha1",
    "sealer.aliyun.com/v1alpha1",
    "sealer.aliyun.com/v2alpha1",
    "sealer.cloud/v1",
    "sealer.cloud/v2",
    "sealer.io/v1",
    "sealer.io/v2",
)
VERSIONS = (API_VERSION, *SEALER_VERSIONS)

RESERVED = frozenset(
    {
        *(f"{kind}{what}" for kind in ("LocalRegistry", "ExternalRegistry", "Registry") for what in ("Domain", "Port", "URL")),
        *(f"{name}{family}" for name in ("PodCIDR", "SvcCIDR") for family in ("v4", "v6")),
        "ContainerRuntime",
        "DNSSvcIP",
        "KubeSvcIP",
        "HostIP",
        "HostIPFamily",
    }
)
"""Names of the environment that describe the cluster itself. Nobody else sets them."""

_ENV_HINT = "letters, digits, '_', '-' and '.', not a digit first"


@dataclasses.dataclass(frozen=True)
class Environment:
    """A list of ``NAME=VALUE``, or a mapping. Values are the text that is written."""

    def read(self, node: YamlNode, report: FaultReport) -> dict[str, str] | None:
        if node.is_null:
            return None
        variables: dict[str, str] = {}
        for name, value, place in self._pairs(node, report):
            if not re.fullmatch(validators.ENV_NAME, name):
                report.fault(place, f"{name!r} is not a name for an environment value", _ENV_HINT)
                continue
            if name in RESERVED:
                report.warn(place, f"{name} describes the cluster itself; the value that is given is not used")
                continue
            if name in variables:
                report.warn(place, f"{name} is given twice: the last value counts", "sealer 0.8 made a list of them")
            if ";" in value:
                report.warn(place, f"{name} stays the text {value!r}", "sealer 0.8 made a list of what has a ; in it")
            variables[name] = value
        return variables

    def _pairs(self, node: YamlNode, report: FaultReport) -> list[tuple[str, str, YamlNode]]:
        if isinstance(node.content, dict):
            scalars = TextShape(any_scalar=True, empty=True)
            pairs = [(name, "" if child.is_null else scalars.read(child, report), child) for name, child in node.content.items()]
            return [(name, value, child) for name, value, child in pairs if value is not None]
        if not isinstance(node.content, tuple):
            report.fault(node, f"must be a list of NAME=VALUE or a mapping, not {node.kind}")
            return []
        entries = []
        for item in node.content:
            text = TextShape(empty=True).read(item, report)
            if text is None:
                continue
            name, equals, value = text.partition("=")
            if equals:
                entries.append((name.strip(), value, item))
            else:
                report.fault(item, f"{text!r} has no value", f"{text}=VALUE")
        return entries

    def schema(self) -> dict[str, Any]:
        name = validators.ENV_NAME
        value = {"type": ["string", "number", "boolean", "null"]}
        return {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": f"^\\s*{name}\\s*="}},
                {"type": "object", "propertyNames": {"pattern": f"^({name})$"}, "additionalProperties": value},
            ]
        }


def password(mapping: ParsedMapping, report: FaultReport, prefix: str = "passwd") -> Password:
    """The one of three ways that was written. Two of them are a fault."""
    keys = [key for key in (prefix, f"{prefix}File", f"{prefix}Env") if key in mapping]
    if len(keys) > 1:
        report.fault(mapping.at(keys[1]), f"{keys[0]} is given too", "one of them is enough")
    return Password(*(mapping.get(key) for key in (prefix, f"{prefix}File", f"{prefix}Env")))


def _document_name(text: str) -> str:
    if not re.fullmatch(validators.DOCUMENT_NAME, text):
        raise FieldError(f"{text!r} is not a name for a document", "letters, digits, '.', '_' and '-'")
    return text


_DOCUMENT_NAME = TextShape(_document_name, any_scalar=True)


def _any_key(text: str) -> str:
    return text


def _labels(shape: Shape) -> MapShape:
    return MapShape(shape, validators.label_key)


_SECRET = TextShape(any_scalar=True)
_PORT = Field(NumberShape(1, 65535), help="The port, 1 to 65535")
_PATH = TextShape(validators.path, local=True)


def _metadata(name: TextShape) -> Field:
    free = Field(MapShape(TextShape(any_scalar=True, empty=True), _any_key))
    return Field(
        RecordShape(
            {
                "name": Field(name, required=True, help="metadata: {name: my-cluster}"),
                "namespace": Field(TextShape()),
                "labels": free,
                "annotations": free,
                "creationTimestamp": Field(AnyShape()),
            }
        ),
        required=True,
        help="metadata: {name: my-cluster}",
    )


_ENCRYPTED = (
    "passwords encrypted by sealer are not read: the key is built into sealer and public",
    "passwdFile: FILE or passwdEnv: NAME says where the password is",
)
_JUMP = FormShape(
    scalar=TextShape(validators.jump),
    mapping=RecordShape(
        {
            "host": Field(TextShape(validators.host), required=True, help="The address or name of the jump host"),
            "user": Field(TextShape()),
            "port": _PORT,
            "pk": Field(_PATH),
            "pkPasswd": Field(_SECRET),
            "passwd": Field(_SECRET),
            "passwdFile": Field(_PATH),
            "passwdEnv": Field(TextShape(pattern=validators.VARIABLE, expected="the name of an environment variable")),
        }
    ),
)
_SSH = RecordShape(
    {
        "user": Field(TextShape(), help="The SSH user: root, or a user with sudo"),
        "passwd": Field(_SECRET, help="The password; passwdFile and passwdEnv keep it out of this file"),
        "passwdFile": Field(_PATH, help="A file whose first line is the password"),
        "passwdEnv": Field(
            TextShape(pattern=validators.VARIABLE, expected="the name of an environment variable"),
            help="An environment variable that holds the password",
        ),
        "pk": Field(_PATH, help="Path of the private key"),
        "pkPasswd": Field(_SECRET, help="The passphrase of the key"),
        "port": _PORT,
        "encrypted": Field(FlagShape(refused=_ENCRYPTED)),
        "jump": Field(_JUMP, help="The jump host: user@host:port, or a mapping"),
    },
    elsewhere={"password": "passwd, passwdFile or passwdEnv", "key": "did you mean pk?", "username": "did you mean user?"},
)

_SIZE = Field(AnyShape(), ignored="cpu, memory and disks of machines are not used; spec.cloud has the size of those that a cloud makes")
_SIZES = dict.fromkeys(("cpu", "memory", "systemDisk", "dataDisk", "dataDisks"), _SIZE)
_MACHINES = ListShape(TextShape(validators.machines, placed=True), one=True)
_COUNT = Field(NumberShape(0, 1000), help="With provider CONTAINER, AWS or ALI_CLOUD: the number of machines to make")

_HOST = RecordShape(
    {
        "ips": Field(_MACHINES, help="Addresses, ranges 10.0.0.1-10.0.0.5, host names and entries of ssh_config, with commas between"),
        "roles": Field(
            ListShape(TextShape(validators.role, placed=True), one=True),
            required=True,
            help="roles: [control-plane], [worker], and roles of your own",
        ),
        "count": _COUNT,
        "ssh": Field(_SSH, help="Settings that differ from the ssh of the cluster"),
        "env": Field(Environment(), help="Wins over every other env on these machines"),
        "labels": Field(_labels(TextShape(validators.label_value, any_scalar=True, empty=True))),
        "taints": Field(ListShape(TextShape(validators.taint)), help="key=value:Effect, key:Effect; with - at the end it is taken off"),
        **_SIZES,
    },
    elsewhere={"role": "did you mean roles?", "ip": "did you mean ips?", "ipList": "did you mean ips?"},
)
_V1_HOSTS = RecordShape(
    {"ipList": Field(_MACHINES, help="As ips of hosts"), "count": _COUNT, **_SIZES},
    elsewhere={"ips": "did you mean ipList?", "roles": "hosts: [{ips: [...], roles: [...]}] has roles; masters and nodes have none"},
)

_LOGIN = {
    "username": Field(TextShape()),
    "password": Field(_SECRET),
    "passwordFile": Field(_PATH),
    "passwordEnv": Field(TextShape(pattern=validators.VARIABLE, expected="the name of an environment variable")),
}
_LOCAL_REGISTRY = RecordShape(
    {
        "domain": Field(TextShape(validators.registry), help="One more name, as sea.hub: DOMAIN:PORT/... then means every image"),
        "port": Field(NumberShape(1, 65535), help="The port in that name: 5000 if it is left out"),
        **_LOGIN,
        "ha": Field(FlagShape(), help="On up to three control-plane nodes; otherwise on the first alone"),
        "insecure": Field(FlagShape(), help="Read and not needed: nodes trust the certificate of the registry"),
        "cert": Field(
            RecordShape(
                {
                    "subjectAltName": Field(
                        RecordShape(
                            {
                                "dnsNames": Field(ListShape(TextShape(validators.san))),
                                "ips": Field(ListShape(TextShape(validators.address))),
                            }
                        )
                    )
                }
            )
        ),
    }
)
_EXTERNAL_REGISTRY = RecordShape(
    {
        "domain": Field(TextShape(validators.registry), required=True, help="domain: harbor.example.com"),
        "port": _PORT,
        "path": Field(TextShape(validators.registry_path), help="The path above the images, as given to `slipway push --expand`"),
        **_LOGIN,
        "plainHttp": Field(FlagShape(), help="Without TLS"),
        "ca": Field(_PATH, help="Path of the certificate that signs for it"),
    }
)

_NO_DOCKER = (
    "docker is not a container runtime here: Kubernetes has dropped it, and it pulls through no mirror of other registries",
    "containerd comes with the image; leave containerRuntime out",
)
_CIDR = TextShape(validators.networks, placed=True)

_CLUSTER = RecordShape(
    {
        "image": Field(
            ListShape(TextShape(validators.image), one=True, distinct=True),
            required=True,
            help="The CloudImage; or a list: it, and application images in the order of their installation. image: shop:1.0",
        ),
        "env": Field(Environment(), help="Wins over the image's; -e wins over it"),
        "cmd": Field(ListShape(TextShape()), help="Launch commands in place of the image's"),
        "cmd_args": Field(Environment(), help="NAME=VALUE for what ARG declares in the image's CMD"),
        "appNames": Field(ListShape(TextShape(empty=True)), help="The applications to launch, in order"),
        "provider": Field(
            ChoiceShape(("BAREMETAL", *MAKERS), {"AliCloud": ("AliCloud is not known here", "ALI_CLOUD")}),
            help="The origin of the machines",
        ),
        "cloud": Field(CLOUD, help="The machines that a cloud makes"),
        "ssh": Field(_SSH, help="SSH access to all machines"),
        "sshHosts": Field(MapShape(TextShape(validators.ssh_host), validators.address), help="Names that SSH uses: {10.0.0.1: cp1}"),
        "hosts": Field(ListShape(_HOST), help="The machines"),
        "masters": Field(_V1_HOSTS, help="sealer's first form of hosts"),
        "nodes": Field(_V1_HOSTS, help="sealer's first form of hosts"),
        "network": Field(
            RecordShape(
                {
                    "podCIDR": Field(_CIDR, help="Networks of the pods; for both families: 100.64.0.0/10,fd00:10:64::/48"),
                    "svcCIDR": Field(_CIDR, help="Networks of the Services: 10.96.0.0/22, or 10.96.0.0/22,fd00:10:96::/112"),
                    "interface": Field(AnyShape(), ignored="network.interface: pods use the way that the node's address is reached by"),
                    "cniName": Field(AnyShape(), ignored="network.cniName: the image brings its pod network"),
                    "withoutCNI": Field(
                        FlagShape(
                            refused=("a cluster without a pod network never gets ready", "an image with a CNI application brings its own")
                        )
                    ),
                }
            )
        ),
        "certSANS": Field(ListShape(TextShape(validators.san)), help="More names and addresses (SANs) for the certificate of the API"),
        "containerRuntime": Field(RecordShape({"type": Field(ChoiceShape(("containerd",), {"docker": _NO_DOCKER}))})),
        "hostAliases": Field(
            ListShape(
                RecordShape(
                    {
                        "ip": Field(TextShape(validators.address), required=True),
                        "hostnames": Field(ListShape(TextShape(validators.host_name)), required=True),
                    }
                )
            ),
            help="Lines for /etc/hosts of every node",
        ),
        "registry": Field(
            RecordShape(
                {"localRegistry": Field(_LOCAL_REGISTRY), "externalRegistry": Field(_EXTERNAL_REGISTRY)},
                elsewhere={"local": "did you mean localRegistry?", "external": "did you mean externalRegistry?"},
            )
        ),
        "dataRoot": Field(TextShape(validators.folder), help="The folder on the nodes that holds the data of slipway"),
        "loadBalancing": Field(ChoiceShape(("auto", "haproxy", "ipvs")), help="Load balancing from workers to the API servers"),
        "certificates": Field(RecordShape({"validity": Field(TextShape(validators.duration), help="8760h, 365d or 10y")})),
        "profile": Field(ChoiceShape(PROFILES), help="The hardening profile; chosen when the cluster is made"),
    },
    elsewhere={"certSANs": "did you mean certSANS?", "cmds": "did you mean cmd?", "cmdArgs": "did you mean cmd_args?"},
)

STEPS = ("value", "toJson", "toBase64", "toSecret")


def process(text: str) -> tuple[str, ...]:
    """``value|toJson|toBase64|toSecret``, from left to right."""
    steps = tuple(part.strip() for part in text.split("|") if part.strip())
    for step in steps:
        if step not in STEPS:
            raise FieldError(f"{step} is not a step", validators.suggest(step, STEPS))
    if "toSecret" in steps[:-1]:
        raise FieldError("toSecret puts the values into the file: no step can follow it", "move it to the end")
    return steps


_DATA = FormShape(scalar=TextShape(any_scalar=True, empty=True), mapping=AnyShape())
_STRATEGY = ChoiceShape(("overwrite", "merge"))

_CONFIG = RecordShape(
    {
        "path": Field(TextShape(validators.inside), required=True, help="path: etc/mysql.yaml, relative to the rootfs"),
        "strategy": Field(_STRATEGY, help="overwrite the file (default), or merge into it"),
        "process": Field(TextShape(process), help="value|toJson|toBase64|toSecret, from left to right"),
        "appName": Field(TextShape(validators.application), help="The path is then within application/apps/<appName>/"),
        "data": Field(_DATA, help="The content of the file: text or a mapping"),
    }
)

_HOOK_TYPES = ("SHELL", "HOSTNAME", "LABEL", "TAINT", "CLUSTERCHECK", "ETCD")
_TEXTS = ListShape(TextShape(placed=True), one=True)
_HOOK_FIELDS = {
    "type": Field(ChoiceShape(_HOOK_TYPES), help="SHELL (default), HOSTNAME, LABEL, TAINT, CLUSTERCHECK or ETCD"),
    "on": Field(_TEXTS, help="control-plane, worker, master0, a role, addresses and ranges, or labels key=value; ETCD: the file to write"),
    "scope": Field(_TEXTS, help="The newer word for on: control-plane, worker or a role"),
    "data": Field(TextShape(any_scalar=True, empty=True), help="The script, or one line for each machine"),
}
_PLUGIN = RecordShape(
    {"action": Field(_TEXTS, required=True, help="Phases: PreInit|PreJoin, post-install ..."), **_HOOK_FIELDS},
    elsewhere={"phases": "did you mean action? phases is of kind Hook", "phase": "did you mean action?"},
)
_HOOK = RecordShape(
    {"phases": Field(_TEXTS, required=True, help="Phases: [pre-init-host, post-launch] ..."), **_HOOK_FIELDS},
    elsewhere={"action": "did you mean phases? action is of kind Plugin", "phase": "did you mean phases?"},
)

_APPLICATION = RecordShape(
    {
        "image": Field(
            TextShape(validators.image), help="An application CloudImage that is put into the cluster; without it: the cluster's own image"
        ),
        "env": Field(Environment(), help="With image: for all of its applications"),
        "cmds": Field(ListShape(TextShape()), help="Launch commands in place of applications"),
        "launchApps": Field(ListShape(TextShape(empty=True)), help='The applications to launch, in order; [""] for none'),
        "configs": Field(
            ListShape(
                RecordShape(
                    {
                        "name": Field(TextShape(validators.application), required=True, help="The name of the application"),
                        "env": Field(Environment()),
                        "files": Field(
                            ListShape(
                                RecordShape(
                                    {
                                        "path": Field(
                                            TextShape(validators.inside), required=True, help="Relative to the application's folder"
                                        ),
                                        "strategy": Field(_STRATEGY),
                                        "data": Field(_DATA),
                                    }
                                )
                            )
                        ),
                        "launch": Field(RecordShape({"cmds": Field(ListShape(TextShape()))})),
                    }
                )
            )
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class DocumentKind:
    """One kind of document. ``spec`` None: plain data, passed through."""

    title: str
    spec: RecordShape | None
    versions: tuple[str, ...] = ()
    group: str | None = None
    """API group of a Kubernetes kind: all its versions are valid."""
    name: TextShape = _DOCUMENT_NAME

    def knows(self, version: str) -> bool:
        if self.group is not None:
            return re.fullmatch(rf"{re.escape(self.group)}/v\d+((alpha|beta)\d+)?", version) is not None
        return version in self.versions

    @property
    def document(self) -> RecordShape:
        """The whole document; only for kinds with a ``spec``."""
        if self.spec is None:
            raise ValueError("plain data has no keys of its own")
        version = Field(ChoiceShape(self.versions), required=True, help=f"apiVersion: {API_VERSION}")
        return RecordShape(
            {
                "apiVersion": version,
                "kind": Field(TextShape(), required=True),
                "metadata": _metadata(self.name),
                "spec": Field(self.spec, required=True),
                "status": Field(AnyShape()),
            },
            elsewhere={key: f"it belongs into spec: spec.{key}" for key in self.spec.fields},
        )


_CLUSTER_NAME = TextShape(pattern=validators.CLUSTER_NAME, expected="lower-case letters, digits and hyphens, at most 63", any_scalar=True)

KINDS: Mapping[str, DocumentKind] = {
    "Cluster": DocumentKind("A cluster: image and machines", _CLUSTER, VERSIONS, name=_CLUSTER_NAME),
    "Config": DocumentKind("Overwrites a file of the rootfs, or merges into it", _CONFIG, VERSIONS),
    "Plugin": DocumentKind("A step of the user, as sealer writes it", _PLUGIN, VERSIONS),
    "Hook": DocumentKind("A step of the user", _HOOK, (API_VERSION,)),
    "Application": DocumentKind("Settings of applications", _APPLICATION, VERSIONS),
    "InitConfiguration": DocumentKind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "JoinConfiguration": DocumentKind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "ClusterConfiguration": DocumentKind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "KubeletConfiguration": DocumentKind("The kubelet's own, merged", None, group="kubelet.config.k8s.io"),
    "KubeProxyConfiguration": DocumentKind("kube-proxy's own, merged", None, group="kubeproxy.config.k8s.io"),
}

PROPOSED: Mapping[str, tuple[str, str]] = {
    "KubeadmConfig": (
        "KubeadmConfig was proposed for sealer, which never reads it",
        "write ClusterConfiguration, InitConfiguration and KubeletConfiguration, each as its own document",
    ),
    "Infra": ("Infra was proposed for sealer, which never reads it", "write the addresses of the machines into hosts of the Cluster"),
}
"""Kinds that are known and not done."""


def read_document(node: YamlNode, report: FaultReport) -> tuple[str, Any] | None:
    """A document as its kind and what its table reads: a ParsedMapping, or plain data. None when it is of no kind that is known."""
    content = node.content
    if not isinstance(content, dict):
        report.fault(node, f"a document must be a mapping, not {node.kind}", f"apiVersion: {API_VERSION}, kind: Cluster ...")
        return None
    kind_node = content.get("kind")
    if kind_node is None or kind_node.is_null or kind_node.content == "":
        typed = validators.nearest("kind", [key for key in content if key != "metadata"])
        hint = f"{typed} is not known here: did you mean kind?" if typed else f"known: {', '.join(KINDS)}"
        report.fault(dataclasses.replace(node, path=key_path("", "kind")), "is missing", hint)
        return None
    name = TextShape().read(kind_node, report)
    if name not in KINDS:
        if name in PROPOSED:
            report.fault(kind_node, *PROPOSED[name])
        elif name:
            near = validators.nearest(name, KINDS)
            hint = f"did you mean {near}?" if near else f"known: {', '.join(KINDS)}; manifests of Kubernetes go into the image"
            report.fault(kind_node, f"{name} is not a kind of a Clusterfile", hint)
        return None
    kind = KINDS[name]
    if kind.spec is not None:
        return name, kind.document.read(node, report)
    version = content.get("apiVersion")
    if version is None or version.is_null or version.content == "":
        report.fault(dataclasses.replace(node, path=".apiVersion"), "is missing", f"apiVersion: {kind.group}/...")
    elif not kind.knows(str(version.content)):
        report.fault(version, f"{version.content} is not a version of {name}", f"{kind.group}/...")
    return name, node
