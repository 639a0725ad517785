"""The keys of a cluster: what is signed by whom, for what, and for how long."""

from __future__ import annotations

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.errors import NodeError, StoreError
from harness.runtimes.pki import AUTHORITIES, ENCRYPTION, FILES, Authority, Pki, certificate_of, control_plane_certificates
from tests.unit.lifecycle.standin import StandIn

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(scope="module")
def pki() -> Pki:
    return Pki.make(now=NOW)


def read(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


def names(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def usages(certificate: x509.Certificate) -> set[object]:
    return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_pki_has_three_cas_and_service_account_key(pki: Pki) -> None:
    assert set(pki.files) == set(FILES)
    subjects = {read(pki.files[f"{name}.crt"]).subject.rfc4514_string() for name in ("ca", "etcd/ca", "front-proxy-ca")}
    assert subjects == {"CN=kubernetes", "CN=etcd-ca", "CN=front-proxy-ca"}
    assert pki.files["sa.pub"].startswith(b"-----BEGIN PUBLIC KEY")


def test_pki_encrypting_adds_one_key_file_and_is_idempotent(pki: Pki) -> None:
    assert not pki.encrypts
    encrypting = pki.encrypting()
    assert encrypting.encrypts
    assert encrypting.encrypting() is encrypting
    assert set(encrypting.files) == {*FILES, ENCRYPTION}
    assert encrypting.identity == pki.identity
    read_again = Pki.of(encrypting.files)
    assert read_again is not None
    assert read_again.files == encrypting.files
    modes = {path.rpartition(".")[2]: file.mode for path, file in encrypting.placed.items()}
    assert modes == {"crt": 0o644, "pub": 0o644, "key": 0o600, "yaml": 0o600}


def test_authority_secret_is_independent_of_key_encoding(pki: Pki) -> None:
    secret = pki.authority.secret("login of the registry")
    assert len(bytes.fromhex(secret)) == 32
    # kubeadm writes it in another form than openssl does.
    key = serialization.load_pem_private_key(pki.files["ca.key"], password=None)
    plain = serialization.NoEncryption()
    other_form = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    assert other_form != pki.files["ca.key"]
    assert Authority(b"renewed", other_form).secret("login of the registry") == secret


def test_authority_secret_of_elliptic_curve_key_matches_known_hmac() -> None:
    key = ec.derive_private_key(0x0123456789ABCDEF, ec.SECP256R1())
    form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    # printf 'slipway: x' | openssl dgst -sha256 -hmac 123456789abcdef
    known = "b66c00f9f88fd0157c688315dffe718dc09c752ea97324b9502023bc6b84236a"
    assert Authority(b"", key.private_bytes(serialization.Encoding.PEM, *form)).secret("x") == known


def test_authority_secret_differs_by_purpose_and_ca(pki: Pki) -> None:
    secret = pki.authority.secret("login of the registry")
    assert pki.authority.secret("something else") != secret
    assert pki.of_name("etcd/ca").secret("login of the registry") != secret


def test_pki_ca_may_sign_certificates_and_is_valid_ten_years(pki: Pki) -> None:
    certificate = read(pki.files["ca.crt"])
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    assert (certificate.not_valid_after_utc - NOW).days in (3649, 3650)


def test_authority_issue_certificate_is_valid_on_slow_clock(pki: Pki) -> None:
    pair = pki.authority.issue("x", now=NOW)
    assert read(pair.certificate).not_valid_before_utc < NOW - datetime.timedelta(minutes=10)


def test_pki_ca_and_service_account_keys_are_rsa_2048(pki: Pki) -> None:
    keys = [read(pki.files[f"{name}.crt"]).public_key() for name in AUTHORITIES]
    for key in (*keys, serialization.load_pem_public_key(pki.files["sa.pub"])):
        assert isinstance(key, rsa.RSAPublicKey)
        assert key.key_size == 2048


def test_authority_issue_key_is_new_p256_key(pki: Pki) -> None:
    pairs = [pki.authority.issue("x", now=NOW) for _ in range(2)]
    for pair in pairs:
        public = read(pair.certificate).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
        assert serialization.load_pem_private_key(pair.key, password=None).public_key() == public
    assert pairs[0].key != pairs[1].key


def test_leaf_certificates_are_valid_one_year_by_default(pki: Pki) -> None:
    pairs = control_plane_certificates(pki, "one", ["10.0.0.1"], ["10.0.0.1"])
    for pair in (pki.authority.issue("x"), pki.authority.renew(pairs["apiserver"].certificate), *pairs.values()):
        certificate = read(pair.certificate)
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == datetime.timedelta(days=365)


def test_certificate_serials_are_random_and_longer_than_64_bits(pki: Pki) -> None:
    certificates = [*(pki.authority.issue("x", now=NOW).certificate for _ in range(8)), *(pki.files[f"{name}.crt"] for name in AUTHORITIES)]
    serials = [read(certificate).serial_number for certificate in certificates]
    assert len(set(serials)) == len(serials)
    # One of 160 random bits is this short once in 2^95.
    assert all(serial.bit_length() > 64 for serial in serials)


def test_authority_issue_kubelet_client_has_node_name_and_group(pki: Pki) -> None:
    certificate = read(pki.authority.issue("system:node:one", organizations=["system:nodes"], now=NOW).certificate)
    assert certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:one"
    assert certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)[0].value == "system:nodes"
    assert usages(certificate) == {ExtendedKeyUsageOID.CLIENT_AUTH}
    certificate.verify_directly_issued_by(read(pki.files["ca.crt"]))


def test_authority_issue_server_has_addresses_as_sans(pki: Pki) -> None:
    certificate = read(pki.authority.issue("registry", hosts=["127.0.0.1", "10.0.0.1", "registry.local"], server=True, now=NOW).certificate)
    assert names(certificate) == {"127.0.0.1", "10.0.0.1", "registry.local"}
    assert usages(certificate) == {ExtendedKeyUsageOID.SERVER_AUTH}
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("10.0.0.1")]


