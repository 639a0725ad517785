"""A cluster goes from one image to another, node by node, and serves all the time: what ``upgrade`` and ``rollback`` share.

Everything is made ready beside what runs: blobs in the registries, a second rootfs on each node, the images of Kubernetes. Then each
master and each worker has its turn. Which change this is, and from what to what, the cluster keeps in a ConfigMap; with it the same
command again, or the way back, knows what was begun.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets, cloudimage, log, untrusted
from harness.cloudimage import enforcers
from harness.clusterfile import Hook, Phase
from harness.errors import CheckError, CommandError, SlipwayError, StoreError
from harness.lifecycle import backup
from harness.lifecycle.apps import obsolete, records
from harness.lifecycle.cluster import certificates
from harness.lifecycle.cluster.change import DONE, ROLLBACK, UPGRADE, Move, write
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import drain, etcd, objects, readiness
from harness.lifecycle.plan import Journal, Plan, Step, digest
from harness.lifecycle.provision import node_files, registry, rootfs, rootfs_update
from harness.lifecycle.steps import bootstrap, hooks, launch, preparation, record, registries, wait
from harness.lifecycle.steps.context import ClusterContext, ClusterSpec, ResolvedCluster
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE, Files, install_files, read_files
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.runtimes import ROOTFS, SYSTEM, static_pods
from harness.runtimes.kubeadm import ADMIN, KUBECTL

BACKUP = f"{STATE}/before-upgrade.backup"
"""On every master: what ``slipway restore`` takes, of before the last upgrade. There is one for the last rollback, too."""

_ROOM = 256 << 20
"""Bytes that stay free on every node beside what is brought."""
_UNPACKED = 3
"""An image takes its size as it travels and, once more, unpacked, which is about twice that."""

# Parts of a node that are started anew when they change; and a note that it was we who cordoned it.
CONTAINERD, KUBELET, CONTROL_PLANE, REGISTRY, BALANCER = "containerd", "kubelet", "control-plane", "registry", "balancer"
_CORDONED = "cordoned"


def kubernetes(kubectl: NodeKubectl) -> Mapping[str, Any]:
    """kubeadm's ClusterConfiguration as the cluster keeps it."""
    text = kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
    return objects.configuration(objects.config_map(text, where=kubectl.where), kubectl.where)


@dataclasses.dataclass
class RolloutWork:
    """What the steps share."""

    found: Gathered
    context: ClusterContext
    hooks: tuple[Hook, ...]
    launch: tuple[str, ...]
    move: Move
    resumed: bool
    """Somebody began this, or what it takes back, and did not end it."""
    versions: Mapping[str, str]
    """Of the kubelets, by address, as they are now."""
    apps: tuple[records.Installed, ...] = ()
    batch: int = 1
    force: bool = False
    drain_timeout: float = drain.TIMEOUT
    journal: Journal = dataclasses.field(default_factory=Journal)
    deltas: dict[str, rootfs_update.Delta] = dataclasses.field(default_factory=dict)
    """By address, once the nodes have told what they have."""

    @property
    def spec(self) -> ClusterSpec:
        return self.context.spec

    @property
    def resolved(self) -> ResolvedCluster:
        return self.context.resolved

    @property
    def kubectl(self) -> NodeKubectl:
        """By way of any master whose API answers."""
        return NodeKubectl(self.found.first, tuple(node for node in self.found.masters if node is not self.found.first))

    @property
    def batches(self) -> tuple[tuple[SshNode, ...], ...]:
        """The workers that have their turn together."""
        workers = self.context.spec.workers
        return tuple(workers[start : start + self.batch] for start in range(0, len(workers), self.batch))

    def name(self, node: Node) -> str:
        return self.found.name(node)

    def beside(self, node: Node) -> SshNode:
        """A master whose API is there while ``node`` is changed; itself when it is the only one."""
        return next((master for master in (self.found.first, *self.found.masters) if master is not node), self.found.first)


