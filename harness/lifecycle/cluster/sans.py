"""``slipway certs add-names``: more SANs in the certificates of the API servers."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from harness import untrusted
from harness.errors import CheckError, Fault, InputError, NodeError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, lease, owner
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.cluster.certificates import keys_of, require_control_plane, sans_of
from harness.lifecycle.kube import objects
from harness.lifecycle.plan import Step, execute
from harness.nodes import Machine, Node
from harness.nodes.files import NodeFile, read_files, write_files
from harness.runtimes import API_PORT, documents, static_pods
from harness.runtimes.kubeadm import CONFIG, KUBECTL
from harness.runtimes.pki import FOLDER, LEAF_DAYS, alternative_names, certificate_of, general_name

_DNS_NAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return DNS names and addresses, each once. Raises InputError with all that are neither."""
    sans = tuple(dict.fromkeys(name.strip().lower() for name in names))
    faults = [Fault(f"add-names {name}", "is neither a DNS name nor an address") for name in sans if not _is_name(name)]
    if faults:
        raise InputError(faults)
    return sans


def _is_name(name: str) -> bool:
    if re.fullmatch(r"[0-9.]+|[0-9a-f:.]*:[0-9a-f:.]*", name):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
    return len(name) <= 253 and _DNS_NAME.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True)
class NamesAdded:
    """The added names, and all SANs of the API server's certificate now, on the first control-plane node."""

    name: str
    added: tuple[str, ...]
    names: tuple[str, ...]


def add_names(
    names: Sequence[str],
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    days: int = LEAF_DAYS,
    home: Path | None = None,
) -> NamesAdded:
    """Add SANs to the certificate of every API server, and to the configuration from which kubeadm makes those of nodes that join later.

    One control-plane node after the other; each answers by every new name before the next one begins. May be repeated.
    """
    added = check_names(names)
    with access.opened(access.known(name, control_plane, workers, home=home), workers=False) as opened:
        cluster = owner.own(opened)
        require_control_plane(cluster)
        with cluster.known.state.lock(), lease.held(cluster.first, name):
            execute(_naming(cluster, added, days))
        certificate = certificate_of(cluster.first, f"{FOLDER}/apiserver.crt")
    return NamesAdded(name, added, sans_of(certificate))


def _naming(cluster: Access, names: tuple[str, ...], days: int) -> list[Step]:
    def configure(node: Node) -> None:
        configure_names(node, names)

    steps = [Step("configure", "tell kubeadm the names", configure, (cluster.first,))]
    for number, control_plane_node in enumerate(cluster.control_plane, 1):

        def action(node: Node) -> str:
            return name_control_plane_node(node, names, days, others=len(cluster.control_plane) > 1)

        steps.append(
            Step(f"name-{number}", f"a certificate for {control_plane_node.name}", action, (control_plane_node,), after_all=(steps[-1].id,))
        )
    return steps


def name_control_plane_node(node: Node, names: tuple[str, ...], days: int, *, others: bool = False) -> str:
    """Add names to the configuration and the certificate of one control-plane node, and restart its API server. Returns a note."""
    for path, data in read_files(node, [CONFIG, f"{CONFIG}.upload"]).items():
        node.put(with_names(data.decode(), names).encode(), path, 0o600)
    pki = keys_of(node)
    path = f"{FOLDER}/apiserver.crt"
    certificate = certificate_of(node, path)
    note = "had them"
    present = set(alternative_names(certificate))
    if not {general_name(name) for name in names} <= present:
        pair = pki.authority.renew(certificate.public_bytes(Encoding.PEM), days=days, hosts=names)
        write_files(node, {path: NodeFile(pair.certificate, 0o644), path.replace(".crt", ".key"): NodeFile(pair.key, 0o600)})
        note = ""
    fingerprint = certificate_of(node, path).serial_number
    static_pods.restart(node, ("kube-apiserver",), reason=f"certificate {fingerprint:x}", others=others)
    _answers_to(node, names)
    return note


def _answers_to(node: Node, names: Iterable[str]) -> None:
    """Raise CheckError when the API server does not answer with a valid certificate for each of the names."""
    for name in names:
        host = name.replace("*", "any", 1)
        server = f"--server=https://127.0.0.1:{API_PORT} --tls-server-name={shlex.quote(host)}"
        result = node.run(f"{KUBECTL} --request-timeout=10s {server} get --raw /readyz", check=False)
        if not result.ok:
            raise CheckError(f"{node.name}: the API does not answer as {name}", hint="journalctl -u kubelet there", details=result.output)


def with_names(text: str, names: Sequence[str]) -> str:
    """Add names to the SANs of the API server in the configuration of kubeadm, which may have several documents."""
    configuration = [entry for entry in untrusted.yaml_documents(text, what="the configuration of kubeadm", error=NodeError) if entry]
    for document in configuration:
        if document.get("kind") == "ClusterConfiguration":
            server = document.setdefault("apiServer", {})
            server["certSANs"] = list(dict.fromkeys((*(server.get("certSANs") or ()), *names)))
    return documents(*configuration)


def configure_names(node: Node, names: tuple[str, ...]) -> None:
    """Add names to the configuration that kubeadm keeps in the cluster, for control-plane nodes that join later."""
    get = f"{KUBECTL} get configmap kubeadm-config --namespace=kube-system --output=json"
    answer = node.run(get, check=False, timeout=60)
    if not answer.ok:
        if "NotFound" in answer.stderr:
            raise CheckError("the cluster has no configuration of kubeadm", hint="was it made by another tool?", details=answer.output)
        raise CheckError("the API does not answer", hint="slipway status says more", details=answer.output)
    config = objects.config_map(answer.stdout, where=node.name)
    config["data"]["ClusterConfiguration"] = with_names(config["data"]["ClusterConfiguration"], names)
    # The API refuses this when another command has changed the object since it was read.
    node.run(f"{KUBECTL} replace -f -", input=json.dumps(config), timeout=60)
