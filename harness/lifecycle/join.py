"""``slipway join``: machines become nodes of a cluster that is there, and those that are in it are touched only where they must be."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import assets, cloudimage, log
from harness.cloudimage import CloudImage, ImageSet
from harness.clusterfile import ClusterDocument, Clusterfile
from harness.errors import CheckError, StoreError, UsageError
from harness.lifecycle import delete
from harness.lifecycle.apps import records
from harness.lifecycle.checks.preflight import gather
from harness.lifecycle.cluster import certificates, hosts, membership, owner, request
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import etcd
from harness.lifecycle.plan import Plan, Step, execute
from harness.lifecycle.provision import ipvs, registry, rootfs
from harness.lifecycle.run import hook_steps
from harness.lifecycle.steps import bootstrap, hooks, labels, preparation, registries, validation, waits
from harness.lifecycle.steps.context import ClusterContext, ClusterFacts, ClusterSpec, MemberChange
from harness.lifecycle.steps.joining import JoiningCluster, without_secrets
from harness.nodes import Machine, Node, each, together
from harness.nodes.files import STATE
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.oci.store import Store
from harness.runtimes import ROOTFS, SYSTEM
from harness.runtimes.kubeconfig import ADMIN
from harness.runtimes.pki import FOLDER
from harness.trust import policy


@dataclasses.dataclass(frozen=True)
class JoinOptions:
    """Settings of one join that are not part of a Clusterfile and are not recorded."""

    via: Sequence[Machine] = ()
    """Control-plane nodes of a cluster of which this machine remembers nothing."""
    password: str | None = dataclasses.field(default=None, repr=False)
    """For SSH; it wins over the Clusterfile's."""
    timeout: float = 600
    skip_checks: frozenset[str] = frozenset()
    """Preflight checks whose failures are ignored."""


@dataclasses.dataclass(frozen=True)
class Joined:
    """The outcome of a join."""

    name: str
    control_plane: tuple[str, ...]
    """Names of the machines that are control-plane nodes now."""
    workers: tuple[str, ...]
    already: tuple[str, ...]
    """Addresses of machines that were members before."""
    seconds: float
    sent: int
    """Bytes that went from here to machines."""


@dataclasses.dataclass
class JoinWork(MemberChange):
    """State that the steps of a join share."""

    asked: ClusterDocument
    """The machines that are to be members, some of which may be already."""
    lost: frozenset[str]
    """Paths in the rootfs of files that were made of what was not kept."""
    taking_in: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    """etcd takes in one member at a time."""

    @property
    def joining(self) -> frozenset[str]:
        """Addresses of the new machines."""
        return frozenset(node.address for node in self.fresh)

    @property
    def fresh(self) -> tuple[SshNode, ...]:
        return self.context.nodes

    @property
    def already(self) -> tuple[str, ...]:
        """Addresses of the machines that were members before."""
        return tuple(address for address in (*self.asked.control_plane, *self.asked.workers) if address not in self.joining)

    @property
    def control_plane(self) -> tuple[SshNode, ...]:
        return self.context.selected(self.context.spec.control_plane)

    @property
    def old(self) -> tuple[SshNode, ...]:
        """The members that were there before and answer."""
        return self.found.alive(self.found.members)


def join(clusterfile: Clusterfile, store: Store, options: JoinOptions | None = None, *, home: Path | None = None) -> Joined:
    """Make the machines of a Clusterfile nodes of the cluster that it names. The same call again finishes an interrupted join.

    Its document Cluster may say more about the machines: environment, labels, taints, roles. Its environment gives values that the cluster
    did not keep, since they are secret.
    Raises UsageError, StoreError when the cluster's image is not here, CheckError when machines are not fit or etcd not healthy,
    NodeError for machines that do not answer.
    """
    started = time.monotonic()
    with prepared(clusterfile, store, options, home=home) as work:
        with membership.changing(work.found), store.shared_lease():
            execute(plan(work), work.journal)
        return Joined(
            work.spec.name,
            tuple(work.resolved.member(node).name for node in work.control_plane),
            tuple(work.resolved.member(node).name for node in work.fresh if node not in work.control_plane),
            work.already,
            time.monotonic() - started,
            work.spec.ssh.sent,
        )