def turns(work: RolloutWork) -> tuple[tuple[str, tuple[SshNode, ...]], ...]:
    """Who has a turn, one after the other: masters singly, workers in batches.

    No kubelet may be newer than an API server: to a lower minor version the workers go first.
    """
    masters = tuple(("master", (node,)) for node in work.spec.masters)
    workers = tuple(("node", batch) for batch in work.batches)
    down = drain.minor(work.move.after.kubernetes) < drain.minor(work.move.before.kubernetes)
    return (*workers, *masters) if down else (*masters, *workers)


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: RolloutWork) -> list[Step]:
    """What will be done. Until ``begin`` nothing is changed, until the first turn nothing that runs."""
    upgrades, recipe = work.move.kind == UPGRADE, Plan()
    recipe.add(_check(work), _unpack(work), _find_keys(work), _compare(work), _begin(work), _keep_backup(work))
    if upgrades:
        recipe.add(*_once(work, Phase.PRE_UPGRADE, recipe.last))
    before = recipe.last
    if work.spec.elsewhere is None:
        recipe.add(registries.send_images(work.context), after=(), after_all=(before,))
    recipe.add(_tell_nodes(work, before), _stage(work, before), _fetch(work))
    _add_turns(work, recipe)
    recipe.add(*_once(work, Phase.UPGRADE if upgrades else Phase.ROLLBACK, recipe.last))
    _add_launch(work, recipe)
    if upgrades:
        recipe.add(*_once(work, Phase.POST_UPGRADE, recipe.last))
    recipe.add(_end(work, recipe.last))
    return recipe.steps


def _add_turns(work: RolloutWork, recipe: Plan) -> None:
    """Every node's turn; once all masters have had theirs, what is there once for the whole cluster follows."""
    masters_left = len(work.spec.masters)
    for number, (role, nodes) in enumerate(turns(work), 1):
        recipe.add(_turn(work, number, role, nodes, recipe.last))
        recipe.add(_healthy(work, str(number), recipe.last))
        masters_left -= role == "master"
        if role == "master" and masters_left == 0:
            _add_whole_cluster(work, recipe)


def _add_whole_cluster(work: RolloutWork, recipe: Plan) -> None:
    """Configuration in the cluster, the pod network and the addons."""
    configure = Step(
        "update-cluster",
        "update the cluster's configuration",
        lambda _: work.resolved.runtime.update(work.resolved.network_addon),
        (work.spec.first,),
        after_all=(recipe.last,),
        inputs=lambda _: work.move.id,
    )
    recipe.add(configure, *_network_commands(work, configure.id, work.move.id))
    recipe.add(bootstrap.start_addons(work.context, recipe.last))
    recipe.add(_prune(work, recipe.last))
    # While its kube-proxy is replaced a node does not hear of pods that end: no pod is moved then.
    recipe.add(_healthy(work, "cluster", recipe.last))


def _network_commands(work: RolloutWork, after: str, change: str = "") -> list[Step]:
    commands = launch.network_commands(work.resolved.main.info)
    return launch.launch_commands(work.context, commands, "cluster-app", after, change)


def _prune(work: RolloutWork, after: str) -> Step:
    """Remove what only the image before had of addons."""

    def action(_: Node) -> str:
        others = [one for app in work.apps for one in app.objects]
        try:
            pruned = obsolete.prune(work.kubectl, work.resolved.addons, _former_addons(work), others)
        except StoreError as error:
            log.warning(f"addons that the image has not any more stay: {error.message}")
            return ""
        # Else what they send to an enforcer that has gone would be dropped.
        tables = obsolete.idle_tables(work.kubectl)
        each(work.spec.nodes, lambda node: node_files.drop_tables(node, tables))
        return str(pruned)

    title = "remove addons that the image has not any more"
    return Step("prune-addons", title, action, (work.spec.first,), after_all=(after,), inputs=lambda _: work.move.id)


def _former_addons(work: RolloutWork) -> dict[str, str]:
    """The addons of the image that the cluster comes from, as its first master had them; none when it is not here."""
    try:
        former = cloudimage.read(work.spec.store, work.move.before.digest)
        return ResolvedCluster(dataclasses.replace(work.spec, image=former, edit=None), work.resolved.facts).addons
    except SlipwayError as error:
        log.debug(f"what addons {work.move.before.image} had is not known: {error.message}")
        return {}


def _add_launch(work: RolloutWork, recipe: Plan) -> None:
    """As ``run`` and ``apply`` end, and with the hooks that we could have."""
    recipe.add(*hooks.at(work.context, work.hooks, Phase.PRE_LAUNCH, (recipe.last,)))
    recipe.add(*launch.launch_commands(work.context, work.launch, "launch", recipe.last, work.move.id))
    recipe.add(*hooks.at(work.context, work.hooks, Phase.POST_LAUNCH, (recipe.last,)))
    recipe.add(wait.wait_for_workloads(work.context, recipe.last, launched=bool(work.launch)))
    recipe.add(record.record(work.context, recipe.last))


