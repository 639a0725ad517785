"""``slipway apply``: a cluster becomes what its Clusterfile says. One that is not there is made; in one that is, what differs changes."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import cloudimage
from harness.clusterfile import CONTROL_PLANE, WORKER, ApplicationDocument, Clusterfile, Host, Password, SshSettings, is_redacted
from harness.clusterfile.diff import ADDED, CHANGED, REMOVED, ClusterfileChange, difference, without_secrets
from harness.errors import CheckError, Fault, FaultCollector, InputError, StoreError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import join, remove, run, upgrade
from harness.lifecycle.apps import install, multi_image, records, uninstall
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import Where, seen_from
from harness.lifecycle.cluster import access, hosts, lease, membership, request
from harness.lifecycle.cluster.record import GET, ClusterRecord
from harness.lifecycle.plan import Plan, Step, describe, digest, execute
from harness.lifecycle.provision import ipvs, node_files
from harness.lifecycle.provision.rootfs import MARK
from harness.lifecycle.steps import hooks, labels, preparation, waits
from harness.lifecycle.steps.context import CONTAINERD_CONFIG, KUBEADM_CONFIG, ClusterContext, ClusterFacts, ResolvedCluster
from harness.nodes import Machine
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.model import Platform
from harness.oci.reference import familiar
from harness.oci.store import Store
from harness.runtimes.kubeadm import KUBECTL

_NOT_OURS = 10
"""The exit code for a machine that belongs to another cluster, or to none."""

_APPS = "---- applications"
"""Between two answers."""

_NETWORKS = frozenset({"PodCIDR", "SvcCIDR", "IPv6DualStack"})
_HERE = frozenset({"env", "config", "hook", "application", "launch"})
"""Subjects of changes that are made by rendering, sending and launching again."""


@dataclasses.dataclass(frozen=True)
class Applied:
    """The outcome, or with a plan the changes to come. ``made``: the cluster did not exist before."""

    name: str
    changes: tuple[ClusterfileChange, ...]
    steps: tuple[dict[str, Any], ...]
    done: bool
    seconds: float
    made: run.Summary | None = None
    removed: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Objects of applications that leave the cluster, by the name of the application."""


@dataclasses.dataclass(frozen=True)
class There:
    """A cluster as it was found: a control-plane node of it that answers, and what was applied the last time."""

    control_plane_node: SshNode
    stored: Clusterfile
    digest: str
    version: str = ""
    """Of the record."""
    apps: tuple[Installed, ...] = ()
    """Applications with images of their own, however they came."""


@dataclasses.dataclass(frozen=True)
class ApplyWork:
    """The work that the changes need."""

    control_plane: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    """Addresses that join."""
    leaving: tuple[str, ...] = ()
    image: str | None = None
    """The image to go to."""
    here: bool = False
    """Something is to be rendered, labelled or launched again, or written down."""
    apps: tuple[ApplicationDocument, ...] = ()
    """Applications that are put into the cluster, or brought up to date there."""
    apps_gone: tuple[str, ...] = ()
    apps_noted: bool = False
    """The record of the cluster lists other applications than the file."""

    @property
    def only_apps(self) -> bool:
        return not (self.here or self.control_plane or self.workers or self.leaving or self.image)


