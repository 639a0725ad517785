"""``slipway backup``: all that a cluster knows in one file: etcd's data, the keys, and what was applied. Checked after it was written.

The file is a tar, encrypted in the format of age when a password is given: ``backup.json`` says what it is of and has the checksum of every
other member; ``Clusterfile`` and ``kubeadm.yaml`` are what the cluster keeps about itself, ``pki/`` the keys, ``etcd/snapshot.db`` a
snapshot of etcd.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from harness import log, untrusted
from harness.clusterfile import CONTROL_PLANE, WORKER
from harness.errors import CheckError, CommandError, NodeError, UsageError
from harness.host import cluster_cache, durable
from harness.lifecycle.cluster import access, certificates, kubeconfig, record
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.cluster.backup_crypto import BEFORE_AGE, Opening, Sealing, is_sealed
from harness.lifecycle.cluster.record import ClusterRecord
from harness.lifecycle.kube import objects
from harness.lifecycle.kube.etcd import take_snapshot
from harness.nodes import Machine
from harness.nodes.files import add
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.oci.layer.tar_reader import TarError, TarReader
from harness.runtimes.kubeadm import KUBECTL
from harness.runtimes.pki import ENCRYPTION, FILES
from harness.runtimes.static_pods import MANIFESTS

SNAPSHOT = "etcd/snapshot.db"
FORMAT = 1
_FRONT = "backup.json"
_MOST_FILES = 1000
_LARGEST = 16 << 20
"""Bytes of a file in a backup besides the snapshot: keys and texts."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """The outcome of a backup."""

    name: str
    file: Path
    size: int
    encrypted: bool
    revision: int
    """Of etcd: how many changes its data has seen."""
    keys: int
    """In etcd."""
    digest: str | None
    """Of the image that runs."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """A backup that was read and found whole."""

    front: Mapping[str, Any]
    keys: Mapping[str, bytes] = dataclasses.field(repr=False)
    """By their names below ``FOLDER``."""
    clusterfile: str
    """As the cluster kept it, without secrets; empty when it had none."""
    kubeadm: Mapping[str, Any]
    """kubeadm's ClusterConfiguration."""

    @property
    def name(self) -> str:
        return str(self.front["cluster"])


def backup(
    file: Path,
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    password: str | None = None,
    home: Path | None = None,
) -> Saved:
    """Write a backup of a cluster that runs to ``file``, which only its owner may read, and check what was written.

    Raises UsageError when the file is there or cannot be written, NodeError and CheckError when no control-plane node can give its data.
    """
    if file.exists():
        raise UsageError(f"{file} is there already", hint="a backup is never overwritten; choose another name")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file.parent}: no such folder")
    known_cluster = access.known(name, control_plane, workers, home=home)
    with access.opened(known_cluster, workers=False) as cluster, tempfile.TemporaryFile(dir=file.absolute().parent) as snapshot:
        node = kubeconfig.answering(cluster)
        with log.step("take a snapshot of etcd"):
            status = take_snapshot(node, snapshot)
        with log.step("write the backup"):
            stored = _record(cluster, node)
            members = _members(node, stored)
            front = _front(cluster, node, stored, members, status, snapshot)
            _write(file, front, members, snapshot, password)
    with log.step("read the backup again"), open_backup(file, password):
        pass
    etcd = front["etcd"]
    return Saved(name, file, file.stat().st_size, password is not None, etcd["revision"], etcd["totalKey"], front["image"]["digest"])


def _record(cluster: Access, node: SshNode) -> ClusterRecord:
    """The record of the cluster; an empty one, with a warning, where there is none that can be read."""
    try:
        return record.read(NodeKubectl(node))
    except CheckError as error:
        log.warning(f"{cluster.known.state.name}: {error.message}; it can be restored onto its own control-plane nodes only")
        return ClusterRecord()


def _members(node: SshNode, stored: ClusterRecord) -> dict[str, bytes]:
    """The small files of a backup, by their names in it."""
    kubectl = NodeKubectl(node)
    config = objects.config_map(
        kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json"), where=kubectl.where
    )
    members = {"kubeadm.yaml": config["data"]["ClusterConfiguration"].encode()}
    members["Clusterfile"] = stored.text.encode()
    members["record.json"] = json.dumps({"name": stored.image, "digest": stored.digest, "registry": stored.registry}).encode()
    members |= {f"pki/{name}": data for name, data in certificates.keys_of(node).files.items()}
    return dict(sorted(members.items()))


