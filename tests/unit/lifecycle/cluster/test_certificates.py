"""Certificates: listed from files, and renewed for the same names."""

from __future__ import annotations

import base64
import datetime
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from harness.errors import CommandError, InputError, NodeError, StoreError, UsageError
from harness.lifecycle.cluster import certificates, lease
from harness.lifecycle.cluster.certificates import (
    AUTHORITY_OF,
    WARN_DAYS,
    any_has_keys,
    certificates_of,
    keys_of,
    renew,
    renew_kubelet,
    renewed,
)
from harness.nodes.files import NodeFile
from harness.process import ProcessResult
from harness.runtimes.configuration import SERVING_CRT, SERVING_KEY
from harness.runtimes.kubeadm import CLIENT_PEM, serving_pair
from harness.runtimes.kubeconfig import kubeconfig
from harness.runtimes.pki import ENCRYPTION, FILES, FOLDER, Authority, Pki, alternative_names, control_plane_certificates, general_name
from tests.unit.lifecycle.cluster.test_lease import ControlPlaneNode as ClaimedNode
from tests.unit.lifecycle.standin import StandIn
from tests.unit.runtimes.machines import final_path

PKI = Pki.make()
LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
NOW = datetime.datetime.now(datetime.UTC)


def of_control_plane_node(pki: Pki = PKI) -> dict[str, bytes]:
    pairs = control_plane_certificates(pki, "one", ["one", "kubernetes", "10.0.0.1"], ["one", "10.0.0.1"])
    files = {f"{FOLDER}/{name}.crt": pair.certificate for name, pair in pairs.items()}
    pair = pki.authority.issue("kubernetes-admin", organizations=["system:masters"], days=2)
    data = {
        name: base64.b64encode(value).decode()
        for name, value in (("client-certificate-data", pair.certificate), ("client-key-data", pair.key))
    }
    files["/etc/kubernetes/admin.conf"] = kubeconfig("lab", pki.files["ca.crt"], "kubernetes-admin", data).encode()
    return files


def collected(files: dict[str, bytes]) -> str:
    return "".join(f"{path} {base64.b64encode(data).decode()}\n" for path, data in files.items()) + "end\n"


def test_certificates_of_lists_each_certificate_with_expiry_state() -> None:
    node = StandIn("10.0.0.1", "one")
    soon = PKI.authority.issue("soon", hosts=["a.example.com", "10.0.0.9"], server=True, days=10)
    past = PKI.authority.issue("past", days=10, now=LONG_AGO)
    node.answers = {"echo end": collected({"/a.crt": soon.certificate, "/b.crt": past.certificate, "/ca.crt": PKI.files["ca.crt"]})}
    found = certificates_of(node)
    assert [(one.path, one.subject, one.issuer, one.state(), one.authority) for one in found] == [
        ("/a.crt", "soon", "kubernetes", "soon", False),
        ("/b.crt", "past", "kubernetes", "expired", False),
        ("/ca.crt", "kubernetes", "kubernetes", "good", True),
    ]
    assert found[0].names == ("a.example.com", "10.0.0.9")
    assert found[0].days() == 9
    assert found[1].days() < -1000
    assert json.loads(json.dumps(found[1].to_json()))["state"] == "expired"


def test_certificates_of_invalid_file_is_skipped_with_warning(capsys: pytest.CaptureFixture[str]) -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"echo end": f"/bad.crt bm90aGluZw==\n/worse.crt %%\n{collected({'/ca.crt': PKI.files['ca.crt']})}"}
    assert [one.path for one in certificates_of(node)] == ["/ca.crt"]
    assert "/bad.crt holds no certificate" in capsys.readouterr().err


def test_certificates_of_truncated_answer_raises_command_error() -> None:
    node = StandIn()
    node.answers = {"echo end": "/a.crt AAAA\n"}
    with pytest.raises(CommandError):
        certificates_of(node)


