"""Facts about the security of any cluster, from its nodes and its API. Nothing is changed, and no key leaves a node."""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from harness import log, untrusted
from harness.errors import CommandError, NodeError, SlipwayError
from harness.lifecycle.cluster import certificates
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.cluster.certificates import SERVING_PEM, Certificate
from harness.lifecycle.kube import objects, readiness
from harness.lifecycle.kube.drain import names
from harness.lifecycle.kube.readiness import Resource
from harness.nodes import Node, each
from harness.nodes.files import read_files
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes.configuration import SERVING_CRT
from harness.runtimes.pki import FOLDER
from harness.runtimes.static_pods import MANIFESTS, PARTS

KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
PLACES = (
    f"{MANIFESTS}/*.yaml", "/etc/kubernetes/*.conf", "/etc/cni/net.d/*", "/var/lib/etcd", FOLDER, f"{FOLDER}/*", f"{FOLDER}/etcd/*",
    "/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d/*", "/usr/lib/systemd/system/kubelet.service",
    "/usr/lib/systemd/system/kubelet.service.d/*", KUBELET_CONFIG,
)  # fmt: skip
"""Patterns of the files whose owner and mode matter."""

# The words of the kubelet's command: options only, their values are in no way secret.
_ASK = f"""for path in {" ".join(PLACES)}; do
  if [ -e "$path" ]; then stat -L -c 'file %a %U:%G %n' "$path"; fi
done
pid=$(systemctl show -p MainPID --value kubelet 2>/dev/null)
if [ "${{pid:-0}}" -gt 0 ]; then tr '\\0' '\\n' < /proc/$pid/cmdline | sed 's/^/kubelet /'; fi
"""

# Only the name of the first provider: what stands below it is the key.
_PROVIDER = r"""sed -n 's/^ *\(- \)\{0,1\} *\(aescbc\|aesgcm\|secretbox\|kms\|identity\):.*/\2/p' %s 2>/dev/null | head -n 1"""

_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "slipway-check-privileged", "namespace": "default"},
    "spec": {"containers": [{"name": "try", "image": "try", "securityContext": {"privileged": True}}]},
}
"""Sent as a dry run, to learn whether the API would admit it."""
_REFUSED = re.compile(r"violates PodSecurity|denied (?:the )?request")


@dataclasses.dataclass(frozen=True)
class FileState:
    """Mode and owner of a file."""

    mode: int
    owner: str
    """``root:root``."""


@dataclasses.dataclass(frozen=True)
class StaticPod:
    """A static pod of the control plane, by its manifest."""

    arguments: Mapping[str, tuple[str, ...]]
    """By name, without the hyphens; with several values where one is given several times."""
    paths: Mapping[str, str]
    """Mounts: paths of the machine by paths of the container."""

    def on_machine(self, path: str) -> str:
        """The path on the machine of a path in the container."""
        for inside in sorted(self.paths, key=len, reverse=True):
            if path == inside or path.startswith(f"{inside.rstrip('/')}/"):
                return posixpath.normpath(self.paths[inside] + path[len(inside) :])
        return path


@dataclasses.dataclass(frozen=True)
class MachineState:
    """One node. None or empty: could not be determined."""

    files: Mapping[str, FileState] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, StaticPod] = dataclasses.field(default_factory=dict)
    kubelet: Mapping[str, Any] | None = None
    """Configuration of its kubelet."""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Options of the kubelet's command line, by name without the hyphens."""
    provider: str | None = None
    """First provider of the API server's EncryptionConfiguration."""
    audit: Mapping[str, Any] | None = None
    """The audit policy."""
    anonymous: Mapping[str, Any] | None = None
    """Section ``anonymous`` of the API server's AuthenticationConfiguration."""
    certificates: tuple[Certificate, ...] = ()