def addresses(machines: Sequence[Machine], recorded: Collection[str]) -> list[str]:
    """The addresses of ``recorded``, in the order of ``machines`` as far as those are known; without a record those of ``machines``.

    A backup by way of one control-plane node must name the others as well: a restore stops all of them.
    """
    known = [machine.address for machine in machines]
    return [*(address for address in known if address in recorded), *sorted(set(recorded) - set(known))] if recorded else known


def _front(
    cluster: Access,
    control_plane_node: SshNode,
    stored: ClusterRecord,
    members: Mapping[str, bytes],
    status: Mapping[str, Any],
    snapshot: BinaryIO,
) -> dict[str, Any]:
    listed = objects.objects(control_plane_node.run(f"{KUBECTL} get nodes --output=json", timeout=60).stdout, where=control_plane_node.name)
    manifest = untrusted.yaml_document(
        control_plane_node.get(f"{MANIFESTS}/etcd.yaml"), what=f"{control_plane_node.name}: {MANIFESTS}/etcd.yaml", error=NodeError
    )
    try:
        image = str(manifest["spec"]["containers"][0]["image"])
    except (LookupError, TypeError) as wrong:
        raise NodeError(f"{control_plane_node.name}: {MANIFESTS}/etcd.yaml is no manifest of etcd") from wrong
    kept = untrusted.yaml_document(members["kubeadm.yaml"], what="the ClusterConfiguration of the cluster", error=NodeError)
    version = str(kept.get("kubernetesVersion") or "") if isinstance(kept, Mapping) else ""
    if not version:
        raise NodeError(f"{control_plane_node.name}: the ClusterConfiguration of the cluster has no kubernetesVersion")
    snapshot.seek(0)
    files = {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in members.items()}
    files[SNAPSHOT] = {"sha256": hashlib.file_digest(cast("Any", snapshot), "sha256").hexdigest(), "size": snapshot.seek(0, io.SEEK_END)}
    known_cluster = cluster.known
    return {
        "format": FORMAT,
        "cluster": known_cluster.state.name,
        "identity": certificates.keys_of(control_plane_node).identity,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "kubernetes": version,
        "image": untrusted.json_object(
            members["record.json"], what=f"{control_plane_node.name}: the record of the image", error=CommandError
        ),
        "controlPlane": addresses(known_cluster.control_plane, stored.addresses(CONTROL_PLANE)),
        "workers": addresses(known_cluster.workers, stored.addresses(WORKER)),
        "names": sorted(node["metadata"]["name"] for node in listed),
        "etcd": {**status, "image": image},
        "files": files,
    }


def _write(file: Path, front: Mapping[str, Any], members: Mapping[str, bytes], snapshot: BinaryIO, password: str | None) -> None:
    """In one move, readable by its owner only."""
    with durable.replacing(file) as target:
        sealing = Sealing(target, password) if password is not None else None
        with tarfile.open(fileobj=cast("BinaryIO", sealing or target), mode="w|", format=tarfile.GNU_FORMAT) as tar:
            add(tar, _FRONT, json.dumps(front, indent=2, sort_keys=True).encode())
            for name, data in members.items():
                add(tar, name, data)
            entry = tarfile.TarInfo(SNAPSHOT)
            entry.mode, entry.size = 0o600, front["files"][SNAPSHOT]["size"]
            snapshot.seek(0)
            tar.addfile(entry, snapshot)
        if sealing is not None:
            sealing.close()


