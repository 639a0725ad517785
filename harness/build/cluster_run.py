"""The run of an image on a throw-away cluster: launch, settle, exercise, settle; and which images were pulled for what.

An application image runs on a cluster of another image, its base, which is launched first. Of the pulled images those are the
application's that were pulled after that, and those that its own workloads use although the base has them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import log
from harness.build import exercise, sandbox
from harness.build.cluster_base import ClusterBase
from harness.build.exercise import ExerciseStep
from harness.build.options import BuildOptions
from harness.build.pull_record import PulledImage
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan, environment, facts
from harness.cloudimage import Info, PlatformImage
from harness.clusterfile import Phase
from harness.clusterfile import hooks as clusterfile_hooks
from harness.errors import BuildError, CheckError
from harness.host import scratch
from harness.kubefile import instructions
from harness.lifecycle.apps.installation import hooks_of
from harness.lifecycle.kube import wait
from harness.lifecycle.steps.launch import launch_title
from harness.oci import layer
from harness.oci.store import Store
from harness.runtimes import Facts
from harness.templates.tree import render_tree

_QUIET_SHARE = 0.25
"""Of the time that workloads took to become ready: an operator on a busy machine makes its own pods late, too."""

Owners = Mapping[str, tuple[str, ...]]
"""Workloads by the name of the image that they use."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Images that a run pulled for the image under construction, the workloads that use each, and the names of all that were pulled."""

    pulled: tuple[PulledImage, ...]
    owners: Owners
    every: frozenset[str]


@dataclasses.dataclass(frozen=True)
class RootfsRun:
    """A rootfs that a cluster boots from, with what is launched in it."""

    tree: Path
    facts: Facts
    env: Mapping[str, str]
    image: PlatformImage

    @property
    def info(self) -> Info:
        return self.image.info


Boot = Callable[[SandboxPlan], contextlib.AbstractContextManager[sandbox.Sandbox]]
"""Boots a throw-away cluster: of kind, or of container nodes."""


@dataclasses.dataclass(frozen=True)
class ClusterRun:
    """A run. Its methods raise BuildError for what does not boot, launch or become ready."""

    options: BuildOptions
    boot: Boot
    exercise: Sequence[ExerciseStep] = ()

    def of_cluster(self, rootfs: RootfsRun) -> RunRecord:
        """Run an image with Kubernetes on itself."""
        with self.boot(self._plan(rootfs)) as box:
            self._launch(box, rootfs.info)
            before = _Pulled.of(box)
            return self._exercised(box, before)

    def of_application(self, base: ClusterBase, rootfs: RootfsRun, application: SandboxApplication, commands: Sequence[str]) -> RunRecord:
        """Run an application image on ``base``, whose ``rootfs`` is unpacked."""
        with self.boot(dataclasses.replace(self._plan(rootfs), application=application)) as box:
            self._launch(box, rootfs.info)
            of_base = _Pulled.of(box)
            own = box.of_application(application)
            for command in commands:
                _launch(own, command)
            self._settle(box, "workloads of the application ready")
            record = self._exercised(own, _Pulled.of(box))
        return record_beyond(record, of_base, (image.name for image in base.image.images.images))

    def _plan(self, rootfs: RootfsRun) -> SandboxPlan:
        own_network = any(label.startswith(instructions.LABEL_CNI) for app in rootfs.info.apps for label in app.labels)
        options = self.options
        return SandboxPlan(rootfs.tree, rootfs.facts, rootfs.env, rootfs.image, own_network, options.keep, options.workers)

    def _launch(self, box: sandbox.Sandbox, info: Info) -> None:
        # As on real nodes: the pod network is installed before they are Ready.
        cluster_apps = [command for app in info.apps if app.name in info.cluster_apps for command in app.commands]
        for command in cluster_apps:
            _launch(box, command)
        with log.step("node ready"):
            box.run("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=180s")
        for command in info.launch:
            if command not in cluster_apps:
                _launch(box, command)
        self._settle(box, "workloads ready")

    def _exercised(self, box: sandbox.Sandbox, before: _Pulled) -> RunRecord:
        """Run the exercise; images that were pulled only then have it as an origin."""
        for step in self.exercise:
            with log.step(f"exercise: {step.title}"):
                box.launch(step.script, what="exercise", title=step.title)
        if not self.exercise:
            return RunRecord(before.images, before.owners, before.names)
        self._settle(box, "workloads of the exercise ready")
        after = _Pulled.of(box)
        owners = {name: set(workloads) for name, workloads in before.owners.items()}
        for name, workloads in after.owners.items():
            owners.setdefault(name, set()).update(workloads)
        for name in after.names - before.names:
            owners.setdefault(name, set()).add(exercise.ORIGIN)
        return RunRecord(after.images, {name: tuple(sorted(origins)) for name, origins in sorted(owners.items())}, after.names)

    def _settle(self, box: sandbox.Sandbox, title: str) -> None:
        with log.step(title) as shown:
            try:
                wait.settle(
                    box,
                    timeout=self.options.timeout,
                    quiet=self.options.settle,
                    quiet_share=_QUIET_SHARE,
                    heal=lambda items: wait.nudge(box, items),
                )
            except CheckError as error:
                refused = [f"registry: {name}: {reason}" for name, reason in box.proxy.failures.items()]
                details = "\n".join([error.details or "", *refused]).strip()
                raise BuildError(
                    f"the workloads of the image do not become ready: {error.message}", hint=error.hint, details=details
                ) from error
            shown.note = f"{len(box.proxy.pulled)} images pulled, {log.size(box.proxy.served_bytes)} served"


