"""``slipway certs``: list and renew the certificates of a cluster."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness import assets, log, untrusted
from harness.errors import CommandError, Fault, InputError, NodeError, StoreError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, kubeconfig, lease, owner
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.plan import Step, execute
from harness.lifecycle.provision import registry
from harness.nodes import LONG_TIMEOUT, Machine, Node, each
from harness.nodes.files import STATE, NodeFile, read_files, write_files
from harness.runtimes import static_pods
from harness.runtimes.configuration import SERVING_CRT, SERVING_KEY
from harness.runtimes.kubeadm import CLIENT_PEM
from harness.runtimes.kubeconfig import admin_identity
from harness.runtimes.pki import FILES, FOLDER, LEAF_DAYS, SHARED, Authority, Pki, alternative_names, general_name

WARN_DAYS = 30
_REGISTRY_DAYS = 3650
_BEFORE = f"{STATE}/certificates-before"
"""The certificates before the last renewal, on each control-plane node; repeated after a failure it leaves the copy as it is."""

AUTHORITY_OF: Mapping[str, str] = {
    "apiserver": "ca",
    "apiserver-kubelet-client": "ca",
    "front-proxy-client": "front-proxy-ca",
    "etcd/server": "etcd/ca",
    "etcd/peer": "etcd/ca",
    "etcd/healthcheck-client": "etcd/ca",
    "apiserver-etcd-client": "etcd/ca",
}
"""The CA of each certificate: names below ``FOLDER``."""
KUBECONFIGS = ("admin", "super-admin", "controller-manager", "scheduler")

SERVING_PEM = "/var/lib/kubelet/pki/kubelet-server-current.pem"
"""Serving certificate of a kubelet that requests it from the cluster (serverTLSBootstrap)."""

_COLLECT = assets.script("certificates", CLIENT_PEM, SERVING_CRT, SERVING_PEM, registry.CERTIFICATE, registry.CA_OF_SITE, pki=FOLDER)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """One certificate in a file of a node."""

    node: str
    address: str
    path: str
    subject: str
    issuer: str
    authority: bool
    ends: datetime.datetime
    names: tuple[str, ...] = ()
    """SANs."""

    def days(self, now: datetime.datetime | None = None) -> int:
        """Return the whole days until it expires; negative afterwards."""
        return (self.ends - (now or datetime.datetime.now(datetime.UTC))).days

    def state(self, now: datetime.datetime | None = None) -> str:
        """Return ``good``, ``soon`` or ``expired``."""
        days = self.days(now)
        return "expired" if days < 0 else "soon" if days < WARN_DAYS else "good"

    def to_json(self, now: datetime.datetime | None = None) -> dict[str, Any]:
        return {
            "node": self.node,
            "address": self.address,
            "path": self.path,
            "subject": self.subject,
            "issuer": self.issuer,
            "authority": self.authority,
            "ends": self.ends.isoformat(),
            "daysLeft": self.days(now),
            "state": self.state(now),
            "names": list(self.names),
        }


@dataclasses.dataclass(frozen=True)
class Listing:
    """The certificates of a cluster, and why nodes are unreachable, by address."""

    certificates: tuple[Certificate, ...]
    unreachable: Mapping[str, str]


# ---- list -------------------------------------------------------------------------------------------------------------


def listing(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
) -> Listing:
    """Return every certificate on every reachable node. Raises NodeError when none is reachable."""
    with access.opened(access.known(name, control_plane, workers, home=home)) as cluster:
        reached = (*cluster.control_plane, *cluster.workers)
        if not reached:
            raise NodeError("\n".join(error.message for error in cluster.unreachable.values()), hint="no machine of the cluster answers")
        by_node = each(reached, certificates_of)
        return Listing(
            tuple(certificate for certificates in by_node for certificate in certificates),
            {address: error.message for address, error in cluster.unreachable.items()},
        )


def certificates_of(node: Node) -> tuple[Certificate, ...]:
    """Return the certificates on a node. Raises CommandError when they cannot be read."""
    lines = node.run(_COLLECT, timeout=LONG_TIMEOUT).stdout.splitlines()
    if lines[-1:] != ["end"]:
        raise CommandError(f"{node.name}: its certificates could not be read")
    certificates = (parsed(node, *line.split(" ", maxsplit=1)) for line in lines[:-1])
    return tuple(certificate for certificate in certificates if certificate is not None)


def parsed(node: Node, path: str, data: str) -> Certificate | None:
    """Return a certificate of a node from the base64 of its PEM; None, with a warning, when it is not valid."""
    try:
        certificate = x509.load_pem_x509_certificate(base64.b64decode(data, validate=True))
    except (ValueError, binascii.Error):
        log.warning(f"{node.name}: {path} holds no certificate that can be read")
        return None
    return Certificate(
        node=node.name,
        address=node.address,
        path=path,
        subject=_common(certificate.subject),
        issuer=_common(certificate.issuer),
        authority=_is_authority(certificate),
        ends=certificate.not_valid_after_utc,
        names=sans_of(certificate),
    )


def _common(name: x509.Name) -> str:
    attributes = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(attributes[0].value) if attributes else name.rfc4514_string()


def sans_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the SANs of a certificate as text."""
    return tuple(str(getattr(name, "value", name)) for name in alternative_names(certificate))


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


