"""Clusters for the fixtures of the test kit: each runs one image, and is removed after the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from testinfra.backend import get_backend
from testinfra.host import Host

from harness import cloudimage, log, process, untrusted
from harness.build import container_images
from harness.cloudimage import CloudImage, values
from harness.clusterfile.secrets import is_secret, same_secret
from harness.clusterfile.write import env_place
from harness.errors import CheckError, CommandError, Fault, InputError, SlipwayError, UsageError
from harness.host import docker
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import run
from harness.lifecycle.cluster import record
from harness.lifecycle.cluster.request import of_machines
from harness.lifecycle.kube import readiness, wait
from harness.lifecycle.provision.rootfs import MARK
from harness.log import timings
from harness.nodes import LONG_TIMEOUT, Login, Machine, Node, NodeGroup
from harness.nodes.container import IMAGE, ContainerProvider
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes.kubeconfig import administrator
from harness.testkit import isolation
from harness.testkit.evidence import OUTPUT, EvidenceRecorder
from harness.trust import policy

_EVENTS = 15
_JSON_SHOWN = 1200
"""Characters of an answer in JSON that the report of the run shows."""
_HINT = "pytest --value {name}=VALUE, or @pytest.mark.values({name}=VALUE)"
_BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
_count = itertools.count(1)


@dataclasses.dataclass(frozen=True)
class ClusterRequest:
    """Image and topology that tests request; tests with the same request share a cluster."""

    image: str
    control_plane: int
    workers: int
    values: tuple[tuple[str, str], ...] = dataclasses.field(default=(), repr=False)
    """Names and values for the image, as ``slipway run -e`` gives them. Some are secrets."""


@dataclasses.dataclass(frozen=True)
class GivenMachines:
    """Existing machines, with their login."""

    control_plane: tuple[Machine, ...]
    workers: tuple[Machine, ...]

    @classmethod
    def of(cls, control_plane: Sequence[str], workers: Sequence[str], user: str, key: Path | None) -> GivenMachines:
        login = Login(user=user, key=key)
        return cls(tuple(Machine(address, login) for address in control_plane), tuple(Machine(address, login) for address in workers))


class ClusterKubectl:
    """kubectl on the first control-plane node, as administrator: ``kubectl("get", "pods")`` returns its output."""

    def __init__(self, node: Node, evidence: EvidenceRecorder | None = None) -> None:
        self.node = node
        self.evidence = evidence or EvidenceRecorder(active=False)

    def __call__(self, *argv: str, input: str | None = None) -> str:
        """``input`` is for ``-f -``. Raises CommandError with kubectl's output when it fails."""
        __tracebackhide__ = True
        return self._shown(argv, input)

    def run(self, *argv: str) -> str:
        """The same, in the words of ``harness.lifecycle.kube.readiness``, and without a place in the report."""
        return self._answer(argv, None).stdout

    def json(self, *argv: str) -> dict[str, Any]:
        """The same with ``--output=json``, parsed."""
        __tracebackhide__ = True
        text = self._shown((*argv, "--output=json"), None, most=_JSON_SHOWN)
        return dict(untrusted.json_object(text, what=f"kubectl {shlex.join(argv)}", error=CommandError))

    def wait(self, *argv: str, timeout: float = 300) -> None:
        """Without words: until every workload is ready and nothing changes any more. With words: ``kubectl wait`` with these.

        ``timeout`` is in seconds. Raises CheckError with the reasons, or CommandError.
        """
        __tracebackhide__ = True
        if argv:
            self("wait", f"--timeout={timeout:g}s", *argv)
            return
        with self.evidence.timed(self.node.name, "wait until every workload is ready") as result:
            wait.settle(self, timeout=timeout)
            result["output"] = "ready"

    def _shown(self, argv: Sequence[str], input: str | None, *, most: int = OUTPUT) -> str:
        """Run it as part of a test: the report of the run shows it."""
        __tracebackhide__ = True
        given = f" (with {len(input)} characters of input)" if input else ""
        with self.evidence.timed(self.node.name, f"kubectl {shlex.join(argv)}{given}", most=most) as result:
            answer = self._answer(argv, input, check=False)
            result["output"], result["code"] = answer.output, answer.returncode
        return self._checked(argv, answer).stdout

    def _answer(self, argv: Sequence[str], input: str | None, *, check: bool = True) -> process.ProcessResult:
        __tracebackhide__ = True
        kubectl = NodeKubectl(self.node)
        answer = self.node.run(
            f"KUBECONFIG={kubectl.kubeconfig} {kubectl.program} {shlex.join(argv)}", input=input, check=False, timeout=LONG_TIMEOUT
        )
        return self._checked(argv, answer) if check else answer

    def _checked(self, argv: Sequence[str], answer: process.ProcessResult) -> process.ProcessResult:
        __tracebackhide__ = True
        if not answer.ok:
            raise CommandError(f"kubectl {shlex.join(argv)}: exit code {answer.returncode}: {answer.output}")
        return answer


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster. ``control_plane`` and ``workers`` are testinfra hosts; ``hosts`` are both."""

    name: str
    image: str
    digest: str
    """Of the image, as the cluster has recorded it."""
    embedded: int
    """Number of container images in the CloudImage for this machine's platform."""
    control_plane: tuple[Host, ...]
    workers: tuple[Host, ...]
    kubeconfig: Path
    kubectl: ClusterKubectl
    boot_seconds: float
    """Seconds from the request for machines until every workload was ready; near zero for a running cluster."""
    machines: tuple[SshNode, ...]
    """The same as ``hosts``, for programs: they accept files, and run commands as root."""
    group: str | None
    """Name of the provider's group of machines; None for given machines."""
    request: ClusterRequest

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (*self.control_plane, *self.workers)

    def run(self, *words: str, check: bool = True, timeout: float | None = None) -> process.ProcessResult:
        """The command line: ``cluster.run("check", cluster.name)``. Raises CommandError, unless ``check`` is off."""
        return process.run([sys.executable, "-m", "harness.cli", *words], check=check, timeout=timeout)

    def trouble(self) -> str:
        """Describe workloads that are not ready, and the last events, for a report. Never raises."""
        try:
            lines = [str(problem) for problem in readiness.problems(self.kubectl)] or ["every workload is ready"]
            events = readiness.event_lines(readiness.get(self.kubectl, "events"))[-_EVENTS:]
            return "\n".join([*lines, "", "last events:", *(f"  {line}" for line in events)])
        except SlipwayError as error:
            return f"the cluster does not answer: {error}"

    def prove_offline(self) -> isolation.Offline:
        """Prove that the nodes are offline. Raises UsageError for given machines, CheckError with the violations."""
        if self.group is None:
            raise UsageError("isolation of given machines cannot be proven from this machine", hint="test without --control-plane")
        proof = isolation.Offline(docker.connect(), self.group, self.machines)
        proof.prove()
        return proof

    def reboot(self, host: Host, *, timeout: float = 600) -> None:
        """Restart the machine of a host as after a loss of power, and wait until its workloads were restarted and are ready.

        ``timeout`` is in seconds. Raises UsageError for a host of another cluster, CheckError with what is not ready by then.
        """
        machine = next((candidate for candidate, mine in zip(self.machines, self.hosts, strict=True) if mine is host), None)
        if machine is None:
            raise UsageError("the host is not part of this cluster", hint="give one of cluster.hosts")
        with self.kubectl.evidence.timed(machine.name, "restart the machine, and wait until its workloads run again") as result:
            self._restart(machine, timeout)
            result["output"] = "every workload is ready"

    def _restart(self, machine: SshNode, timeout: float) -> None:
        before = machine.run(f"date -u +%Y-%m-%dT%H:%M:%SZ; {_BOOT_ID}").stdout.split()
        if self.group is not None:
            ContainerProvider().restart(machine.name)
        else:
            machine.run("systemctl reboot", check=False)
        machine.disconnect()
        problem = "the machine does not answer"

        def over() -> bool:
            nonlocal problem
            try:
                if self.group is None and machine.run(_BOOT_ID).stdout.split() == before[1:]:
                    problem = "the machine has not restarted"
                    return False
                old = self._not_anew(machine.name, before[0])
                problem = "; ".join(old or [f"{unready.object}: {unready.reason}" for unready in readiness.problems(self.kubectl)])
            except SlipwayError as error:
                problem = error.message
            return not problem

        deadline = time.monotonic() + timeout
        while not over():
            if time.monotonic() > deadline:
                raise CheckError(f"{machine.name} was restarted, and is not ready after {timeout:.0f} s: {problem}")
            time.sleep(0.5)

    def _not_anew(self, node: str, since: str) -> list[str]:
        """Containers of a node that the API shows as started before ``since``: kubelets report a restart with delay."""
        words = ("get", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={node},status.phase=Running", "--output=json")
        pods = untrusted.json_object(self.kubectl.run(*words), what="kubectl get pods", error=CommandError)["items"]
        return [
            f"{pod['metadata']['name']}/{status['name']}"
            for pod in pods
            for status in pod["status"].get("containerStatuses") or ()
            if str((status["state"].get("running") or {}).get("startedAt")) < since
        ]

    def reach(self) -> list[str]:
        """Commands for the user to access a cluster that was kept running, to test it again and to remove it."""
        addresses = [machine.address for machine in self.machines]
        control_plane, workers = addresses[: len(self.control_plane)], addresses[len(self.control_plane) :]
        login = self.machines[0].machine.login
        again = [
            "pytest",
            "--image",
            self.image,
            "--control-plane",
            ",".join(control_plane),
            *(["--workers", ",".join(workers)] if workers else []),
        ]
        # The user knows the secrets.
        again += [word for name, value in self.request.values if not is_secret(name, value) for word in ("--value", f"{name}={value}")]
        again += ["--ssh-user", login.user or "root", *(["--ssh-key", str(login.key)] if login.key else [])]
        return [
            *(f"ssh -F {machine.ssh.config} {machine.machine.target}    # {machine.name}" for machine in self.machines),
            f"export KUBECONFIG={self.kubeconfig}",
            f"{shlex.join(again)}    # tests again, on the same cluster",
            f"slipway nodes down {self.group}" if self.group else f"slipway delete {self.name}",
        ]


Lost = Callable[[str, Sequence[Machine], Sequence[Machine]], None]
"""Receives the name, the control-plane nodes and the workers of a cluster that did not start."""


# ---- boot -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def boot(
    request: ClusterRequest,
    given_machines: GivenMachines | None = None,
    *,
    keep: bool = False,
    evidence: EvidenceRecorder | None = None,
    lost: Lost | None = None,
) -> Iterator[Cluster]:
    """Run a cluster for a request: on new nodes, or on the given machines. Removed at the end, unless ``keep``.

    ``evidence`` receives what tests run there; ``lost`` is called for a cluster that did not start, before its machines are removed.
    A cluster that already runs the image on given machines is used unchanged, and kept. Raises StoreError, before anything is
    created, for an image that is not in the store, InputError for values that the image needs and that are missing or wrong, UsageError
    when given machines run something else, and whatever ``slipway run`` raises.
    """
    store = Store.default()
    image = cloudimage.read(store, request.image)
    policy.admit(store, request.image, image.digest)
    with contextlib.ExitStack() as undo:
        started = time.monotonic()
        if given_machines is None:
            check_values(request, image)
            group = _make(request, undo, keep=keep)
            name, control_plane, workers = group.name, group.control_plane, group.workers
            try:
                _start(request, store, name, control_plane, workers, lost)
            except SlipwayError as error:
                if keep:
                    error.details = "\n".join(
                        [error.details or "", f"the nodes are left running; remove them with: slipway nodes down {name}"]
                    )
                raise
        else:
            group, control_plane, workers = None, given_machines.control_plane, given_machines.workers
            existing = _running(given_machines)
            if existing is None:
                name = "test-" + hashlib.sha256(repr(given_machines).encode()).hexdigest()[:8]
                # Named after the machines, so that the next run resumes an interrupted one, as with `slipway run`.
                # The digest is of the repr: the classes in it cannot be renamed.
                check_values(request, image)
                _start(request, store, name, control_plane, workers, lost)
                if not keep:
                    undo.callback(process.run, [sys.executable, "-m", "harness.cli", "delete", name, "--yes"])
            else:
                name, started = existing.name, time.monotonic()
                existing.check(request, image.digest, image.platform(Platform.host()).info.env)
        state = ClusterState.of(name)
        ssh = undo.enter_context(SshConnections(state.folder, (*control_plane, *workers)))
        machines = ssh.connect()
        hosts = tuple(_host(machine, evidence) for machine in machines)
        if not state.kubeconfig.exists():
            state.write("kubeconfig", administrator(machines[0], machines[0].address, name).decode())
        _require_digest(machines[0], request, image.digest)
        yield Cluster(
            name=name,
            image=request.image,
            digest=image.digest,
            embedded=len(image.platform(Platform.host()).images.images),
            control_plane=hosts[: len(control_plane)],
            workers=hosts[len(control_plane) :],
            kubeconfig=state.kubeconfig,
            kubectl=ClusterKubectl(machines[0], evidence),
            boot_seconds=time.monotonic() - started,
            machines=machines,
            group=group.name if group else None,
            request=request,
        )


