"""``slipway restore``: a cluster from a backup, on the control-plane nodes that lost etcd's data, or on other machines.

On the same nodes only etcd's data is replaced; what was there is kept beside it. Other machines become a cluster as ``slipway run`` makes
one, but with the keys of the backup and with its data in etcd before the first API server starts, and nothing is launched again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from harness import assets, log, untrusted
from harness.clusterfile import ClusterDocument, Clusterfile, is_redacted, write
from harness.clusterfile.parse import parse
from harness.errors import CheckError, NodeError, StoreError, UsageError
from harness.host import cluster_cache
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import run
from harness.lifecycle.apps import images
from harness.lifecycle.cluster import access, kubeconfig, lease, owner, request
from harness.lifecycle.cluster.access import Access, Known
from harness.lifecycle.cluster.backup import Contents, open_backup
from harness.lifecycle.kube import objects, wait
from harness.lifecycle.kube.etcd import DATA as ETCD_DATA
from harness.lifecycle.plan import Insertion, Step, execute
from harness.lifecycle.steps import record, registries, waits
from harness.lifecycle.steps.context import ClusterContext
from harness.lifecycle.steps.joining import without_secrets
from harness.nodes import LONG_TIMEOUT, Login, Machine, Node, each
from harness.nodes.files import STATE, NodeFile, tar_stream, write_files
from harness.nodes.kubectl import NodeKubectl
from harness.oci.store import Store
from harness.runtimes import ROOTFS, SYSTEM, documents, static_pods
from harness.runtimes.configuration import peer_url
from harness.runtimes.kubeconfig import admin_identity
from harness.runtimes.pki import Pki

REPLACED = f"{ETCD_DATA}/replaced-by-restore"
"""The folder, on each control-plane node, of the data that was replaced by that of the backup. Until a restore is finished it stays as it
is: what a repeated restore replaces is kept beside it, in ``-again``.
"""
_WORK = f"{ETCD_DATA}/slipway-restore"
_BEGUN = f"{STATE}/restore-begun"
"""Stands on the first control-plane node while a restore onto other machines is on its way."""
_MIRROR = "kubernetes.io/config.mirror"
_BUMP = 1_000_000_000
"""Revisions that are left out: more than can have come after any backup."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """The outcome of a restore."""

    name: str
    in_place: bool
    """On the machines that the cluster was on, as opposed to others."""
    control_plane: tuple[str, ...]
    workers: tuple[str, ...]
    made: str
    """When the backup was taken, as ISO 8601."""
    revision: int
    seconds: float


@dataclasses.dataclass
class _Source:
    """The state that all steps share."""

    contents: Contents
    snapshot: BinaryIO

    @property
    def keys(self) -> dict[str, NodeFile]:
        return Pki(self.contents.keys).placed

    @property
    def size(self) -> int:
        return int(self.contents.front["files"]["etcd/snapshot.db"]["size"])


def restore(
    file: Path,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    login: Login | None = None,
    password: str | None = None,
    image: str | None = None,
    env: Mapping[str, str] | None = None,
    store: Store | None = None,
    timeout: float = 600,
    home: Path | None = None,
) -> Restored:
    """Bring a cluster back from a backup. May be repeated after a failure or a kill.

    Without machines: onto those that it was on, into which ``login`` leads when they are forgotten here. ``image`` is used in place of
    the one that the backup names; ``env`` has values that it does not know, since they are secrets.
    Raises UsageError for a bad file and when another command changes the cluster, NodeError when a machine is missing, CheckError when some
    of them hold another cluster.
    """
    began = time.monotonic()
    with open_backup(file, password) as (contents, snapshot):
        source = _Source(contents, snapshot)
        known_cluster = _machines(contents, control_plane, workers, login, home)
        with access.opened(known_cluster) as opened, known_cluster.state.lock():
            _require(opened, [machine.address for machine in known_cluster.control_plane])
            in_place = _holds_it(opened, contents)
            if not in_place:
                _require(opened, list(opened.unreachable))
            else:
                cluster = owner.own(opened)
                for error in cluster.unreachable.values():
                    log.warning(f"{error.message}; restart its kubelet when it is back: systemctl restart kubelet")
                named = {machine.address for machine in known_cluster.control_plane}
                if others := [address for address in contents.front["controlPlane"] if address not in named]:
                    log.warning(f"{', '.join(others)}: in the backup a control-plane node, and not named; etcd must not run there any more")
                with lease.claimed(cluster.control_plane, contents.name):
                    execute(_in_place(cluster, source, timeout))
        if not in_place:
            image_store = store or Store.default()
            _onto_others(source, wanted(known_cluster, contents, image, env or {}, image_store), image_store, timeout, home)
    return Restored(
        contents.name,
        in_place,
        tuple(machine.address for machine in known_cluster.control_plane),
        tuple(machine.address for machine in known_cluster.workers),
        str(contents.front["made"]),
        int(contents.front["etcd"]["revision"]),
        time.monotonic() - began,
    )


def _require(cluster: Access, addresses: Sequence[str]) -> None:
    missing = [cluster.unreachable[address].message for address in addresses if address in cluster.unreachable]
    if missing:
        hint = "these machines must answer; others can be named with --control-plane and --workers"
        raise NodeError("\n".join(missing), hint=hint)


def _machines(
    contents: Contents, control_plane: Sequence[Machine], workers: Sequence[Machine], login: Login | None, home: Path | None
) -> Known:
    state = ClusterState.of(contents.name, home)
    if control_plane or workers:
        if not control_plane:
            raise UsageError("no control-plane node is given", hint="--control-plane 192.168.0.2")
        return Known(state, tuple(control_plane), tuple(workers))
    names = {state.name for state in cluster_cache.known(home)}
    if contents.name in names:
        return access.known(contents.name, home=home)
    way = login or Login()
    by_kind = [tuple(Machine(address, way) for address in contents.front[kind]) for kind in ("controlPlane", "workers")]
    return Known(state, by_kind[0], by_kind[1])


def _holds_it(cluster: Access, contents: Contents) -> bool:
    """Return True when these are the nodes of the backup's cluster. Raises CheckError when only some are, or those of another cluster."""
    mine = f"{contents.name} {contents.front['identity']}"
    marks = {node.name: " ".join(owner.of(node)) for node in cluster.control_plane}
    if all(mark == mine for mark in marks.values()):
        # A restore onto other machines that was killed on its way is finished as such.
        return not any(node.run(f"cat {_BEGUN} 2>/dev/null || true").stdout.strip() for node in cluster.control_plane)
    wrong = [f"{name}: belongs to {mark or 'no cluster'}" for name, mark in marks.items() if mark and mark != mine]
    if wrong:
        raise CheckError(
            f"these machines hold another cluster than the backup's: {', '.join(sorted(marks))}",
            hint="delete that one first: slipway delete",
            details="\n".join(wrong),
        )
    return False


