"""Create a cluster, or install applications in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import providers
from harness.cli.cluster_options import ClusterOptions, site_access, site_of, wanted
from harness.cli.install import only_applications, put, tell_installed
from harness.cli.options import ClusterFlags, Output, Plan, existing, option
from harness.cli.output import local_store, say
from harness.cli.registry import connect
from harness.cli.root import app
from harness.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from harness.clusterfile import Clusterfile as Written
    from harness.lifecycle import run as lifecycle_run
    from harness.lifecycle.apps.image_policy import SiteRegistry
    from harness.lifecycle.run import RunOptions


Apps = Annotated[
    list[str] | None,
    option("--apps", help="The applications to launch, instead of the image's choice.", metavar="APP[,APP...]"),
]
Called = Annotated[
    str | None,
    option("--as", help="Application image: its name in the cluster.  [default: the image's]", metavar="NAME"),
]
Kubeconfig = Annotated[
    Path | None,
    option("--kubeconfig", help="Application image: the kubeconfig of a cluster that slipway did not make.", metavar="FILE"),
]
NoImages = Annotated[
    bool, typer.Option("--no-images", help="Application image: send no container images; the nodes have or can reach them.")
]


@app.command()
def run(
    *,
    asked: ClusterOptions,
    apps: Apps = None,
    called: Called = None,
    kubeconfig: Kubeconfig = None,
    no_images: NoImages = False,
    plan: Plan = False,
    output: Output,
) -> None:
    """Create a cluster that runs the images on the given machines. The same command again finishes an interrupted run.

    \b
      slipway run web --control-plane 10.0.0.1
      slipway run kubernetes calico shop:1 --control-plane 10.0.0.1-10.0.0.3 --workers 10.0.0.4
      slipway run shop:2 --cluster prod

    One image brings Kubernetes; application images beside it are installed in their order once the cluster is ready. A Clusterfile has
    more settings than there are options; an option wins over the file.

    Application images alone are installed into a running cluster, or updated there: --cluster names it; --control-plane or --kubeconfig
    name one that is not known on this machine. With --kubeconfig and --registry no machine is entered: the container images are sent to
    the registry, and pods are pointed at it. `slipway apps` lists and removes applications.
    """
    from harness.lifecycle import counted
    from harness.lifecycle import plan as lifecycle_plan
    from harness.lifecycle import run as lifecycle_run

    clusterfile, options, bring = wanted(asked, apps)
    # slipway fills the registry of a cluster whose machines it does not enter.
    bring(filled=kubeconfig is None)
    cluster = clusterfile.cluster
    assert cluster is not None
    images = (cluster.image, *cluster.images)
    if only_applications(images):
        _require_running(asked.spec, images, called)
        named = asked.spec.cluster is not None or asked.file is not None
        registry = _registry(clusterfile, no_images) if kubeconfig else None
        _put(clusterfile, options, called, kubeconfig, not no_images, registry, named=named, plan=plan, output=output)
        return
    if called or kubeconfig or no_images:
        option = "--as" if called else "--kubeconfig" if kubeconfig else "--no-images"
        hint = "it makes machines a cluster: --control-plane IP"
        kube = images[0] if len(images) == 1 else "one of the images"
        raise UsageError(f"{option} is for application images alone, and {kube} brings Kubernetes", hint=hint)
    source = providers.source(clusterfile) if counted.is_counted(clusterfile) else None
    if plan:
        if source:
            described: Sequence[Mapping[str, Any]] = counted.apply(clusterfile, local_store(), options, source, plan=True).steps
        else:
            described = lifecycle_plan.describe(lifecycle_run.plan(lifecycle_run.prepare(clusterfile, local_store(), options)))
        output.steps(described)
        return
    if source:
        clusterfile = counted.made(clusterfile, local_store(), options, source)
    summary = lifecycle_run.run(clusterfile, local_store(), options)
    if not output.printed(summary):
        tell(summary)


def _require_running(spec: ClusterFlags, images: Sequence[str], called: str | None) -> None:
    """Raises InputError for options that application images without a cluster image cannot have."""
    what = f"{images[0]} is an application image" if len(images) == 1 else f"{', '.join(images)} are application images"
    faults = []
    if spec.profile:
        faults.append(Fault("--profile", f"is for a cluster that is made, and {what}", "name an image with Kubernetes too"))
    if spec.workers:
        faults.append(
            Fault(
                "--workers", f"{what}: {'it makes' if len(images) == 1 else 'they make'} no nodes", "--cluster says which cluster it is for"
            )
        )
    if len(images) > 1:
        alone = (("--as", called), ("--cmds", spec.cmds))
        hint = "a command for each image, or documents Application in a Clusterfile"
        faults += [Fault(option, f"is for one application, and there are {len(images)}", hint) for option, value in alone if value]
    if faults:
        raise InputError(faults)


def _registry(clusterfile: Written, no_images: bool) -> SiteRegistry | None:
    """The registry that pods of a cluster known by its kubeconfig are pointed at. Raises UsageError beside ``--no-images``."""
    external = clusterfile.cluster.external_registry if clusterfile.cluster else None
    if external is None:
        return None
    if no_images:
        raise UsageError("--no-images and --registry exclude each other", hint="--registry is where the images are sent to")
    from harness.lifecycle.apps.image_policy import SiteRegistry

    access = site_access(external)
    return SiteRegistry(site_of(external), lambda: connect(access, writing=True))


def _put(
    clusterfile: Written,
    options: RunOptions,
    called: str | None,
    kubeconfig: Path | None,
    bring: bool,
    registry: SiteRegistry | None,
    *,
    named: bool,
    plan: bool,
    output: Output,
) -> None:
    """Put application images into the cluster that options or a Clusterfile name."""
    from harness.host.cluster_cache import DEFAULT_NAME
    from harness.lifecycle.apps.requests import Request
    from harness.lifecycle.apps.target import Where
    from harness.lifecycle.cluster import access
    from harness.lifecycle.cluster import request as cluster_request

    cluster = clusterfile.cluster
    assert cluster is not None
    control_plane, _ = cluster_request.machines(clusterfile, options.password)
    if control_plane and kubeconfig:
        raise UsageError("--control-plane and --kubeconfig name two clusters", hint="one of both")
    wanted = [
        Request.of(
            image,
            called,
            env=cluster_request.env(clusterfile),
            commands=cluster.commands,
            parts=cluster.app_names,
            found=clusterfile,
            elsewhere=options.elsewhere,
            timeout=options.timeout,
        )
        for image in (cluster.image, *cluster.images)
    ]
    if not control_plane and not kubeconfig:
        access.known(cluster.name if named else DEFAULT_NAME, option="--control-plane")
    login = control_plane[0].login if control_plane else cluster_request.login(clusterfile, options.password)
    where = Where(cluster.name if named else None, control_plane, existing(kubeconfig) if kubeconfig else None, login, bring, registry)
    put(wanted, where, plan=plan, output=output)


def tell(summary: lifecycle_run.Summary) -> None:
    """Print the summary of a cluster that was made, with its longest steps."""
    say(
        f"cluster {summary.name} runs {summary.image} on {len(summary.control_plane) + len(summary.workers)} nodes,"
        f" Kubernetes {summary.kubernetes}"
    )
    say(f"  made in {log.duration(summary.seconds)}, {log.size(summary.sent)} sent from here; the longest steps:")
    for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
        say(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
    for application in summary.applications:
        tell_installed(application)
    say(f"  kubectl --kubeconfig {summary.kubeconfig} get pods -A")
    say("  slipway status" + (f" {summary.name}" if summary.name != "default" else ""))