def check_values(request: ClusterRequest, image: CloudImage) -> None:
    """Raise InputError that lists every value which the image needs and that is missing or wrong. Secrets are never shown from now on."""
    expected = image.platform(Platform.host()).info.values
    env = dict(request.values)
    log.hide(*(env[value.name] for value in expected if value.secret and value.name in env))
    faults = values.faults(expected, [env], hint=_HINT)
    if faults:
        raise InputError(faults)


def _require_digest(node: Node, request: ClusterRequest, digest: str) -> None:
    """Raises CheckError when the cluster has recorded another digest: its image got a new content while it started."""
    recorded = record.read(NodeKubectl(node)).digest
    if recorded != digest:
        raise CheckError(
            f"the cluster runs {recorded or 'an image without a digest'}, and {request.image} was {digest} when it was started",
            hint="the image was built again meanwhile: test it again",
        )


def _make(request: ClusterRequest, undo: contextlib.ExitStack, *, keep: bool) -> NodeGroup:
    """Make nodes for a request; ``undo`` removes them and this machine's state of their cluster."""
    client = docker.connect()
    image = container_images.package_image(client, IMAGE)
    provider = ContainerProvider(client)
    name = f"test-{os.getpid()}-{next(_count)}-{secrets.token_hex(3)}"
    if not keep:
        undo.callback(ClusterState.of(name).forget)
        undo.callback(provider.down, name)
    with timings.span(f"make {request.control_plane + request.workers} machines", "steps", kind=timings.STEP):
        return provider.up(name, request.control_plane, request.workers, image=image)