# ---- the same control-plane nodes -------------------------------------------------------------------------------------


def _in_place(cluster: Access, source: _Source, timeout: float) -> list[Step]:
    control_plane, nodes = cluster.control_plane, (*cluster.control_plane, *cluster.workers)
    image = str(source.contents.front["etcd"]["image"])
    peers = {node.name: node.address for node in control_plane}

    def data(node: Node) -> None:
        write_files(node, source.keys)
        put_data(node, source, image, peers)

    def kubelets(node: Node) -> None:
        node.run("systemctl restart kubelet", timeout=LONG_TIMEOUT)

    def again() -> str:
        return restart_watchers(cluster.kubectl)

    def settled() -> str:
        return _settle(cluster.kubectl, [node.name for node in nodes], timeout)

    def finish() -> None:
        _keep_access(cluster, source.contents.keys.get("ca.crt"))
        _finished(control_plane)

    return [
        Step("stop", "stop the control-plane nodes", static_pods.stop, control_plane),
        Step("restore-etcd", "put the data of the backup in place", data, control_plane, after_all=("stop",)),
        Step("start", "start the control-plane nodes", static_pods.start, control_plane, after_all=("restore-etcd",)),
        Step("wait-for-api", "wait for the API", lambda node: _wait_api(node, timeout), control_plane, after=("start",)),
        # What they have seen since the backup never happened: they look again only when they begin anew.
        Step("start-kubelets", "restart the kubelets", kubelets, nodes, after_all=("wait-for-api",)),
        Step("start-watchers", "restart the pods of kube-system", again, after=("start-kubelets",)),
        Step("wait-for-nodes", "wait for the nodes", settled, after=("start-watchers",)),
        Step("record", "remember the cluster", finish, after=("wait-for-nodes",)),
    ]


