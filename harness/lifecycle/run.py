"""``slipway run IMAGE``: machines become a cluster that runs what the image holds."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from harness import cloudimage
from harness.clusterfile import Clusterfile, Hook, Phase
from harness.errors import Fault, FaultCollector, InputError, StoreError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.kubefile import version_range
from harness.lifecycle.apps import cluster_apps, multi_image, obsolete
from harness.lifecycle.apps.install import InstallResult
from harness.lifecycle.apps.target import AppTarget
from harness.lifecycle.cluster import lease, owner, request
from harness.lifecycle.cluster.record import GET, ClusterRecord
from harness.lifecycle.plan import Insertion, Plan, Step, execute
from harness.lifecycle.provision import registry, rootfs
from harness.lifecycle.steps import bootstrap, hooks, labels, launch, preparation, record, registries, validation, waits
from harness.lifecycle.steps.context import NETWORK_MANIFEST, ClusterContext, ClusterSpec
from harness.nodes.ssh import SshConnections
from harness.oci.store import Store
from harness.runtimes.kubeadm import KUBECTL, RUNTIME


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Settings of one run that are not part of a Clusterfile and are not recorded."""

    password: str | None = dataclasses.field(default=None, repr=False)
    """For SSH; it wins over the Clusterfile's."""
    elsewhere: registry.Elsewhere | None = None
    """A registry that has every image; none is then brought along."""
    commands: tuple[str, ...] | None = None
    """Launch commands in place of what the Clusterfile and the image say."""
    timeout: float = 600
    skip_checks: frozenset[str] = frozenset()
    """Preflight checks whose failures are ignored."""


@dataclasses.dataclass(frozen=True)
class Summary:
    """The outcome of a run."""

    name: str
    image: str
    digest: str
    kubernetes: str
    control_plane: tuple[str, ...]
    workers: tuple[str, ...]
    kubeconfig: Path
    seconds: float
    sent: int
    """Bytes that went from here to the machines, together."""
    applications: tuple[InstallResult, ...] = ()
    """Applications with images of their own, in the order of their installation."""


def prepare(
    clusterfile: Clusterfile,
    store: Store,
    options: RunOptions | None = None,
    *,
    home: Path | None = None,
    previous: Clusterfile | None = None,
) -> ClusterContext:
    """Read and check the request; nothing is touched. ``previous`` is the one before it, of a cluster that exists.

    Raises UsageError, InputError or StoreError; what is wrong with several images is raised at once.
    """
    from harness.trust import policy  # here: its cryptography is slow to load, and all verbs of clusters come past this file

    options = options or RunOptions()
    clusterfile = multi_image.settled(clusterfile, store)
    cluster = clusterfile.cluster
    if cluster is None:
        raise UsageError(f"{clusterfile.path} has no document Cluster", hint="name image and machines in one, or on the command line")
    control_plane, workers = request.machines(clusterfile, options.password)
    if not control_plane:
        raise UsageError(
            "no control-plane node is given", hint="--control-plane 192.168.0.2; `slipway nodes up` makes machines to try with"
        )
    request.check_once((*control_plane, *workers))
    if len(control_plane) % 2 == 0:
        raise UsageError(f"{len(control_plane)} control-plane nodes", hint="etcd needs an odd number: 1, 3 or 5")
    env = request.env(clusterfile)
    request.check_env(env)
    image = cloudimage.read(store, cluster.image)
    policy.admit(store, cluster.image, image.digest)
    check_image(image, cluster.image)
    apps = [document.image or "" for document in clusterfile.apps]
    check_network(store, image, cluster.image, known_networks(store, apps))
    info = image.platforms[0].info
    state = ClusterState.of(cluster.name, home)
    ssh = SshConnections(state.folder, (*control_plane, *workers))
    spec = ClusterSpec(
        image=image,
        store=store,
        ssh=ssh,
        state=state,
        control_plane=ssh.nodes[: len(control_plane)],
        workers=ssh.nodes[len(control_plane) :],
        # With the image as the store calls it, however it was named: a later one is compared with it.
        clusterfile=dataclasses.replace(clusterfile, cluster=dataclasses.replace(cluster, image=image.name or image.digest)),
        previous=previous,
        env=env,
        host_env=request.host_env(clusterfile),
        app_env=request.app_env(clusterfile),
        launch=request.launch(clusterfile, info) if options.commands is None else options.commands,
        edit=request.edit(clusterfile),
        elsewhere=options.elsewhere,
        timeout=options.timeout,
        skip_checks=options.skip_checks,
    )
    resolved = validation.check(spec)
    collector = FaultCollector()
    target = AppTarget.planned(
        spec.name, spec.first, resolved.kubernetes.kubernetes, cluster_apps.facts(resolved), image.platforms[0].platform
    )
    images = multi_image.judge(clusterfile.apps, target, store, collector)
    collector.finish()
    if networks := cluster_apps.networks(images):
        check_networks(store, image, cluster.image, networks)
    spec = dataclasses.replace(spec, apps_size=sum({each.digest: each.size for each in images}.values()))
    return ClusterContext(spec)