def test_renewed_control_plane_certificates_keep_subject_issuer_and_names() -> None:
    before = of_control_plane_node()
    new = renewed(before, PKI, 90, "one")
    assert set(new) == {f"{FOLDER}/{name}.{kind}" for name in AUTHORITY_OF for kind in ("crt", "key")} | {"/etc/kubernetes/admin.conf"}
    for name, signer in AUTHORITY_OF.items():
        old, fresh = (x509.load_pem_x509_certificate(data) for data in (before[f"{FOLDER}/{name}.crt"], new[f"{FOLDER}/{name}.crt"].data))
        assert (fresh.subject, fresh.issuer) == (old.subject, old.issuer)
        assert alternative_names(fresh) == alternative_names(old)
        kind = x509.ExtendedKeyUsage
        assert fresh.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)
        assert fresh.public_key() != old.public_key()
        assert abs((fresh.not_valid_after_utc - NOW).days - 90) <= 1
        assert PKI.of_name(signer).signed(new[f"{FOLDER}/{name}.crt"].data)
        assert new[f"{FOLDER}/{name}.key"].mode == 0o600
    config = yaml.safe_load(new["/etc/kubernetes/admin.conf"].data)
    assert config["clusters"] == yaml.safe_load(before["/etc/kubernetes/admin.conf"])["clusters"]
    client = x509.load_pem_x509_certificate(base64.b64decode(config["users"][0]["user"]["client-certificate-data"]))
    assert abs((client.not_valid_after_utc - NOW).days - 90) <= 1


def test_renewed_certificate_of_other_authority_is_skipped_with_warning(capsys: pytest.CaptureFixture[str]) -> None:
    files = of_control_plane_node()
    files[f"{FOLDER}/apiserver.crt"] = Authority.make("theirs").issue("kube-apiserver", hosts=["one"], server=True).certificate
    new = renewed(files, PKI, 90, "one")
    assert f"{FOLDER}/apiserver.crt" not in new
    assert f"{FOLDER}/etcd/server.crt" in new
    assert "is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("data", ["", "not base64", base64.b64encode(b"no certificate").decode(), 7])
def test_renewed_damaged_kubeconfig_is_refused_with_its_name(data: Any) -> None:
    config = {"users": [{"name": "x", "user": {"client-certificate-data": data, "client-key-data": data}}]}
    with pytest.raises(NodeError, match=r"^one: /etc/kubernetes/scheduler\.conf: its client certificate cannot be read"):
        renewed({"/etc/kubernetes/scheduler.conf": yaml.safe_dump(config).encode()}, PKI, 90, "one")


def test_renewed_certificate_expires_no_later_than_its_authority() -> None:
    new = renewed(of_control_plane_node(), PKI, 100_000, "one")
    end = x509.load_pem_x509_certificate(PKI.files["ca.crt"]).not_valid_after_utc
    assert x509.load_pem_x509_certificate(new[f"{FOLDER}/apiserver.crt"].data).not_valid_after_utc == end


def test_renewed_expired_certificate_becomes_valid() -> None:
    old = PKI.authority.issue("kube-apiserver", hosts=["one"], server=True, days=1, now=LONG_AGO)
    new = renewed({f"{FOLDER}/apiserver.crt": old.certificate}, PKI, 30, "one")
    assert x509.load_pem_x509_certificate(new[f"{FOLDER}/apiserver.crt"].data).not_valid_after_utc > NOW


def test_keys_of_node_without_authority_keys_is_refused() -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"base64 <": "end\n"}
    with pytest.raises(StoreError, match="one does not have the keys of all authorities"):
        keys_of(node)


def test_renew_zero_days_raises_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        renew("lab", days=0, home=tmp_path)


def test_alone_silent_api_claims_control_plane_nodes_and_other_command_is_refused() -> None:
    nodes = (ClaimedNode("10.0.0.1"), ClaimedNode("10.0.0.2"))
    cluster: Any = SimpleNamespace(first=nodes[0], control_plane=nodes)
    with certificates._alone(cluster, "lab"):
        assert [node.there for node in nodes] == [lease.holder()] * 2
    assert [node.there for node in nodes] == ["", ""]
    nodes[1].there = "ops@elsewhere:7"
    with pytest.raises(UsageError, match="ops@elsewhere:7 is changing the cluster lab"), certificates._alone(cluster, "lab"):
        pytest.fail("it was let in")