def _wait_api(node: Node, timeout: float) -> None:
    static_pods.wait(node, {part: [] for part in static_pods.PARTS}, timeout)


def put_data(node: Node, source: _Source, image: str, peers: Mapping[str, str]) -> None:
    """The snapshot as etcd's data on one of ``peers`` (addresses by name), which know each other as a new cluster.

    etcd must not run there.
    """
    name = next(peer for peer, address in peers.items() if address == node.address)
    urls = {peer: peer_url(address) for peer, address in peers.items()}
    node.run(f"set -e; rm -rf {_WORK}; mkdir -p -m 700 {ETCD_DATA}; mkdir -m 700 {_WORK}", timeout=LONG_TIMEOUT)
    node.put_tar(_writer(source), _WORK)
    words = (
        "snapshot", "restore", f"{_WORK}/snapshot.db", "--data-dir", f"{_WORK}/data", "--name", name,
        "--initial-cluster", ",".join(f"{peer}={url}" for peer, url in urls.items()),
        "--initial-cluster-token", f"slipway-{source.contents.front['files']['etcd/snapshot.db']['sha256'][:16]}",
        "--initial-advertise-peer-urls", urls[name],
        # Whoever watches has seen revisions after the backup's: it is told that they are no more, and looks again.
        "--bump-revision", str(_BUMP), "--mark-compacted",
    )  # fmt: skip
    node.run(
        assets.script("restore_etcd", *words, data=ETCD_DATA, image=image, replaced=REPLACED, rootfs=ROOTFS, work=_WORK),
        timeout=1800,
    )


def _finished(control_plane: Sequence[Node]) -> None:
    """The next restore replaces other data, which is kept in place of what this one has kept."""
    each(control_plane, lambda node: node.run(f"rm -f {REPLACED}-unfinished"))


def _writer(source: _Source) -> Callable[[BinaryIO], None]:
    """Writes the snapshot as a tar; several at once, each with a position of its own in the file."""
    path = f"/proc/self/fd/{source.snapshot.fileno()}"

    def write(stream: BinaryIO) -> None:
        with Path(path).open("rb") as snapshot, tar_stream(stream) as tar:
            entry = tarfile.TarInfo("snapshot.db")
            entry.mode, entry.size = 0o600, source.size
            tar.addfile(entry, snapshot)

    return write


def restart_watchers(kubectl: NodeKubectl) -> str:
    """Delete the pods of kube-system that do not belong to a control-plane node; their controllers create new ones."""
    pods = objects.objects(kubectl.run("get", "pods", "--namespace=kube-system", "--output=json"), where=kubectl.where)
    names = [pod["metadata"]["name"] for pod in pods if _MIRROR not in (pod["metadata"].get("annotations") or {})]
    if names:
        kubectl.run("delete", "pods", "--namespace=kube-system", "--timeout=110s", *names)
    return f"{len(names)} pods"


def _settle(kubectl: NodeKubectl, names: Sequence[str], timeout: float) -> str:
    wait.settle(kubectl, timeout=timeout, quiet=1, namespaces=SYSTEM, nodes=list(names))
    return f"{len(names)} Ready"