# ---- renew ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Renewed:
    """The names of the nodes whose certificates were renewed."""

    name: str
    control_plane: tuple[str, ...]
    kubelets: tuple[str, ...]
    """Nodes whose kubelet has a new certificate: a client certificate where less than ``WARN_DAYS`` were left, since kubelets renew it by
    themselves; a serving certificate wherever the CA of the cluster signed the old one.
    """
    days: int


def renew(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    days: int = LEAF_DAYS,
    home: Path | None = None,
) -> Renewed:
    """Renew certificates and keys of API servers, etcd, front proxy, kubeconfigs, registries and kubelets, valid for ``days`` at most.

    One control-plane node after the other: each is up again before the next one begins, so that the others serve all the time. Client
    certificates of kubelets are renewed when they expire soon, serving certificates where the CA of the cluster signed them.
    Raises InputError for ``days`` below 1, NodeError when a control-plane node is unreachable, StoreError when one lacks keys of CAs.
    """
    if days < 1:
        raise InputError([Fault(f"--days {days}", "a certificate holds for a day at least")])
    with access.opened(access.known(name, control_plane, workers, home=home)) as opened:
        cluster = owner.own(opened)
        require_control_plane(cluster)
        kubelets: list[str] = []
        with cluster.known.state.lock(), _alone(cluster, name):
            execute(_renewal(cluster, days, kubelets))
            _remember_access(cluster)
    return Renewed(name, tuple(node.name for node in cluster.control_plane), tuple(sorted(kubelets)), days)