@dataclasses.dataclass(frozen=True)
class Secured:
    """Facts about a cluster."""

    name: str
    roles: Mapping[str, str]
    """``control-plane`` or ``worker``, by address, of all nodes."""
    unreachable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Names of nodes, by address."""
    machines: Mapping[str, MachineState] = dataclasses.field(default_factory=dict)
    silent: str | None = None
    """Reason why the API does not answer."""
    items: Sequence[Resource] = ()
    """ClusterRoleBindings and DaemonSets."""
    proxy: Mapping[str, Any] | None = None
    """kube-proxy's configuration."""
    privileged: str | None = None
    """Reason why the API would refuse a privileged pod in the namespace ``default``; empty when it would admit it."""

    @property
    def control_plane(self) -> tuple[str, ...]:
        return tuple(address for address in self.machines if self.roles[address] == "control-plane")


def gather(cluster: Access) -> Secured:
    """Gather all facts that can be determined. Raises NodeError when no control-plane node answers."""
    cluster.first  # noqa: B018 -- raises
    roles = {machine.address: "control-plane" for machine in cluster.known.control_plane}
    roles |= {machine.address: "worker" for machine in cluster.known.workers}
    reached = (*cluster.control_plane, *cluster.workers)
    facts = Secured(
        cluster.known.state.name,
        roles,
        unreachable={address: error.message for address, error in cluster.unreachable.items()},
        names={node.address: node.name for node in reached},
    )
    kubectl = _kubectl(cluster.kubectl)
    with log.step("ask the API"):
        facts = _of_api(kubectl, facts)
    with log.step("ask the machines"):
        states = each(reached, lambda node: _state(node, kubectl, facts))
    return dataclasses.replace(facts, machines={node.address: state for node, state in zip(reached, states, strict=True)})


def _kubectl(own: NodeKubectl) -> NodeKubectl:
    """slipway's kubectl, or the machine's own in a cluster that another tool made."""
    if own.node.run(f"[ -x {own.program} ]", check=False).ok:
        return own
    return dataclasses.replace(own, program="kubectl", home="/tmp")


def _of_api(kubectl: NodeKubectl, facts: Secured) -> Secured:
    try:
        nodes = objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where)
        items = readiness.get(kubectl, "clusterrolebindings.rbac.authorization.k8s.io,daemonsets.apps")
    except SlipwayError as error:
        return dataclasses.replace(facts, silent=error.message)
    return dataclasses.replace(
        facts, names={**facts.names, **names(nodes)}, items=tuple(items), proxy=_proxy(kubectl), privileged=_privileged(kubectl)
    )


def _proxy(kubectl: NodeKubectl) -> Mapping[str, Any] | None:
    try:
        text = kubectl.run("get", "configmap", "kube-proxy", "--namespace=kube-system", "--output=json")
        data = objects.config_map(text, where=kubectl.where)["data"]
        return _mapping(untrusted.yaml_document(data.get("config.conf") or "", what="kube-proxy's configuration", error=NodeError))
    except SlipwayError as error:
        log.debug(f"kube-proxy's configuration: {error.message}")
        return None


def _privileged(kubectl: NodeKubectl) -> str | None:
    try:
        kubectl.run("create", "--dry-run=server", "--filename=-", input=json.dumps(_POD))
    except CommandError as error:
        lines = (error.details or "").strip().splitlines()
        return next((line for line in lines if _REFUSED.search(line)), None)
    return ""


def _state(node: Node, kubectl: NodeKubectl, facts: Secured) -> MachineState:
    try:
        files, options = parse(node.run(_ASK, check=False, timeout=60).stdout)
        parts = {name: part for name in PARTS if (part := _static_pod(node, name)) is not None}
        listed = certificates.certificates_of(node)
    except SlipwayError as error:
        log.debug(f"{node.address}: {error.message}")
        return MachineState()
    server = parts.get("kube-apiserver")
    authentication = _of_argument(node, server, "authentication-config")
    return MachineState(
        files=files,
        parts=parts,
        kubelet=_kubelet(node, kubectl, facts),
        options=options,
        provider=_provider(node, server),
        audit=_of_argument(node, server, "audit-policy-file"),
        anonymous=_mapping(authentication.get("anonymous")) if authentication else None,
        certificates=listed,
    )