def _keep_access(cluster: Access, authority: bytes | None) -> None:
    state, node = cluster.known.state, cluster.first
    config = kubeconfig.named(admin_identity(node, state.name, authority), state.name, node.address)
    state.write("kubeconfig", kubeconfig.text(config))
    access.remember(state, cluster.control_plane, cluster.workers)


# ---- other machines ---------------------------------------------------------------------------------------------------


def _onto_others(source: _Source, clusterfile: Clusterfile, store: Store, timeout: float, home: Path | None) -> None:
    # Nothing is launched: objects come with the data.
    context = run.prepare(clusterfile, store, run.RunOptions(commands=(), timeout=timeout), home=home)
    with context.spec.state.lock(), context.spec.ssh, store.shared_lease(), contextlib.ExitStack() as stack:
        execute(plan(context, source, lambda: _begin(context, stack)))


def _begin(context: ClusterContext, stack: contextlib.ExitStack) -> None:
    spec = context.spec
    owner.require_free(spec.nodes, spec.first, spec.name)
    stack.enter_context(lease.claimed(spec.control_plane, spec.name))


def wanted(known_cluster: Known, contents: Contents, image: str | None, env: Mapping[str, str], store: Store) -> Clusterfile:
    """The Clusterfile that ``run`` would make the same cluster of. Raises StoreError when its image is not here."""
    if contents.front["image"].get("registry") == "elsewhere":
        raise UsageError(
            "the cluster took its images from a registry of the site: it can be restored onto its own control-plane nodes only",
            hint="bring those up again, and delete nothing there",
        )
    chosen = image or _image(contents, store)
    written = parse(contents.clusterfile, "the Clusterfile of the backup", stored=True) if contents.clusterfile else Clusterfile("")
    config = contents.kubeadm
    clusterfile, lost = without_secrets(written, env)
    names = sorted(
        name for name, value in (written.cluster.env if written.cluster else {}).items() if is_redacted(value) and name not in env
    )
    if names or lost:
        log.warning(
            f"the backup does not know the values of {', '.join([*names, *sorted(lost)])}: files on the machines that are made of them "
            "hold others, objects in the cluster are right; -e NAME=VALUE gives them"
        )
    found_env = request.env(clusterfile) if clusterfile.cluster else {}
    sans = [name for name in (config.get("apiServer") or {}).get("certSANs") or () if name not in contents.front["controlPlane"]]
    networking = config.get("networking") or {}
    wide = {"PodCIDR": networking["podSubnet"], "SvcCIDR": networking["serviceSubnet"], "CertSANs": ",".join(sans)}
    found_env = {**found_env, **env, **wide}
    described = request.of_machines(contents.name, chosen, known_cluster.control_plane, known_cluster.workers, found_env)
    return dataclasses.replace(clusterfile, cluster=_moved(clusterfile.cluster, described.cluster))


def _moved(kept: ClusterDocument | None, here: ClusterDocument | None) -> ClusterDocument | None:
    """The document of the backup, with the present machines."""
    if kept is None or here is None:
        return here
    # The names for certificates are in the environment, without those of the machines of before.
    moved = dataclasses.replace(kept, name=here.name, image=here.image, env=here.env, cert_sans=())
    return dataclasses.replace(moved, hosts=here.hosts, ssh=here.ssh, ssh_hosts=here.ssh_hosts)


def _image(contents: Contents, store: Store) -> str:
    record = contents.front["image"]
    names = store.names()
    for name, descriptor in names.items():
        if descriptor.digest == record["digest"]:
            return str(name)
    raise StoreError(
        f"the image of the cluster, {record['name'] or 'which is not known'}, is not here with the digest {record['digest']}",
        hint=f"slipway pull {record['name']} or slipway load it, or give one with --image",
    )


