"""``slipway certs``: until when the certificates of a cluster hold, new ones in time, and more names for the API server."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import datetime
import ipaddress
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness import assets, log, untrusted
from harness.errors import CheckError, CommandError, Fault, InputError, NodeError, StoreError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, kubeconfig, lease
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.kube import objects
from harness.lifecycle.plan import Step, execute
from harness.lifecycle.provision import registry
from harness.nodes import LONG_TIMEOUT, Machine, Node, each
from harness.nodes.files import STATE, NodeFile, read_files, write_files
from harness.runtimes import API_PORT, documents, static_pods
from harness.runtimes.kubeadm import CLIENT_PEM, CONFIG, KUBECTL, SERVING_CRT, SERVING_KEY, admin_identity
from harness.runtimes.pki import FILES, FOLDER, LEAF_DAYS, SHARED, Authority, Pki, alternative_names, general_name

WARN_DAYS = 30
_REGISTRY_DAYS = 3650
_BEFORE = f"{STATE}/certificates-before"
"""What was replaced last, on each master."""

AUTHORITY_OF: Mapping[str, str] = {
    "apiserver": "ca",
    "apiserver-kubelet-client": "ca",
    "front-proxy-client": "front-proxy-ca",
    "etcd/server": "etcd/ca",
    "etcd/peer": "etcd/ca",
    "etcd/healthcheck-client": "etcd/ca",
    "apiserver-etcd-client": "etcd/ca",
}
"""Who signs what, by their names below ``FOLDER``."""
KUBECONFIGS = ("admin", "super-admin", "controller-manager", "scheduler")

SERVING_PEM = "/var/lib/kubelet/pki/kubelet-server-current.pem"
"""Of a kubelet that asks the cluster for a certificate to serve with (serverTLSBootstrap)."""

_COLLECT = assets.script("certificates", CLIENT_PEM, SERVING_CRT, SERVING_PEM, registry.CERTIFICATE, registry.CA_OF_SITE, pki=FOLDER)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """One certificate in a file of a machine."""

    node: str
    address: str
    path: str
    subject: str
    issuer: str
    authority: bool
    ends: datetime.datetime
    names: tuple[str, ...] = ()
    """Whom it holds for, where it is a server's."""

    def days(self, now: datetime.datetime | None = None) -> int:
        """Whole days that are left; less than 0 when it has expired."""
        return (self.ends - (now or datetime.datetime.now(datetime.UTC))).days

    def state(self, now: datetime.datetime | None = None) -> str:
        """``good``, ``soon`` or ``expired``."""
        left = self.days(now)
        return "expired" if left < 0 else "soon" if left < WARN_DAYS else "good"

    def to_json(self, now: datetime.datetime | None = None) -> dict[str, Any]:
        found: dict[str, Any] = {"node": self.node, "address": self.address, "path": self.path, "subject": self.subject}
        found |= {"issuer": self.issuer, "authority": self.authority, "ends": self.ends.isoformat(), "daysLeft": self.days(now)}
        return {**found, "state": self.state(now), "names": list(self.names)}


@dataclasses.dataclass(frozen=True)
class Listing:
    """All certificates that were found, and the machines that could not be asked, with the reason, by address."""

    certificates: tuple[Certificate, ...]
    unreachable: Mapping[str, str]


# ---- looking ----------------------------------------------------------------------------------------------------------


def listing(
    name: str = cluster_cache.DEFAULT_NAME, masters: Sequence[Machine] = (), nodes: Sequence[Machine] = (), *, home: Path | None = None
) -> Listing:
    """Every certificate on every machine of the cluster that answers. Raises NodeError when none does."""
    with access.opened(access.known(name, masters, nodes, home=home)) as cluster:
        reached = (*cluster.masters, *cluster.nodes)
        if not reached:
            raise NodeError("\n".join(error.message for error in cluster.unreachable.values()), hint="no machine of the cluster answers")
        found = each(reached, certificates_of)
        return Listing(
            tuple(certificate for those in found for certificate in those),
            {address: error.message for address, error in cluster.unreachable.items()},
        )


def certificates_of(node: Node) -> tuple[Certificate, ...]:
    lines = node.run(_COLLECT, timeout=LONG_TIMEOUT).stdout.splitlines()
    if lines[-1:] != ["end"]:
        raise CommandError(f"{node.name}: its certificates could not be read")
    found = (parsed(node, *line.split(" ", maxsplit=1)) for line in lines[:-1])
    return tuple(certificate for certificate in found if certificate is not None)


def parsed(node: Node, path: str, data: str) -> Certificate | None:
    """A certificate of a node from base64 of its PEM; None, and a warning, when it is none."""
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
        names=tuple(str(getattr(name, "value", name)) for name in alternative_names(certificate)),
    )