def check_image(image: cloudimage.CloudImage, name: str) -> None:
    """Raises StoreError for an image that no cluster can be made of; ``name`` is what it was asked for by."""
    if image.platforms[0].info.type == "app":
        raise StoreError(f"{name} is an application image: it brings no Kubernetes", hint="run it on a cluster that is there")
    if image.platforms[0].info.converted_from:
        maker = image.platforms[0].info.converted_from["tool"]
        raise StoreError(
            f"{name} was made by {maker}: its rootfs has the scripts of {maker}, and not what slipway starts a cluster with: "
            "etc/slipway.yaml, etc/addons/, bin/containerd, bin/registry, bin/haproxy",
            hint="build it again FROM a CloudImage with Kubernetes, such as kubefiles/kubernetes; COPY its manifests/ and charts/ there",
        )
    info = image.platforms[0].info
    if info.kubernetes and info.kube_version and not version_range.admits(info.kubernetes, info.kube_version):
        raise StoreError(
            f"{name} brings Kubernetes {info.kubernetes}, and is made for {info.kube_version}",
            hint="build it FROM another base image, or with another KUBEVERSION",
        )
    if image.platforms[0].info.runtime != RUNTIME:
        raise StoreError(f"{name} wants the runtime {image.platforms[0].info.runtime}", hint="a newer slipway may know it")


def known_networks(store: Store, images: Iterable[str]) -> tuple[str, ...]:
    """The application images that bring the pod network. An image that cannot be read is not one of them."""
    cloud_images: list[cloudimage.CloudImage] = []
    for name in images:
        with contextlib.suppress(StoreError):
            cloud_images.append(cloudimage.read(store, name))
    return cluster_apps.networks(cloud_images)


def check_network(store: Store, image: cloudimage.CloudImage, name: str, apps: Collection[str] = ()) -> None:
    """Raises StoreError for an image without a pod network: no node of it would ever become Ready.

    ``apps``: application images that bring one.
    """
    if not apps and not preparation.brings_network(store, image.platforms[0]):
        raise StoreError(
            f"{name} brings no pod network: its nodes would never be Ready",
            hint=f"name an application image with CNI beside it, build an image FROM it with {NETWORK_MANIFEST} or CNI, "
            "or its base with NETWORK=flannel",
        )


def check_networks(store: Store, image: cloudimage.CloudImage, name: str, apps: Sequence[str]) -> None:
    """Raises InputError for more than one pod network: of the image of the cluster, and of application images ``apps``."""
    own = [name] if preparation.has_network(store, image.platforms[0]) else []
    first, *others = *own, *apps
    if others:
        hint = "one of them: build the image of the cluster with NETWORK=none, or leave the application out"
        raise InputError([Fault(other, f"brings a pod network, as {first} does", hint) for other in others])