def test_authority_renew_with_more_hosts_adds_names() -> None:
    old = PKI.authority.issue("kube-apiserver", hosts=["one", "10.0.0.1"], server=True)
    new = PKI.authority.renew(old.certificate, hosts=["two", "one", "fd00::1"])
    names = alternative_names(x509.load_pem_x509_certificate(new.certificate))
    assert names == tuple(general_name(host) for host in ("one", "10.0.0.1", "two", "fd00::1"))


def kubelet_of(certificate: bytes, name: str = "worker") -> StandIn:
    node = StandIn("10.0.0.9", name)
    node.answers = {"echo end": collected({CLIENT_PEM: certificate}), "sed -n": certificate.decode()}
    return node


@pytest.mark.parametrize("name", ["Worker", None])
def test_renew_kubelet_expiring_client_certificate_keeps_subject_and_restarts(name: str | None) -> None:
    soon = PKI.authority.issue("system:node:worker", organizations=["system:nodes"], days=2)
    node = kubelet_of(soon.certificate)
    sent = placed(node)
    assert renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", name)
    dated = CLIENT_PEM.replace("current", "2026-01-01-00-00-00")
    assert sent.keys() == {dated, CLIENT_PEM}
    assert (sent[CLIENT_PEM].link, sent[dated].link, sent[dated].mode) == (dated, None, 0o600)
    old, new = (x509.load_pem_x509_certificate(data) for data in (soon.certificate, sent[dated].data))
    assert (new.subject, new.issuer, alternative_names(new)) == (old.subject, old.issuer, ())
    kind = x509.ExtendedKeyUsage
    assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)
    assert PKI.authority.signed(sent[dated].data)
    assert new.public_key() != old.public_key()
    assert serialization.load_pem_private_key(sent[dated].data, None).public_key() == new.public_key()
    assert abs((new.not_valid_after_utc - NOW).days - 90) <= 1
    # After the files are in place: a kubelet reads its certificate when it starts.
    assert node.commands[-1] == "systemctl restart kubelet"


def test_renew_kubelet_client_certificate_not_near_expiry_is_left_unchanged() -> None:
    node = kubelet_of(PKI.authority.issue("system:node:worker", organizations=["system:nodes"], days=WARN_DAYS + 2).certificate)
    sent = placed(node)
    assert not renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", "worker")
    assert sent == {}
    assert not any("systemctl restart" in command for command in node.commands)


def test_renew_kubelet_client_certificate_of_other_identity_is_refused() -> None:
    nodes, own = ["system:nodes"], PKI.authority
    shown = {
        "administrator": own.issue("kubernetes-admin", organizations=["system:masters"], days=2),
        "another node": own.issue("system:node:control-plane-1", organizations=nodes, days=2),
        "more groups": own.issue("system:node:worker", organizations=[*nodes, "system:masters"], days=2),
        "a server": own.issue("system:node:worker", organizations=nodes, hosts=["apiserver"], server=True, days=2),
        "not ours": Pki.make().authority.issue("system:node:worker", organizations=nodes, days=2),
    }
    for what, pair in shown.items():
        node = kubelet_of(pair.certificate, name="control-plane-1" if what == "another node" else "worker")
        with pytest.raises(NodeError, match="is not a certificate of the kubelet of worker"):
            renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", "worker")
        assert not any("systemctl restart" in command for command in node.commands), what


def serving_of(certificate: bytes, name: str = "worker") -> StandIn:
    node = StandIn("10.0.0.9", name)
    node.answers = {"echo end": collected({SERVING_CRT: certificate}), "sed -n": certificate.decode()}
    return node


