"""``slipway upgrade``: a cluster goes to another image, one node after the other, and serves all the time."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import cloudimage, log
from harness.cloudimage import CloudImage
from harness.clusterfile import Clusterfile, Host
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.diff import difference
from harness.errors import CheckError, InputError, NodeError, SlipwayError, StoreError, UsageError
from harness.host.cluster_cache import DEFAULT_NAME
from harness.lifecycle import rollout, run
from harness.lifecycle.apps import records
from harness.lifecycle.cluster import access, membership, missing_secrets, request
from harness.lifecycle.cluster import change as cluster_change
from harness.lifecycle.cluster.change import RUNNING, UPGRADE, Move, Version
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import drain, readiness
from harness.lifecycle.plan import execute
from harness.lifecycle.provision import ipvs, rootfs
from harness.lifecycle.rollout import RolloutWork
from harness.lifecycle.rollout import plan as rollout_plan
from harness.lifecycle.steps import hooks, preparation, registries, validation
from harness.lifecycle.steps.context import ClusterContext, ClusterFacts, ClusterSpec, ResolvedCluster
from harness.nodes import Machine, each, together
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.store import Store
from harness.runtimes import BUILD_NEWER, refused, static_pods

_STARTS = 120
"""Seconds that a control plane may take to come up by itself."""
_PARTS = re.compile(r"v(\d+)\.(\d+)\.(\d+)(-\S+)?")


@dataclasses.dataclass(frozen=True)
class Changed:
    """The outcome of an upgrade or a rollback."""

    name: str
    kind: str
    """``upgrade`` or ``rollback``."""
    before: Version
    after: Version
    nodes: Mapping[str, str]
    """The version of each kubelet, by the name of its node."""
    resumed: bool
    """It was begun earlier."""
    seconds: float
    nothing: bool = False
    """The cluster ran this very image already."""


@dataclasses.dataclass(frozen=True)
class RolloutOptions:
    """The way in which a cluster goes to another image."""

    via: Sequence[Machine] = ()
    """Control-plane nodes of a cluster of which this machine remembers nothing."""
    clusterfile: Clusterfile | None = None
    """The Clusterfile of the request, with the secrets that the cluster did not keep."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """More values; those that the cluster did not keep, since they are secret, can be given again."""
    password: str | None = dataclasses.field(default=None, repr=False)
    """For SSH."""
    batch: int | None = None
    """Workers that are updated together; None: one in ten."""
    force: bool = False
    """Pods that nothing starts again, or that do not go in time, do not hold anything up."""
    drain_timeout: float = drain.TIMEOUT
    timeout: float = 600
    """Seconds for a part to come up, a node to become ready, and for workloads."""


def upgrade(
    name: str = DEFAULT_NAME,
    image: str = "",
    options: RolloutOptions | None = None,
    *,
    store: Store | None = None,
    home: Path | None = None,
) -> Changed:
    """Have a cluster run another image. The same call after a kill or a failure finishes what was begun.

    Raises UsageError for versions between which there is no way, InputError for secrets that must be given again, StoreError for an image
    that is not here or is none for a cluster, CheckError when the cluster is not well: before anything is changed, or where it stopped.
    """
    with prepared(name, image, options, store=store, home=home) as work:
        return carry_out(work)


def carry_out(work: RolloutWork) -> Changed:
    """Do what was prepared."""
    started = time.monotonic()
    move, cluster = work.move, work.found
    nothing = move.before == move.after and not work.resumed
    if not nothing:
        with membership.changing(cluster), work.spec.store.shared_lease():
            try:
                execute(rollout_plan.plan(work), work.journal)
            except SlipwayError as error:
                raise _stopped(work, error) from error
    listed = readiness.of_kind(readiness.get(work.kubectl, "nodes"), "Node")
    versions = {node["metadata"]["name"]: str(node["status"]["nodeInfo"]["kubeletVersion"]) for node in listed}
    return Changed(cluster.state.name, move.kind, move.before, move.after, versions, work.resumed, time.monotonic() - started, nothing)


def _stopped(work: RolloutWork, error: SlipwayError) -> SlipwayError:
    """The error with what can be done now."""
    began = False
    with contextlib.suppress(SlipwayError):
        now = cluster_change.read(work.kubectl)
        began = now is not None and now.state == RUNNING
    if began:
        back = f", slipway rollback {work.found.state.name} goes back" if work.move.kind == UPGRADE else ""
        error.hint = "; ".join(part for part in (error.hint, f"the same command again goes on where this stopped{back}") if part)
    return error


@contextmanager
def prepared(
    name: str, image: str, options: RolloutOptions | None = None, *, store: Store | None = None, home: Path | None = None
) -> Iterator[RolloutWork]:
    """Read what the cluster keeps about itself, and make up what is to be done; nothing is touched."""
    options, store = options or RolloutOptions(), store or Store.default()
    request.check_env(options.env)
    wanted = readable(store, image)
    with ExitStack() as stack:
        with log.step("read what the cluster keeps about itself"):
            cluster = _gathered(stack, name, options, home)
            move = _move(cluster, wanted)
        if move.before.kubernetes and not (move.state == RUNNING and move.before == move.after):
            check_versions(move.before.kubernetes, move.after.kubernetes, name)
        yield work_of(cluster, wanted, move, options, store)


def _gathered(stack: ExitStack, name: str, options: RolloutOptions, home: Path | None) -> Gathered:
    """Connect to the cluster. An API that was about to start when a change was cut off is waited for."""
    deadline = time.monotonic() + _STARTS
    while True:
        try:
            return stack.enter_context(membership.gathered(name, via=options.via, password=options.password, home=home))
        except CheckError:
            if time.monotonic() > deadline or not each_cut_off(name, options, home):
                raise
            time.sleep(2)


def each_cut_off(
    name: str, options: RolloutOptions, home: Path | None, action: Callable[[SshNode], object] = lambda _: None
) -> tuple[str, ...]:
    """Do something on the nodes whose change was cut off while their control plane was in it; their names."""
    known_cluster = access.known(name, options.via, home=home)
    with SshConnections(known_cluster.state.folder, known_cluster.control_plane) as ssh:
        reached, _ = ssh.reachable()
        nodes = [node for node, kept in zip(reached, each(reached, static_pods.is_kept), strict=True) if kept]
        each(nodes, action)
        return tuple(node.name for node in nodes)


def readable(store: Store, name: str) -> CloudImage:
    """An image that a cluster can run. Raises StoreError when it cannot, or policy does not admit it."""
    from harness.trust import policy

    if not name:
        raise UsageError("no image is named", hint="slipway upgrade NAME IMAGE")
    image = cloudimage.read(store, name)
    policy.admit(store, name, image.digest)
    run.check_image(image, name)
    return image


def _move(cluster: Gathered, image: CloudImage) -> Move:
    """This change: one that was begun and is to be finished, or a new one."""
    kubectl, record = NodeKubectl(cluster.first), cluster.record
    if not record.digest:
        raise CheckError(
            f"the cluster {cluster.state.name} was made by another tool: its nodes have no rootfs of an image that could be changed",
            hint="kubeadm upgrade plan, on a control-plane node, says what to do",
        )
    last = cluster_change.read(kubectl)
    after = Version(image.name or image.digest, image.digest, kubernetes_of(image))
    if last is not None and last.state == RUNNING:
        if last.after.digest == image.digest and last.kind == UPGRADE:
            return last
        both = {last.before.digest: last.before, last.after.digest: last.after}
        if image.digest not in both:
            finish = f"slipway upgrade {cluster.state.name} {last.after.image}" if last.kind == UPGRADE else "slipway rollback"
            raise CheckError(
                f"the {last.kind} to {last.after} has not come to its end; nothing has been changed",
                hint=f"finish it first: {finish}; or go back: slipway rollback {cluster.state.name}",
            )
        before = next((version for digest, version in both.items() if digest != image.digest), last.before)
        return Move.new(UPGRADE, before, after)
    return Move.new(UPGRADE, Version(record.image, record.digest, str(rollout.kubernetes(kubectl)["kubernetesVersion"])), after)


def kubernetes_of(image: CloudImage) -> str:
    """``v1.36.3``."""
    version = image.platforms[0].info.kubernetes
    if not version:
        raise StoreError(f"{image.name or image.digest} brings no Kubernetes", hint="build it FROM a base image with Kubernetes")
    return version


def check_versions(before: str, after: str, name: str = DEFAULT_NAME) -> None:
    """Raises UsageError unless a cluster may go from one version of Kubernetes to another: upwards, one minor version at a time."""
    old, new = _version(before), _version(after)
    for version, hint in ((before, "make a new cluster with slipway run, and move there what this one runs"), (after, BUILD_NEWER)):
        if too_old := refused(version):
            raise UsageError(f"{too_old}; nothing has been changed", hint=hint)
    if new[:2] > (old[0], old[1] + 1):
        raise UsageError(
            f"from Kubernetes {before} to {after} is more than one minor version; nothing has been changed",
            hint=f"an image with v{old[0]}.{old[1] + 1} comes first",
        )
    if new < old:
        raise UsageError(
            f"Kubernetes {after} is older than {before}, which the cluster runs; nothing has been changed",
            hint=f"slipway rollback {name} brings the former image back; nothing else goes downwards",
        )


def _version(text: str) -> tuple[int, int, int, bool, str]:
    match = _PARTS.match(text)
    if match is None:
        raise UsageError(f"{text!r} is no version of Kubernetes", hint="v1.36.3")
    # What stands behind a hyphen comes before the release.
    return int(match[1]), int(match[2]), int(match[3]), match[4] is None, match[4] or ""


def batch_of(workers: int, asked: int | None) -> int:
    """The number of workers in a batch. Raises UsageError for less than one."""
    if asked is not None and asked < 1:
        raise UsageError(f"--batch {asked}: a batch has at least one worker", hint="leave it out: one in ten")
    return asked or max(1, workers // 10)


# ---- what is to be done -----------------------------------------------------------------------------------------------


def work_of(cluster: Gathered, image: CloudImage, move: Move, options: RolloutOptions, store: Store) -> RolloutWork:
    """Everything that the steps need. Raises NodeError when a member does not answer, InputError for what must be given again."""
    silent = [cluster.errors[node.address] for node in cluster.members if node.address in cluster.errors]
    if silent:
        error = together(silent)
        raise NodeError(
            f"{error}\na member that does not answer cannot be changed; nothing has been changed",
            hint=f"bring it back, or take it out first: slipway remove {cluster.state.name} IP",
        )
    recorded = _asked(cluster, options.clusterfile)
    kept = missing_secrets.kept(recorded, options.env)
    kubectl = NodeKubectl(cluster.first, tuple(node for node in cluster.control_plane if node is not cluster.first))
    configuration = rollout.kubernetes(kubectl)
    apps = records.listed(kubectl)
    run.check_network(store, image, image.name or image.digest, run.known_networks(store, [app.digest for app in apps]))
    context = _context(cluster, image, kept, configuration, options, store, apps)
    main = context.resolved.main
    tree, info = rootfs.tree(store, main), main.info
    chosen = request.launch(kept.usable, info) if not kept.faults else None
    launch = info.launch if chosen is None else chosen
    found_hooks = clusterfile_hooks.merged(hooks.of_image(tree), kept.usable.hooks)
    hooks.require_no_paths(hook for hook in found_hooks if set(hook.phases) & missing_secrets.PHASES)
    faults = [*kept.faults, *missing_secrets.mentioned(kept.lost, tree, kept.usable, launch)]
    if faults:
        raise InputError(faults)
    validation.check_values(context.spec)
    validation.check_files(context.resolved, context.nodes)
    nodes = readiness.of_kind(readiness.get(kubectl, "nodes"), "Node")
    addresses = {name: address for address, name in cluster.names.items()}
    last = cluster_change.read(kubectl)
    return RolloutWork(
        found=cluster,
        context=context,
        hooks=found_hooks,
        launch=tuple(launch),
        move=move,
        resumed=last is not None and last.state == RUNNING,
        versions={
            addresses[node["metadata"]["name"]]: str(node["status"]["nodeInfo"]["kubeletVersion"])
            for node in nodes
            if node["metadata"]["name"] in addresses
        },
        apps=apps,
        batch=batch_of(len(cluster.workers), options.batch),
        force=options.force,
        drain_timeout=options.drain_timeout,
    )


def _asked(cluster: Gathered, wanted: Clusterfile | None) -> Clusterfile:
    """The wanted cluster, with the machines that it has. Raises UsageError for a Clusterfile that asks for more than an image."""
    recorded = cluster.record.clusterfile
    if wanted is None or wanted.cluster is None or recorded.cluster is None:
        return recorded if wanted is None or wanted.cluster is not None else dataclasses.replace(wanted, cluster=recorded.cluster)
    members = {*cluster.record.control_plane, *cluster.record.workers}
    hosts: list[Host] = []
    for host in (*wanted.cluster.hosts, *recorded.cluster.hosts):
        # Who comes or goes is not our business: others join and remove.
        ips = tuple(address for address in host.ips if address in members)
        members -= set(ips)
        hosts += [dataclasses.replace(host, ips=ips)] if ips else []
    names = {**recorded.cluster.ssh_hosts, **wanted.cluster.ssh_hosts}
    return dataclasses.replace(wanted, cluster=dataclasses.replace(wanted.cluster, hosts=tuple(hosts), ssh_hosts=names))


def require_same(recorded: Clusterfile, wanted: Clusterfile) -> None:
    """Raises UsageError when a Clusterfile asks for anything else than another image: that is not done on the way."""
    if wanted.cluster is None:
        raise UsageError(f"{wanted.path} has no document Cluster", hint="slipway generate writes one")
    changes = [change for change in difference(recorded, wanted) if change.subject != "image" and change.name != "provider"]
    if changes:
        raise UsageError(
            f"{wanted.path} asks for more than another image: {changes[0]}{' and more' if len(changes) > 1 else ''}",
            hint=f"slipway apply -f {wanted.path} changes all of that",
        )


def _context(
    cluster: Gathered,
    image: CloudImage,
    kept: missing_secrets.Kept,
    configuration: Mapping[str, object],
    options: RolloutOptions,
    store: Store,
    apps: Sequence[records.Installed],
) -> ClusterContext:
    record = cluster.record
    networking = configuration.get("networking")
    networks = networking if isinstance(networking, Mapping) else {}
    server = configuration.get("apiServer")
    names = server.get("certSANs") if isinstance(server, Mapping) else ()
    whole = kept.whole
    if whole.cluster is not None:
        whole = dataclasses.replace(whole, cluster=dataclasses.replace(whole.cluster, image=image.name or image.digest))
    env = {**request.env(kept.usable), **options.env}
    # The networks of a cluster that runs stay, whatever another image would choose.
    env |= {name: str(networks[key]) for name, key in (("PodCIDR", "podSubnet"), ("SvcCIDR", "serviceSubnet")) if networks.get(key)}
    spec = ClusterSpec(
        image=image,
        store=store,
        ssh=cluster.ssh,
        state=cluster.state,
        control_plane=cluster.control_plane,
        workers=cluster.workers,
        clusterfile=whole,
        env=env,
        host_env=request.host_env(kept.usable),
        app_env=request.app_env(kept.usable),
        edit=request.edit(kept.usable) if not kept.faults else None,
        elsewhere=registries.AsThere.of(cluster.first) if record.registry == "elsewhere" else None,
        timeout=options.timeout,
        registry_hosts=None if record.registry == "elsewhere" else membership.holders(cluster),
        proxy_mode=membership.proxy_mode(NodeKubectl(cluster.first)),
        added_names=tuple(str(name) for name in names or ()),
        app_domains=tuple(sorted({domain for app in apps for domain in app.domains})),
    )
    context = ClusterContext(spec)
    machines = preparation.machine_facts(cluster.members, {node.address: cluster.name(node) for node in cluster.members})
    context.resolve(ResolvedCluster(spec, ClusterFacts(machines, ipvs.as_it_is(ipvs.ask(spec.nodes)))))
    return context
