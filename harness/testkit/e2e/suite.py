"""The end-to-end tests of Kubernetes on a cluster that runs a CloudImage: boot, bring the tests, start them, judge their report.

They are the tests of that very version, as an application image of ``kubefiles/conformance`` brings them into the cluster.
hydrophone starts them. Their report is JUnit, and becomes a statement about the digest that ran.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from harness import cloudimage, log, process
from harness.cloudimage import CloudImage
from harness.errors import CommandError, UsageError
from harness.host import durable, tools
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.testkit import cluster as testkit_cluster
from harness.testkit.e2e import choice, junit, submission
from harness.testkit.e2e.choice import SpecChoice
from harness.testkit.e2e.verdict import ImageUnderTest, SuiteVerdict, judged
from harness.trust.results import Topology

RUNNER_IMAGE = "registry.k8s.io/conformance"
"""The image of the tests, without its tag, which is the version of Kubernetes."""
OUTPUT_IMAGE = "registry.k8s.io/e2e-test-images/busybox"
"""Holds the results until hydrophone has fetched them; of the tags that the tests bring any will do."""
JUNIT, LOG = "junit_01.xml", "e2e.log"
LARGEST_REPORT = 128 << 20
_LAST_LINES = 25
_DONE = "\N{BULLET}"
"""Mark that ginkgo prints for a spec that ran."""


@dataclasses.dataclass(frozen=True)
class SuiteRequest:
    """Request for a run: the image under test, the application image with the tests, and the specs."""

    image: str
    suite_image: str
    chosen: SpecChoice
    folder: Path
    """Receives e2e.log, junit_01.xml, PRODUCT.yaml, README.md."""
    record: Path
    """Receives the statement."""
    unavailable: Path | None
    """Lists specs whose images cannot be had."""
    control_plane: int = 1
    workers: int = 1
    processes: int = 1
    """Specs that run at the same time; those that must be alone still are."""
    keep: bool = False
    command: str = ""
    """Reproduces the run, for README.md."""


@dataclasses.dataclass(frozen=True)
class SuiteImages:
    """Container images that the application image of the tests brings."""

    names: frozenset[str]
    built: tuple[str, ...]
    digest: str

    @classmethod
    def of(cls, image: CloudImage) -> SuiteImages:
        embedded = image.platform(Platform.host()).images.images
        built = tuple(f"{one.name} ({', '.join(one.built.origin)})" for one in embedded if one.built)
        return cls(frozenset(one.name for one in embedded), built, image.digest)

    def runner(self, kubernetes: str) -> str:
        """The image of the tests of that version. Raises UsageError when others were brought."""
        return self._one(RUNNER_IMAGE, kubernetes)

    def output(self) -> str:
        return self._one(OUTPUT_IMAGE, "")

    def _one(self, repository: str, tag: str) -> str:
        fitting = sorted(name for name in self.names if name.rpartition(":")[0] == repository and tag in ("", name.rpartition(":")[2]))
        if not fitting:
            others = sorted(name for name in self.names if name.startswith(f"{repository}:"))
            arguments = f"--build-arg VERSION={tag or '...'} --build-arg MINOR={minor_version(tag) or '...'}"
            raise UsageError(
                f"the image of the tests has no {repository}{f':{tag}' if tag else ''}; it has {', '.join(others) or 'none of that name'}",
                hint=f"the tests must be those of the Kubernetes under test: build kubefiles/conformance with {arguments}",
            )
        return fitting[-1]


def minor_version(version: str) -> str:
    """``1.37`` of ``v1.37.2``: the folder of ``kubefiles/conformance`` that has the lists of that version."""
    return ".".join(version.removeprefix("v").split(".")[:2])


def version_of(store: Store, name: str) -> str:
    """The version of Kubernetes in an image. Raises UsageError for an application image."""
    version = cloudimage.read(store, name).platform(Platform.host()).info.kubernetes
    if not version:
        raise UsageError(f"{name} has no Kubernetes in it", hint="conformance is tested of images with Kubernetes")
    return version


def run(request: SuiteRequest) -> SuiteVerdict:
    """Run the tests, write the reports and the statement, and return what they say.

    Raises UsageError or InputError before anything is made, CommandError when the tests did not come to their end, CheckError for a report
    that cannot be read, and whatever a boot raises.
    """
    store = Store.default()
    kubernetes = version_of(store, request.image)
    images = SuiteImages.of(cloudimage.read(store, request.suite_image))
    runner, output = images.runner(kubernetes), images.output()
    hindered = choice.hindered(choice.hindrances(request.unavailable), images.names)
    hydrophone = tools.hydrophone()
    shutil.rmtree(request.folder, ignore_errors=True)
    request.folder.mkdir(parents=True)
    # The record of an earlier run must not pass for this one's.
    request.record.unlink(missing_ok=True)
    wanted = testkit_cluster.ClusterRequest(request.image, request.control_plane, request.workers)
    with contextlib.ExitStack() as stack:
        with log.step(f"boot {request.image} on {request.control_plane} + {request.workers} nodes"):
            booted = stack.enter_context(testkit_cluster.boot(wanted, keep=request.keep))
        with log.step(f"bring the tests of Kubernetes {kubernetes} into the cluster"):
            booted.run("run", request.suite_image, "--cluster", booted.name)
        with log.step(f"run {request.chosen.described}") as step:
            _start([hydrophone, *_words(request, booted.kubeconfig, runner, output, hindered)], request.folder, step)
        topology = Topology(len(booted.control_plane), len(booted.workers))
        tested = ImageUnderTest(
            request.image, booted.digest, str(Platform.host()), kubernetes, topology, f"{request.suite_image}@{images.digest}", images.built
        )
    verdict = judged(read_report(request.folder / JUNIT), request.chosen, hindered)
    repository = request.image.rpartition(":")[0] or request.image
    submission.write(request.folder, tested, verdict, repository=repository, command=request.command)
    statement = verdict.statement(tested, [request.folder / name for name in (JUNIT, LOG)])
    request.record.parent.mkdir(parents=True, exist_ok=True)
    durable.write(request.record, json.dumps(statement, indent=2) + "\n", mode=0o644)
    return verdict


def _words(request: SuiteRequest, kubeconfig: Path, runner: str, output: str, hindered: Mapping[str, str]) -> list[str | Path]:
    """Arguments of hydrophone. Its own progress would need a shell in the image of the tests; their log says the same."""
    return [
        "--kubeconfig", kubeconfig, "--conformance-image", runner, "--busybox-image", output, "--output-dir", request.folder,
        "--parallel", str(request.processes), "--verbosity", "2", "--startup-timeout", "10m", "--disable-progress-status",
        "--focus", request.chosen.focus, *(["--skip", choice.exactly(tuple(hindered))] if hindered else []),
    ]  # fmt: skip


def read_report(path: Path) -> junit.SuiteReport:
    """The report that hydrophone fetched. Raises CommandError when there is none, CheckError when it cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_REPORT + 1)
    except OSError as wrong:
        raise CommandError(f"{path}: {wrong.strerror}", hint="the tests did not come to their end") from wrong
    return junit.read(data, what=str(path))


def _start(argv: list[str | Path], folder: Path, step: log.ProgressStep) -> None:
    """Run hydrophone. Its exit code is that of the tests; the report says more, so only a missing one is an error."""
    lines: list[str] = []
    done = 0

    def take(_: str, line: str) -> None:
        nonlocal done
        lines.append(line)
        del lines[:-_LAST_LINES]
        log.debug(line)
        done += line.count(_DONE)
        if _DONE in line:
            step.note = f"{done} done"

    code = process.stream(argv, take)
    report = folder / JUNIT
    if not report.is_file() or not report.stat().st_size:
        raise CommandError(f"hydrophone: exit code {code}, and no report of the tests", details="\n".join(lines))
