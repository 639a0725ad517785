"""Making CloudImages."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli.options import (
    WORKER_ALIASES,
    AllowOlder,
    Output,
    argument,
    choice,
    existing,
    image_option,
    in_lower_case,
    option,
    platform_of,
    seconds,
)
from harness.cli.output import local_store, one_of, pairs, say
from harness.cli.program import Old, Options
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness import build as harness_build
    from harness.build.options import BuildOptions
    from harness.oci.model import Platform

MOST_WORKERS = 9
"""Workers of a throw-away cluster: each is a machine in a container."""


_PULL = {"ifnewer": "always", "true": "always", "false": "missing"}
"""Words of sealer for values of ``--pull``."""


@dataclasses.dataclass(frozen=True)
class ThrowAwayCluster(Options):
    """The cluster that runs the image while it is built."""

    sandbox: Annotated[
        str,
        choice("--sandbox", values=("kind", "container"), help="The throw-away cluster that runs the image."),
        Old("--cluster"),
    ] = "kind"
    on: Annotated[
        str | None,
        image_option(
            "--on",
            help="The image with Kubernetes on which an application image runs while it is built, pulled like that of FROM; none reads its "
            "files only.  "
            "[default: the newest base image of the store that fits]",
            metavar="IMAGE|none",
        ),
    ] = None
    workers: Annotated[
        int,
        typer.Option("--workers", help="Workers of the throw-away cluster.", metavar="N", min=0, max=MOST_WORKERS),
        WORKER_ALIASES,
    ] = 0
    settle: Annotated[
        float,
        typer.Option(
            "--settle",
            help="Least seconds without change after which workloads count as settled; longer where they took long.",
            metavar="SECONDS",
            min=0,
        ),
    ] = 5
    timeout: Annotated[float, seconds("--timeout", help="Seconds that workloads may take to become ready.")] = 600


@dataclasses.dataclass(frozen=True)
class RunNetwork(Options):
    """The network of RUN and Dockerfiles."""

    network: Annotated[
        str,
        choice(
            "--network",
            values=("bridge", "host"),
            help="The network of RUN and Dockerfiles: bridge, or host for the network of this machine with its loopback.",
        ),
    ] = "bridge"
    add_host: Annotated[
        list[str] | None,
        option(
            "--add-host",
            help="A name that RUN and Dockerfiles resolve to this address; host-gateway is this machine.",
            metavar="NAME:ADDRESS",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class ImageSources(Options):
    """The origin of container images, and what is taken for one."""

    images_from: Annotated[
        str,
        choice(
            "--images",
            values=("auto", "upstream", "built"),
            help="Images that images/ defines: from their registries (upstream), built here, or auto: built where no registry answers.",
        ),
    ] = "auto"
    possible: Annotated[
        str,
        choice(
            "--possible",
            values=("take", "report", "refuse"),
            help="Text that may name an image (an argument of an operator): include it, report it, or refuse the build.",
        ),
    ] = "report"
    allow_login: Annotated[
        list[str] | None,
        option(
            "--allow-login",
            help="Pull this repository (or pattern) with your login, even if no file of the image names it.",
            metavar="HOST/REPOSITORY",
        ),
    ] = None
    allow_older: AllowOlder = False


@app.command(short_help="Build a CloudImage from a Kubefile.")
def build(
    *,
    context: Annotated[
        Path | None,
        argument(help="The folder that COPY and APP take files from.  [default: the folder of the Kubefile of -f]", metavar="CONTEXT"),
    ] = None,
    tag: Annotated[
        str | None, image_option("--tag", "-t", help="The name of the image.  [default: the folder's name]", metavar="NAME")
    ] = None,
    file: Annotated[
        Path | None,
        option("--file", "-f", help="The Kubefile; - reads it from standard input.  [default: CONTEXT/Kubefile]", metavar="FILE"),
    ] = None,
    platform: Annotated[
        str | None,
        option(
            "--platform",
            help="The platform of the image, as linux/arm64; several with commas.  [default: this machine]",
            metavar="OS/ARCH[,OS/ARCH...]",
        ),
    ] = None,
    build_arg: Annotated[list[str] | None, option("--build-arg", help="A value for an ARG.", metavar="NAME=VALUE")] = None,
    env: Annotated[
        list[str] | None,
        option(
            "--env",
            "-e",
            help="A value for the throw-away cluster, where the image has none; the image does not keep it.",
            metavar="NAME=VALUE",
        ),
    ] = None,
    image_list: Annotated[
        Path | None,
        option("--image-list", help="A file with more container images, one a line.", metavar="FILE"),
    ] = None,
    discover: Annotated[
        str,
        choice(
            "--discover",
            values=("pulled", "declared", "pulled,declared"),
            help="Sources of container images: pulled (by running), declared (by reading), or both.",
        ),
    ] = "pulled,declared",
    pull: Annotated[
        str,
        choice(
            "--pull",
            values=("missing", "always", "never"),
            help="Fetch the images of FROM and --on from their registries: missing, if the local store lacks them; always; never.",
        ),
    ] = "missing",
    cluster: ThrowAwayCluster,
    network: RunNetwork,
    images: ImageSources,
    lock: Annotated[
        bool,
        typer.Option("--lock", help="Write the digests of all embedded images of registries into images.lock beside the Kubefile."),
    ] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the throw-away cluster running for inspection.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the Kubefile and show the steps and images.")] = False,
    output: Output,
) -> None:
    """Build a CloudImage from a Kubefile: layers, and every container image that running it pulls."""
    from harness import build as harness_build
    from harness.build.cluster_base import AUTO, NONE
    from harness.build.declared_images import POSSIBLE_MODES
    from harness.build.image_choice import MODES
    from harness.build.image_discovery import CLUSTERS
    from harness.build.options import PULL, BuildOptions
    from harness.build.run_steps import NETWORKS, added_hosts

    one_of(cluster.sandbox, CLUSTERS, "--sandbox")
    modes = tuple(sorted({one_of(mode.strip(), ("pulled", "declared"), "--discover") for mode in discover.split(",") if mode.strip()}))
    if cluster.on not in (None, NONE) and "pulled" not in modes:
        raise UsageError(f"--on {cluster.on}: --discover {discover} runs nothing", hint="leave one of them out")
    if lock and (check or str(file) == "-"):
        reason = "--check builds nothing" if check else "a Kubefile from standard input has no folder for images.lock"
        raise UsageError(f"--lock: {reason}", hint="slipway build --lock FOLDER; slipway find-images --lock FOLDER builds nothing")
    if context is None:
        if file is None:
            raise UsageError("no context is given", hint="slipway build FOLDER, or -f Kubefile")
        context = Path() if str(file) == "-" else file.parent
    options = BuildOptions(
        context=existing(context), tag=in_lower_case(tag or context.resolve().name), file=file, platforms=_platforms(platform),
        build_args=pairs(build_arg or [], "--build-arg"), env=pairs(env or [], "--env"),
        image_list=existing(image_list) if image_list else None,
        cluster=cluster.sandbox, discover=modes, settle=cluster.settle, timeout=cluster.timeout, use_cache=not no_cache, keep=keep,
        network=one_of(network.network, NETWORKS, "--network"), hosts=added_hosts(network.add_host or ()),
        images_from=one_of(images.images_from, MODES, "--images"), possible=one_of(images.possible, POSSIBLE_MODES, "--possible"),
        allow_login=tuple(images.allow_login or ()), allow_older=images.allow_older, on=cluster.on or AUTO, workers=cluster.workers,
        pull=one_of(_PULL.get(pull, pull), PULL, "--pull"), lock=lock,
    )  # fmt: skip
    with _given(options) as options:
        if check:
            plan = harness_build.check(options)
            if not output.printed(plan):
                _show_plan(plan)
            return
        built = harness_build.build(options, local_store())
    if output.is_json:
        from harness.cloudimage import listing

        result = {name: getattr(built, name) for name in ("cached", "booted", "undeclared", "unpulled")}
        if built.locked is not None:
            result["locked"] = built.locked
        output.printed({**listing.describe(built.image), **result})
        return
    _show_built(built, options.tag)


@contextlib.contextmanager
def _given(options: BuildOptions) -> Iterator[BuildOptions]:
    """The options with a file where the Kubefile comes from standard input."""
    if str(options.file) != "-":
        yield options
        return
    with tempfile.TemporaryDirectory(prefix="slipway-stdin-") as folder:
        path = Path(folder, "Kubefile")
        path.write_bytes(sys.stdin.buffer.read())
        yield dataclasses.replace(options, file=path)


def _platforms(text: str | None) -> tuple[Platform, ...]:
    """The platforms of ``linux/amd64,linux/arm64``, each once. Raises UsageError."""
    from harness.oci.model import Platform

    if text is None:
        return (Platform.host(),)
    return tuple(dict.fromkeys(platform_of(part) for part in text.split(",")))


def _show_built(built: harness_build.Built, tag: str) -> None:
    name = built.image.name or tag
    say(f"{name}  {built.image.digest}")
    parts = built.image.platforms
    for part in parts:
        kubernetes = f", Kubernetes {part.info.kubernetes}" if part.info.kubernetes else ""
        what = f"{len(part.images.images)} container images, {part.info.type} image{kubernetes}"
        say(f"  {what}, {part.platform}" if len(parts) > 1 else f"  {log.size(built.image.size)}, {what}")
        proven = part.info.proven
        if proven and proven.on:
            say(f"  proven on {proven.on['reference']}{', with an exercise' if proven.exercise else ''}")
    if len(parts) > 1:
        say(f"  {log.size(built.image.size)} for all platforms")
    for image in built.undeclared:
        say(f"  pulled, but declared in no file: {image}")
    for image in built.unpulled:
        say(f"  declared, but not pulled by the run: {image}")
    if built.locked is not None:
        say(f"  images.lock: {len(built.locked)} tags")
    if built.cached:
        say("  nothing had changed")


def _show_plan(plan: Mapping[str, Any]) -> None:
    from harness.cloudimage import ExpectedValue

    say(f"base      {plan['base']}")
    say(f"platform  {', '.join(plan.get('platforms', [plan['platform']]))}")
    for step in plan["steps"]:
        say(f"{step['line']:>8}  {step['text']}")
    for application in plan["apps"]:
        say(f"app       {application['name']} ({application['kind']})")
    for command in plan["launch"]:
        say(f"launch    {command}")
    for title in plan["exercise"]:
        say(f"exercise  {title}")
    for value in plan["values"]:
        say(f"value     {ExpectedValue.from_json(value)}")
    for image in plan["images"]:
        say(f"image     {image['name']}  ({', '.join(image['where'])})")
    for image in plan["possibleImages"]:
        say(f"possible  {image['name']}  ({', '.join(image['where'])})")
    for warning in plan["warnings"]:
        log.warning(warning)