def _common(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else name.rfc4514_string()


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


# ---- new ones ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Renewed:
    """What was renewed, by the name of its machine."""

    name: str
    masters: tuple[str, ...]
    kubelets: tuple[str, ...]
    """Machines whose kubelet got a new certificate: as a client where it had less than ``WARN_DAYS``, since kubelets renew that one by
    themselves; as a server wherever it has one of the cluster's authority.
    """
    days: int


def renew(
    name: str = cluster_cache.DEFAULT_NAME,
    masters: Sequence[Machine] = (),
    nodes: Sequence[Machine] = (),
    *,
    days: int = LEAF_DAYS,
    home: Path | None = None,
) -> Renewed:
    """New certificates with fresh keys for API servers, etcd, front proxy, kubeconfigs and registry, one master after the other.

    They hold for ``days``, or as long as their authority. Each master is up again before the next one's turn, so that of several the
    others serve all the time. Kubelets whose certificate as a client ends soon get one too, and those that serve with one of the cluster's.
    Raises InputError for nonsense, NodeError when a master is missing, StoreError when a master lacks the keys of the authorities.
    """
    if days < 1:
        raise InputError([Fault(f"--days {days}", "a certificate holds for a day at least")])
    found = access.known(name, masters, nodes, home=home)
    with access.opened(found) as cluster:
        all_masters(cluster)
        kubelets: list[str] = []
        with found.state.lock(), _alone(cluster, name):
            execute(_renewal(cluster, days, kubelets))
            _remember_access(cluster)
    return Renewed(name, tuple(node.name for node in cluster.masters), tuple(sorted(kubelets)), days)


@contextlib.contextmanager
def _alone(cluster: Access, name: str) -> Iterator[None]:
    """Be the only one that changes the cluster, if its API can still be asked: that it cannot may be what is to be mended."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lease.held(cluster.first, name))
        except CommandError as error:
            log.warning(f"the API does not answer, so nobody else who changes {name} would be seen")
            log.debug(error.details or error.message)
        yield


def all_masters(cluster: Access) -> None:
    """Raises NodeError unless every master answers: one that is left out would disagree with the others later."""
    _ = cluster.first
    missing = [cluster.unreachable[machine.address] for machine in cluster.known.masters if machine.address in cluster.unreachable]
    if missing:
        raise NodeError(
            "\n".join(error.message for error in missing), hint="bring every master up first, or remove it from the cluster: slipway remove"
        )


def _renewal(cluster: Access, days: int, kubelets: list[str]) -> list[Step]:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    authority: list[Authority] = []
    names = {str(entry["address"]): str(entry.get("name") or "") for entry in cluster.known.state.read().get("nodes") or ()}

    def read() -> None:
        authority.append(keys_of(cluster.first).authority)

    steps = [Step("read-keys", "read the keys of the authorities", read)]
    for number, master in enumerate(cluster.masters, 1):

        def action(node: Node) -> None:
            if renew_master(node, days, stamp, others=len(cluster.masters) > 1):
                kubelets.append(node.name)

        title = f"renew the certificates of {master.name}"
        steps.append(Step(f"renew-{number}", title, action, (master,), after_all=(steps[-1].id,)))

    def kubelet(node: Node) -> None:
        if renew_kubelet(node, authority[0], days, stamp, names.get(node.address)):
            kubelets.append(node.name)

    if cluster.nodes:
        title = "renew certificates of kubelets"
        steps.append(Step("renew-kubelets", title, kubelet, cluster.nodes, after_all=(steps[-1].id,)))
    return steps


def keys_of(node: Node) -> Pki:
    """The keys that masters share. Raises StoreError when the master lacks some: its authority is then somewhere else."""
    files = read_files(node, [f"{FOLDER}/{name}" for name in SHARED])
    found = Pki.of({name: files.get(f"{FOLDER}/{name}", b"") for name in SHARED})
    if found is None:
        raise StoreError(
            f"{node.name} does not have the keys of all authorities in {FOLDER}",
            hint="certificates of an authority that is kept elsewhere are renewed there",
        )
    return found


def any_has_keys(nodes: Sequence[Node], *, encrypts: bool) -> bool:
    """Whether a master has all that masters share; ``encrypts``: also the key of Secrets."""
    tests = " && ".join(f"[ -s {FOLDER}/{name} ]" for name in (SHARED if encrypts else FILES))
    return any(each(nodes, lambda node: node.run(tests, check=False).ok))


def renew_master(node: Node, days: int, stamp: str, *, others: bool = False) -> bool:
    """All that one master has, and its parts started anew; whether its kubelet got a new one too. ``stamp`` marks this renewal."""
    pki = keys_of(node)
    paths = [f"{FOLDER}/{name}.crt" for name in AUTHORITY_OF] + [f"/etc/kubernetes/{name}.conf" for name in KUBECONFIGS]
    files = read_files(node, paths)
    new = renewed(files, pki, days, node.name)
    node.run(f"set -e; umask 077; rm -rf {_BEFORE}; mkdir -p {_BEFORE}; cp -a {FOLDER} /etc/kubernetes/*.conf {_BEFORE}/")
    write_files(node, new)
    # First: a kubelet whose certificate has expired does not start, and without it nothing else does.
    kubelet = renew_kubelet(node, pki.authority, days, stamp)
    static_pods.restart(node, reason=stamp, others=others)
    _renew_registry(node, pki)
    return kubelet


def renewed(files: Mapping[str, bytes], pki: Pki, days: int, where: str) -> dict[str, NodeFile]:
    """The files of a master with certificates that hold for the same, by path. What our authorities did not sign is left alone."""
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
            new[path] = NodeFile(_renewed_kubeconfig(files[path], pki.authority, days), 0o600)
    return new


def _renewed_kubeconfig(data: bytes, authority: Authority, days: int) -> bytes:
    config = next(iter(untrusted.yaml_documents(data, what="a kubeconfig of a master", limit=1 << 20, error=NodeError)), None)
    users = config.get("users") if isinstance(config, dict) else None
    for entry in users if isinstance(users, list) else ():
        user = entry.get("user") if isinstance(entry, dict) else None
        if isinstance(user, dict) and "client-certificate-data" in user:
            pair = authority.renew(base64.b64decode(user["client-certificate-data"]), days=days)
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
    """New certificates for a kubelet: as a client where its own ends within ``WARN_DAYS``, as a server where the cluster's authority signed
    its own. False when it has longer, and serves with one that it made itself.

    ``name`` is the node's, where it is known here. Raises NodeError when what the machine shows is not a certificate of its own kubelet:
    a worker must not get one of the cluster's administrator, or of the API server, by showing that.
    """
    found = {certificate.path: certificate for certificate in certificates_of(node)}
    # As Kubernetes has it.
    name = (name or node.name).lower()
    new: dict[str, NodeFile] = {}
    if CLIENT_PEM in found and found[CLIENT_PEM].days() < WARN_DAYS:
        # The target of the link holds certificate and key; only the first is read here.
        data = _shown(node, CLIENT_PEM)
        _check_kubelet(node, CLIENT_PEM, authority, data, name)
        pair = authority.renew(data, days=days)
        dated = CLIENT_PEM.replace("current", re.sub(r"[TZ:]", "-", stamp).strip("-"))
        new |= {dated: NodeFile(pair.certificate + pair.key, 0o600), CLIENT_PEM: NodeFile(link=dated)}
    if SERVING_CRT in found and authority.signed(data := _shown(node, SERVING_CRT)):
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
    """Raises NodeError for what is not the certificate of a kubelet as a client or, at ``SERVING_CRT``, as a server of its own names."""
    subject = {NameOID.COMMON_NAME: f"system:node:{name}", NameOID.ORGANIZATION_NAME: "system:nodes"}
    serving = path == SERVING_CRT
    good = authority.signed(data)
    if good:
        certificate = x509.load_pem_x509_certificate(data)
        usage = [extension.value for extension in certificate.extensions if isinstance(extension.value, x509.ExtendedKeyUsage)]
        names = {one for one in alternative_names(certificate) if not isinstance(one, x509.IPAddress)}
        good = {(part.oid, part.value) for part in certificate.subject} == set(subject.items())
        good = good and [set(each) for each in usage] == [{ExtendedKeyUsageOID.SERVER_AUTH if serving else ExtendedKeyUsageOID.CLIENT_AUTH}]
        good = good and (names <= {general_name(name)} if serving else not alternative_names(certificate))
    if not good:
        raise NodeError(
            f"{node.name}: {path} is not a certificate of the kubelet of {name} that this cluster signed: it is not renewed",
            hint="look at it there: openssl x509 -noout -subject -issuer",
        )


def _remember_access(cluster: Access) -> None:
    """The kubeconfig that is kept here gets the new certificate."""
    if cluster.known.state.exists:
        master, state = cluster.first, cluster.known.state
        config = kubeconfig.named(admin_identity(master, state.name, state.authority()), state.name, master.address)
        cluster.known.state.write("kubeconfig", kubeconfig.text(config))


# ---- more names -------------------------------------------------------------------------------------------------------

_DNS_NAME = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


def check_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names and addresses, each once. Raises InputError with all that are neither."""
    found = tuple(dict.fromkeys(name.strip().lower() for name in names))
    faults = [Fault(f"add-names {name}", "is neither a DNS name nor an address") for name in found if not _is_name(name)]
    if faults:
        raise InputError(faults)
    return found


def _is_name(name: str) -> bool:
    if re.fullmatch(r"[0-9.]+|[0-9a-f:.]*:[0-9a-f:.]*", name):
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
    return len(name) <= 253 and _DNS_NAME.fullmatch(name) is not None


@dataclasses.dataclass(frozen=True)
class Named:
    """The names that were added, and all that the API's certificate holds for now, on the first master."""

    name: str
    added: tuple[str, ...]
    names: tuple[str, ...]


def add_names(
    names: Sequence[str],
    name: str = cluster_cache.DEFAULT_NAME,
    masters: Sequence[Machine] = (),
    nodes: Sequence[Machine] = (),
    *,
    days: int = LEAF_DAYS,
    home: Path | None = None,
) -> Named:
    """Let the API be called by more names: in the certificate of every API server, and in what kubeadm will make the next ones from.

    One master after the other; each is seen to answer by every new name before the next one's turn. May be repeated.
    """
    wanted = check_names(names)
    found = access.known(name, masters, nodes, home=home)
    with access.opened(found) as cluster:
        all_masters(cluster)
        with found.state.lock(), lease.held(cluster.first, name):
            execute(_naming(cluster, wanted, days))
        data = cluster.first.get(f"{FOLDER}/apiserver.crt")
        held = tuple(str(getattr(one, "value", one)) for one in alternative_names(x509.load_pem_x509_certificate(data)))
    return Named(name, wanted, held)


def _naming(cluster: Access, names: tuple[str, ...], days: int) -> list[Step]:
    def configure(node: Node) -> None:
        configure_names(node, names)

    steps = [Step("configure", "tell kubeadm the names", configure, (cluster.first,))]
    for number, master in enumerate(cluster.masters, 1):

        def action(node: Node) -> str:
            return name_master(node, names, days, others=len(cluster.masters) > 1)

        steps.append(Step(f"name-{number}", f"a certificate for {master.name}", action, (master,), after_all=(steps[-1].id,)))
    return steps


def name_master(node: Node, names: tuple[str, ...], days: int, *, others: bool = False) -> str:
    """The names into one master's own configuration and certificate; its API server has it when this returns."""
    for path, data in read_files(node, [CONFIG, f"{CONFIG}.upload"]).items():
        node.put(with_names(data.decode(), names).encode(), path, 0o600)
    pki = keys_of(node)
    path = f"{FOLDER}/apiserver.crt"
    data = node.get(path)
    note = "had them"
    held = set(alternative_names(x509.load_pem_x509_certificate(data)))
    if not {general_name(name) for name in names} <= held:
        pair = pki.authority.renew(data, days=days, hosts=names)
        write_files(node, {path: NodeFile(pair.certificate, 0o644), path.replace(".crt", ".key"): NodeFile(pair.key, 0o600)})
        note = ""
    fingerprint = x509.load_pem_x509_certificate(node.get(path)).serial_number
    static_pods.restart(node, ("kube-apiserver",), reason=f"certificate {fingerprint:x}", others=others)
    _answers_to(node, names)
    return note


def _answers_to(node: Node, names: Iterable[str]) -> None:
    """Raises CheckError when the API server does not prove that it is each of the names."""
    for name in names:
        asked = name.replace("*", "any", 1)
        server = f"--server=https://127.0.0.1:{API_PORT} --tls-server-name={shlex.quote(asked)}"
        said = node.run(f"{KUBECTL} --request-timeout=10s {server} get --raw /readyz", check=False)
        if not said.ok:
            raise CheckError(f"{node.name}: the API does not answer as {name}", hint="journalctl -u kubelet there", details=said.output)


def with_names(text: str, names: Sequence[str]) -> str:
    """kubeadm's configuration, of one document or several, with names united into those of the API server."""
    found = [document for document in untrusted.yaml_documents(text, what="the configuration of kubeadm", error=NodeError) if document]
    for document in found:
        if document.get("kind") == "ClusterConfiguration":
            server = document.setdefault("apiServer", {})
            server["certSANs"] = list(dict.fromkeys((*(server.get("certSANs") or ()), *names)))
    return documents(*found)


def configure_names(node: Node, names: tuple[str, ...]) -> None:
    """Into the configuration that kubeadm keeps in the cluster: masters that join later have the names then."""
    get = f"{KUBECTL} get configmap kubeadm-config --namespace=kube-system --output=json"
    answer = node.run(get, check=False, timeout=60)
    if not answer.ok:
        if "NotFound" in answer.stderr:
            raise CheckError("the cluster has no configuration of kubeadm", hint="was it made by another tool?", details=answer.output)
        raise CheckError("the API does not answer", hint="slipway status says more", details=answer.output)
    config = objects.config_map(answer.stdout, where=node.name)
    config["data"]["ClusterConfiguration"] = with_names(config["data"]["ClusterConfiguration"], names)
    # Somebody else's change between reading and writing is refused by the API.
    node.run(f"{KUBECTL} replace -f -", input=json.dumps(config), timeout=60)
