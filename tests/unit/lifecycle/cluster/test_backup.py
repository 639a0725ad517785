"""The file of a backup: written, read again, refused when it is not whole."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import CommandError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access, backup_crypto, certificates
from harness.lifecycle.cluster.access import Access, Known
from harness.lifecycle.cluster.backup import SNAPSHOT, _members, _record, _write, addresses, backup, open_backup
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections
from harness.runtimes.pki import ENCRYPTION, FILES
from tests.unit.lifecycle.standin import StandIn

DATA = b"a snapshot of etcd" * 1000
MEMBERS = {"Clusterfile": b"kind: Cluster\n", "kubeadm.yaml": b"kubernetesVersion: v1.36.3\n"} | {
    f"pki/{name}": f"the key {name}".encode() for name in FILES
}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_crypto, "_COST", 4)


def front(**more: Any) -> dict[str, Any]:
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in {**MEMBERS, SNAPSHOT: DATA}.items()}
    return {
        "format": 1,
        "cluster": "lab",
        "identity": "01",
        "made": "2026-01-01T00:00:00+00:00",
        "kubernetes": "v1.36.3",
        "image": {"digest": "sha256:1"},
        "etcd": {"revision": 7, "totalKey": 5, "image": "etcd:3"},
        "controlPlane": ["10.0.0.1"],
        "workers": [],
        "names": ["m1"],
        "files": files,
        **more,
    }


def written(tmp_path: Path, password: str | None = None, **more: Any) -> Path:
    file = tmp_path / "lab.backup"
    _write(file, front(**more), MEMBERS, io.BytesIO(DATA), password)
    return file


@pytest.mark.parametrize("password", [None, "word"])
def test_open_backup_with_or_without_password_returns_written_contents(tmp_path: Path, password: str | None) -> None:
    file = written(tmp_path, password)
    assert file.stat().st_mode & 0o077 == 0
    assert (b"the key" in file.read_bytes()) is (password is None)
    with open_backup(file, password) as (contents, snapshot):
        assert snapshot.read() == DATA
        assert contents.name == "lab"
        assert contents.keys["etcd/ca.key"] == b"the key etcd/ca.key"
        assert contents.kubeadm == {"kubernetesVersion": "v1.36.3"}
    assert [path.name for path in tmp_path.iterdir()] == ["lab.backup"]


def test_open_backup_of_encrypting_cluster_returns_secrets_key(tmp_path: Path) -> None:
    with open_backup(written(tmp_path)) as (contents, _):
        assert ENCRYPTION not in contents.keys
    key = {f"pki/{ENCRYPTION}": b"the key of Secrets"}
    files = {**front()["files"], **{name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in key.items()}}
    file = tmp_path / "encrypted.backup"
    _write(file, front(files=files), {**MEMBERS, **key}, io.BytesIO(DATA), "word")
    assert b"the key of Secrets" not in file.read_bytes()
    with open_backup(file, "word") as (contents, _):
        assert contents.keys[ENCRYPTION] == b"the key of Secrets"


def test_write_backup_without_password_produces_plain_tar(tmp_path: Path) -> None:
    with tarfile.open(written(tmp_path)) as tar:
        names = tar.getnames()
        assert names[0] == "backup.json"
        assert json.loads(tar.extractfile("backup.json").read())["cluster"] == "lab"  # type: ignore[union-attr]
        assert {member.mode for member in tar} == {0o600}


def test_open_backup_with_former_field_names_returns_current_ones(tmp_path: Path) -> None:
    former = {**front(), "masters": ["10.0.0.1"], "nodes": ["10.0.0.4"]}
    del former["controlPlane"], former["workers"]
    file = tmp_path / "lab.backup"
    _write(file, former, MEMBERS, io.BytesIO(DATA), None)
    with open_backup(file) as (contents, _):
        assert (contents.front["controlPlane"], contents.front["workers"]) == (["10.0.0.1"], ["10.0.0.4"])


def test_open_backup_damaged_file_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    whole = file.read_bytes()
    place = whole.index(b"a snapshot of etcd") + 5000
    for changed in (
        whole[:place] + b"!" + whole[place + 1 :],
        whole[:place],
        whole.replace(b"the key sa.pub", b"the key sa.puB"),
        b"",
        b"text",
    ):
        file.write_bytes(changed)
        with pytest.raises(UsageError, match=r"lab\.backup"), open_backup(file):
            pass


def test_open_backup_missing_member_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lab.backup"
    _write(file, front(), {name: data for name, data in MEMBERS.items() if name != "pki/sa.key"}, io.BytesIO(DATA), None)
    with pytest.raises(UsageError, match=r"is damaged: pki/sa\.key"), open_backup(file):
        pass


def test_backup_members_of_cluster_without_record_are_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ControlPlaneNode(StandIn):
        def run(self, command: str, **options: Any) -> Any:
            if "slipway-clusterfile" in command:
                raise CommandError("kubectl: exit code 1", details="Error from server (NotFound)")
            return super().run(command, **options)

    node: Any = ControlPlaneNode()
    node.answers = {"get configmap kubeadm-config": json.dumps({"data": {"ClusterConfiguration": "kubernetesVersion: v1.36.3\n"}})}
    monkeypatch.setattr(certificates, "keys_of", lambda _: SimpleNamespace(files=dict.fromkeys(FILES, b"key")))
    known = Known(ClusterState.of("lab", tmp_path), (Machine("10.0.0.1"),), ())
    members = _members(node, _record(Access(known, SshConnections(tmp_path / "c", ()), (node,), (), {}), node))
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in {**members, SNAPSHOT: DATA}.items()}
    file = tmp_path / "lab.backup"
    _write(file, front(files=files, image=json.loads(members["record.json"])), members, io.BytesIO(DATA), None)
    with open_backup(file) as (contents, _):
        assert (contents.clusterfile, contents.front["image"]["digest"]) == ("", "")


def test_addresses_of_backup_are_those_of_record_also_by_way_of_one_machine() -> None:
    via = [Machine("10.0.0.2")]
    assert addresses(via, {"10.0.0.1", "10.0.0.2", "10.0.0.3"}) == ["10.0.0.2", "10.0.0.1", "10.0.0.3"]
    # One that another machine has removed is not in the record; a cluster without a record has what is known here.
    assert addresses([*via, Machine("10.0.0.9")], {"10.0.0.2"}) == ["10.0.0.2"]
    assert addresses(via, set()) == ["10.0.0.2"]


def test_open_backup_format_before_age_is_refused_with_version_hint(tmp_path: Path) -> None:
    file = tmp_path / "lab.backup"
    file.write_bytes(backup_crypto.BEFORE_AGE + bytes(100))
    for password in (None, "word"):
        with pytest.raises(UsageError, match="age has replaced") as raised, open_backup(file, password):
            pass
        assert "the version of slipway that wrote it" in (raised.value.hint or "")


def test_open_backup_encrypted_without_correct_password_or_truncated_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "word")
    with pytest.raises(UsageError, match="is encrypted"), open_backup(file):
        pass
    with pytest.raises(UsageError, match="password is wrong"), open_backup(file, "other"):
        pass
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"damaged|not whole"), open_backup(file, "word"):
        pass


def test_open_backup_unencrypted_with_password_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(UsageError, match="is not encrypted, and a password was given") as refused, open_backup(file, "word"):
        pass
    assert "without --password" in (refused.value.hint or "")
    with open_backup(file) as (contents, _):
        assert contents.name == "lab"


def test_open_backup_newer_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format 2"), open_backup(written(tmp_path, format=2)):
        pass


def test_backup_existing_file_or_missing_folder_is_refused_without_change_or_contact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "known", lambda *_, **__: pytest.fail("the cluster is looked up"))
    monkeypatch.setattr(SshConnections, "connect", lambda *_: pytest.fail("a machine is asked"))
    file = written(tmp_path)
    before = file.read_bytes()
    for occupied in (file, tmp_path):
        with pytest.raises(UsageError, match="is there already"):
            backup(occupied, "lab", home=tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        backup(tmp_path / "nowhere/x", "lab", home=tmp_path)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_open_backup_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"), open_backup(tmp_path / "absent"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("controlPlane", "10.0.0.1"), ("controlPlane", [5]), ("etcd", {"revision": "7"}), ("etcd", []), ("image", {}), ("cluster", None)],
)
def test_open_backup_malformed_front_field_is_refused(tmp_path: Path, field: str, value: Any) -> None:
    file = tmp_path / "lab.backup"
    _write(file, front(**{field: value}), MEMBERS, io.BytesIO(DATA), None)
    with pytest.raises(UsageError, match="says nothing usable about"), open_backup(file, None):
        pass