def apply(
    clusterfile: Clusterfile,
    store: Store,
    options: run.RunOptions | None = None,
    *,
    plan: bool = False,
    fetch: Callable[[], object] = lambda: None,
    confirm: Callable[[Mapping[str, tuple[str, ...]]], object] = lambda _: None,
    home: Path | None = None,
) -> Applied:
    """Make the cluster what a Clusterfile says; with ``plan`` only tell. ``fetch`` brings the images when something is to be done.

    ``confirm`` is called before applications are removed, with their objects; it raises where the user does not want that. Raises
    InputError for changes that are not possible, before anything is changed; UsageError while another one changes the cluster.
    """
    started = time.monotonic()
    options, wanted = options or run.RunOptions(), clusterfile.cluster
    if wanted is None:
        raise ValueError("apply needs a Clusterfile")
    if wanted.images:
        # Only the images say which of them is that of the cluster.
        fetch()
        clusterfile = multi_image.settled(clusterfile, store)
    state = ClusterState.of(wanted.name, home)
    with SshConnections(state.folder, _machines(clusterfile, options, state)) as ssh:
        current = find(ssh, wanted.name)
        if current is None:
            return _make(clusterfile, store, options, plan, fetch, started, home)
        hosts.require_recorded(wanted, current.stored.cluster)
        clusterfile = with_machines(clusterfile, current.stored, hosts.remembered(state))
        changes, of_apps = compare(current, clusterfile, store), compare_apps(current.apps, clusterfile.apps, store)
        work = with_apps(sort(changes, clusterfile), current.apps, clusterfile.apps, of_apps)
        if not changes and not of_apps:
            return Applied(wanted.name, (), (), not plan, time.monotonic() - started)
        fetch()
        changes = without_secrets(dict.fromkeys((*changes, *of_apps)), secret_values(clusterfile, store))
        gone = {app.name: tuple(str(each) for each in app.objects if each.ours) for app in current.apps if app.name in work.apps_gone}
        if work.only_apps:
            if work.apps:
                collector = FaultCollector()
                multi_image.judge(work.apps, seen_from(wanted.name, current.control_plane_node, Platform.host()), store, collector)
                collector.finish()
            if not plan:
                if gone:
                    confirm(gone)
                with _held(current, wanted.name):
                    _carry_out_apps(work, clusterfile, options, current, store, state, home)
            return Applied(wanted.name, changes, tuple(_described(work)), not plan, time.monotonic() - started, removed=gone)
        context = run.prepare(clusterfile, store, options, home=home, previous=current.stored)
        recipe = here(context) if work.here else []
        described = (*_described(work), *describe(recipe))
        if plan:
            return Applied(wanted.name, changes, described, False, time.monotonic() - started, removed=gone)
        if gone:
            confirm(gone)
        with _held(current, wanted.name):
            _carry_out(work, clusterfile, options, current, context, recipe)
            _carry_out_apps(work, clusterfile, options, current, store, state, home)
    return Applied(wanted.name, changes, described, True, time.monotonic() - started, removed=gone)


@contextlib.contextmanager
def _held(current: There, name: str) -> Iterator[None]:
    with lease.held(current.control_plane_node, name):
        # Images were fetched and questions asked since it was read.
        membership.require_unchanged(current.control_plane_node, current.version, name)
        yield


def _make(
    clusterfile: Clusterfile,
    store: Store,
    options: run.RunOptions,
    plan: bool,
    fetch: Callable[[], object],
    started: float,
    home: Path | None,
) -> Applied:
    fetch()
    name = clusterfile.cluster.name if clusterfile.cluster else ""
    if plan:
        described = tuple(describe(run.plan(run.prepare(clusterfile, store, options, home=home))))
        return Applied(name, (), described, False, time.monotonic() - started)
    result = run.run(clusterfile, store, options, home=home)
    return Applied(name, (), (), True, result.seconds, result)


# ---- what is there ----------------------------------------------------------------------------------------------------


def _machines(clusterfile: Clusterfile, options: run.RunOptions, state: ClusterState) -> tuple[Machine, ...]:
    """The control-plane nodes that the file names and those that this machine remembers: any of them may be the one that answers."""
    remembered = access.known(state.name, home=state.folder.parent.parent).control_plane if _remembered(state) else ()
    control_plane, _ = request.machines(clusterfile, options.password)
    named = {one.address for one in control_plane}
    return (*control_plane, *(one for one in remembered if one.address not in named))


def find(ssh: SshConnections, name: str) -> There | None:
    """The cluster, by any control-plane node that answers; None when there is none, or one that was not finished.

    Raises CheckError when a machine belongs to it and its API is silent.
    """
    nodes, _ = ssh.reachable()
    silent: list[str] = []
    absent = False
    ask = f"{KUBECTL} --request-timeout=10s"
    record = f"{ask} {shlex.join(GET)} && echo {_APPS} && {ask} {shlex.join(records.LIST)}"
    script = f'set -- $(cat {MARK} 2>/dev/null); [ "${{1-}}" = {shlex.quote(name)} ] || exit {_NOT_OURS}; {record}'
    for node in nodes:
        asked = node.run(script, check=False, timeout=30)
        if asked.returncode == _NOT_OURS:
            continue
        if asked.ok:
            cluster, _, of_apps = asked.stdout.partition(f"\n{_APPS}\n")
            stored = ClusterRecord.of(cluster, node.name)
            return There(node, stored.clusterfile, stored.digest, stored.version, records.of_list(of_apps or '{"items": []}', node.name))
        if "NotFound" in asked.stderr or "No such file" in asked.stderr or "not found" in asked.stderr:
            # Of the cluster, or of kubectl on a machine that did not get far.
            absent = True
            continue
        silent.append(f"{node.name}: {(asked.output.splitlines() or ['no answer'])[-1]}")
    if silent and not absent and _was_finished(name, ssh):
        raise CheckError(f"the API of the cluster {name} does not answer", hint="slipway status says more", details="\n".join(silent))
    return None