# ---- reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_backup(file: Path, password: str | None = None) -> Iterator[tuple[Contents, BinaryIO]]:
    """A backup, read to its end with every checksum compared, and its snapshot as an open file.

    Raises UsageError for a file that is no backup, is damaged or not whole, wants another password, or is not sealed although a
    password is given.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file")
    with file.open("rb") as source, tempfile.TemporaryFile(dir=file.absolute().parent) as snapshot:
        stream: Any = source
        start = source.read(32)
        source.seek(0)
        sealed = is_sealed(start)
        if start.startswith(BEFORE_AGE):
            raise UsageError(
                f"{file} is encrypted in a format of slipway that age has replaced",
                hint="restore it with the version of slipway that wrote it, then take another backup",
            )
        if sealed:
            if password is None:
                raise UsageError(f"{file} is encrypted", hint="give its password with --password-env NAME or --password")
            try:
                stream = Opening(source, password)
            except UsageError as wrong:
                raise UsageError(f"{file}: {wrong.message}", hint=wrong.hint) from wrong
        elif password is not None:
            # The seal is what proves who wrote the file: dropping it must not be a way to have other data restored.
            raise UsageError(
                f"{file} is not encrypted, and a password was given: nothing proves that it is the backup that was sealed with it",
                hint="take the encrypted file; one that was made without a password is restored without --password and --password-env",
            )
        try:
            contents = _read(stream, snapshot)
        except UsageError as wrong:
            raise UsageError(f"{file}: {wrong.message}", hint=wrong.hint) from wrong
        except (TarError, ValueError, KeyError, TypeError, EOFError) as wrong:
            raise UsageError(f"{file} is no backup, or is damaged: {wrong}", hint="take another one") from wrong
        snapshot.seek(0)
        yield contents, cast("BinaryIO", snapshot)


_FRONT_FIELDS: dict[str, type] = {
    **dict.fromkeys(("cluster", "identity", "made", "kubernetes"), str),
    **dict.fromkeys(("image", "etcd", "files"), dict),
    **dict.fromkeys(("controlPlane", "workers", "names"), list),
}


def _check_front(front: Mapping[str, Any]) -> None:
    """Raise UsageError when what a backup says of itself is not of the kinds that ``_front`` writes."""
    odd = [name for name, kind in _FRONT_FIELDS.items() if not isinstance(front.get(name), kind)]
    odd += [
        name for name in ("controlPlane", "workers", "names") if name not in odd and not all(isinstance(text, str) for text in front[name])
    ]
    if not odd:
        etcd, image = front["etcd"], front["image"]
        odd += [f"etcd.{name}" for name in ("revision", "totalKey") if type(etcd.get(name)) is not int]
        odd += [
            name for name, text in (("etcd.image", etcd.get("image")), ("image.digest", image.get("digest"))) if not isinstance(text, str)
        ]
    if odd:
        raise UsageError(f"says nothing usable about {', '.join(odd)}")


def _read(stream: Any, snapshot: Any) -> Contents:
    front: dict[str, Any] = {}
    small: dict[str, bytes] = {}
    sums: dict[str, dict[str, Any]] = {}
    tar = TarReader(stream, most=_MOST_FILES)
    for entry in tar:
        if entry.kind != "file":
            raise UsageError(f"holds {entry.name}, which is no file")
        if entry.name != SNAPSHOT and entry.size > _LARGEST:
            raise UsageError(f"holds {entry.name} of {entry.size} bytes, which is too large")
        if entry.name == _FRONT:
            stored = untrusted.json_object(tar.head(entry.size), what=_FRONT, error=UsageError)
            front = {cluster_cache.FORMER_KEYS.get(key, key): value for key, value in stored.items()}
            if front.get("format") != FORMAT:
                raise UsageError(f"has the format {front.get('format')!r}", hint="a newer slipway may know it")
            _check_front(front)
            continue
        if entry.name == SNAPSHOT:
            while data := tar.read(1 << 20):
                snapshot.write(data)
            snapshot.seek(0)
            checksum = hashlib.file_digest(snapshot, "sha256").hexdigest()
        else:
            small[entry.name] = tar.head(entry.size)
            checksum = hashlib.sha256(small[entry.name]).hexdigest()
        sums[entry.name] = {"sha256": checksum, "size": entry.size}
    # What a sealed stream has behind the tar is proved as well, or it could have been cut off.
    while stream.read(1 << 20):
        pass
    named = front.get("files")
    named = named if isinstance(named, dict) else {}
    if not front or sums != named:
        names = sorted(name for name in {*sums, *named} if sums.get(name) != named.get(name))
        raise UsageError(f"is damaged: {', '.join(names) or 'it has no beginning'}", hint="take another one")
    keys = {name: small[f"pki/{name}"] for name in FILES}
    # Only of a cluster that encrypts Secrets.
    keys |= {ENCRYPTION: small[f"pki/{ENCRYPTION}"]} if f"pki/{ENCRYPTION}" in small else {}
    return Contents(
        front,
        keys,
        small["Clusterfile"].decode(),
        untrusted.yaml_document(small["kubeadm.yaml"], what="its kubeadm.yaml", error=UsageError),
    )
