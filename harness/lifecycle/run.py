"""``slipway run IMAGE``: machines become a cluster that runs what the image holds."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from harness import cloudimage
from harness.clusterfile import Clusterfile, Hook, Phase
from harness.errors import StoreError, UsageError
from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
from harness.kubefile import version_range
from harness.lifecycle import steps
from harness.lifecycle.apps import install, obsolete
from harness.lifecycle.apps.target import Where
from harness.lifecycle.cluster import lease
from harness.lifecycle.cluster import request as clusterfiles
from harness.lifecycle.cluster.record import GET, ClusterRecord
from harness.lifecycle.plan import Step, execute
from harness.lifecycle.provision import registry, rootfs
from harness.lifecycle.steps import hooks, labels
from harness.nodes import Login, Machine
from harness.nodes.ssh import SshConnections
from harness.oci.store import Store
from harness.runtimes.kubeadm import KUBECTL, RUNTIME


@dataclasses.dataclass(frozen=True)
class Options:
    """What ``run`` is asked to do. The first master is where applications are launched from."""

    image: str
    masters: tuple[Machine, ...]
    nodes: tuple[Machine, ...] = ()
    name: str = DEFAULT_NAME
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    host_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """By address."""
    commands: tuple[str, ...] | None = None
    """Launch commands instead of the image's."""
    edit: rootfs.Edit | None = None
    elsewhere: registry.Elsewhere | None = None
    """A registry that has every image; none is then brought along."""
    timeout: float = 600
    app_env: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """By name of an application."""
    clusterfile: Clusterfile | None = None
    """All that is asked for. None: what is above is all."""
    skip_checks: frozenset[str] = frozenset()
    """Checks of machines in spite of which it goes on."""
    login: Login = dataclasses.field(default_factory=Login)
    """The way into machines of which only the cluster knows."""

    @classmethod
    def of(
        cls, found: Clusterfile, *, password: str | None = None, elsewhere: registry.Elsewhere | None = None, timeout: float = 600
    ) -> Options:
        """What a Clusterfile with image and machines asks for; ``password`` is the command line's. Raises InputError."""
        cluster = found.cluster
        if cluster is None:
            raise UsageError(f"{found.path} has no document Cluster", hint="name image and machines in one, or on the command line")
        masters, nodes = clusterfiles.machines(found, password)
        return cls(
            image=cluster.image,
            masters=masters,
            nodes=nodes,
            name=cluster.name,
            env=clusterfiles.env(found),
            host_env=clusterfiles.host_env(found),
            app_env=clusterfiles.app_env(found),
            edit=clusterfiles.edit(found),
            elsewhere=elsewhere,
            timeout=timeout,
            clusterfile=found,
            login=clusterfiles.login(found, password),
        )


@dataclasses.dataclass(frozen=True)
class Summary:
    """How it ended."""

    name: str
    image: str
    digest: str
    kubernetes: str
    masters: tuple[str, ...]
    nodes: tuple[str, ...]
    kubeconfig: Path
    seconds: float
    sent: int
    """Bytes that went from here to the machines, together."""


def prepare(options: Options, store: Store, *, home: Path | None = None) -> steps.Setup:
    """Read and check what was asked for; nothing is touched. Raises UsageError, InputError or StoreError."""
    from harness.trust import policy  # here: its cryptography is slow to load, and all verbs of clusters come past this file

    if not options.masters:
        raise UsageError("no master is given", hint="--masters 192.168.0.2; `slipway nodes up` makes machines to try with")
    addresses = [machine.address for machine in (*options.masters, *options.nodes)]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} given twice", hint="a machine is a master or a node, once")
    if len(options.masters) % 2 == 0:
        raise UsageError(f"{len(options.masters)} masters", hint="etcd needs an odd number: 1, 3 or 5")
    steps.check_env(options.env)
    image = cloudimage.read(store, options.image)
    policy.admit(store, options.image, image.digest)
    check_image(image, options.image)
    check_network(store, image, options.image)
    for document in options.clusterfile.apps if options.clusterfile else ():
        install.check_version(install.read(install.Request(document), store), image.platforms[0].info.kubernetes or "")
    found = options.clusterfile or clusterfiles.described(
        options.name, options.image, options.masters, options.nodes, options.env, options.host_env, options.commands
    )
    launch = options.commands
    if launch is None and options.clusterfile:
        launch = clusterfiles.launch(options.clusterfile, image.platforms[0].info)
    if found.cluster is not None:
        # As the store calls it, however it was named: a later one is compared with it.
        found = dataclasses.replace(found, cluster=dataclasses.replace(found.cluster, image=image.name or image.digest))
    state = ClusterState.of(options.name, home)
    ssh = SshConnections(state.folder, (*options.masters, *options.nodes))
    return steps.Setup(
        name=options.name,
        image=image,
        store=store,
        ssh=ssh,
        masters=ssh.nodes[: len(options.masters)],
        workers=ssh.nodes[len(options.masters) :],
        env=dict(options.env),
        host_env=options.host_env,
        app_env=options.app_env,
        launch=launch,
        clusterfile=found,
        state=state,
        edit=options.edit,
        elsewhere=options.elsewhere,
        timeout=options.timeout,
        skip_checks=options.skip_checks,
    )


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