def plan(context: ClusterContext, source: _Source, begin: Callable[[], object] = lambda: None) -> list[Step]:
    """The recipe of ``run`` with the keys planted before they would be made, and the data before the control-plane nodes start.

    ``begin``: see ``preparation.connect``.
    """
    first = context.spec.first

    def plant(node: Node) -> None:
        write_files(node, {**source.keys, _BEGUN: NodeFile.text(f"{source.contents.front['made']}\n")})

    def data(node: Node) -> None:
        members = [member for member in context.resolved.cluster.members if member.is_control_plane]
        put_data(node, source, _etcd_image(context), {member.name: member.address for member in members})

    def forget(_: Node) -> str:
        return forget_others(NodeKubectl(first), [member.name for member in context.resolved.cluster.members])

    def record_it() -> None:
        _record(context, source.contents)
        _finished(context.spec.control_plane)
        first.run(f"rm -f {_BEGUN}")

    keys = Step("plant-keys", "bring the keys of the backup", plant, (first,), after=("unpack-rootfs",))
    etcd = Step(
        "restore-etcd",
        "put the data of the backup in place",
        data,
        context.spec.control_plane,
        after=("certify-control-plane", "fetch-images", "start-registry"),
        # Once: what has happened since the control-plane nodes started must not be lost when the command is repeated.
        inputs=lambda _: str(source.contents.front["files"]["etcd/snapshot.db"]["sha256"])[:16],
    )
    others = Step("forget-others", "forget the machines that are no more", forget, (first,), after_all=("wait-for-api",))
    # The network may be one of the applications: addons and nodes wait for it.
    apps = images.bring_back(context, "register-control-plane")
    insertions = ((keys, "make-keys"), (etcd, "start-control-plane"), (others, "finish-cluster"), (apps, "start-addons"))
    recipe = run.cluster_steps(context, *(Insertion((step,), (before,)) for step, before in insertions), begin=begin)
    recipe.add(waits.wait_for_workloads(context, recipe.last, launched=False))
    recipe.add(Step("record", "record the cluster", record_it, after=(recipe.last,)))
    return recipe.steps


def _etcd_image(context: ClusterContext) -> str:
    image = registries.etcd_image(context.resolved)
    if not image:
        raise StoreError(f"{context.spec.image.name} has no image of etcd", hint="give the image of the cluster with --image")
    return image


def forget_others(kubectl: NodeKubectl, names: Sequence[str]) -> str:
    """Remove the nodes from the cluster that it has no more, and their pods, which would only go after minutes by themselves."""
    nodes = objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where)
    gone = [node["metadata"]["name"] for node in nodes if node["metadata"]["name"] not in names]
    if not gone:
        return "none"
    kubectl.run("delete", "nodes", "--wait=false", *gone)
    pods = objects.objects(kubectl.run("get", "pods", "--all-namespaces", "--output=json"), where=kubectl.where)
    by_space: dict[str, list[str]] = {}
    for pod in pods:
        if pod["spec"].get("nodeName") in gone:
            by_space.setdefault(pod["metadata"]["namespace"], []).append(pod["metadata"]["name"])
    for space, those in by_space.items():
        kubectl.run("delete", "pods", f"--namespace={space}", "--force", "--grace-period=0", "--wait=false", *those)
    return ", ".join(gone)


def _record(context: ClusterContext, contents: Contents) -> None:
    """Write the record of the cluster: as it was, but for the machines that it is on."""
    groups = [("control-plane", context.spec.control_plane), ("worker", context.spec.workers)]
    hosts = [{"ips": [node.address for node in those], "roles": [role]} for role, those in groups if those]
    record.write_record(context, on_hosts(contents.clusterfile, hosts) or write.redacted(context.spec.clusterfile))


def on_hosts(text: str, hosts: Sequence[Mapping[str, Any]]) -> str:
    """A Clusterfile with the cluster on other machines."""
    parts = [document for document in untrusted.yaml_documents(text, what="the Clusterfile of the backup", error=UsageError) if document]
    for document in parts:
        if document.get("kind", "Cluster") == "Cluster":
            document["spec"] = {**(document.get("spec") or {}), "hosts": list(hosts)}
    return documents(*parts) if parts else ""