def _once(work: RolloutWork, phase: Phase, after: str) -> list[Step]:
    """The hooks of a phase: each once in every change."""
    return hooks.at(work.context, work.hooks, phase, (after,), change=work.move.id)


# ---- before anything is changed ---------------------------------------------------------------------------------------


def _check(work: RolloutWork) -> Step:
    """Everything must be well, unless this goes on with what has not come to its end: that may be what is to be mended."""

    def action() -> str:
        if work.resumed:
            each(work.found.masters, static_pods.resume)
        unfit = records.unfit(work.apps, work.move.after.kubernetes)
        if unfit:
            raise CheckError("\n".join(unfit), hint="bring them to a version that admits it first, or take them out: slipway apps")
        client = etcd.Etcd(work.found.masters)
        members = client.members()
        etcd.require_health(members, client.sick(members), f"no {work.move.kind}")
        require_etcd(work)
        _require_enforcement(work)
        items = readiness.get(work.kubectl)
        if not work.resumed:
            _require_calm(work, items)
        if not work.force:
            _require_owners(work, items)
        return f"{len(work.spec.nodes)} nodes, {work.move.before.kubernetes} to {work.move.after.kubernetes}"

    return Step("check", "check the cluster", action)


def require_etcd(work: RolloutWork) -> None:
    """Raises CheckError when etcd cannot go from what a master runs to what the image has."""
    for runs in each(work.found.masters, etcd.image_of):
        etcd.require_step(runs, registries.etcd_image(work.resolved))


def _require_enforcement(work: RolloutWork) -> None:
    """Raises CheckError when a kernel cannot do what the image enforces NetworkPolicies by."""
    wanted = enforcers.among(image.name for image in work.resolved.images.images)
    unable = {work.name(node): enforcers.unserved(wanted, work.resolved.facts.machines[node.address].has) for node in work.spec.nodes}
    lines = [f"{name}: NetworkPolicies would protect nothing: {why}" for name, why in unable.items() if why]
    if lines:
        raise CheckError(
            "\n".join([*lines, "nothing has been changed"]), hint="another kernel, or an image without it (POLICY=none of the base)"
        )


def _require_calm(work: RolloutWork, items: Sequence[readiness.Resource]) -> None:
    system = [item for item in items if item["kind"] == "Node" or item["metadata"].get("namespace") in SYSTEM]
    problems = readiness.explain(work.kubectl, system, static=False)
    if problems:
        raise CheckError(
            f"the cluster is not healthy: {problems[0].object}: {problems[0].reason}; nothing has been changed",
            hint=f"put that right first: slipway check {work.spec.name}",
            details="\n".join(str(problem) for problem in problems),
        )


def _require_owners(work: RolloutWork, items: Sequence[readiness.Resource]) -> None:
    """Pods that a drain would end for good are told now, and not when some nodes have been done."""
    nodes = readiness.of_kind(items, "Node")
    ours = {work.name(node) for node in work.spec.nodes if _moves(work, node)}
    # The only one that takes pods is not drained.
    names = {name for name in ours if any(takes_pods(node) for node in nodes if node["metadata"]["name"] != name)}
    pods = [pod for pod in readiness.of_kind(items, "Pod") if pod["spec"].get("nodeName") in names]
    alone = [f"{pod['metadata']['namespace']}/{pod['metadata']['name']}" for pod in drain.sort(pods).alone]
    if alone:
        raise CheckError(
            f"nothing would start {', '.join(alone)} again elsewhere; nothing has been changed",
            hint="delete them, or use --force: they are then lost",
        )


def _moves(work: RolloutWork, node: Node) -> bool:
    """Whether it is known already that the pods of a node must go elsewhere for a while."""
    return work.versions.get(node.address) != work.move.after.kubernetes


def _unpack(work: RolloutWork) -> Step:
    def action() -> None:
        for image in work.resolved.variants:
            rootfs_update.contents(rootfs.tree(work.spec.store, image))
        for node in work.spec.nodes:
            work.resolved.files(node)
        preparation.warn_of_documents(work.resolved)
        _require_network(work)

    return Step("unpack-rootfs", "unpack and render the rootfs", action)


def _require_network(work: RolloutWork) -> None:
    """Raises CheckError when the image has another pod network than the cluster: pods that run would be cut off."""
    runs = obsolete.networks(work.kubectl)
    brings = {one.name for one in obsolete.objects_of(work.resolved.network_addon) if one.kind == "DaemonSet"}
    if runs and not brings & set(runs):
        raise CheckError(
            f"{work.move.after.image} has another pod network than {', '.join(runs)}, which the cluster runs; nothing has been changed",
            hint="the network of a cluster stays as it is: make a new cluster, and move there what this one runs",
        )