@contextlib.contextmanager
def _alone(cluster: Access, name: str) -> Iterator[None]:
    """Hold the lease of the cluster, or claim its control-plane nodes where no API answers: expired certificates may be the cause."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease.held(cluster.first, name))
        except CommandError as error:
            log.debug(error.details or error.message)
            stack.enter_context(lease.claimed(cluster.control_plane, name))
        yield


def require_control_plane(cluster: Access) -> None:
    """Raise NodeError unless every control-plane node is reachable: one that is left out would disagree with the others."""
    _ = cluster.first
    missing = [cluster.unreachable[machine.address] for machine in cluster.known.control_plane if machine.address in cluster.unreachable]
    if missing:
        raise NodeError(
            "\n".join(error.message for error in missing),
            hint="bring every control-plane node up first, or remove it from the cluster: slipway remove",
        )


def _renewal(cluster: Access, days: int, kubelets: list[str]) -> list[Step]:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    authority: list[Authority] = []
    names = {str(entry["address"]): str(entry.get("name") or "") for entry in cluster.known.state.read().get("workers") or ()}

    def read() -> None:
        authority.append(keys_of(cluster.first).authority)

    steps = [Step("read-keys", "read the keys of the authorities", read)]
    for number, control_plane_node in enumerate(cluster.control_plane, 1):

        def action(node: Node) -> None:
            if renew_control_plane_node(node, days, stamp, others=len(cluster.control_plane) > 1):
                kubelets.append(node.name)

        title = f"renew the certificates of {control_plane_node.name}"
        steps.append(Step(f"renew-{number}", title, action, (control_plane_node,), after_all=(steps[-1].id,)))

    def kubelet(node: Node) -> None:
        if renew_kubelet(node, authority[0], days, stamp, names.get(node.address)):
            kubelets.append(node.name)

    if cluster.workers:
        title = "renew certificates of kubelets"
        steps.append(Step("renew-kubelets", title, kubelet, cluster.workers, after_all=(steps[-1].id,)))
    return steps


def keys_of(node: Node) -> Pki:
    """Return the keys that control-plane nodes share. Raises StoreError when this one lacks some: its CA is kept elsewhere."""
    files = read_files(node, [f"{FOLDER}/{name}" for name in SHARED])
    pki = Pki.of({name: files.get(f"{FOLDER}/{name}", b"") for name in SHARED})
    if pki is None:
        raise StoreError(
            f"{node.name} does not have the keys of all authorities in {FOLDER}",
            hint="certificates of an authority that is kept elsewhere are renewed there",
        )
    return pki


def any_has_keys(nodes: Sequence[Node], *, encrypts: bool) -> bool:
    """Return True when a node has all keys that control-plane nodes share; ``encrypts``: also the key of Secrets."""
    tests = " && ".join(f"[ -s {FOLDER}/{name} ]" for name in (SHARED if encrypts else FILES))
    return any(each(nodes, lambda node: node.run(tests, check=False).ok))


def renew_control_plane_node(node: Node, days: int, stamp: str, *, others: bool = False) -> bool:
    """Renew all certificates of one control-plane node and restart its components. Returns True when its kubelet has a new one too.

    ``stamp`` identifies this renewal; ``others``: there are other control-plane nodes.
    """
    pki = keys_of(node)
    paths = [f"{FOLDER}/{name}.crt" for name in AUTHORITY_OF] + [f"/etc/kubernetes/{name}.conf" for name in KUBECONFIGS]
    files = read_files(node, paths)
    new = renewed(files, pki, days, node.name)
    node.run(assets.script("save_certificates", before=_BEFORE, kubernetes=posixpath.dirname(FOLDER)))
    write_files(node, new)
    # First: a kubelet with an expired certificate does not start, and without it nothing else does.
    kubelet = renew_kubelet(node, pki.authority, days, stamp)
    static_pods.restart(node, reason=stamp, others=others)
    _renew_registry(node, pki)
    node.run(f"rm -f {_BEFORE}/unfinished")
    return kubelet


def renewed(files: Mapping[str, bytes], pki: Pki, days: int, where: str) -> dict[str, NodeFile]:
    """Return the files of a control-plane node, by path, with renewed certificates. One that another CA signed is not renewed."""
    new: dict[str, NodeFile] = {}
    for name, signer in AUTHORITY_OF.items():
        data = files.get(f"{FOLDER}/{name}.crt")
        if data is None:
            continue
        if not pki.of_name(signer).signed(data):
            log.warning(f"{where}: {FOLDER}/{name}.crt is not signed by {FOLDER}/{signer}.crt and is left as it is")
            continue
        pair = pki.of_name(signer).renew(data, days=days)
        new[f"{FOLDER}/{name}.crt"] = NodeFile(pair.certificate, 0o644)
        new[f"{FOLDER}/{name}.key"] = NodeFile(pair.key, 0o600)
    for name in KUBECONFIGS:
        path = f"/etc/kubernetes/{name}.conf"
        if path in files:
            new[path] = NodeFile(_renewed_kubeconfig(files[path], pki.authority, days, f"{where}: {path}"), 0o600)
    return new


def _renewed_kubeconfig(data: bytes, authority: Authority, days: int, what: str) -> bytes:
    """Raise NodeError for a kubeconfig that is damaged; ``what`` names it."""
    config = next(iter(untrusted.yaml_documents(data, what=what, limits=untrusted.KUBECONFIG_LIMITS, error=NodeError)), None)
    users = config.get("users") if isinstance(config, dict) else None
    for entry in users if isinstance(users, list) else ():
        user = entry.get("user") if isinstance(entry, dict) else None
        if isinstance(user, dict) and "client-certificate-data" in user:
            try:
                pair = authority.renew(base64.b64decode(user["client-certificate-data"]), days=days)
            except (ValueError, TypeError, x509.ExtensionNotFound) as wrong:
                raise NodeError(
                    f"{what}: its client certificate cannot be read; nothing has been renewed there",
                    hint="move the file away and have kubeadm write another one there: kubeadm init phase kubeconfig",
                ) from wrong
            user["client-certificate-data"] = base64.b64encode(pair.certificate).decode()
            user["client-key-data"] = base64.b64encode(pair.key).decode()
    return yaml.safe_dump(config, sort_keys=False).encode()


def _renew_registry(node: Node, pki: Pki) -> None:
    data = read_files(node, [registry.CERTIFICATE]).get(registry.CERTIFICATE)
    if data is None or not pki.authority.signed(data):
        return
    pair = pki.authority.renew(data, days=_REGISTRY_DAYS)
    registry.start(node, pair.certificate, pair.key)


def renew_kubelet(node: Node, authority: Authority, days: int, stamp: str, name: str | None = None) -> bool:
    """Renew the client certificate of a kubelet that expires within ``WARN_DAYS``, and a serving certificate that the cluster's CA signed.

    Returns False when there is nothing to renew. ``name``: of the node, where it is cached. Raises NodeError when the node presents
    another certificate than its kubelet's: a worker must not obtain one of the administrator or of the API server.
    """
    by_path = {certificate.path: certificate for certificate in certificates_of(node)}
    # Kubernetes writes names of nodes in lower case.
    name = (name or node.name).lower()
    new: dict[str, NodeFile] = {}
    if CLIENT_PEM in by_path and by_path[CLIENT_PEM].days() < WARN_DAYS:
        # The target of the link has certificate and key; only the certificate is read.
        data = _shown(node, CLIENT_PEM)
        _check_kubelet(node, CLIENT_PEM, authority, data, name)
        pair = authority.renew(data, days=days)
        dated = CLIENT_PEM.replace("current", re.sub(r"[TZ:]", "-", stamp).strip("-"))
        new |= {dated: NodeFile(pair.certificate + pair.key, 0o600), CLIENT_PEM: NodeFile(link=dated)}
    if SERVING_CRT in by_path and authority.signed(data := _shown(node, SERVING_CRT)):
        _check_kubelet(node, SERVING_CRT, authority, data, name)
        pair = authority.renew(data, days=days)
        new |= {SERVING_CRT: NodeFile(pair.certificate, 0o644), SERVING_KEY: NodeFile(pair.key, 0o600)}
    if new:
        write_files(node, new)
        node.run("systemctl restart kubelet", timeout=LONG_TIMEOUT)
    return bool(new)


def _shown(node: Node, path: str) -> bytes:
    return node.run(f"sed -n '/BEGIN CERT/,/END CERT/p' {path}").stdout.encode()


def _check_kubelet(node: Node, path: str, authority: Authority, data: bytes, name: str) -> None:
    """Raise NodeError for anything but a client certificate of the kubelet or, at ``SERVING_CRT``, its serving certificate."""
    subject = {NameOID.COMMON_NAME: f"system:node:{name}", NameOID.ORGANIZATION_NAME: "system:nodes"}
    serving = path == SERVING_CRT
    valid = authority.signed(data)
    if valid:
        certificate = x509.load_pem_x509_certificate(data)
        usage = [extension.value for extension in certificate.extensions if isinstance(extension.value, x509.ExtendedKeyUsage)]
        expected = ExtendedKeyUsageOID.SERVER_AUTH if serving else ExtendedKeyUsageOID.CLIENT_AUTH
        names = {san for san in alternative_names(certificate) if not isinstance(san, x509.IPAddress)}
        valid = (
            {(part.oid, part.value) for part in certificate.subject} == set(subject.items())
            and [set(oids) for oids in usage] == [{expected}]
            and (names <= {general_name(name)} if serving else not alternative_names(certificate))
        )
    if not valid:
        raise NodeError(
            f"{node.name}: {path} is not a certificate of the kubelet of {name} that this cluster signed: it is not renewed",
            hint="look at it there: openssl x509 -noout -subject -issuer",
        )


def _remember_access(cluster: Access) -> None:
    """Put the new certificate into the cached kubeconfig."""
    if cluster.known.state.exists:
        node, state = cluster.first, cluster.known.state
        config = kubeconfig.named(admin_identity(node, state.name, state.authority()), state.name, node.address)
        cluster.known.state.write("kubeconfig", kubeconfig.text(config))