def parse(text: str) -> tuple[dict[str, FileState], dict[str, str]]:
    """Read the output of a node: files by path, and the options of the kubelet."""
    files: dict[str, FileState] = {}
    words: list[str] = []
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        fields = rest.split(" ", maxsplit=2)
        if kind == "file" and len(fields) == 3 and (mode := untrusted.number(fields[0], base=8, maximum=0o7777)) is not None:
            files[fields[2]] = FileState(mode, fields[1])
        elif kind == "kubelet":
            words.append(rest)
    return files, {name: values[-1] for name, values in arguments(words).items()}


def arguments(words: Sequence[object]) -> dict[str, tuple[str, ...]]:
    """The options of a command by name; one without a value is ``true``."""
    options: dict[str, tuple[str, ...]] = {}
    for word in map(str, words):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            options[name[2:]] = (*options.get(name[2:], ()), value if equals else "true")
    return options


def _static_pod(node: Node, name: str) -> StaticPod | None:
    path = f"{MANIFESTS}/{name}.yaml"
    data = read_files(node, [path]).get(path)
    return None if data is None else static_pod(data, f"{node.name}: {path}")


def static_pod(manifest: bytes, what: str) -> StaticPod | None:
    """Read the manifest of a static pod; None when kubeadm could not have written it."""
    try:
        spec = untrusted.yaml_document(manifest, what=what, error=NodeError)["spec"]
        container = spec["containers"][0]
        volumes = {str(volume["name"]): str(volume["hostPath"]["path"]) for volume in spec.get("volumes") or () if "hostPath" in volume}
        mounts = {str(mount["mountPath"]): volumes.get(str(mount["name"])) for mount in container.get("volumeMounts") or ()}
        words = [*(container.get("command") or ()), *(container.get("args") or ())]
        return StaticPod(arguments(words), {inside: path for inside, path in mounts.items() if path is not None})
    except (SlipwayError, LookupError, TypeError, AttributeError) as wrong:
        log.debug(f"{what}: {wrong}")
        return None


def _of_argument(node: Node, pod: StaticPod | None, name: str) -> Mapping[str, Any] | None:
    """Read the document that an argument of the API server names."""
    path = _path(pod, name)
    try:
        data = read_files(node, [path]).get(path) if path else None
        return _mapping(untrusted.yaml_document(data, what=f"{node.name}: {path}", error=NodeError)) if data else None
    except SlipwayError as error:
        log.debug(error.message)
        return None


def _provider(node: Node, pod: StaticPod | None) -> str | None:
    path = _path(pod, "encryption-provider-config")
    return (node.run(_PROVIDER % shlex.quote(path), check=False).stdout.strip() or None) if path else None


def _path(pod: StaticPod | None, name: str) -> str | None:
    values = pod.arguments.get(name, ()) if pod else ()
    # A value without a leading slash could be taken for an option.
    return pod.on_machine(values[-1]) if pod and values and values[-1].startswith("/") else None


def _mapping(value: object) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None


def _kubelet(node: Node, kubectl: NodeKubectl, facts: Secured) -> Mapping[str, Any] | None:
    """The kubelet's configuration: from itself through the API, else from its file."""
    name = facts.names.get(node.address)
    if facts.silent is None and name:
        try:
            text = kubectl.run("get", "--raw", f"/api/v1/nodes/{name}/proxy/configz", timeout=30)
            answer = untrusted.json_object(text, what=f"{node.name}: its kubelet's configuration", error=NodeError)
            return _mapping(answer.get("kubeletconfig"))
        except SlipwayError as error:
            log.debug(f"{node.name}: {error.message}")
    try:
        data = read_files(node, [KUBELET_CONFIG]).get(KUBELET_CONFIG, b"")
        return _mapping(untrusted.yaml_document(data, what=f"{node.name}: {KUBELET_CONFIG}", error=NodeError))
    except SlipwayError as error:
        log.debug(error.message)
        return None


def serving(state: MachineState) -> Certificate | None:
    """The serving certificate of a kubelet, when it lies where kubelets keep theirs."""
    own = (state.kubelet or {}).get("tlsCertFile") or SERVING_CRT
    path = SERVING_PEM if (state.kubelet or {}).get("serverTLSBootstrap") else own
    return next((certificate for certificate in state.certificates if certificate.path == path), None)