def _start(
    request: ClusterRequest,
    store: Store,
    name: str,
    control_plane: tuple[Machine, ...],
    workers: tuple[Machine, ...],
    lost: Lost | None,
) -> None:
    try:
        run.run(of_machines(name, request.image, control_plane, workers, dict(request.values)), store)
    except SlipwayError:
        if lost is not None:
            lost(name, control_plane, workers)
        raise


@dataclasses.dataclass(frozen=True)
class _ExistingCluster:
    """A cluster that runs on given machines already, as recorded there."""

    name: str
    image: str
    digest: str
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Values that it runs with, as recorded: secrets are fingerprints."""

    def check(self, request: ClusterRequest, digest: str, defaults: Mapping[str, str]) -> None:
        """Raise UsageError when it runs another image than the requested one, InputError when it runs other values.

        ``defaults`` are the values of the image.
        """
        if self.digest != digest:
            raise UsageError(
                f"the given machines run {self.image} ({self.digest[:19]}), not {request.image} ({digest[:19]})",
                hint=f"test that one, or remove it: slipway delete {self.name}",
            )
        place = env_place("Cluster")
        own = {**defaults, **self.env}
        others = [name for name, value in request.values if not same_secret(own.get(name, ""), value, f"{place}.{name}")]
        if others:
            hint = f"give those that it runs with, or remove it: slipway delete {self.name}"
            raise InputError(Fault(name, f"the cluster {self.name} on the given machines runs with another value", hint) for name in others)


def _running(machines: GivenMachines) -> _ExistingCluster | None:
    """Cluster recorded on the first given control-plane node; None when it has none that was completed."""
    with tempfile.TemporaryDirectory(prefix="slipway-test-") as folder, SshConnections(Path(folder), machines.control_plane[:1]) as ssh:
        (node,) = ssh.connect()
        mark = node.run(f"cat {MARK}", check=False)
        if not mark.ok or not mark.stdout.split():
            return None
        try:
            stored = record.read(NodeKubectl(node))
            own = stored.clusterfile.cluster
            return _ExistingCluster(mark.stdout.split()[0], stored.image, stored.digest, own.env if own else {})
        except SlipwayError:
            return None


def _host(machine: SshNode, evidence: EvidenceRecorder | None) -> Host:
    """testinfra host of a machine, over the connection that is open already.

    Not through ``get_host``: it caches facts of an earlier machine with the same address.
    """
    backend = get_backend(
        f"ssh://{machine.machine.target}",
        ssh_config=str(machine.ssh.config),
        ssh_extra_args="-o ControlMaster=no",
        sudo=machine.login.user != "root",
    )
    if evidence is not None:
        evidence.watch(backend, machine.name)
    return Host(backend)