def check_network(store: Store, image: cloudimage.CloudImage, name: str) -> None:
    """Raises StoreError for an image without a pod network: no node of it would ever become Ready."""
    if not steps.brings_network(store, image.platforms[0]):
        raise StoreError(
            f"{name} brings no pod network: its nodes would never be Ready",
            hint=f"build an image FROM it with {steps.NETWORK_MANIFEST} or CNI, or its base with NETWORK=flannel",
        )


def plan(setup: steps.Setup) -> list[Step]:
    """What will be done, in the order in which it is shown; much of it happens at the same time."""
    found = hooks.of(setup)
    recipe = with_hooks(setup, bring_up(setup), found)
    recipe += labels.step(setup, recipe[-1].id)
    for phase in hooks.AFTER_NODES:
        recipe += hooks.at(setup, found, phase, (recipe[-1].id,))
    return [*recipe, *launching(setup, found, recipe[-1].id)]


def launching(setup: steps.Setup, found: Sequence[Hook], after: str) -> list[Step]:
    """From nodes that are ready to a cluster that runs its applications and knows what it runs."""
    commands = setup.main.info.launch if setup.launch is None else setup.launch
    recipe = hooks.at(setup, found, Phase.PRE_LAUNCH, (after,))
    recipe += steps.launch_commands(setup, tuple(commands), "launch", recipe[-1].id if recipe else after)
    recipe += hooks.at(setup, found, Phase.POST_LAUNCH, (recipe[-1].id if recipe else after,))
    recipe.append(steps.wait_for_workloads(setup, recipe[-1].id if recipe else after, launched=bool(commands)))
    recipe.append(steps.record(setup, "wait-for-workloads"))
    return recipe


def with_hooks(
    setup: steps.Setup,
    recipe: Sequence[Step],
    found: Sequence[Hook],
    phases: Sequence[Phase] = hooks.BEFORE_NODES,
    among: Collection[str] | None = None,
) -> list[Step]:
    """The steps from bare machines to nodes, with the hooks that come before there are nodes between them.

    ``among`` are the addresses of those that join; None when all make a cluster.
    """
    names = hooks.host_names(found, {Phase.ORIGINALLY, *hooks.BEFORE_NODES, Phase.PRE_JOIN})
    setup.host_names = names
    early = [*hooks.set_names(setup, names, "check-machines")]
    early += hooks.at(setup, found, Phase.ORIGINALLY, (early[-1].id if early else "check-machines",), among=among)
    recipe = _between(recipe, early, ("send-images", "unpack-rootfs", "start-registry"))
    late: list[Step] = []
    for phase in phases:
        late += hooks.at(setup, found, phase, (late[-1].id,) if late else ("send-rootfs", "send-rendered"), among=among)
    if late:
        # Its files are rendered: hooks may read them.
        ids = [step.id for step in recipe]
        rendering = recipe.pop(ids.index("send-rendered"))
        recipe.insert(ids.index("send-rootfs") + 1, rendering)
    return _between(recipe, late, ("set-up-machines",))


def _between(recipe: Sequence[Step], added: Sequence[Step], before: Collection[str]) -> list[Step]:
    """The recipe with steps before others, which wait for the last of them."""
    if not added:
        return list(recipe)
    first = next(index for index, step in enumerate(recipe) if step.id in before)
    waiting = [
        dataclasses.replace(step, after_all=(*step.after_all, added[-1].id)) if step.id in before else step for step in recipe[first:]
    ]
    return [*recipe[:first], *added, *waiting]