@contextmanager
def prepared(clusterfile: Clusterfile, store: Store, options: JoinOptions | None = None, *, home: Path | None = None) -> Iterator[JoinWork]:
    """Read what the cluster keeps about itself, and make up what is to be done; nothing is touched."""
    options = options or JoinOptions()
    asked = clusterfile.cluster
    if asked is None or not asked.hosts:
        raise UsageError("no machine is given", hint="slipway join NAME --workers 192.168.0.7, or --control-plane IP")
    control_plane, workers = request.machines(clusterfile, options.password)
    named = (*control_plane, *workers)
    request.check_once(named)
    request.check_env(asked.env)
    with ExitStack() as stack:
        with log.step("read what the cluster keeps about itself"):
            cluster = stack.enter_context(membership.gathered(asked.name, named, via=options.via, password=options.password, home=home))
        work = _work(cluster, asked, store, options, records.listed(NodeKubectl(cluster.first)))
        validation.check_members(work.spec, work.fresh)
        yield work


def _work(
    cluster: Gathered, asked: ClusterDocument, store: Store, options: JoinOptions, apps: Sequence[records.Installed] = ()
) -> JoinWork:
    """Raises StoreError when images of applications that new registries need are not here."""
    record, env = cluster.record, asked.env
    image = _image(store, record.image, record.digest)
    _check_roles(cluster, asked)
    hosts.require_recorded(asked, record.clusterfile.cluster)
    new = {node.address: node for node in cluster.others}
    new_control_plane, new_workers = (
        tuple(new[address] for address in group if address in new) for group in (asked.control_plane, asked.workers)
    )
    _check_control_plane(cluster, new_control_plane)
    addresses = ([node.address for node in new_control_plane], [node.address for node in new_workers])
    kept, lost = without_secrets(membership.with_members(record.clusterfile, *addresses, asked.hosts, asked.ssh_hosts), env)
    elsewhere = registries.AsThere.of(cluster.first) if record.registry == "elsewhere" else None
    holding = membership.holders(cluster)
    room = max(0, registry.most(kept) - len(holding))
    joining = frozenset(node.address for node in (*new_control_plane, *new_workers))
    registry_hosts = holding | {node.address for node in new_control_plane[:room]}
    needs_images = elsewhere is None and joining & registry_hosts
    spec = ClusterSpec(
        image=image,
        store=store,
        ssh=cluster.ssh,
        state=cluster.state,
        # The one whose API answers leads, also when one before it has lost only its API.
        control_plane=(cluster.first, *(node for node in cluster.control_plane if node is not cluster.first), *new_control_plane)
        if cluster.alive(cluster.control_plane)[:1] != (cluster.first,)
        else (*cluster.control_plane, *new_control_plane),
        workers=(*cluster.workers, *new_workers),
        clusterfile=kept,
        env={**request.env(kept), **env},
        host_env=request.host_env(kept),
        app_env=request.app_env(kept),
        edit=request.edit(kept),
        elsewhere=elsewhere,
        timeout=options.timeout,
        skip_checks=options.skip_checks,
        unreachable={node.address: cluster.name(node) for node in cluster.members if node.address in cluster.errors},
        registry_hosts=None if elsewhere else registry_hosts,
        requires_login=membership.requires_login(cluster),
        proxy_mode=membership.proxy_mode(NodeKubectl(cluster.first)),
        # New members know where images of applications are, and new registries hold them.
        app_images=records.union(apps, store) if needs_images else ImageSet(),
        app_domains=tuple(sorted({domain for app in apps for domain in app.domains})),
    )
    return JoinWork(cluster, ClusterContext(spec, joining), asked, lost)


def _image(store: Store, name: str, digest: str) -> CloudImage:
    try:
        image = cloudimage.read(store, digest)
    except StoreError as error:
        raise StoreError(
            f"the image of the cluster, {name} ({digest[:19]}), is not in the store here: {error.message}",
            hint=f"slipway pull {name}, or load it from an archive; it must be the very same one",
        ) from error
    policy.admit(store, image.name or digest, image.digest)
    return image