def test_renew_kubelet_serving_certificate_of_cluster_keeps_names_and_restarts() -> None:
    pair = serving_pair(PKI, "worker", ["10.0.0.9", "fd00::9"], 300)
    node = serving_of(pair.certificate)
    sent = placed(node)
    assert renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", "Worker")
    new = x509.load_pem_x509_certificate(sent[SERVING_CRT].data)
    assert alternative_names(new) == tuple(general_name(host) for host in ("worker", "10.0.0.9", "fd00::9"))
    assert abs((new.not_valid_after_utc - NOW).days - 90) <= 1
    assert b"PRIVATE KEY" in sent[SERVING_KEY].data
    assert CLIENT_PEM not in sent
    assert any("systemctl restart kubelet" in command for command in node.commands)


def test_renew_kubelet_self_signed_serving_certificate_is_left_unchanged() -> None:
    own = Authority.make("worker-ca@1").issue("worker@1", hosts=["worker"], server=True, days=2)
    node = serving_of(own.certificate)
    assert not renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", "worker")
    assert not any("systemctl restart" in command for command in node.commands)


def test_renew_kubelet_serving_certificate_of_other_identity_is_refused() -> None:
    nodes, own = ["system:nodes"], PKI.authority
    shown = {
        "the API server": own.issue("kube-apiserver", hosts=["kubernetes", "10.0.0.1"], server=True),
        "another node": serving_pair(PKI, "control-plane-1", ["10.0.0.1"], 300),
        "another name": own.issue("system:node:worker", organizations=nodes, hosts=["worker", "kubernetes.default.svc"], server=True),
        "a client as well": own.issue("system:node:worker", organizations=nodes, hosts=["worker"], server=True, client=True),
        "no group": own.issue("system:node:worker", hosts=["worker"], server=True),
    }
    for what, pair in shown.items():
        node = serving_of(pair.certificate)
        with pytest.raises(NodeError, match="is not a certificate of the kubelet of worker"):
            renew_kubelet(node, PKI.authority, 90, "2026-01-01T00:00:00Z", "worker")
        assert not any("systemctl restart" in command for command in node.commands), what


def placed(node: StandIn) -> dict[str, NodeFile]:
    """The files and links that a machine is sent from now on, by path."""
    found: dict[str, NodeFile] = {}
    run = node.run

    def taking(command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> Any:
        if isinstance(input, bytes):
            with tarfile.open(fileobj=io.BytesIO(input)) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    link = member.linkname if member.issym() else None
                    found[final_path(member)] = NodeFile(content.read() if content else b"", member.mode, link)
        return run(command, input=input, check=check, timeout=timeout)

    node.run = taking  # type: ignore[method-assign]
    return found


class KeyHolder(StandIn):
    """A node that has some of the shared keys, each not empty."""

    def __init__(self, *held: str) -> None:
        super().__init__()
        self.held = {f"{FOLDER}/{name}" for name in held}

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        super().run(command, input=input, check=check, timeout=timeout)
        tests = [test.split() for test in command.split(" && ")]
        assert all((test[:2], test[3:]) == (["[", "-s"], ["]"]) for test in tests)
        return ProcessResult((), 0 if {test[2] for test in tests} <= self.held else 1, "", "")


def test_any_has_keys_of_node_without_secrets_key_suffices_only_if_cluster_does_not_encrypt() -> None:
    whole, plain = KeyHolder(*FILES, ENCRYPTION), KeyHolder(*FILES)
    lacking = [KeyHolder(*(other for other in FILES if other != name), ENCRYPTION) for name in FILES]
    assert any_has_keys([plain], encrypts=False)
    assert not any_has_keys([plain], encrypts=True)
    assert any_has_keys([plain, whole], encrypts=True)
    for encrypts in (False, True):
        # No node has all, although together they do.
        assert not any_has_keys(lacking, encrypts=encrypts)
        assert any_has_keys([*lacking, whole], encrypts=encrypts)
        assert not any_has_keys([], encrypts=encrypts)


def test_keys_of_returns_same_files_with_and_without_secrets_key() -> None:
    for pki in (PKI, PKI.encrypting()):
        node = StandIn()
        node.answers = {"base64 <": collected({path: file.data for path, file in pki.placed.items()})}
        assert keys_of(node).files == pki.files