def plan(context: ClusterContext, begin: Callable[[], object] = lambda: None, results: list[InstallResult] | None = None) -> list[Step]:
    """List the steps in the order in which they are shown; many of them happen at the same time. ``begin``: see ``preparation.connect``.

    Applications with images of their own come last, but for the pod network; ``results`` receives the outcome of each.
    """
    results = [] if results is None else results
    images = {app.name: cloudimage.read(context.spec.store, app.image or "") for app in context.spec.clusterfile.apps}
    networks = [app for app in context.spec.clusterfile.apps if cluster_apps.networks([images[app.name]])]
    cluster_hooks = hooks.of(context.spec)
    names = hooks.host_names(cluster_hooks, hooks.NAMING)
    insertions = (
        cluster_apps.check(context, tuple(images.values())),
        *hook_steps(context, cluster_hooks, names, hooks.BEFORE_NODES),
        cluster_apps.network_steps(context, networks, results),
    )
    recipe = cluster_steps(context, *insertions, names=names, begin=begin)
    recipe.add(*labels.step(context, recipe.last))
    for phase in hooks.AFTER_NODES:
        recipe.add(*hooks.at(context, cluster_hooks, phase, (recipe.last,)))
    add_launch(context, cluster_hooks, recipe)
    for app in context.spec.clusterfile.apps:
        if app not in networks:
            recipe.add(cluster_apps.step(context, app, results, (recipe.last,)))
    return recipe.steps


def add_launch(context: ClusterContext, cluster_hooks: Sequence[Hook], recipe: Plan) -> None:
    """From nodes that are ready to a cluster that runs its applications and knows what it runs."""
    commands = context.spec.info.launch if context.spec.launch is None else context.spec.launch
    recipe.add(*hooks.at(context, cluster_hooks, Phase.PRE_LAUNCH, (recipe.last,)))
    recipe.add(*launch.launch_commands(context, commands, "launch", recipe.last))
    recipe.add(*hooks.at(context, cluster_hooks, Phase.POST_LAUNCH, (recipe.last,)))
    recipe.add(waits.wait_for_workloads(context, recipe.last, launched=bool(commands)))
    recipe.add(record.record(context, recipe.last))


def hook_steps(
    context: ClusterContext, cluster_hooks: Sequence[Hook], names: Mapping[str, str], phases: Sequence[Phase]
) -> tuple[Insertion, Insertion]:
    """The hooks that come before there are nodes, and their places: before anything is sent, and, with ``phases``, before machines are
    set up; by then all files are there.
    """
    early = [*hooks.set_names(context, names, "check-machines")]
    early += hooks.at(context, cluster_hooks, Phase.ORIGINALLY, (early[-1].id if early else "check-machines",), among=context.joining)
    late: list[Step] = []
    for phase in phases:
        late += hooks.at(context, cluster_hooks, phase, (late[-1].id,) if late else ("send-rootfs", "send-rendered"), among=context.joining)
    return Insertion(early, ("send-images", "unpack-rootfs", "start-registry")), Insertion(late, ("set-up-machines",))


def cluster_steps(
    context: ClusterContext, *insertions: Insertion, names: Mapping[str, str] | None = None, begin: Callable[[], object] = lambda: None
) -> Plan:
    """From bare machines, which get ``names``, to a cluster whose nodes are ready; nothing of the applications is launched yet."""
    spec, recipe = context.spec, Plan(*insertions)
    recipe.add(preparation.connect(context, begin), preparation.check_machines(context, names or {}))
    if spec.elsewhere is None:
        recipe.add(registries.send_images(context))
    recipe.add(
        preparation.unpack_rootfs(context),
        preparation.make_keys(context),
        preparation.send_rootfs(context),
        preparation.send_rendered(context),
        preparation.set_up_machines(context),
        preparation.start_containerd(context),
        registries.start_registry(context),
    )
    if spec.workers or len(spec.control_plane) > registry.most(spec.clusterfile):
        recipe.add(registries.start_balancers(context))
    recipe.add(
        bootstrap.start_kubelets(context),
        bootstrap.certify_control_plane(context),
        registries.fetch_images(context),
        bootstrap.start_control_plane(context),
        bootstrap.wait_for_api(context),
        bootstrap.hasten_kubelets(context),
        bootstrap.finish_cluster(context),
        bootstrap.register_control_plane(context),
    )
    recipe.add(*launch.launch_commands(context, launch.network_commands(spec.info), "cluster-app", recipe.last))
    recipe.add(bootstrap.start_addons(context, recipe.last, obsolete.with_record))
    recipe.add(waits.wait_for_nodes(context, recipe.last))
    return recipe