def _check_roles(cluster: Gathered, asked: ClusterDocument) -> None:
    pairs = ((asked.control_plane, cluster.workers, "a worker"), (asked.workers, cluster.control_plane, "a control-plane node"))
    for addresses, others, what in pairs:
        wrong = sorted(set(addresses) & {node.address for node in others})
        if wrong:
            raise UsageError(
                f"{', '.join(wrong)} is {what} of {cluster.state.name} already",
                hint=f"slipway remove {cluster.state.name} {wrong[0]} first, then join it as what it is to be",
            )


def _check_control_plane(cluster: Gathered, new: Sequence[SshNode]) -> None:
    """etcd must be whole before it grows, and a number of control-plane nodes that survives more than the one before it is odd."""
    if not new:
        return
    away = [node for node in cluster.control_plane if node.address in cluster.errors]
    if away:
        names = ", ".join(cluster.name(node) for node in away)
        raise CheckError(
            f"no control-plane node can join while {names} does not answer: etcd would be further from its quorum",
            hint=f"bring it back, or take it out: slipway remove {cluster.state.name} {' '.join(node.address for node in away)}",
        )
    count = len(cluster.control_plane) + len(new)
    if count % 2 == 0:
        log.warning(f"{count} control-plane nodes survive no more losses than {count - 1} would: an odd number is better")


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: JoinWork) -> list[Step]:
    """List the steps. Those on the new machines are those of ``run``."""
    context, holds_images = work.context, bool(work.context.selected(work.spec.registries)) and work.spec.elsewhere is None
    if not work.fresh:
        recipe = Plan()
        recipe.add(_tell_balancers(work), _record(work))
        return recipe.steps
    cluster_hooks = hooks.of(work.spec)
    names = hooks.host_names(cluster_hooks, hooks.NAMING)
    recipe = Plan(*hook_steps(context, cluster_hooks, names, hooks.BEFORE_JOINING))
    recipe.add(_connect(work), _check_machines(work, names))
    if holds_images:
        recipe.add(registries.send_images(context))
    recipe.add(
        _render(work),
        _find_keys(work),
        preparation.send_rootfs(context),
        preparation.send_rendered(context),
        preparation.set_up_machines(context),
        preparation.start_containerd(context),
    )
    if holds_images:
        recipe.add(registries.start_registry(context))
    if set(work.fresh) - set(work.spec.registries):
        recipe.add(registries.start_balancers(context))
    # A kubelet looks around for seconds before it asks for containerd.
    recipe.add(bootstrap.start_kubelets(context), after=("send-rootfs", "set-up-machines"))
    if work.control_plane:
        recipe.add(bootstrap.certify_control_plane(context))
    recipe.add(registries.fetch_images(context))
    if work.control_plane:
        recipe.add(_take_in(work), bootstrap.wait_for_api(context))
        recipe.add(bootstrap.register_control_plane(context), after=(), after_all=("wait-for-api",))
    recipe.add(_tell_balancers(work), _wait_for_nodes(work))
    recipe.add(*labels.step(context, recipe.last))
    for phase in hooks.AFTER_JOINING:
        recipe.add(*hooks.at(context, cluster_hooks, phase, (recipe.last,), among=context.joining))
    recipe.add(_adopt(work, recipe.last), _record(work))
    return recipe.steps


def _connect(work: JoinWork) -> Step:
    def action() -> str:
        failed = [work.found.errors[node.address] for node in work.fresh if node.address in work.found.errors]
        if failed:
            raise together(failed)
        owner.require_free(work.fresh, work.spec.first, work.spec.name)
        for address, name in work.spec.unreachable.items():
            log.warning(f"{name} ({address}) does not answer: it does not learn of the new members; repeat this command later")
        return f"{len(work.fresh)} new, {len(work.old)} that are there"

    return Step("connect", "connect to the nodes", action)


