"""Clusters on machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli.install import only_applications, put, tell_installed
from harness.cli.options import (
    Clusterfile,
    ClusterFlags,
    Json,
    NamedCluster,
    NodesAccess,
    Plan,
    SiteAccess,
    SkipCheck,
    Ssh,
    Yes,
    addresses,
    confirmed,
    existing,
    hosts,
    seconds,
)
from harness.cli.output import local_store, pairs, plain, print_json, say, short, steps_table, table, wants_json
from harness.cli.program import Options
from harness.cli.registry import connect, fetch
from harness.cli.root import app
from harness.errors import Fault, FaultCollector, InputError, StoreError, UsageError

if TYPE_CHECKING:
    from harness.clusterfile import Clusterfile as Written
    from harness.clusterfile import ExternalRegistry
    from harness.lifecycle import run as running
    from harness.lifecycle.provision.registry import OfSite
    from harness.lifecycle.run import RunOptions

Timeout = Annotated[float, seconds("--timeout", help="Seconds that workloads may take to become ready.")]
Apps = Annotated[
    list[str] | None,
    typer.Option("--apps", help="The applications to launch, instead of the image's choice.", metavar="APP[,APP...]", show_default=False),
]
Called = Annotated[
    str | None,
    typer.Option("--as", help="Application image: its name in the cluster.  [default: the image's]", metavar="NAME", show_default=False),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Application image: the kubeconfig of a cluster that slipway did not make.", metavar="FILE", show_default=False
    ),
]
NoImages = Annotated[
    bool, typer.Option("--no-images", help="Application image: send no container images; the nodes have or can reach them.")
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """A cluster that is made or changed, as options and a Clusterfile describe it."""

    spec: ClusterFlags
    file: Clusterfile = None
    ssh: Ssh
    site: SiteAccess
    skip_check: SkipCheck = None
    timeout: Timeout = 600


@app.command()
def run(
    *,
    asked: ClusterOptions,
    apps: Apps = None,
    called: Called = None,
    kubeconfig: Kubeconfig = None,
    no_images: NoImages = False,
    plan: Plan = False,
    output: Json = "text",
) -> None:
    """Create a cluster that runs the images on the given machines. The same command again finishes an interrupted run.

    \b
      slipway run web --masters 10.0.0.1
      slipway run kubernetes calico shop:1 --masters 10.0.0.1-10.0.0.3 --nodes 10.0.0.4
      slipway run shop:2 --cluster prod

    One image brings Kubernetes; application images beside it are installed in their order once the cluster is ready. A Clusterfile has
    more settings than there are options; an option wins over the file.

    Application images alone are installed into a running cluster, or updated there: --cluster says which one; --masters or --kubeconfig
    name one that is not known on this machine. `slipway apps` lists and removes applications.
    """
    from harness.lifecycle import plan as planning
    from harness.lifecycle import run as running

    as_json = wants_json(output)
    clusterfile, options, bring = wanted(asked, apps)
    bring()
    cluster = clusterfile.cluster
    assert cluster is not None
    images = (cluster.image, *cluster.images)
    if only_applications(images):
        _require_running(asked.spec, images, called)
        named = asked.spec.cluster is not None or asked.file is not None
        _put(clusterfile, options, called, kubeconfig, not no_images, named=named, plan=plan, as_json=as_json)
        return
    if called or kubeconfig or no_images:
        option = "--as" if called else "--kubeconfig" if kubeconfig else "--no-images"
        hint = "it makes machines a cluster: --masters IP"
        kube = images[0] if len(images) == 1 else "one of the images"
        raise UsageError(f"{option} is for application images alone, and {kube} brings Kubernetes", hint=hint)
    if plan:
        described = planning.describe(running.plan(running.prepare(clusterfile, local_store(), options)))
        if as_json:
            print_json(described)
        else:
            steps_table(described)
        return
    summary = running.run(clusterfile, local_store(), options)
    print_json(plain(summary)) if as_json else tell(summary)


def _require_running(spec: ClusterFlags, images: Sequence[str], called: str | None) -> None:
    """Raises InputError for options that application images without a cluster image cannot have."""
    what = f"{images[0]} is an application image" if len(images) == 1 else f"{', '.join(images)} are application images"
    faults = []
    if spec.profile:
        faults.append(Fault("--profile", f"is for a cluster that is made, and {what}", "name an image with Kubernetes too"))
    if spec.nodes:
        faults.append(
            Fault(
                "--nodes", f"{what}: {'it makes' if len(images) == 1 else 'they make'} no nodes", "--cluster says which cluster it is for"
            )
        )
    if len(images) > 1:
        alone = (("--as", called), ("--cmds", spec.cmds))
        hint = "a command for each image, or documents Application in a Clusterfile"
        faults += [Fault(option, f"is for one application, and there are {len(images)}", hint) for option, value in alone if value]
    if faults:
        raise InputError(faults)


def _put(
    clusterfile: Written,
    options: RunOptions,
    called: str | None,
    kubeconfig: Path | None,
    bring: bool,
    *,
    named: bool,
    plan: bool,
    as_json: bool,
) -> None:
    """Put application images into the cluster that options or a Clusterfile name."""
    from harness.host.cluster_cache import DEFAULT_NAME
    from harness.lifecycle.apps.requests import Request
    from harness.lifecycle.apps.target import Where
    from harness.lifecycle.cluster import access
    from harness.lifecycle.cluster import request as requests

    cluster = clusterfile.cluster
    assert cluster is not None
    masters, _ = requests.machines(clusterfile, options.password)
    if masters and kubeconfig:
        raise UsageError("--masters and --kubeconfig name two clusters", hint="one of both")
    wanted = [
        Request.of(
            image,
            called,
            env=requests.env(clusterfile),
            commands=cluster.commands,
            parts=cluster.app_names,
            found=clusterfile,
            elsewhere=options.elsewhere,
            timeout=options.timeout,
        )
        for image in (cluster.image, *cluster.images)
    ]
    if not masters and not kubeconfig:
        access.known(cluster.name if named else DEFAULT_NAME, option="--masters")
    login = masters[0].login if masters else requests.login(clusterfile, options.password)
    where = Where(cluster.name if named else None, masters, existing(kubeconfig) if kubeconfig else None, login, bring)
    put(wanted, where, plan=plan, as_json=as_json)


def tell(summary: running.Summary) -> None:
    """Print the summary of a cluster that was made, with its longest steps."""
    say(
        f"cluster {summary.name} runs {summary.image} on {len(summary.masters) + len(summary.nodes)} nodes, Kubernetes {summary.kubernetes}"
    )
    say(f"  made in {log.duration(summary.seconds)}, {log.size(summary.sent)} sent from here; the longest steps:")
    for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
        say(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
    for application in summary.applications:
        tell_installed(application)
    say(f"  kubectl --kubeconfig {summary.kubeconfig} get pods -A")
    say("  slipway status" + (f" {summary.name}" if summary.name != "default" else ""))


def skipping(ids: Sequence[str] | None) -> frozenset[str]:
    """The checks of ``--skip-check``. Raises UsageError for one that is none."""
    if not ids:
        return frozenset()
    from harness.lifecycle.checks.preflight import gather

    return gather.skipping(ids)


def wanted(asked: ClusterOptions, apps: Sequence[str] | None = None) -> tuple[Written, RunOptions, Callable[[], None]]:
    """The request that a Clusterfile and options make, and a function that pulls its images and looks for what is within them in the
    registry of the site.
    """
    from harness.clusterfile import ClusterDocument
    from harness.lifecycle.cluster import request
    from harness.lifecycle.run import RunOptions

    spec, ssh = asked.spec, asked.ssh
    skipped = skipping(asked.skip_check)
    values = pairs(spec.env or [], "--env")
    flags = ClusterDocument(
        name=spec.cluster or "",
        image=spec.images[0] if spec.images else "",
        images=tuple(spec.images[1:]) if spec.images else (),
        hosts=hosts(addresses(spec.masters, "--masters"), addresses(spec.nodes, "--nodes"), ssh.settings()),
        ssh=ssh.settings(),
        env=values,
        commands=tuple(spec.cmds) if spec.cmds else None,
        app_names=tuple(part.strip() for word in apps for part in word.split(",") if part.strip()) if apps else None,
        external_registry=external_registry(spec.registry, asked.site),
        profile=known_profile(spec.profile),
    )
    found = request.effective(request.read(asked.file, values) if asked.file else None, flags)
    cluster = found.cluster
    assert cluster is not None
    external = cluster.external_registry
    site = _of_site(external) if external else None
    options = RunOptions(ssh.password(), site, timeout=asked.timeout, skip_checks=skipped)
    # What is wrong with passwords is told before an image is fetched.
    request.machines(found, options.password)
    if options.password is None:
        request.warn_of_passwords(found)

    def bring() -> None:
        collector = FaultCollector()
        for one in dict.fromkeys((cluster.image, *cluster.images, *(other.image or "" for other in found.apps))):
            with collector.of(one):
                fetch(one, asked.site)
                if site is not None:
                    _check_site(site, one, Path(external.ca) if external and external.ca else None)
        collector.finish()

    return found, options, bring


def known_profile(name: str | None) -> str | None:
    """The name of a profile as it was given. Raises UsageError, with those there are, for one that is none."""
    from harness.clusterfile import PROFILES

    if name is not None and name not in PROFILES:
        raise UsageError(f"--profile {name}: there is no such profile", hint=f"there are: {', '.join(PROFILES)}")
    return name


def external_registry(text: str | None, to: SiteAccess) -> ExternalRegistry | None:
    """``--registry`` as a Clusterfile has it."""
    if text is None:
        return None
    from harness.clusterfile import ExternalRegistry
    from harness.oci.registry.config import Site

    site = Site.parse(text)
    domain, _, port = site.host.partition(":") if site.host.count(":") < 2 else (site.host, "", "")
    return ExternalRegistry(domain, int(port) if port else None, site.path, plain_http=to.plain_http, ca=str(to.ca) if to.ca else None)


def _of_site(external: ExternalRegistry) -> OfSite:
    """The registry of the site, as nodes find it."""
    from harness.lifecycle.cluster.request import secret
    from harness.lifecycle.provision.registry import OfSite
    from harness.oci.registry.config import Site
    from harness.oci.registry.credentials import Credential, CredentialStore

    site = Site(external.host, external.path)
    faults: list[Fault] = []
    password = secret(external.password, "registry.externalRegistry.password", faults)
    if faults:
        raise InputError(faults)
    credential = Credential(external.username or "", password) if password is not None else CredentialStore().find(site.host, site.path)
    return OfSite(site, external.plain_http, existing(Path(external.ca)).read_bytes() if external.ca else None, credential)


def _check_site(site: OfSite, image: str, ca: Path | None) -> None:
    """Raises StoreError when the registry of the site lacks images that are within the image."""
    from harness import cloudimage
    from harness.transfer import mirror

    with connect(SiteAccess(site.plain, ca)) as client:
        absent = mirror.missing(cloudimage.read(local_store(), image), site.site, client)
    if absent:
        raise StoreError(
            f"{site.site} lacks {len(absent)} of the images within {image}: {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
            hint=f"slipway push {image} --expand {site.site}",
        )


@app.command()
def status(*, cluster: NamedCluster, access: NodesAccess, output: Json = "text") -> None:
    """Show the state of a cluster."""
    from harness.lifecycle import status as states

    as_json = wants_json(output)
    found = states.status(cluster.name, *access.members())
    print_json(found) if as_json else _show_status(found)


def _show_status(found: Mapping[str, Any]) -> None:
    health = "healthy" if found["healthy"] else "not healthy"
    say(f"{found['name']}  {health}, Kubernetes {found['kubernetes'] or 'does not answer'}")
    if found["image"]:
        say(f"image  {found['image']}  {short(found['digest'])}")
    if found["change"]:
        change = found["change"]
        say(f"{change['kind']}  to {change['to']}, begun at {change['since']}, has not come to its end")
    serving = sum(one["active"] for one in found["registry"])
    counts = [f"{counted['ready']} of {counted['total']} {kind}s" for kind, counted in found["workloads"].items()]
    say(f"ready  {', '.join(counts) or 'nothing'}; {serving} of {len(found['registry'])} registries{_balancers(found['balancers'])}\n")
    table(
        ("NODE", "ADDRESS", "ROLES", "READY", "VERSION", "RUNTIME"),
        [
            (
                one["name"],
                one["address"] or "-",
                ",".join(one["roles"]),
                "yes" if one["ready"] else "no",
                one["version"] or "-",
                one["runtime"] or "-",
            )
            for one in found["nodes"]
        ],
    )
    for problem in found["notReady"]:
        say(f"\n{problem['object']}: {problem['reason']}")
        for line in (*problem["events"], *problem["log"]):
            say(f"    {line}")
    for one in found["balancers"]:
        if not one["active"]:
            say(f"\n{one['address']}: nobody looks after its way to the masters: systemctl status slipway-balancer")
    for one in found["unreachable"]:
        say(f"\n{one['address']}: {one['reason']}")


def _balancers(found: Sequence[Mapping[str, Any]]) -> str:
    active = sum(one["active"] for one in found)
    kinds = " and ".join(sorted({one["kind"] for one in found}))
    return f", {active} of {len(found)} balancers ({kinds})" if found else ""


@app.command()
def delete(
    *,
    cluster: NamedCluster,
    access: NodesAccess,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget the cluster on this machine; its machines are gone.")] = False,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Remove a cluster and leave its machines as they were found. Data of its applications is lost."""
    from harness.lifecycle import delete as deleting

    as_json = wants_json(output)
    name = cluster.name
    if forget:
        was_known = deleting.forget(name)
        if as_json:
            print_json({"name": name, "forgotten": was_known})
        else:
            say(f"forgot {name}" if was_known else f"nothing to forget: no cluster {name} is known on this machine")
        return
    machines = access.members()
    work = deleting.prepare(name, *machines)
    if not yes:
        say(f"cluster {name} on {', '.join(node.address for node in work.ssh.nodes)}")
        confirmed("Delete it, with all data of its applications?")
    done = deleting.delete(name, *machines)
    if as_json:
        print_json(plain(done))
        return
    say(f"deleted {name}: {len(done.cleaned)} machines cleaned, {len(done.untouched)} untouched, {len(done.unreachable)} not reached")
    for address, reason in done.unreachable.items():
        say(f"  {address}: {reason}")
