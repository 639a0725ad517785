"""The keys of a cluster: made once, here, so that no machine has to wait for another one's. The layout is kubeadm's own."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.errors import NodeError, StoreError
from harness.nodes import Node
from harness.nodes.files import NodeFile
from harness.runtimes.encryption import SecretsKey, configuration

FOLDER = "/etc/kubernetes/pki"
AUTHORITY_DAYS = 3650
LEAF_DAYS = 365
"""The same as kubeadm's; ``kubeadm certs renew`` and the kubelet's rotation renew them."""

ADMINISTRATORS = "kubeadm:cluster-admins"
"""The group of administrators, and the ClusterRoleBinding that makes them such: both are kubeadm's own names."""

AUTHORITIES = {"ca": "kubernetes", "etcd/ca": "etcd-ca", "front-proxy-ca": "front-proxy-ca"}
FILES = (*(f"{name}.{kind}" for name in AUTHORITIES for kind in ("crt", "key")), "sa.key", "sa.pub")
"""Files that all control-plane nodes share, relative to ``FOLDER``."""
ENCRYPTION = "secrets-encryption.yaml"
"""The API server's EncryptionConfiguration, relative to ``FOLDER``: shared as well when the profile encrypts Secrets."""
SHARED = (*FILES, ENCRYPTION)

# Clocks of machines differ; a certificate must be good on one that is behind.
_BACKDATE = datetime.timedelta(minutes=30)


@dataclasses.dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and key, PEM."""

    certificate: bytes
    key: bytes = dataclasses.field(repr=False)

    @classmethod
    def make(cls, name: str, *, days: int = AUTHORITY_DAYS, now: datetime.datetime | None = None) -> Authority:
        """A new one with an RSA key, which every client understands."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        start = (now or datetime.datetime.now(datetime.UTC)) - _BACKDATE
        subject = _name(name)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(_pem(certificate), _key_pem(key))

    def issue(
        self,
        name: str,
        *,
        organizations: Iterable[str] = (),
        hosts: Iterable[str] = (),
        server: bool = False,
        client: bool = False,
        days: int = LEAF_DAYS,
        now: datetime.datetime | None = None,
    ) -> Pair:
        """A certificate for ``name`` with a fresh key: a client's; with ``server`` one for ``hosts`` (names and addresses); or both."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * (client or not server)
        return self._sign(
            _name(name, organizations), x509.ExtendedKeyUsage(usages), [general_name(host) for host in dict.fromkeys(hosts)], days, now
        )

    def renew(self, certificate: bytes, *, days: int = LEAF_DAYS, hosts: Iterable[str] = ()) -> Pair:
        """A certificate for the same as ``certificate`` (PEM), and for ``hosts`` besides, with a fresh key."""
        before = x509.load_pem_x509_certificate(certificate)
        usage = before.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names = list(dict.fromkeys((*alternative_names(before), *(general_name(host) for host in hosts))))
        return self._sign(before.subject, usage, names, days, None)

    def signed(self, certificate: bytes) -> bool:
        """Return True when this CA signed a certificate (PEM), valid or expired."""
        try:
            x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(self.certificate))
        except Exception:
            # Not readable, of another CA, or with an unknown signature algorithm: not signed by this CA.
            return False
        return True

    def secret(self, purpose: str) -> str:
        """Derive a secret of the cluster for one purpose, 64 hexadecimal digits. It depends on the key only, and is stored nowhere.

        It is HMAC-SHA256 of the purpose. The secret of one purpose reveals neither another's nor the key.
        """
        numbers = _signer(self.key).private_numbers()
        # The numbers, and not their encoding: programs and releases of them write the same key in different forms.
        private = sorted((numbers.p, numbers.q)) if isinstance(numbers, rsa.RSAPrivateNumbers) else [numbers.private_value]
        return hmac.new(" ".join(f"{number:x}" for number in private).encode(), f"slipway: {purpose}".encode(), hashlib.sha256).hexdigest()

    def _sign(
        self, subject: x509.Name, usage: x509.ExtendedKeyUsage, names: list[x509.GeneralName], days: int, now: datetime.datetime | None
    ) -> Pair:
        issuer = x509.load_pem_x509_certificate(self.certificate)
        signer = _signer(self.key)
        key = ec.generate_private_key(ec.SECP256R1())
        start = (now or datetime.datetime.now(datetime.UTC)) - _BACKDATE
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(min(start + datetime.timedelta(days=days), issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return Pair(_pem(builder.sign(signer, hashes.SHA256())), _key_pem(key))


@dataclasses.dataclass(frozen=True)
class Pki:
    """Keys that all control-plane nodes share, by name below ``FOLDER``: three CAs, the service account key, and optionally the
    key of Secrets.
    """

    files: Mapping[str, bytes] = dataclasses.field(repr=False)

    @classmethod
    def make(cls, *, days: int = LEAF_DAYS, now: datetime.datetime | None = None) -> Pki:
        """New keys, for certificates of which none is to outlive ``days``: the authorities live as long at least."""
        files: dict[str, bytes] = {}
        for name, title in AUTHORITIES.items():
            authority = Authority.make(title, days=max(AUTHORITY_DAYS, days + 1), now=now)
            files[f"{name}.crt"], files[f"{name}.key"] = authority.certificate, authority.key
        accounts = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        files["sa.key"] = _key_pem(accounts)
        files["sa.pub"] = accounts.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return cls(files)

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Pki | None:
        """The keys of a cluster that exists, or None when they are not all there. Raises StoreError when they do not fit together."""
        contents = {name: files[name] for name in SHARED if files.get(name)}
        if not set(FILES) <= set(contents):
            return None
        for name in AUTHORITIES:
            try:
                certificate = x509.load_pem_x509_certificate(contents[f"{name}.crt"])
                key = serialization.load_pem_private_key(contents[f"{name}.key"], password=None)
            except ValueError as wrong:
                raise StoreError(f"{FOLDER}/{name}.crt or its key cannot be read: {wrong}", hint="restore them from a backup") from wrong
            if _public(certificate.public_key()) != _public(key.public_key()):
                raise StoreError(f"{FOLDER}/{name}.key is not the key of {name}.crt", hint="restore them from a backup")
        return cls(contents)

    @property
    def authority(self) -> Authority:
        """The cluster's own, which signs for the API, kubelets and the registry."""
        return self.of_name("ca")

    def of_name(self, name: str) -> Authority:
        """One of ``AUTHORITIES``."""
        return Authority(self.files[f"{name}.crt"], self.files[f"{name}.key"])

    @property
    def encrypts(self) -> bool:
        """True when there is a key that encrypts Secrets in etcd."""
        return ENCRYPTION in self.files

    def encrypting(self) -> Pki:
        """These keys, and one for Secrets: a new one where there was none."""
        return self if self.encrypts else Pki({**self.files, ENCRYPTION: configuration([SecretsKey.make()])})

    @property
    def placed(self) -> dict[str, NodeFile]:
        """The files as on control-plane nodes, by path."""
        return {
            f"{FOLDER}/{name}": NodeFile(data, 0o644 if name.endswith((".crt", ".pub")) else 0o600) for name, data in self.files.items()
        }

    @property
    def identity(self) -> str:
        """Unique identity of the cluster: a hash of its CA certificate."""
        return identity(self.files["ca.crt"])