def _check_machines(work: JoinWork, names: Mapping[str, str]) -> Step:
    """``names`` are host names that new machines will get, by address."""
    spec = work.spec

    def action() -> str:
        asked = (*work.old, *work.fresh)
        machines = preparation.machine_facts(asked, {address: name for address, name in names.items() if address in work.joining})
        # Of those that do not answer only the names matter.
        arch = machines[spec.first.address].arch
        machines |= {address: gather.MachineFacts(host=name, arch=arch) for address, name in spec.unreachable.items()}
        resolved = JoiningCluster(spec, ClusterFacts(machines), work.joining, work.lost)
        first, *members = (preparation.target(resolved, node) for node in (spec.first, *work.old))
        targets = [preparation.target(resolved, node) for node in work.fresh]
        wanted = preparation.wanted_of_machines(resolved, [first, *members, *targets])
        unreachable = {name: address for address, name in spec.unreachable.items()}
        findings = gather.examine({node.address: node for node in asked}, targets, wanted, members, unreachable)
        summary = gather.require(findings, spec.skip_checks)
        _clean_left(work)
        balancing = ipvs.joining(registries.balancing_wish(resolved), ipvs.ask(asked))
        work.context.resolve(dataclasses.replace(resolved, facts=ClusterFacts(machines, balancing)))
        return summary

    return Step("check-machines", "check the machines", action, after=("connect",))


def _clean_left(work: JoinWork) -> None:
    """A machine that was removed while it did not answer still holds what it was then."""
    words = work.found.record.left
    uncleaned = [node for node in work.fresh if {node.address, node.name} & words and node.run(f"[ -e {STATE} ]", check=False).ok]
    each(uncleaned, delete.clean)
    for node in uncleaned:
        log.info(f"{node.name} was a member once and is cleaned first")


def _render(work: JoinWork) -> Step:
    """As ``run`` does it, for the new machines."""

    def action() -> str:
        resolved = work.resolved
        assert isinstance(resolved, JoiningCluster)
        for image in resolved.variants:
            rootfs.tree(work.spec.store, image)
        for node in work.fresh:
            resolved.files(node)
        missing = sorted(resolved.inherited - set(resolved.files_of_first))
        if missing:
            raise CheckError(
                f"{', '.join(missing)}: made with values that the cluster did not keep, and {work.spec.first.name} does not have it",
                hint="give the values with -e NAME=VALUE",
            )
        return f"{len(resolved.inherited)} files as {work.spec.first.name} has them" if resolved.inherited else ""

    return Step("unpack-rootfs", "unpack and render the rootfs", action, after=("check-machines",))


def _find_keys(work: JoinWork) -> Step:
    def action() -> None:
        if not certificates.any_has_keys(work.found.alive(work.found.control_plane), encrypts=work.resolved.profile.encrypts):
            # prepare() would make new ones, and with them another cluster.
            raise CheckError(
                f"no control-plane node has all the keys of the cluster ({FOLDER}/ca.key and the others)",
                hint="put them back from a backup; a machine can only join with a certificate that they sign",
            )
        work.resolved.runtime.prepare()

    return Step("make-keys", "find the keys of the cluster", action, after=("unpack-rootfs",))


# ---- new control-plane nodes ------------------------------------------------------------------------------------------


def _take_in(work: JoinWork) -> Step:
    """Under the name by which ``run`` knows it: for a later one this control-plane node has been started."""
    one_by_one = etcd.Etcd(work.found.alive(work.found.control_plane))

    def action(node: Node) -> None:
        member = work.resolved.member(node)

        def start(peers: str, anew: bool) -> None:
            if anew:
                # Of an attempt that failed; with it etcd would take itself for a member that is no more.
                node.run(f"rm -f {etcd.MANIFEST}; {_ETCD_GONE}; find {etcd.DATA} -mindepth 1 -delete 2>/dev/null || true", timeout=90)
            work.resolved.runtime.join_store(member, peers)

        with work.taking_in:
            try:
                etcd.admit(one_by_one, member.name, member.address, start, timeout=min(120, work.spec.timeout))
            except BaseException:
                node.run(f"rm -f {etcd.MANIFEST}", check=False)
                raise
        work.resolved.runtime.join_control_plane(member)

    return Step(
        "start-control-plane",
        "add the control-plane nodes",
        action,
        work.control_plane,
        after=("certify-control-plane", "start-registry", "fetch-images"),
        inputs=lambda node: bootstrap.kubernetes_inputs(work.resolved, node),
    )