def bring_up(setup: steps.Setup) -> list[Step]:
    """From bare machines to a cluster whose nodes are ready; nothing of the applications is launched yet."""
    info = setup.main.info
    network = [app for app in info.apps if app.name in info.cluster_apps]
    recipe = [
        steps.connect(setup),
        steps.check_machines(setup),
        *([steps.send_images(setup)] if setup.elsewhere is None else []),
        steps.unpack_rootfs(setup),
        steps.make_keys(setup),
        steps.send_rootfs(setup),
        steps.set_up_machines(setup),
        steps.start_containerd(setup),
        steps.start_registry(setup),
        *([steps.start_balancers(setup)] if setup.workers or len(setup.masters) > 3 else []),
        steps.start_kubelets(setup),
        steps.certify_masters(setup),
        steps.fetch_images(setup),
        steps.send_rendered(setup),
        steps.start_masters(setup),
        steps.wait_for_api(setup),
        steps.finish_cluster(setup),
        steps.welcome_masters(setup),
    ]
    early = [command for app in network for command in app.commands]
    recipe += steps.launch_commands(setup, tuple(early), "cluster-app", "welcome-masters")
    recipe.append(steps.start_addons(setup, recipe[-1].id, obsolete.with_record))
    recipe.append(steps.wait_for_nodes(setup, recipe[-1].id))
    return recipe


def run(options: Options, store: Store, *, home: Path | None = None) -> Summary:
    """Make the cluster. The same call after a kill or a failure finishes what was begun and repeats nothing that is done."""
    started = time.monotonic()
    setup = prepare(options, store, home=home)
    with setup.state.lock(), setup.ssh, store.shared_lease(), contextlib.ExitStack() as stack:
        setup.claim = lambda: _begin(setup, stack)
        execute(plan(setup))
    # Of the file's own; what is there already is found to be there.
    for document in options.clusterfile.apps if options.clusterfile else ():
        request = install.Request(document, by_file=True, elsewhere=options.elsewhere, timeout=options.timeout)
        install.install(request, Where(setup.name), store, home=home)
    return Summary(
        name=setup.name,
        image=setup.image.name or setup.image.digest,
        digest=setup.image.digest,
        kubernetes=setup.facts.kubernetes,
        masters=tuple(node.name for node in setup.masters),
        nodes=tuple(node.name for node in setup.workers),
        kubeconfig=setup.state.kubeconfig,
        seconds=time.monotonic() - started,
        sent=setup.ssh.sent,
    )


def _begin(setup: steps.Setup, stack: contextlib.ExitStack) -> None:
    """Be the only one at work. Raises UsageError when somebody else is, or when the cluster is there and has other machines."""
    stack.enter_context(lease.claimed(setup.masters, setup.name))
    ask = f"{KUBECTL} --request-timeout=5s {' '.join(GET)}"
    ours = f'set -- $(cat {rootfs.MARK} 2>/dev/null); [ "${{1-}}" = {shlex.quote(setup.name)} ] && {ask}'
    asked = setup.first.run(ours, check=False, timeout=30)
    if not asked.ok:
        return  # nothing is there, or nothing that was finished
    record = ClusterRecord.of(asked.stdout, setup.first.name)
    stored = record.clusterfile.cluster
    there = {*record.masters, *record.nodes}
    if record.digest not in ("", setup.image.digest):
        raise UsageError(
            f"the cluster {setup.name} is there, and runs {record.image} {record.digest[7:19]}",
            hint=f"slipway upgrade brings it to another image, and slipway delete {setup.name} ends it",
        )
    if stored and stored.profile != setup.profile_name:
        made = f"with the profile {stored.profile}" if stored.profile else "without a profile"
        hint = f"--profile {stored.profile}" if stored.profile else "leave --profile out; a new cluster can have one"
        raise UsageError(f"the cluster {setup.name} is there, and was made {made}", hint=hint)
    wanted = {node.address for node in setup.nodes}
    if there and there != wanted:
        more, fewer = " ".join(sorted(wanted - there)), " ".join(sorted(there - wanted))
        parts = [*([f"{more} is not in it"] if more else []), *([f"{fewer} is, and is not named"] if fewer else [])]
        raise UsageError(
            f"the cluster {setup.name} has other machines: {'; '.join(parts)}",
            hint=f"slipway join {setup.name} and slipway remove {setup.name} change that, and slipway apply does what differs",
        )
    steps.see_what_ails(setup)