def _find_keys(work: RolloutWork) -> Step:
    """The keys are those of the cluster: new ones, as ``run`` would make them, would be another cluster's."""

    def action() -> None:
        if not certificates.any_has_keys(work.found.masters, encrypts=work.resolved.profile.encrypts):
            raise CheckError("no master has the keys of the cluster", hint="put them back from a backup")
        work.resolved.runtime.prepare()

    return Step("make-keys", "find the keys of the cluster", action, after=("unpack-rootfs", "check"))


def _compare(work: RolloutWork) -> Step:
    """What each node lacks, and whether it has room for that."""

    def action() -> str:
        lacking = _blobs(work)
        fresh = max(lacking.values(), default=0)

        def one(node: SshNode) -> tuple[rootfs_update.Delta, str]:
            target = rootfs_update.wanted(work.resolved.tree(node), work.resolved.files(node))
            delta = rootfs_update.compare(target, rootfs_update.ask(node), rootfs_update.ask(node, rootfs_update.FORMER))
            small = sum(entry.size for path, entry in target.items() if not path.startswith(("bin/", "lib/")))
            needed = delta.bytes + small + lacking.get(node.address, 0) + _UNPACKED * fresh + _ROOM
            free = _free(node)
            short = f"{work.name(node)} has {free / 1e6:.0f} MB free in {STATE}, {needed / 1e6:.0f} MB are needed"
            return delta, short if free < needed and (delta.bytes or fresh) else ""

        found = each(work.spec.nodes, one)
        full = [short for _, short in found if short]
        if full:
            raise CheckError("\n".join([*full, "nothing has been changed"]), hint="free some, or mount a larger disk there")
        work.deltas = {node.address: delta for node, (delta, _) in zip(work.spec.nodes, found, strict=True)}
        most = max(delta.bytes for delta, _ in found)
        return f"{fresh / 1e6:.0f} MB of images and {most / 1e6:.0f} MB of files are new"

    return Step("compare", "see what the nodes have", action, after=("make-keys",))


def _free(node: Node) -> int:
    """Bytes. Raises CommandError for an answer that is no number."""
    kilobytes = untrusted.number(node.run(f"df -Pk {STATE} | tail -n 1 | awk '{{print $4}}'").stdout.strip())
    if kilobytes is None:
        raise CommandError(f"{node.name}: df does not say how much of {STATE} is free")
    return kilobytes * 1024


def _blobs(work: RolloutWork) -> dict[str, int]:
    """Bytes of images that the registries lack, by address."""
    if work.spec.elsewhere is not None:
        return {}

    def one(node: SshNode) -> int:
        found = node.run(
            f"cd {registry.STORAGE} 2>/dev/null || exit 0; find . -type f -name data -exec stat -c '%s %n' {{}} + || true",
            timeout=LONG_TIMEOUT,
        )
        lines = (line.partition(" ") for line in found.stdout.splitlines())
        has = {path.removeprefix("./"): untrusted.number(size) for size, _, path in lines}
        return sum(blob.size for path, blob in work.resolved.layout.blobs.items() if has.get(path) != blob.size)

    return dict(zip((node.address for node in work.spec.registries), each(work.spec.registries, one), strict=True))


# ---- made ready -------------------------------------------------------------------------------------------------------


def _begin(work: RolloutWork) -> Step:
    def action() -> None:
        wait.record_unready_workloads(work.context)
        write(work.kubectl, work.move)

    return Step("begin", f"note that the {work.move.kind} begins", action, after=("check", "compare"))


def _keep_backup(work: RolloutWork) -> Step:
    """Once in every change, on all masters: what it was like before."""
    found = work.found
    target = BACKUP.replace(UPGRADE, work.move.kind)

    def action() -> str:
        if all(each(found.masters, lambda node: work.journal.has(node, "keep-backup", work.move.id))):
            return "done before"
        with tempfile.TemporaryDirectory(prefix="slipway-backup-") as folder:
            file = Path(folder, "backup")
            machines = [node.machine for node in (found.first, *(node for node in found.masters if node is not found.first))]
            workers, home = [node.machine for node in found.workers], found.state.folder.parent.parent
            saved = backup.backup(file, found.state.name, machines, workers, home=home)

            def keep(node: SshNode) -> None:
                with file.open("rb") as content:
                    node.run(f"umask 077; cat > {target}.part && mv {target}.part {target}", input=content, timeout=1800)
                work.journal.add(node, "keep-backup", work.move.id)

            each(found.masters, keep)
        return f"{saved.size / 1e6:.1f} MB, {saved.keys} keys"

    return Step("keep-backup", "keep a backup on the masters", action, after=("begin",))


