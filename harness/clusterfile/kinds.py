"""The tables: which kinds of documents a Clusterfile has, and which keys each has at every depth. Parser and JSON schema both read them.

sealer's versions differ in keys, not in what a key means, so all are known in every version; where two say the same, one may be given.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from harness.clusterfile import API_VERSION, PROFILES, Password, validators
from harness.clusterfile.shapes import Anything, ByForm, Choice, Field, Flag, Found, Listed, Mapped, Number, Record, Shape, Text
from harness.clusterfile.validators import FieldError
from harness.clusterfile.yaml_nodes import Node, Report, key_path

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

    def read(self, node: Node, report: Report) -> dict[str, str] | None:
        if node.is_null:
            return None
        found: dict[str, str] = {}
        for name, value, place in self._pairs(node, report):
            if not re.fullmatch(validators.ENV_NAME, name):
                report.fault(place, f"{name!r} is not a name for an environment value", _ENV_HINT)
                continue
            if name in RESERVED:
                report.warn(place, f"{name} describes the cluster itself; the value that is given is not used")
                continue
            if name in found:
                report.warn(place, f"{name} is given twice: the last value counts", "sealer 0.8 made a list of them")
            if ";" in value:
                report.warn(place, f"{name} stays the text {value!r}", "sealer 0.8 made a list of what has a ; in it")
            found[name] = value
        return found

    def _pairs(self, node: Node, report: Report) -> list[tuple[str, str, Node]]:
        if isinstance(node.content, dict):
            scalars = Text(any_scalar=True, empty=True)
            pairs = [(name, "" if child.is_null else scalars.read(child, report), child) for name, child in node.content.items()]
            return [(name, value, child) for name, value, child in pairs if value is not None]
        if not isinstance(node.content, tuple):
            report.fault(node, f"must be a list of NAME=VALUE or a mapping, not {node.kind}")
            return []
        found = []
        for item in node.content:
            text = Text(empty=True).read(item, report)
            if text is None:
                continue
            name, equals, value = text.partition("=")
            if equals:
                found.append((name.strip(), value, item))
            else:
                report.fault(item, f"{text!r} has no value", f"{text}=VALUE")
        return found

    def schema(self) -> dict[str, Any]:
        name = validators.ENV_NAME
        value = {"type": ["string", "number", "boolean", "null"]}
        return {
            "anyOf": [
                {"type": "array", "items": {"type": "string", "pattern": f"^\\s*{name}\\s*="}},
                {"type": "object", "propertyNames": {"pattern": f"^({name})$"}, "additionalProperties": value},
            ]
        }


def password(found: Found, report: Report, prefix: str = "passwd") -> Password:
    """The one of three ways that was written. Two of them are a fault."""
    keys = [key for key in (prefix, f"{prefix}File", f"{prefix}Env") if key in found]
    if len(keys) > 1:
        report.fault(found.at(keys[1]), f"{keys[0]} is given too", "one of them is enough")
    return Password(*(found.get(key) for key in (prefix, f"{prefix}File", f"{prefix}Env")))


def _document_name(text: str) -> str:
    if not re.fullmatch(validators.DOCUMENT_NAME, text):
        raise FieldError(f"{text!r} is not a name for a document", "letters, digits, '.', '_' and '-'")
    return text


_DOCUMENT_NAME = Text(_document_name, any_scalar=True)


def _any_key(text: str) -> str:
    return text


def _labels(shape: Shape) -> Mapped:
    return Mapped(shape, validators.label_key)


_SECRET = Text(any_scalar=True)
_PORT = Field(Number(1, 65535), help="The port, 1 to 65535")
_PATH = Text()


def _metadata(name: Text) -> Field:
    free = Field(Mapped(Text(any_scalar=True, empty=True), _any_key))
    return Field(
        Record(
            {
                "name": Field(name, required=True, help="metadata: {name: my-cluster}"),
                "namespace": Field(Text()),
                "labels": free,
                "annotations": free,
                "creationTimestamp": Field(Anything()),
            }
        ),
        required=True,
        help="metadata: {name: my-cluster}",
    )


_ENCRYPTED = (
    "passwords encrypted by sealer are not read: the key is built into sealer and public",
    "passwdFile: FILE or passwdEnv: NAME says where the password is",
)
_JUMP = ByForm(
    scalar=Text(validators.jump),
    mapping=Record(
        {
            "host": Field(Text(validators.host), required=True, help="The address or name of the jump host"),
            "user": Field(Text()),
            "port": _PORT,
            "pk": Field(_PATH),
            "pkPasswd": Field(_SECRET),
            "passwd": Field(_SECRET),
            "passwdFile": Field(_PATH),
            "passwdEnv": Field(Text(pattern=validators.VARIABLE, expected="the name of an environment variable")),
        }
    ),
)
_SSH = Record(
    {
        "user": Field(Text(), help="The SSH user: root, or a user with sudo"),
        "passwd": Field(_SECRET, help="The password; passwdFile and passwdEnv keep it out of this file"),
        "passwdFile": Field(_PATH, help="A file whose first line is the password"),
        "passwdEnv": Field(
            Text(pattern=validators.VARIABLE, expected="the name of an environment variable"),
            help="An environment variable that holds the password",
        ),
        "pk": Field(_PATH, help="Path of the private key"),
        "pkPasswd": Field(_SECRET, help="The passphrase of the key"),
        "port": _PORT,
        "encrypted": Field(Flag(refused=_ENCRYPTED)),
        "jump": Field(_JUMP, help="The jump host: user@host:port, or a mapping"),
    },
    elsewhere={"password": "passwd, passwdFile or passwdEnv", "key": "did you mean pk?", "username": "did you mean user?"},
)

_SIZE = Field(Anything(), ignored="cpu, memory and disks are for machines that are bought; slipway takes machines as they are")
_SIZES = dict.fromkeys(("cpu", "memory", "systemDisk", "dataDisk", "dataDisks"), _SIZE)
_ADDRESSES = Listed(Text(validators.addresses, placed=True), one=True)
_COUNT = Field(Number(0, 1000), help="With provider CONTAINER: how many containers to make")

_HOST = Record(
    {
        "ips": Field(_ADDRESSES, help="Addresses, ranges 10.0.0.1-10.0.0.5, and both with commas between"),
        "roles": Field(
            Listed(Text(validators.role, placed=True), one=True), required=True, help="roles: [master], [node], and roles of your own"
        ),
        "count": _COUNT,
        "ssh": Field(_SSH, help="Settings that differ from the ssh of the cluster"),
        "env": Field(Environment(), help="Wins over every other env on these machines"),
        "labels": Field(_labels(Text(validators.label_value, any_scalar=True, empty=True))),
        "taints": Field(Listed(Text(validators.taint)), help="key=value:Effect, key:Effect; with - at the end it is taken off"),
        **_SIZES,
    },
    elsewhere={"role": "did you mean roles?", "ip": "did you mean ips?", "ipList": "did you mean ips?"},
)
_V1_HOSTS = Record(
    {"ipList": Field(_ADDRESSES, help="Addresses and ranges"), "count": _COUNT, **_SIZES},
    elsewhere={"ips": "did you mean ipList?", "roles": "hosts: [{ips: [...], roles: [...]}] has roles; masters and nodes have none"},
)

_LOGIN = {
    "username": Field(Text()),
    "password": Field(_SECRET),
    "passwordFile": Field(_PATH),
    "passwordEnv": Field(Text(pattern=validators.VARIABLE, expected="the name of an environment variable")),
}
_LOCAL_REGISTRY = Record(
    {
        "domain": Field(Text(validators.registry)),
        "port": _PORT,
        **_LOGIN,
        "ha": Field(Flag(), help="On every control-plane node; otherwise on the first alone"),
        "insecure": Field(Flag(), help="Over plain HTTP"),
        "cert": Field(
            Record(
                {
                    "subjectAltName": Field(
                        Record({"dnsNames": Field(Listed(Text(validators.san))), "ips": Field(Listed(Text(validators.address)))})
                    )
                }
            )
        ),
    }
)
_EXTERNAL_REGISTRY = Record(
    {
        "domain": Field(Text(validators.registry), required=True, help="domain: harbor.example.com"),
        "port": _PORT,
        "path": Field(Text(validators.registry_path), help="The path above the images, as given to `slipway push --expand`"),
        **_LOGIN,
        "plainHttp": Field(Flag(), help="Without TLS"),
        "ca": Field(_PATH, help="Path of the certificate that signs for it"),
    }
)

_NO_DOCKER = (
    "docker is not a container runtime here: Kubernetes has dropped it, and it pulls through no mirror of other registries",
    "containerd comes with the image; leave containerRuntime out",
)
_NO_CLOUD = (
    "slipway buys no machines",
    "make them by other means and write their addresses into hosts; provider: CONTAINER makes containers to try with",
)
_CIDR = Text(validators.networks, placed=True)

_CLUSTER = Record(
    {
        "image": Field(Text(validators.image), required=True, help="The CloudImage: image: registry.example.com/shop:1.0"),
        "env": Field(Environment(), help="Wins over the image's; -e wins over it"),
        "cmd": Field(Listed(Text()), help="Launch commands in place of the image's"),
        "cmd_args": Field(Environment(), help="NAME=VALUE for what ARG declares in the image's CMD"),
        "appNames": Field(Listed(Text(empty=True)), help="The applications to launch, in order"),
        "provider": Field(
            Choice(("BAREMETAL", "CONTAINER"), {"ALI_CLOUD": _NO_CLOUD, "AliCloud": _NO_CLOUD}), help="The origin of the machines"
        ),
        "ssh": Field(_SSH, help="SSH access to all machines"),
        "hosts": Field(Listed(_HOST), help="The machines"),
        "masters": Field(_V1_HOSTS, help="sealer's first form of hosts"),
        "nodes": Field(_V1_HOSTS, help="sealer's first form of hosts"),
        "network": Field(
            Record(
                {
                    "podCIDR": Field(_CIDR, help="Networks of the pods; for both families: 100.64.0.0/10,fd00:10:64::/48"),
                    "svcCIDR": Field(_CIDR, help="Networks of the Services: 10.96.0.0/22, or 10.96.0.0/22,fd00:10:96::/112"),
                    "interface": Field(Anything(), ignored="network.interface: pods use the way that the node's address is reached by"),
                    "cniName": Field(Anything(), ignored="network.cniName: the image brings its pod network"),
                    "withoutCNI": Field(
                        Flag(refused=("a cluster without a pod network never gets ready", "an image with a CNI application brings its own"))
                    ),
                }
            )
        ),
        "certSANS": Field(Listed(Text(validators.san)), help="More names and addresses (SANs) for the certificate of the API"),
        "containerRuntime": Field(Record({"type": Field(Choice(("containerd",), {"docker": _NO_DOCKER}))})),
        "hostAliases": Field(
            Listed(
                Record(
                    {
                        "ip": Field(Text(validators.address), required=True),
                        "hostnames": Field(Listed(Text(validators.host_name)), required=True),
                    }
                )
            ),
            help="Lines for /etc/hosts of every node",
        ),
        "registry": Field(
            Record(
                {"localRegistry": Field(_LOCAL_REGISTRY), "externalRegistry": Field(_EXTERNAL_REGISTRY)},
                elsewhere={"local": "did you mean localRegistry?", "external": "did you mean externalRegistry?"},
            )
        ),
        "dataRoot": Field(Text(validators.folder), help="The folder on the nodes that holds the data of slipway"),
        "loadBalancing": Field(Choice(("auto", "haproxy", "ipvs")), help="Load balancing from workers to the API servers"),
        "certificates": Field(Record({"validity": Field(Text(validators.duration), help="8760h, 365d or 10y")})),
        "profile": Field(Choice(PROFILES), help="The hardening profile; chosen when the cluster is made"),
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


_DATA = ByForm(scalar=Text(any_scalar=True, empty=True), mapping=Anything())
_STRATEGY = Choice(("overwrite", "merge"))

_CONFIG = Record(
    {
        "path": Field(Text(validators.inside), required=True, help="path: etc/mysql.yaml, relative to the rootfs"),
        "strategy": Field(_STRATEGY, help="overwrite the file (default), or merge into it"),
        "process": Field(Text(process), help="value|toJson|toBase64|toSecret, from left to right"),
        "appName": Field(Text(validators.application), help="The path is then within application/apps/<appName>/"),
        "data": Field(_DATA, help="The content of the file: text or a mapping"),
    }
)

_HOOK_TYPES = ("SHELL", "HOSTNAME", "LABEL", "TAINT", "CLUSTERCHECK", "ETCD")
_TEXTS = Listed(Text(placed=True), one=True)
_HOOK_FIELDS = {
    "type": Field(Choice(_HOOK_TYPES), help="SHELL (default), HOSTNAME, LABEL, TAINT, CLUSTERCHECK or ETCD"),
    "on": Field(_TEXTS, help="master, node, master0, a role, addresses and ranges, or labels key=value; ETCD: the file to write"),
    "scope": Field(_TEXTS, help="The newer word for on: master, node or a role"),
    "data": Field(Text(any_scalar=True, empty=True), help="The script, or one line for each machine"),
}
_PLUGIN = Record(
    {"action": Field(_TEXTS, required=True, help="Phases: PreInit|PreJoin, post-install ..."), **_HOOK_FIELDS},
    elsewhere={"phases": "did you mean action? phases is of kind Hook", "phase": "did you mean action?"},
)
_HOOK = Record(
    {"phases": Field(_TEXTS, required=True, help="Phases: [pre-init-host, post-launch] ..."), **_HOOK_FIELDS},
    elsewhere={"action": "did you mean phases? action is of kind Plugin", "phase": "did you mean phases?"},
)

_APPLICATION = Record(
    {
        "image": Field(
            Text(validators.image), help="An application CloudImage that is put into the cluster; without it: the cluster's own image"
        ),
        "env": Field(Environment(), help="With image: for all of its applications"),
        "cmds": Field(Listed(Text()), help="Launch commands in place of applications"),
        "launchApps": Field(Listed(Text(empty=True)), help='The applications to launch, in order; [""] for none'),
        "configs": Field(
            Listed(
                Record(
                    {
                        "name": Field(Text(validators.application), required=True, help="The name of the application"),
                        "env": Field(Environment()),
                        "files": Field(
                            Listed(
                                Record(
                                    {
                                        "path": Field(Text(validators.inside), required=True, help="Relative to the application's folder"),
                                        "strategy": Field(_STRATEGY),
                                        "data": Field(_DATA),
                                    }
                                )
                            )
                        ),
                        "launch": Field(Record({"cmds": Field(Listed(Text()))})),
                    }
                )
            )
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of document. ``spec`` None: plain data, passed through."""

    title: str
    spec: Record | None
    versions: tuple[str, ...] = ()
    group: str | None = None
    """Of kinds of Kubernetes: any of its versions."""
    name: Text = _DOCUMENT_NAME

    def knows(self, version: str) -> bool:
        if self.group is not None:
            return re.fullmatch(rf"{re.escape(self.group)}/v\d+((alpha|beta)\d+)?", version) is not None
        return version in self.versions

    @property
    def document(self) -> Record:
        """The whole document; only for kinds with a ``spec``."""
        if self.spec is None:
            raise ValueError("plain data has no keys of its own")
        version = Field(Choice(self.versions), required=True, help=f"apiVersion: {API_VERSION}")
        return Record(
            {
                "apiVersion": version,
                "kind": Field(Text(), required=True),
                "metadata": _metadata(self.name),
                "spec": Field(self.spec, required=True),
                "status": Field(Anything()),
            },
            elsewhere={key: f"it belongs into spec: spec.{key}" for key in self.spec.fields},
        )


