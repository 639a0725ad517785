"""``slipway run IMAGE``: machines become a cluster that runs what the image holds."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from harness import cloudimage
from harness.clusterstate import DEFAULT_NAME, ClusterState
from harness.errors import StoreError, UsageError
from harness.lifecycle import registry, rootfs, steps
from harness.lifecycle.plan import Step, execute
from harness.nodes import Machine
from harness.nodes.ssh import Ssh
from harness.oci.store import Store


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
    policy.check(store, options.image, image.digest, policy.load())
    if image.platforms[0].info.type == "app":
        raise StoreError(f"{options.image} is an application image: it brings no Kubernetes", hint="run it on a cluster that is there")
    if image.platforms[0].info.converted_from:
        maker = image.platforms[0].info.converted_from["tool"]
        raise StoreError(
            f"{options.image} was made by {maker}: its rootfs has the scripts of {maker}, and not what slipway starts a cluster with: "
            "etc/slipway.yaml, etc/addons/, bin/containerd, bin/registry, bin/haproxy",
            hint="build it again FROM a CloudImage with Kubernetes, such as kubefiles/kubernetes; COPY its manifests/ and charts/ there",
        )
    if image.platforms[0].info.runtime not in steps.RUNTIMES:
        raise StoreError(f"{options.image} wants the runtime {image.platforms[0].info.runtime}", hint="a newer slipway may know it")
    state = ClusterState.of(options.name, home)
    ssh = Ssh(state.folder, (*options.masters, *options.nodes))
    return steps.Setup(
        name=options.name,
        image=image,
        store=store,
        ssh=ssh,
        masters=ssh.nodes[: len(options.masters)],
        workers=ssh.nodes[len(options.masters) :],
        env=dict(options.env),
        host_env=options.host_env,
        launch=options.commands,
        state=state,
        edit=options.edit,
        elsewhere=options.elsewhere,
        timeout=options.timeout,
    )


def plan(setup: steps.Setup) -> list[Step]:
    """What will be done, in the order in which it is shown; much of it happens at the same time."""
    recipe = bring_up(setup)
    commands = setup.main.info.launch if setup.launch is None else setup.launch
    recipe += steps.launch_commands(setup, tuple(commands), "launch", "wait-for-nodes")
    recipe.append(steps.wait_for_workloads(setup, recipe[-1].id, launched=bool(commands)))
    recipe.append(steps.record(setup, "wait-for-workloads"))
    return recipe


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
    ]
    early = [command for app in network for command in app.commands]
    recipe += steps.launch_commands(setup, tuple(early), "cluster-app", "finish-cluster")
    recipe.append(steps.start_addons(setup, recipe[-1].id))
    recipe.append(steps.wait_for_nodes(setup, recipe[-1].id))
    return recipe


def check(options: Options, store: Store, *, home: Path | None = None) -> None:
    """Look whether the machines are fit for the image; nothing is changed. Raises CheckError with all that is in the way."""
    setup = prepare(options, store, home=home)
    with setup.ssh:
        execute([steps.connect(setup), steps.check_machines(setup)])


def run(options: Options, store: Store, *, home: Path | None = None) -> Summary:
    """Make the cluster. The same call after a kill or a failure finishes what was begun and repeats nothing that is done."""
    started = time.monotonic()
    setup = prepare(options, store, home=home)
    with setup.state.lock(), setup.ssh, store.using():
        execute(plan(setup))
    return Summary(
        name=setup.name,
        image=setup.image.name or setup.image.digest,
        digest=setup.image.digest,
        kubernetes=setup.facts.kubernetes,
        masters=tuple(node.name for node in setup.masters),
        nodes=tuple(node.name for node in setup.workers),
        kubeconfig=setup.state.kubeconfig,
        seconds=time.monotonic() - started,
    )