def _tell_nodes(work: RolloutWork, after: str) -> Step:
    """How images are found may be known before it is needed; everything else waits for the node's turn.

    This step is not journalled: a registry requires the login from the turn of its master on, and an earlier slipway, which began the
    change, gave it to no node.
    """

    def action(node: Node) -> None:
        files = preparation.machine_files(work.resolved, node)
        install_files(node, {path: file for path, file in files.items() if path.startswith("/etc/containerd/certs.d/")})

    return Step("tell-nodes", "tell the nodes where images are", action, work.spec.nodes, after_all=(after,))


def _stage(work: RolloutWork, after: str) -> Step:
    back = work.move.kind == ROLLBACK

    def action(node: SshNode) -> str:
        image, delta = work.resolved.platforms[node.address], work.deltas[node.address]

        def bring() -> str:
            name = rootfs.parcel_name(image)
            return work.context.exchange.bring(node, name, lambda: rootfs_update.parcel(work.spec.store, image, back=back)).note

        return rootfs_update.stage(node, delta, bring, work.resolved.files(node), work.move.id, _parts(work, node, delta))

    return Step(
        "stage", "bring the new files", action, work.spec.nodes, after=("tell-nodes",), after_all=(after,), inputs=lambda _: work.move.id
    )


def _parts(work: RolloutWork, node: SshNode, delta: rootfs_update.Delta) -> frozenset[str]:
    """What of a node is to be started anew."""
    member = work.resolved.member(node)
    placed = _placed(node, preparation.machine_files(work.resolved, node))
    libraries = any(path.startswith("lib/") for path in delta.changed)

    def changes(programs: Iterable[str], files: str) -> bool:
        starts = tuple(f"bin/{program}" for program in programs)
        return any(path.startswith(starts) for path in delta.changed) or any(files in path for path in placed)

    found = set()
    if libraries or changes(("containerd", "runc"), "/containerd.service") or any(path.endswith("/config.toml") for path in placed):
        found.add(CONTAINERD)
    if changes(("kubelet",), "/kubelet.service") or not _noted(work, node, bootstrap.start_kubelets(work.context)):
        found.add(KUBELET)
    if member.is_master and not _noted(work, node, bootstrap.start_masters(work.context)):
        found.add(CONTROL_PLANE)
    if member.registry and work.spec.elsewhere is None and (libraries or changes(("registry",), "registry.")):
        found.add(REGISTRY)
    if node in work.spec.balanced and (libraries or changes(("haproxy", "ipvsadm"), "balancer.") or changes((), "/ipvs.")):
        found.add(BALANCER)
    return frozenset(found)


def _noted(work: RolloutWork, node: Node, step: Step) -> bool:
    """Whether ``run`` would have nothing to do on a node."""
    return step.inputs is not None and work.journal.has(node, step.id, step.inputs(node))


def _placed(node: Node, files: Files) -> frozenset[str]:
    """Paths outside the rootfs where other files will stand; links lead to programs, which are looked at by themselves."""
    found = read_files(node, [path for path, file in files.items() if file.link is None])
    # Where overlays do not work, containerd's configuration has been changed for it.
    there = {path: data.replace(b'snapshotter = "native"', b'snapshotter = "overlayfs"') for path, data in found.items()}
    return frozenset(path for path, file in files.items() if file.link is None and there.get(path) != file.data)


def _fetch(work: RolloutWork) -> Step:
    """What a node runs of Kubernetes is there before its turn comes; that it cannot be had is told while nothing has changed."""

    def action(node: SshNode) -> str:
        names = registries.images_needed_to_be_ready(work.resolved, node)
        node_files.fetch(node, names)
        listed = node.run("/usr/local/bin/ctr -n k8s.io images ls -q").stdout.split()
        missing = [name for name in names if name not in listed]
        if missing:
            raise CheckError(
                f"{work.name(node)} cannot pull {', '.join(missing)}; nothing that runs has been changed",
                hint="is the registry up? slipway status; one elsewhere must have the new images: slipway push --expand",
            )
        return f"{len(names)} images"

    return Step(
        "fetch-images",
        "fetch the images of Kubernetes",
        action,
        work.spec.nodes,
        after=("stage",),
        after_all=("send-images",),
        inputs=lambda _: digest(sorted(image.digest for image in work.resolved.images.images), work.move.id),
    )


