"""Settings of a build, and the Kubefile as it is read with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from harness import kubefile, log
from harness.build import cluster_base, definitions, exercise, image_choice, releases, run_steps
from harness.build.declared_images import REPORT
from harness.errors import Fault, InputError
from harness.kubefile import Kubefile, applications
from harness.oci.model import Platform

MISSING, ALWAYS, NEVER = "missing", "always", "never"
PULL = (MISSING, ALWAYS, NEVER)
"""When the images of FROM and ``--on`` are fetched from their registries."""


@dataclasses.dataclass(frozen=True)
class BuildOptions:
    """Settings of one build. ``discover`` holds ``pulled`` and ``declared``, or one of them; ``cluster`` is a key of CLUSTERS."""

    context: Path
    tag: str
    file: Path | None = None
    platforms: tuple[Platform, ...] = dataclasses.field(default_factory=lambda: (Platform.host(),))
    build_args: Mapping[str, str] = dataclasses.field(default_factory=dict)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Values for the throw-away cluster in place of stand-ins; the image does not keep them."""
    image_list: Path | None = None
    cluster: str = "kind"
    discover: tuple[str, ...] = ("pulled", "declared")
    settle: float = 5.0
    """Seconds for which nothing may change before the workloads count as settled: at least these, longer where they took long."""
    timeout: float = 600.0
    """Seconds that the workloads may take to become ready."""
    use_cache: bool = True
    keep: bool = False
    network: str = run_steps.BRIDGE
    """Network of RUN steps and Dockerfile builds: a key of run_steps.NETWORKS."""
    hosts: tuple[str, ...] = ()
    """More names for RUN steps and Dockerfile builds: entries of run_steps.added_hosts."""
    images_from: str = image_choice.AUTO
    """Origin of the images that images/ defines: one of image_choice.MODES."""
    possible: str = REPORT
    """Treatment of text that may name an image: one of POSSIBLE_MODES."""
    allow_login: tuple[str, ...] = ()
    """Repositories, as patterns, for which the cluster may pull with the user's logins although no file names them."""
    on: str = cluster_base.AUTO
    """The CloudImage that an application image runs on: a name, cluster_base.AUTO or cluster_base.NONE."""
    workers: int = 0
    """Workers of the throw-away cluster, beside its control-plane node."""
    allow_older: bool = False
    """Take images of registries that were signed earlier than those that their tags meant before."""
    pull: str = MISSING
    """When the images of FROM and ``on`` are fetched from their registries: one of PULL."""
    lock: bool = False
    """Write the digests of the embedded images into the ``images.lock`` beside the Kubefile."""

    @property
    def path(self) -> Path:
        return self.file or self.context / "Kubefile"


def read(options: BuildOptions, platform: Platform) -> Kubefile:
    """Parse the Kubefile for one platform and compare it with the context. Raises InputError with every fault, the exercise's too."""
    faults: list[Fault] = []
    parsed: Kubefile | None = None
    try:
        parsed = _parse(options, platform)
        applications.applications(parsed, options.context)
    except InputError as error:
        faults += error.faults
    try:
        exercise.script(options.path.parent)
    except InputError as error:
        faults += error.faults
    if faults or parsed is None:
        raise InputError(faults)
    return parsed


def _parse(options: BuildOptions, platform: Platform) -> Kubefile:
    path = options.path
    try:
        text = path.read_text()
    except FileNotFoundError as missing:
        raise InputError([Fault(str(path), "there is no Kubefile", "name it with --file, or the folder that holds it")]) from missing
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([Fault(str(path), f"cannot be read: {error}")]) from error
    return kubefile.parse(text, str(path), build_args=options.build_args, platform=str(platform), context=options.context)


def settled(options: BuildOptions, *, ask: bool = True) -> BuildOptions:
    """Return the options with SOURCE and VERSION of the Kubefile resolved, where the Kubefile or the user leaves them open.

    Resolved once per build: the download site may answer differently later, and all platforms need the same version. Raises BuildError
    when the version does not exist, of a whole one only with ``ask``; ``read_all`` reports the faults of a Kubefile.
    """

    def parse(arguments: Mapping[str, str]) -> Kubefile:
        return _parse(_with_arguments(options, arguments), options.platforms[0])

    try:
        return _with_arguments(options, releases.resolved(parse, image_roots(options.context), options.images_from, ask=ask))
    except InputError:
        return options


def _with_arguments(options: BuildOptions, arguments: Mapping[str, str]) -> BuildOptions:
    return dataclasses.replace(options, build_args={**options.build_args, **arguments})


def read_all(options: BuildOptions, *, warn: bool = True) -> dict[Platform, Kubefile]:
    """Parse the Kubefile for each requested platform; ``warn`` logs its warnings. Raises InputError with every fault, each once."""
    kubefiles: dict[Platform, Kubefile] = {}
    faults: dict[str, Fault] = {}
    for platform in options.platforms:
        try:
            kubefiles[platform] = read(options, platform)
        except InputError as error:
            faults.update({str(fault): fault for fault in error.faults})
    if faults:
        raise InputError(list(faults.values()))
    for warning in dict.fromkeys(str(warning) for parsed in kubefiles.values() for warning in parsed.warnings if warn):
        log.warning(warning)
    return kubefiles


def image_roots(context: Path) -> tuple[Path, ...]:
    """Folders that may hold <name>/Dockerfile: images/ in the context, images/ beside its kubefiles/ folder, then slipway's own."""
    absolute = context.resolve()
    candidates = [absolute / "images", absolute.parent.parent / "images", *definitions.bundled()]
    roots = [path for path in candidates if any(path.glob("*/Dockerfile"))]
    return tuple(dict.fromkeys(roots))