def run(clusterfile: Clusterfile, store: Store, options: RunOptions | None = None, *, home: Path | None = None) -> Summary:
    """Make the cluster. The same call after a kill or a failure finishes what was begun and repeats nothing that is done."""
    started = time.monotonic()
    context = prepare(clusterfile, store, options, home=home)
    spec = context.spec
    results: list[InstallResult] = []
    with spec.state.lock(), spec.ssh, store.shared_lease(), contextlib.ExitStack() as stack:
        execute(plan(context, lambda: _begin(context, stack), results))
    return Summary(
        name=spec.name,
        image=spec.image.name or spec.image.digest,
        digest=spec.image.digest,
        kubernetes=context.resolved.kubernetes.kubernetes,
        control_plane=tuple(node.name for node in spec.control_plane),
        workers=tuple(node.name for node in spec.workers),
        kubeconfig=spec.state.kubeconfig,
        seconds=time.monotonic() - started,
        sent=spec.ssh.sent,
        applications=tuple(results),
    )


def _begin(context: ClusterContext, stack: contextlib.ExitStack) -> None:
    """Claim the machines. Raises UsageError when another process has, or when the cluster exists and has other machines, CheckError when
    some belong to another cluster.
    """
    spec = context.spec
    owner.require_free(spec.nodes, spec.first, spec.name)
    stack.enter_context(lease.claimed(spec.control_plane, spec.name))
    ask = f"{KUBECTL} --request-timeout=5s {' '.join(GET)}"
    ours = f'set -- $(cat {rootfs.MARK} 2>/dev/null); [ "${{1-}}" = {shlex.quote(spec.name)} ] && {ask}'
    asked = spec.first.run(ours, check=False, timeout=30)
    if not asked.ok:
        return  # nothing is there, or nothing that was finished
    existing = ClusterRecord.of(asked.stdout, spec.first.name)
    stored = existing.clusterfile.cluster
    members = {*existing.control_plane, *existing.workers}
    if existing.digest not in ("", spec.image.digest):
        raise UsageError(
            f"the cluster {spec.name} is there, and runs {existing.image} {existing.digest[7:19]}",
            hint=f"slipway upgrade brings it to another image, and slipway delete {spec.name} ends it",
        )
    if stored and stored.profile != spec.profile_name:
        origin = f"with the profile {stored.profile}" if stored.profile else "without a profile"
        hint = f"--profile {stored.profile}" if stored.profile else "leave --profile out; a new cluster can have one"
        raise UsageError(f"the cluster {spec.name} is there, and was made {origin}", hint=hint)
    wanted = {node.address for node in spec.nodes}
    if members and members != wanted:
        more, fewer = " ".join(sorted(wanted - members)), " ".join(sorted(members - wanted))
        parts = [*([f"{more} is not in it"] if more else []), *([f"{fewer} is, and is not named"] if fewer else [])]
        raise UsageError(
            f"the cluster {spec.name} has other machines: {'; '.join(parts)}",
            hint=f"slipway join {spec.name} and slipway remove {spec.name} change that, and slipway apply does what differs",
        )
    waits.record_unready_workloads(context)