# ---- a node's turn ----------------------------------------------------------------------------------------------------


def _turn(work: RolloutWork, number: int, role: str, nodes: tuple[SshNode, ...], after: str) -> Step:
    names = ", ".join(work.name(node) for node in nodes)

    def action(node: SshNode) -> str:
        return _change(work, node, nodes)

    return Step(f"turn-{number}", f"change {role} {names}", action, nodes, after_all=(after,), inputs=lambda _: work.move.id)


def _change(work: RolloutWork, node: SshNode, together: Sequence[SshNode]) -> str:
    """All of a node, in an order in which it may be repeated from the beginning at any time."""
    parts = _with_registry(work, node, rootfs_update.begin(node))
    moved = _empty(work, node, together, parts)
    if CONTROL_PLANE in parts:
        client = etcd.Etcd(work.found.masters)
        members = client.members()
        etcd.require_health(members, client.sick(members), f"{work.name(node)} is not touched")
        static_pods.keep(node)
    rootfs_update.switch(node, work.move.id)
    install_files(node, preparation.machine_files(work.resolved, node))
    node_files.set_hosts(node, work.resolved.hosts_lines(node))
    node.run(node_files.apply(work.resolved.cluster), timeout=LONG_TIMEOUT)
    for step in hooks.at(work.context, work.hooks, Phase.UPGRADE_HOST, (), among={node.address}) if work.move.kind == UPGRADE else ():
        if node in step.nodes:
            step.action(node)
    _start(work, node, parts)
    if _CORDONED in parts or moved is not None:
        drain.Api(work.beside(node)).uncordon(work.name(node))
    _adopt(work, node)
    static_pods.forget(node)
    rootfs_update.done(node)
    return "" if moved is None else f"{work.name(node)}: {moved} pod{'' if moved == 1 else 's'} moved"


def _with_registry(work: RolloutWork, node: SshNode, parts: frozenset[str]) -> frozenset[str]:
    """With the registry of a node, if it has one with other settings. An earlier slipway, which staged the change, did not know these."""
    serves = work.spec.elsewhere is None and work.resolved.member(node).registry
    if REGISTRY in parts or not serves or not _placed(node, registry.settings(work.resolved.login)):
        return parts
    rootfs_update.note(node, REGISTRY)
    return parts | {REGISTRY}


def _empty(work: RolloutWork, node: SshNode, together: Sequence[SshNode], parts: frozenset[str]) -> int | None:
    """Move the pods of a node elsewhere, if it is to stop for a while and there is an elsewhere; how many that were."""
    if not parts & {CONTAINERD, KUBELET}:
        return None
    api, name = drain.Api(work.beside(node)), work.name(node)
    leaving = frozenset(work.name(one) for one in together)
    listed = readiness.of_kind(readiness.get(api.kubectl, "nodes"), "Node")
    if not any(takes_pods(one) for one in listed if one["metadata"]["name"] not in leaving):
        log.warning(f"{name}: no other node takes its pods; they stay while its services are started anew")
        return None
    mine = next(one for one in listed if one["metadata"]["name"] == name)
    if mine["spec"].get("unschedulable") and _CORDONED not in parts:
        # Somebody else's wish: it stays so afterwards.
        drain.drain(api, name, force=work.force, leaving=leaving, machine=node, timeout=work.drain_timeout)
        return None
    rootfs_update.note(node, _CORDONED)
    return drain.drain(api, name, force=work.force, leaving=leaving, machine=node, timeout=work.drain_timeout)


def takes_pods(node: readiness.Resource) -> bool:
    """Whether a Node object takes the pods of anybody."""
    closed = any(taint["effect"] in ("NoSchedule", "NoExecute") for taint in node["spec"].get("taints") or ())
    return not closed and not node["spec"].get("unschedulable") and readiness.node_problem(node) is None


def _start(work: RolloutWork, node: SshNode, parts: frozenset[str]) -> None:
    if CONTAINERD in parts:
        node_files.start_containerd(node)
    if REGISTRY in parts:
        registries.start_registry(work.context).action(node)
    if BALANCER in parts:
        registries.start_balancers(work.context).action(node)
    if CONTROL_PLANE in parts:
        _control_plane(work, node)
    if KUBELET in parts:
        _start_kubelet(work, node)