def test_authority_issue_certificate_ends_with_its_ca() -> None:
    authority = Authority.make("old", now=NOW - datetime.timedelta(days=3600))
    certificate = read(authority.issue("x", days=3650, now=NOW).certificate)
    assert certificate.not_valid_after_utc == read(authority.certificate).not_valid_after_utc


def test_control_plane_certificates_are_issued_by_matching_ca(pki: Pki) -> None:
    pairs = control_plane_certificates(pki, "one", ["10.0.0.1", "kubernetes"], ["10.0.0.1", "localhost"])
    signers = {name: read(pair.certificate).issuer.rfc4514_string() for name, pair in pairs.items()}
    assert signers == {
        "apiserver": "CN=kubernetes",
        "apiserver-kubelet-client": "CN=kubernetes",
        "front-proxy-client": "CN=front-proxy-ca",
        "etcd/server": "CN=etcd-ca",
        "etcd/peer": "CN=etcd-ca",
        "etcd/healthcheck-client": "CN=etcd-ca",
        "apiserver-etcd-client": "CN=etcd-ca",
    }
    # Members of etcd are each other's clients as well.
    assert usages(read(pairs["etcd/peer"].certificate)) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert names(read(pairs["apiserver"].certificate)) == {"10.0.0.1", "kubernetes"}


def test_pki_of_complete_files_is_read_and_incomplete_is_none(pki: Pki) -> None:
    again = Pki.of(dict(pki.files))
    assert again is not None
    assert again.identity == pki.identity
    assert Pki.of({name: data for name, data in pki.files.items() if name != "sa.key"}) is None
    assert Pki.of({**pki.files, "ca.key": b""}) is None


def test_pki_of_mismatched_or_invalid_files_is_refused(pki: Pki) -> None:
    with pytest.raises(StoreError, match=r"ca\.key is not the key of .*ca\.crt") as caught:
        Pki.of({**pki.files, "ca.key": pki.files["etcd/ca.key"]})
    assert "backup" in str(caught.value.hint)
    with pytest.raises(StoreError, match="cannot be read"):
        Pki.of({**pki.files, "ca.crt": b"garbage"})


def test_pki_repr_omits_private_keys(pki: Pki) -> None:
    assert "PRIVATE" not in repr(pki)
    assert "PRIVATE" not in repr(pki.authority)
    assert "PRIVATE" not in repr(pki.authority.issue("x"))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x00" * 64])
def test_certificate_of_damaged_file_is_refused_with_node_and_path(data: bytes) -> None:
    node = StandIn("10.0.0.1", "one")
    node.get = lambda path: data  # type: ignore[method-assign]
    with pytest.raises(NodeError, match=r"^one: /etc/kubernetes/pki/apiserver\.crt holds no certificate that can be read"):
        certificate_of(node, "/etc/kubernetes/pki/apiserver.crt")