_ETCD_GONE = f"""end=$(($(date +%s) + 40))
while {ROOTFS}/bin/ctr -n k8s.io containers ls -q 'labels."io.kubernetes.container.name"==etcd' 2>/dev/null | while read -r id; do
  {ROOTFS}/bin/ctr -n k8s.io tasks ls 2>/dev/null | grep -q "^$id .*RUNNING" && echo yes; done | grep -q yes; do
  [ "$(date +%s)" -lt "$end" ] || break; sleep 0.3
done"""


# ---- those that were there --------------------------------------------------------------------------------------------


def _tell_balancers(work: JoinWork) -> Step:
    """Balancers learn of new control-plane nodes; also those of members that did not answer the last time."""

    def action() -> str:
        cluster = work.found
        new = [(work.resolved.member(node).name, node.address) for node in work.control_plane]
        control_plane = [*((cluster.name(node), node.address) for node in cluster.control_plane), *new]
        texts = membership.balancers(cluster, control_plane, frozenset(node.address for node in work.spec.registries))
        told = each([node for node in work.old if node.address in texts], lambda node: membership.tell_balancer(node, texts[node.address]))
        return f"{sum(told)} of {len(told)} needed it"

    return Step(
        "tell-balancers", "tell the balancers", action, after_all=("register-control-plane" if work.control_plane else "check-machines",)
    )


def _adopt(work: JoinWork, after: str) -> Step:
    """Note on the old members that what ``run`` would do there because of the new ones is done, or need not be."""
    grown = (
        preparation.set_up_machines, registries.start_registry, registries.start_balancers, bootstrap.start_kubelets,
        bootstrap.certify_control_plane, bootstrap.start_control_plane, bootstrap.wait_for_api, bootstrap.finish_cluster,
        bootstrap.register_control_plane,
    )  # fmt: skip

    def action(node: Node) -> None:
        for make in grown:
            if make is registries.start_registry and work.spec.elsewhere is not None:
                continue
            step = make(work.context.whole())
            if node in step.nodes and work.journal.knows(node, step.id):
                work.journal.note(node, step)

    return Step("adopt", "note it on the others", action, work.old, after_all=(after,))


# ---- the end ----------------------------------------------------------------------------------------------------------


def _wait_for_nodes(work: JoinWork) -> Step:
    def action() -> str:
        names = [work.resolved.member(node).name for node in work.fresh]
        status = '{{range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}'
        ready = f"{{{{range .items}}}}{{{{.metadata.name}}}} {status}{{{{println}}}}{{{{end}}}}"
        script = assets.script(
            "await_members",
            *(f"node/{name}" for name in names),
            admin=ADMIN,
            namespaces=" ".join(SYSTEM),
            rootfs=ROOTFS,
            state=STATE,
            template=ready,
        )
        deadline = time.monotonic() + work.spec.timeout
        while not (result := work.spec.first.run(script, check=False, timeout=60)).ok and time.monotonic() < deadline:
            # From time to time it is seen whether the machines are there still.
            each(work.fresh, lambda node: node.run("true", timeout=60))
        if not result.ok:
            missing = [name for name in names if f"{name} True" not in result.stdout.splitlines()]
            logs = [waits.kubelet_log(node, node.name) for node in work.fresh if work.resolved.member(node).name in missing]
            raise CheckError(f"not ready after {work.spec.timeout:.0f} s: {', '.join(missing) or result.output}", details="\n".join(logs))
        work.resolved.runtime.registered()
        return f"{len(names)} Ready"

    return Step("wait-for-nodes", "wait for the nodes", action, after_all=("start-kubelets", "tell-balancers"))


def _record(work: JoinWork) -> Step:
    def action() -> None:
        control_plane = [node.address for node in work.control_plane]
        workers = [node.address for node in work.fresh if node.address not in control_plane]
        back = [word for node in work.fresh for word in (node.address, node.name)]
        described, names = work.asked.hosts, work.asked.ssh_hosts
        record = membership.update(work.spec.first, control_plane, workers, back=back, described=described, ssh_hosts=names)
        names = {**work.found.names, **{node.address: work.resolved.member(node).name for node in work.fresh}}
        membership.remember(dataclasses.replace(work.found, names=names), record, kubeconfig_from=work.spec.first)

    return Step("record", "record the members", action, after_all=("adopt",) if work.fresh else ("tell-balancers",))