def _start_kubelet(work: RolloutWork, node: SshNode) -> None:
    """Start the kubelet, and wait until its node is Ready.

    One of another version makes other pods of the same manifests, and starts all parts of a master again, as it likes. So they end in good
    order before it starts, and the turn does not end before they are at work again: else no endpoint would follow when pods are moved.
    """
    member = work.resolved.member(node)
    again = member.is_master and _moves(work, node)
    if again:
        static_pods.halt(node, _patience(work), others=len(work.spec.masters) > 1)
    since = node.run("date -u +%Y-%m-%dT%H:%M:%SZ").stdout.strip()
    work.resolved.runtime.start_kubelet(member)
    if again:
        static_pods.come_back(node)
        static_pods.wait(node, dict.fromkeys(static_pods.PARTS, ()), _patience(work))
    _wait_ready(work, node, since)
    if again:
        _await_leaders(work, node)


def _patience(work: RolloutWork) -> float:
    """Seconds that a part of a master may take to end, or to come up."""
    return min(300.0, work.spec.timeout)


def _control_plane(work: RolloutWork, node: SshNode) -> None:
    """etcd where its image is another one, then the API, then what stands on it. What does not come up is as it was again.

    An API server answers with errors while its etcd is away: where other masters serve it ends before etcd does, and comes back after it.
    """
    member, runtime = work.resolved.member(node), work.resolved.runtime
    patience = _patience(work)
    several = len(work.spec.masters) > 1
    try:
        runtime.configure(member)
        image = runtime.store_image(member)
        if several:
            static_pods.leave(node, patience)
        if image and f"image: {image}\n" not in node.run(f"cat {etcd.MANIFEST}").stdout:
            static_pods.replace(node, ("etcd",), lambda: runtime.join_store(member, _peers(work)), timeout=patience, serves=not several)
            runtime.configure(member)
        static_pods.replace(node, ("kube-apiserver",), lambda: runtime.join_master(member), timeout=patience)
        static_pods.replace(
            node, ("kube-controller-manager", "kube-scheduler"), lambda: runtime.start_controllers(member), timeout=patience
        )
        if several:
            static_pods.come_back(node)
        _await_leaders(work, node)
        _require_version(work, node)
    except (CheckError, CommandError) as error:
        raise _taken_back(work, node, error) from error


def _peers(work: RolloutWork) -> str:
    members = etcd.Etcd(work.found.masters).members()
    return ",".join(f"{member.name}={url}" for member in members for url in member.peers)


def _await_leaders(work: RolloutWork, node: SshNode) -> None:
    """Until a controller manager and a scheduler are at work again: before that no endpoint would follow when pods are moved.

    What the ended ones of this master held is released; else nobody would be at work until it runs out, a quarter of a minute later.
    """
    script = assets.script("await_leaders", admin=ADMIN, node=work.name(node), rootfs=ROOTFS, state=STATE)
    result = node.run(script, check=False, timeout=150)
    if not result.ok:
        raise CheckError(f"{work.name(node)}: {result.output.strip() or 'nobody leads'} a minute after its start")


def _require_version(work: RolloutWork, node: SshNode) -> None:
    asked = node.run(f"{KUBECTL} --request-timeout=10s get --raw /version", timeout=30).stdout
    runs = objects.version(asked, where=work.name(node))
    if runs != work.move.after.kubernetes:
        raise CheckError(f"{work.name(node)}: its API server is {runs}, and not {work.move.after.kubernetes}")


def _taken_back(work: RolloutWork, node: SshNode, error: SlipwayError) -> CheckError:
    name, after = work.name(node), work.move.after
    try:
        static_pods.put_back(node, others=len(work.spec.masters) > 1)
    except SlipwayError as worse:
        return CheckError(
            f"{name}: the control plane of {after} did not come up, nor the one before it: {error.message}; {worse.message}",
            hint=f"where etcd has changed its data the backup is the way: {BACKUP} on the masters, slipway restore",
            details=error.details,
        )
    return CheckError(
        f"{name}: the control plane of {after} did not come up, the one before it serves again: {error.message}",
        hint="/var/log/pods and `journalctl -u kubelet` there say why",
        details=error.details,
    )