def _was_finished(name: str, ssh: SshConnections) -> bool:
    """Return True when this machine saw the end of a run; else a run that was cut short is to be finished."""
    return bool(ClusterState(name, ssh.folder).read().get("digest"))


def with_machines(wanted: Clusterfile, stored: Clusterfile, names: Mapping[str, str]) -> Clusterfile:
    """Return a Clusterfile that names no machine with those that the cluster has: they stay. Its settings for SSH count for them, and the
    ``names`` that this machine remembers, by address.
    """
    cluster = wanted.cluster
    if cluster is None or cluster.hosts or stored.cluster is None:
        return wanted
    listed = tuple(dataclasses.replace(host, ssh=cluster.ssh.over(_without_lost_password(host.ssh))) for host in stored.cluster.hosts)
    names = {**stored.cluster.ssh_hosts, **names, **cluster.ssh_hosts}
    return dataclasses.replace(wanted, cluster=dataclasses.replace(cluster, hosts=listed, ssh_hosts=names))


def _without_lost_password(ssh: SshSettings) -> SshSettings:
    """The cluster keeps no passwords, only a mark that there was one."""
    return dataclasses.replace(ssh, password=Password()) if is_redacted(ssh.password.text) else ssh


def compare(current: There, wanted: Clusterfile, store: Store) -> tuple[ClusterfileChange, ...]:
    """The differences, that of an image which is another one under the same name included."""
    cluster = wanted.cluster
    if cluster is None:
        return ()
    name = familiar(cluster.image)
    wanted = dataclasses.replace(wanted, cluster=dataclasses.replace(cluster, image=name))
    stored = current.stored
    descriptor = store.names().get(name)
    if stored.cluster is not None and current.digest == (cluster.image if descriptor is None else descriptor.digest):
        # Another name for the image that the cluster runs.
        wanted = dataclasses.replace(wanted, cluster=dataclasses.replace(cluster, image=stored.cluster.image))
    changes = difference(stored, wanted)
    if descriptor is not None and descriptor.digest != current.digest and not any(change.subject == "image" for change in changes):
        digests = (f"{name} {current.digest[7:19]}", f"{name} {descriptor.digest[7:19]}")
        changes = (ClusterfileChange("image", "image", ".spec.image", CHANGED, *digests), *changes)
    # Who makes the machines, and how the way to them is balanced by default, is nothing that a cluster could change into.
    return tuple(change for change in changes if change.name != "provider")


def secret_values(clusterfile: Clusterfile, store: Store) -> frozenset[str]:
    """Names of the values that the images of a Clusterfile, as far as they are in the store, call secret."""
    names: set[str] = set()
    cluster = [clusterfile.cluster.image] if clusterfile.cluster else []
    for image in (*cluster, *(app.image for app in clusterfile.apps if app.image)):
        with contextlib.suppress(StoreError):
            names |= {value.name for part in cloudimage.read(store, image).platforms for value in part.info.values if value.secret}
    return frozenset(names)


def compare_apps(installed: Sequence[Installed], wanted: Sequence[ApplicationDocument], store: Store) -> tuple[ClusterfileChange, ...]:
    """Compare the applications of the file with those that came with it before. Applications that were installed by hand are left alone."""
    before = {one.name: one for one in installed if one.by_file and one.application is not None}
    named = tuple(dataclasses.replace(one, image=familiar(one.image or "")) for one in wanted)
    changes = [*difference(Clusterfile("", apps=tuple(_document(one) for one in before.values())), Clusterfile("", apps=named))]
    touched = {change.name for change in changes}
    for one in wanted:
        descriptor, kept = store.names().get(familiar(one.image or "")), before.get(one.name)
        if kept is None or one.name in touched:
            continue
        if descriptor is not None and descriptor.digest != kept.digest:
            digests = (f"{kept.image} {kept.digest[7:19]}", f"{kept.image} {descriptor.digest[7:19]}")
            changes.append(ClusterfileChange("app", one.name, f"Application {one.name}.spec.image", CHANGED, *digests))
        elif kept.state != records.INSTALLED:
            changes.append(ClusterfileChange("app", one.name, f"Application {one.name}", CHANGED, kept.state, records.INSTALLED))
    return tuple(changes)


def _document(one: Installed) -> ApplicationDocument:
    assert one.application is not None
    return dataclasses.replace(one.application, image=familiar(one.application.image or ""))


# ---- what is to be done -----------------------------------------------------------------------------------------------