_CLUSTER_NAME = Text(pattern=validators.CLUSTER_NAME, expected="lower-case letters, digits and hyphens, at most 63", any_scalar=True)

KINDS: Mapping[str, Kind] = {
    "Cluster": Kind("A cluster: image and machines", _CLUSTER, VERSIONS, name=_CLUSTER_NAME),
    "Config": Kind("Overwrites a file of the rootfs, or merges into it", _CONFIG, VERSIONS),
    "Plugin": Kind("A step of the user, as sealer writes it", _PLUGIN, VERSIONS),
    "Hook": Kind("A step of the user", _HOOK, (API_VERSION,)),
    "Application": Kind("Settings of applications", _APPLICATION, VERSIONS),
    "InitConfiguration": Kind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "JoinConfiguration": Kind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "ClusterConfiguration": Kind("kubeadm's own, merged", None, group="kubeadm.k8s.io"),
    "KubeletConfiguration": Kind("The kubelet's own, merged", None, group="kubelet.config.k8s.io"),
    "KubeProxyConfiguration": Kind("kube-proxy's own, merged", None, group="kubeproxy.config.k8s.io"),
}

PROPOSED: Mapping[str, tuple[str, str]] = {
    "KubeadmConfig": (
        "KubeadmConfig was proposed for sealer, which never reads it",
        "write ClusterConfiguration, InitConfiguration and KubeletConfiguration, each as its own document",
    ),
    "Infra": ("Infra was proposed for sealer, which never reads it", "write the addresses of the machines into hosts of the Cluster"),
}
"""Kinds that are known and not done."""


def read_document(node: Node, report: Report) -> tuple[str, Any] | None:
    """A document as its kind and what its table reads: a Found, or plain data. None when it is of no kind that is known."""
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
    name = Text().read(kind_node, report)
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