def _wait_ready(work: RolloutWork, node: SshNode, since: str) -> None:
    """Until a node is Ready and has said so after ``since`` (its own clock), with the version that it is to have."""
    name, timeout = work.name(node), work.spec.timeout
    said = '{{if eq .type "Ready"}} {{.status}} {{.lastHeartbeatTime}}{{end}}'
    ready = f"{{{{.status.nodeInfo.kubeletVersion}}}}{{{{range .status.conditions}}}}{said}{{{{end}}}}"
    script = assets.script(
        "await_ready",
        admin=ADMIN,
        node=name,
        rootfs=ROOTFS,
        since=since,
        state=STATE,
        template=ready,
        timeout=int(timeout),
        version=work.move.after.kubernetes,
    )
    result = work.beside(node).run(script, check=False, timeout=timeout + 60)
    if not result.ok:
        journal = node.run("journalctl --no-pager -o cat -u kubelet -n 12", check=False, timeout=30).stdout.strip()
        raise CheckError(f"{name} is not Ready after {timeout:.0f} s: {result.output or 'no answer'}", details=f"log of {name}:\n{journal}")


def _adopt(work: RolloutWork, node: SshNode) -> None:
    """Note on a node that what ``run`` would do there is done."""
    makers = (
        registries.send_images, preparation.send_rootfs, preparation.set_up_machines, preparation.start_containerd,
        registries.start_registry, registries.start_balancers, bootstrap.start_kubelets, bootstrap.certify_masters, bootstrap.start_masters,
        bootstrap.wait_for_api, preparation.send_rendered, bootstrap.finish_cluster, bootstrap.welcome_masters,
    )  # fmt: skip
    for make in makers:
        if work.spec.elsewhere is not None and make in (registries.send_images, registries.start_registry):
            continue
        step = make(work.context)
        if node in step.nodes:
            _note(work, node, step)


def _note(work: RolloutWork, node: Node, step: Step) -> None:
    if step.inputs is not None:
        inputs = step.inputs(node)
        if not work.journal.has(node, step.id, inputs):
            work.journal.add(node, step.id, inputs)


def _healthy(work: RolloutWork, what: str, after: str) -> Step:
    """Between turns: every node is Ready, and everything of the cluster itself. ``what`` is what has been changed."""

    def action(_: Node) -> None:
        names = [work.name(node) for node in work.spec.nodes]
        watch = wait.watching(work.spec.nodes)
        readiness.settle(work.kubectl, timeout=work.spec.timeout, quiet=0, namespaces=SYSTEM, nodes=names, progress=watch)

    # Noted: when the next turn was cut off, its node is not well, and has to be finished rather than waited for.
    where = (work.spec.first,)
    return Step(f"healthy-{what}", "see that the cluster is well", action, where, after_all=(after,), inputs=lambda _: work.move.id)


# ---- the end ----------------------------------------------------------------------------------------------------------


def _end(work: RolloutWork, after: str) -> Step:
    def action() -> str:
        # As `run` starts them, with their record, which is there by now.
        launched = (*_network_commands(work, ""), *launch.launch_commands(work.context, work.launch, "launch", ""))
        for step in (bootstrap.start_addons(work.context, "", obsolete.with_record), *launched):
            _note(work, work.spec.first, step)
        work.resolved.runtime.registered()
        write(work.kubectl, dataclasses.replace(work.move, state=DONE))
        return _tidy(work) if work.move.kind == UPGRADE else ""

    return Step("end", f"note that the {work.move.kind} has ended", action, after_all=(after,))


def _tidy(work: RolloutWork) -> str:
    """Take out of the registries what neither this image, nor the one before it, nor an application has."""
    if work.spec.elsewhere is not None:
        return ""
    try:
        former = cloudimage.read(work.spec.store, work.move.before.digest)
        sets = [work.resolved.images, *(image.images for image in former.platforms), records.union(work.apps, work.spec.store)]
        wanted = [registry.layout(work.spec.store, images) for images in sets]
    except StoreError as error:
        # What cannot be known to be of no use stays.
        log.debug(f"the registries are left as they are: {error.message}")
        return ""
    paths = {path for layout in wanted for path in (*layout.blobs, *layout.links)}
    gone = each(work.spec.registries, lambda node: _remove_others(node, paths))
    return f"{max(gone, default=0)} files of older images removed"


def _remove_others(node: Node, paths: Iterable[str]) -> int:
    script = assets.script("registry_prune", state=STATE, storage=registry.STORAGE)
    return len(node.run(script, input="".join(f"{path}\n" for path in sorted(paths)), timeout=600).stdout.splitlines())


def described(work: RolloutWork) -> Iterator[dict[str, Any]]:
    """For ``--plan``: each node with what it runs, what it will run, and when its turn is."""
    for number, (role, nodes) in enumerate(turns(work), 1):
        for node in nodes:
            now = work.versions.get(node.address)
            yield {
                "node": work.name(node), "address": node.address, "role": role,
                "from": now, "to": work.move.after.kubernetes, "turn": number,
            }  # fmt: skip