def sort(changes: Iterable[ClusterfileChange], wanted: Clusterfile) -> ApplyWork:
    """The work that the changes need. Raises InputError for all that cannot be changed in a cluster that runs."""
    faults: list[Fault] = []
    work = ApplyWork()
    control_plane = wanted.cluster.control_plane if wanted.cluster else ()
    for change in changes:
        if change.subject == "host" and change.action == ADDED and change.path.endswith("]"):
            if change.name in control_plane:
                work = dataclasses.replace(work, control_plane=(*work.control_plane, change.name))
            else:
                work = dataclasses.replace(work, workers=(*work.workers, change.name))
        elif change.subject == "host" and change.action == REMOVED and change.path.endswith("]"):
            work = dataclasses.replace(work, leaving=(*work.leaving, change.name))
        elif change.subject == "image":
            work = dataclasses.replace(work, image=wanted.cluster.image if wanted.cluster else None)
        elif change.subject != "app" and (fault := _impossible(change)) is not None:
            faults.append(fault)
    if faults:
        raise InputError(faults)
    subjects = {change.subject for change in changes}
    return dataclasses.replace(work, here=bool(subjects - {"app"}), apps_noted="app" in subjects)


def with_apps(
    work: ApplyWork, installed: Sequence[Installed], wanted: Sequence[ApplicationDocument], changes: Sequence[ClusterfileChange]
) -> ApplyWork:
    """The work, with what changes of applications come to. Raises InputError for a name that something else has already."""
    by_hand = {one.name for one in installed if not one.by_file}
    conflicts = [one for one in wanted if one.name in by_hand]
    if conflicts:
        raise InputError(
            Fault(f"{one.where or 'Application'} {one.name}", "is in the cluster already, and did not come with a Clusterfile", hint)
            for one in conflicts
            for hint in (f"another name, or slipway apps remove {one.name} first",)
        )
    touched, names = {change.name for change in changes}, [one.name for one in wanted]
    put = tuple(one for one in wanted if one.name in touched)
    return dataclasses.replace(work, apps=put, apps_gone=tuple(one.name for one in installed if one.by_file and one.name not in names))


def _impossible(change: ClusterfileChange) -> Fault | None:
    """Why a change cannot be made, or None when it can."""
    if change.subject == "env" and change.name in _NETWORKS:
        return Fault(change.path, f"{change}: the networks of a cluster that runs cannot change", "make a new cluster")
    if change.subject == "env" and change.name == "CertSANs":
        return Fault(change.path, f"{change}: a command of its own issues new certificates", "slipway certs")
    if change.subject in _HERE:
        return (
            None
            if not _of_kubelet(change)
            else Fault(change.path, f"{change}: it is read when a machine becomes a node", "remove the node, then join it")
        )
    if change.subject == "host":
        roles = change.path.endswith(".roles") and _is_control_plane(change.before) != _is_control_plane(change.after)
        return Fault(change.path, f"{change}: a machine changes sides by leaving and joining", "remove it, then join it") if roles else None
    if change.path.startswith((".spec.hostAliases", ".spec.loadBalancing")):
        why = f"{change}: it is settled when a cluster is made, in its certificates"
        return Fault(change.path, why, "auto or haproxy") if change.after == "ipvs" else None
    hint = "slipway certs" if change.subject == "certificates" else "make a new cluster, or leave that as it was"
    return Fault(change.path, f"{change}: this cannot be changed in a cluster that runs", hint)


def _of_kubelet(change: ClusterfileChange) -> bool:
    """Return True when a Config writes a file that is read only when containerd and kubelet are set up."""
    return change.subject == "config" and change.name.split(" ")[-1] in (*KUBEADM_CONFIG, CONTAINERD_CONFIG)


def _is_control_plane(roles: str | None) -> bool:
    return CONTROL_PLANE in [role.strip() for role in (roles or "").split(",")]


def _described(work: ApplyWork) -> list[dict[str, Any]]:
    steps = []
    if work.image:
        steps.append({"id": "upgrade", "title": f"upgrade to {work.image}", "nodes": [], "after": []})
    if work.control_plane or work.workers:
        steps.append({"id": "join", "title": "join new machines", "nodes": [*work.control_plane, *work.workers], "after": []})
    if work.leaving:
        steps.append({"id": "remove", "title": "remove machines", "nodes": list(work.leaving), "after": []})
    steps += [{"id": f"app-{name}", "title": f"remove the application {name}", "nodes": [], "after": []} for name in work.apps_gone]
    steps += [{"id": f"app-{one.name}", "title": f"put {one.image} in as {one.name}", "nodes": [], "after": []} for one in work.apps]
    return steps