@dataclasses.dataclass(frozen=True)
class _Pulled:
    """Images pulled up to a moment, and the workloads that use them then."""

    images: tuple[PulledImage, ...]
    owners: Owners

    @classmethod
    def of(cls, box: sandbox.Sandbox) -> _Pulled:
        return cls(tuple(box.proxy.pulled), sandbox.requesters(box))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(image.reference for image in self.images)


def record_beyond(record: RunRecord, of_base: _Pulled, embedded: Iterable[str]) -> RunRecord:
    """Leave out what is the base's: images that it embeds or pulled itself, unless a workload that is not the base's uses them."""
    owners = {name: tuple(title for title in titles if title not in of_base.owners.get(name, ())) for name, titles in record.owners.items()}
    owners = {name: titles for name, titles in owners.items() if titles}
    of_others = {*embedded, *of_base.names}
    kept = tuple(image for image in record.pulled if image.reference not in of_others or image.reference in owners)
    return RunRecord(kept, owners, record.every)


def _launch(box: sandbox.Sandbox, command: str) -> None:
    with log.step(launch_title(command)):
        box.launch(command)


def application_commands(tree: Path, info: Info) -> tuple[str, ...]:
    """The commands that the installation of an application image runs, in order: hooks before the launch, launch commands, hooks after it.

    Raises InputError for hooks that are for images of clusters.
    """
    hooks = hooks_of(tree)
    before, after = ([hook.data for hook in clusterfile_hooks.at(hooks, phase)] for phase in (Phase.PRE_LAUNCH, Phase.POST_LAUNCH))
    return (*before, *info.launch, *after)


@contextlib.contextmanager
def unpacked_base(store: Store, base: ClusterBase) -> Iterator[RootfsRun]:
    """The rootfs of a base, unpacked and rendered as the first node of a cluster has it. Raises BuildError and InputError."""
    with tempfile.TemporaryDirectory(prefix="base-", dir=scratch.folder()) as work:
        tree = Path(work, "rootfs")
        tree.mkdir()
        with log.step(f"unpack {base.reference}"):
            layer.unpack(store, list(base.image.layers), tree)
        rootfs_facts = facts(tree)
        if rootfs_facts is None:
            raise BuildError(f"--on {base.reference}: its rootfs says no Kubernetes", hint="build it again")
        env = environment(rootfs_facts, base.image.info.env)
        render_tree(tree, env, {app.name: {**env, **app.env} for app in base.image.info.apps})
        yield RootfsRun(tree, rootfs_facts, env, base.image)