def identity(authority: bytes) -> str:
    """Return the identity of the cluster with this CA certificate: of the file, as it is."""
    return hashlib.sha256(authority).hexdigest()[:16]


def fingerprints(certificates: bytes) -> frozenset[bytes]:
    """Return the SHA-256 fingerprints of PEM certificates. Raises ValueError when there are none, or one cannot be read."""
    return frozenset(certificate.fingerprint(hashes.SHA256()) for certificate in x509.load_pem_x509_certificates(certificates))


def control_plane_certificates(
    pki: Pki, node: str, api_hosts: Iterable[str], etcd_hosts: Iterable[str], days: int = LEAF_DAYS
) -> dict[str, Pair]:
    """Certificates that kubeadm expects on a control-plane node, by name below ``FOLDER``.

    kubeadm would make the same; its RSA keys take a busy machine seconds. ``kubeadm certs`` renews these like its own.
    """
    cluster, front, etcd = pki.authority, pki.of_name("front-proxy-ca"), pki.of_name("etcd/ca")
    peers = list(etcd_hosts)
    return {
        "apiserver": cluster.issue("kube-apiserver", hosts=api_hosts, server=True, days=days),
        # Since 1.36 kubeadm lets the user itself ask kubelets; before that it is the group that may.
        "apiserver-kubelet-client": cluster.issue("kube-apiserver-kubelet-client", organizations=[ADMINISTRATORS], days=days),
        "front-proxy-client": front.issue("front-proxy-client", days=days),
        "etcd/server": etcd.issue(node, hosts=peers, server=True, client=True, days=days),
        "etcd/peer": etcd.issue(node, hosts=peers, server=True, client=True, days=days),
        "etcd/healthcheck-client": etcd.issue("kube-etcd-healthcheck-client", days=days),
        "apiserver-etcd-client": etcd.issue("kube-apiserver-etcd-client", days=days),
    }


def certificate_of(node: Node, path: str) -> x509.Certificate:
    """Read a certificate of a node. Raises NodeError for a file that holds none, as after the power was cut."""
    try:
        return x509.load_pem_x509_certificate(node.get(path))
    except ValueError as wrong:
        raise NodeError(f"{node.name}: {path} holds no certificate that can be read", hint="put it back from a backup") from wrong


def alternative_names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """Whom a certificate holds for, where it is a server's."""
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


@functools.lru_cache(maxsize=8)
def _signer(key: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    """A key that signs. Reading an RSA key proves its numbers, which takes longer than all the rest of a certificate."""
    signer = serialization.load_pem_private_key(key, password=None)
    if not isinstance(signer, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise StoreError("the key of the certificate authority is neither RSA nor ECDSA", hint="use such a key")
    return signer


def _name(common: str, organizations: Iterable[str] = ()) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, text) for text in organizations]
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def general_name(host: str) -> x509.GeneralName:
    """A name or address as a certificate has it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


_UNUSED = ("content_commitment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only", "decipher_only")
"""Usages of keys that certificates of Kubernetes do not have."""


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(digital_signature=True, key_encipherment=True, key_cert_sign=authority, **dict.fromkeys(_UNUSED, False))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())


def _public(key: object) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]