def _carry_out(
    work: ApplyWork, clusterfile: Clusterfile, options: run.RunOptions, current: There, context: ClusterContext, recipe: Sequence[Step]
) -> None:
    """New machines come before old ones go, so that etcd and the workloads always have a place. Control-plane nodes that do not answer go
    first: etcd takes in no member beside them.
    """
    name, store, state = context.spec.name, context.spec.store, context.spec.state
    leaving = work.leaving

    def via() -> tuple[Machine, ...]:
        """A control-plane node to begin with; none once this machine knows the cluster, as after an upgrade or a join."""
        return () if _remembered(state) else (current.control_plane_node.machine,)

    if work.image:
        # With its secrets, and with what the command line has added to it.
        asked = upgrade.RolloutOptions(via=via(), clusterfile=clusterfile, timeout=options.timeout)
        upgrade.upgrade(name, work.image, asked, store=store)
    if work.control_plane and leaving:
        with membership.gathered(name, via=via(), password=options.password) as found:
            silent = [node.address for node in found.control_plane if node.address in found.errors and node.address in leaving]
        if silent:
            remove.remove(name, addresses=silent, via=via())
            leaving = tuple(address for address in leaving if address not in silent)
    if work.control_plane or work.workers:
        join_options = join.JoinOptions(via(), options.password, options.timeout, options.skip_checks)
        join.join(_joining(work, clusterfile, current), store, join_options)
    if leaving:
        remove.remove(name, addresses=leaving, via=via())
    if recipe:
        with state.lock(), context.spec.ssh, store.shared_lease():
            execute(recipe)


def _joining(work: ApplyWork, clusterfile: Clusterfile, current: There) -> Clusterfile:
    """The request for ``join``: new machines, and the secrets that the cluster has not kept. Their labels and the like come afterwards."""
    cluster, stored = clusterfile.cluster, current.stored.cluster
    assert cluster is not None
    logins = {address: host.ssh for host in cluster.hosts for address in host.ips}
    roles = [*((CONTROL_PLANE, address) for address in work.control_plane), *((WORKER, address) for address in work.workers)]
    env = request.env(clusterfile)
    return dataclasses.replace(
        clusterfile,
        cluster=dataclasses.replace(
            cluster,
            hosts=tuple(Host((address,), (role,), logins[address]) for role, address in roles),
            env={name: env[name] for name, value in (stored.env if stored else {}).items() if is_redacted(value) and name in env},
        ),
    )


def _carry_out_apps(
    work: ApplyWork, clusterfile: Clusterfile, options: run.RunOptions, current: There, store: Store, state: ClusterState, home: Path | None
) -> None:
    """Remove applications, then install others. The record follows, so that a command that was killed leaves something to be seen."""
    where = Where(
        state.name, () if _remembered(state) else (current.control_plane_node.machine,), login=current.control_plane_node.machine.login
    )
    for name in work.apps_gone:
        uninstall.remove(name, where, store, home=home)
    for document in work.apps:
        wanted = Request(document, by_file=True, elsewhere=options.elsewhere, timeout=options.timeout)
        install.install(wanted, where, store, home=home)
    if work.apps_noted and not work.here:
        membership.set_apps(current.control_plane_node, clusterfile.apps)


def _remembered(state: ClusterState) -> bool:
    return bool(state.read().get("controlPlane"))


def here(context: ClusterContext) -> list[Step]:
    """Render and send again what changed, and launch again what depends on it; nodes and their services stay as they are."""
    cluster_hooks = hooks.of(context.spec)
    recipe = Plan()
    recipe.add(preparation.connect(context), _ask(context), preparation.unpack_rootfs(context), preparation.make_keys(context))
    recipe.add(preparation.send_rendered(context), after=("unpack-rootfs", "make-keys"))
    recipe.add(_aliases(context))
    recipe.add(*labels.step(context, recipe.last))
    run.add_launch(context, cluster_hooks, recipe)
    return recipe.steps


def _ask(context: ClusterContext) -> Step:
    def action() -> None:
        nodes = context.spec.nodes
        facts = ClusterFacts(preparation.machine_facts(nodes, {}), ipvs.as_it_is(ipvs.ask(nodes)))
        context.resolve(ResolvedCluster(context.spec, facts))
        waits.record_unready_workloads(context)

    return Step("check-machines", "ask the machines", action, after=("connect",))


def _aliases(context: ClusterContext) -> Step:
    return Step(
        "set-hosts",
        "write the names of hosts",
        lambda node: node_files.set_hosts(node, context.resolved.hosts_lines(node)),
        context.spec.nodes,
        after=("send-rendered",),
        inputs=lambda node: digest(context.resolved.hosts_lines(node)),
    )
