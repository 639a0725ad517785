"""Clusters on machines."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.install import is_application, put
from harness.cli.output import Json, Yes, app, existing, pairs, plain, print_json, say, short, table, wants_json
from harness.cli.registry import Ca, PlainHttp, connect, fetch
from harness.clusterfile import PROFILES
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.oci.store import Store

File = Annotated[str | None, typer.Option("--file", "-f", help="A Clusterfile; - reads it from standard input.", show_default=False)]
WantedImage = Annotated[str | None, typer.Argument(help="The CloudImage.", show_default=False)]
WantedMasters = Annotated[
    list[str] | None,
    typer.Option(
        "--masters", "--master", "-m", help="Addresses, or ranges as 10.0.0.1-10.0.0.3.", metavar="IP[,IP...]", show_default=False
    ),
]
WantedNodes = Annotated[
    list[str] | None, typer.Option("--nodes", "--node", "-n", help="Addresses of the workers.", metavar="IP[,IP...]", show_default=False)
]
WantedUser = Annotated[
    str | None,
    typer.Option(
        "--user", "-u", help="The SSH user; it needs sudo without a password unless it is root.  [default: root]", show_default=False
    ),
]
WantedKey = Annotated[Path | None, typer.Option("--key", "--pk", help="The SSH key.  [default: the agent and ~/.ssh]", show_default=False)]
WantedPort = Annotated[int | None, typer.Option("--port", help="The SSH port.  [default: 22]", show_default=False)]
WantedName = Annotated[str | None, typer.Option("--name", help="The name of the cluster.  [default: default]", show_default=False)]
Passwd = Annotated[
    str | None,
    typer.Option(
        "--passwd", "-p", help="The SSH password: - asks for it; SLIPWAY_SSH_PASSWORD may hold it.", metavar="-", show_default=False
    ),
]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="A value for the image's templates.", metavar="NAME=VALUE", show_default=False)
]
Cmds = Annotated[list[str] | None, typer.Option("--cmds", help="A launch command instead of the image's.", show_default=False)]
OfSite = Annotated[
    str | None,
    typer.Option(
        "--registry",
        help="Use this registry, filled by `slipway push --expand`, instead of one in the cluster.",
        metavar="REGISTRY[/PATH]",
        show_default=False,
    ),
]
SkipCheck = Annotated[
    list[str] | None,
    typer.Option(
        "--skip-check", help="Continue even if these preflight checks fail; `slipway check --list` shows all.", metavar="ID[,ID...]",
        show_default=False,
    ),
]  # fmt: skip
WantedProfile = Annotated[
    str | None, typer.Option("--profile", help=f"Harden the cluster: {', '.join(PROFILES)}.", metavar="NAME", show_default=False)
]
Timeout = Annotated[float, typer.Option("--timeout", help="Seconds that workloads may take to become ready.")]
Apps = Annotated[
    list[str] | None,
    typer.Option("--apps", help="The applications to launch, instead of the image's choice.", metavar="APP[,APP...]", show_default=False),
]
Called = Annotated[
    str | None, typer.Option("--as", help="Application image: its name in the cluster.  [default: the image's]", show_default=False)
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="Application image: the kubeconfig of a cluster that slipway did not make.", show_default=False),
]
NoImages = Annotated[
    bool, typer.Option("--no-images", help="Application image: send no container images; the nodes have or can reach them.")
]


@app.command()
def run(
    image: WantedImage = None,
    file: File = None,
    masters: WantedMasters = None,
    nodes: WantedNodes = None,
    user: WantedUser = None,
    key: WantedKey = None,
    passwd: Passwd = None,
    port: WantedPort = None,
    env: Env = None,
    cmds: Cmds = None,
    name: WantedName = None,
    registry: OfSite = None,
    plain_http: PlainHttp = False,
    ca: Ca = None,
    skip_check: SkipCheck = None,
    profile: WantedProfile = None,
    timeout: Timeout = 600,
    apps: Apps = None,
    called: Called = None,
    kubeconfig: Kubeconfig = None,
    no_images: NoImages = False,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and change nothing.")] = False,
    output: Json = "text",
) -> None:
    """Create a cluster that runs the image on the given machines. The same command again finishes an interrupted run.

    A Clusterfile has more settings than there are options; an option wins over the file.

    An application image is installed into a running cluster, or updated there: --name says which one; --masters or --kubeconfig name one
    that is not known on this machine. `slipway apps` lists and removes applications.
    """
    from harness.lifecycle import plan as planning
    from harness.lifecycle import run as running

    as_json = wants_json(output)
    skipped = skipping(skip_check)
    options, bring = wanted(
        file, image, masters, nodes, user, key, passwd, port, env, cmds, name, registry, plain_http, ca, timeout, skipped, apps, profile
    )  # fmt: skip
    bring()
    if is_application(options.image):
        if profile:
            raise UsageError(f"--profile is for a cluster that is made, and {options.image} is an application image")
        named = name is not None or file is not None
        _put(options, nodes, called, kubeconfig, not no_images, named=named, plan=plan, as_json=as_json)
        return
    if called or kubeconfig or no_images:
        option = "--as" if called else "--kubeconfig" if kubeconfig else "--no-images"
        hint = "it makes machines a cluster: --masters IP"
        raise UsageError(f"{option} is for application images, and {options.image} brings Kubernetes", hint=hint)
    if plan:
        described = planning.describe(running.plan(running.prepare(options, Store.default())))
        described += [
            {"id": f"app-{one.name}", "title": f"put {one.image} in as {one.name}", "nodes": [], "after": ["record"]}
            for one in options.clusterfile.apps
        ]
        if as_json:
            print_json(described)
        else:
            table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])
        return
    summary = running.run(options, Store.default())
    print_json(plain(summary)) if as_json else tell(summary)


def _put(
    options: Any,
    nodes: Sequence[str] | None,
    called: str | None,
    kubeconfig: Path | None,
    bring: bool,
    *,
    named: bool,
    plan: bool,
    as_json: bool,
) -> None:
    """Put an application image into the cluster that options or a Clusterfile name."""
    from harness.lifecycle.apps.install import Request
    from harness.lifecycle.apps.target import Where

    if nodes:
        raise UsageError(f"{options.image} is an application image: it makes no nodes", hint="--name says which cluster it goes into")
    if options.masters and kubeconfig:
        raise UsageError("--masters and --kubeconfig name two clusters", hint="one of both")
    cluster = options.clusterfile.cluster
    request = Request.of(
        options.image,
        called,
        env=dict(options.env),
        commands=cluster.commands,
        parts=cluster.app_names,
        found=options.clusterfile,
        elsewhere=options.elsewhere,
        timeout=options.timeout,
    )
    login = options.masters[0].login if options.masters else options.login
    where = Where(options.name if named else None, options.masters, existing(kubeconfig) if kubeconfig else None, login, bring)
    put(request, where, plan=plan, as_json=as_json)


def tell(summary: Any) -> None:
    """What was made, and what took longest."""
    say(
        f"cluster {summary.name} runs {summary.image} on {len(summary.masters) + len(summary.nodes)} nodes, Kubernetes {summary.kubernetes}"
    )
    say(f"  made in {log.duration(summary.seconds)}, {log.size(summary.sent)} sent from here; the longest steps:")
    for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
        say(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
    say(f"  kubectl --kubeconfig {summary.kubeconfig} get pods -A")
    say("  slipway status" + (f" {summary.name}" if summary.name != "default" else ""))


def skipping(ids: Sequence[str] | None) -> frozenset[str]:
    """The checks of ``--skip-check``. Raises UsageError for one that is none."""
    if not ids:
        return frozenset()
    from harness.lifecycle.checks.preflight import gather

    return gather.skipping(ids)


def wanted(
    file: str | None,
    image: str | None,
    masters: Sequence[str] | None,
    nodes: Sequence[str] | None,
    user: str | None,
    key: Path | None,
    passwd: str | None,
    port: int | None,
    env: Sequence[str] | None,
    cmds: Sequence[str] | None,
    name: str | None,
    registry: str | None,
    plain_http: bool,
    ca: Path | None,
    timeout: float,
    skipped: frozenset[str] = frozenset(),
    apps: Sequence[str] | None = None,
    profile: str | None = None,
) -> tuple[Any, Callable[[], None]]:
    """What a Clusterfile and options ask for, and what brings the image, and looks whether a registry of the site has what is in it."""
    from harness.lifecycle import run as running
    from harness.lifecycle.cluster import request as clusterfiles

    values = pairs(env or [], "--env")
    given = clusterfiles.Given(
        image=image,
        masters=tuple(addresses(masters, "--masters")),
        nodes=tuple(addresses(nodes, "--nodes")),
        name=name,
        user=user,
        port=port,
        key=existing(key) if key else None,
        env=values,
        commands=tuple(cmds) if cmds else None,
        apps=tuple(part.strip() for word in apps for part in word.split(",") if part.strip()) if apps else None,
        registry=_registry(registry, plain_http, ca),
        profile=known_profile(profile),
    )
    found = clusterfiles.effective(clusterfiles.read(file, values) if file else None, given)
    external = found.cluster.external_registry if found.cluster else None
    site = _of_site(external) if external else None
    options = running.Options.of(found, password=_password(passwd), elsewhere=site, timeout=timeout)
    options = dataclasses.replace(options, skip_checks=skipped)

    def bring() -> None:
        for one in (options.image, *(other.image or "" for other in found.apps)):
            fetch(one, plain_http, ca)
            if site is not None:
                _check_site(site, one, Path(external.ca) if external and external.ca else None)

    return options, bring


def known_profile(name: str | None) -> str | None:
    """The name of a profile as it was given. Raises UsageError, with those there are, for one that is none."""
    if name is not None and name not in PROFILES:
        raise UsageError(f"--profile {name}: there is no such profile", hint=f"there are: {', '.join(PROFILES)}")
    return name


def _registry(text: str | None, plain_http: bool, ca: Path | None) -> Any:
    """``--registry`` as a Clusterfile has it."""
    if text is None:
        return None
    from harness.clusterfile import ExternalRegistry
    from harness.oci.registry.config import Site

    site = Site.parse(text)
    domain, _, port = site.host.partition(":") if site.host.count(":") < 2 else (site.host, "", "")
    return ExternalRegistry(domain, int(port) if port else None, site.path, plain_http=plain_http, ca=str(ca) if ca else None)


def _of_site(external: Any) -> Any:
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
    credential = Credential(external.username or "", password) if password is not None else CredentialStore().find(site.host)
    return OfSite(site, external.plain_http, existing(Path(external.ca)).read_bytes() if external.ca else None, credential)


def _check_site(site: Any, image: str, ca: Path | None) -> None:
    """Raises StoreError when the registry of the site lacks images that are within the image."""
    from harness import cloudimage
    from harness.transfer import mirror

    with connect(site.plain, False, ca, None, None) as client:
        absent = mirror.missing(cloudimage.read(Store.default(), image), site.site, client)
    if absent:
        raise StoreError(
            f"{site.site} lacks {len(absent)} of the images within {image}: {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
            hint=f"slipway push {image} --expand {site.site}",
        )


Name = Annotated[str, typer.Argument(help="The cluster.")]
Masters = Annotated[
    list[str] | None,
    typer.Option(
        "--masters",
        "--master",
        "-m",
        help="Its control-plane nodes, if the cluster is not known on this machine.",
        metavar="IP[,IP...]",
        show_default=False,
    ),
]
Nodes = Annotated[list[str] | None, typer.Option("--nodes", "--node", "-n", help="Its workers.", metavar="IP[,IP...]", show_default=False)]
User = Annotated[str, typer.Option("--user", "-u", help="The SSH user.")]
Key = Annotated[Path | None, typer.Option("--key", "--pk", help="The SSH key.", show_default=False)]
Port = Annotated[int, typer.Option(help="The SSH port.")]


@app.command()
def status(
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    output: Json = "text",
) -> None:
    """Show the state of a cluster."""
    from harness.lifecycle import status as states

    as_json = wants_json(output)
    found = states.status(name, *_members(masters, nodes, _login(user, port, key, None)))
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
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget the cluster on this machine; its machines are gone.")] = False,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Remove a cluster and leave its machines as they were found. Data of its applications is lost."""
    from harness.lifecycle import delete as deleting

    as_json = wants_json(output)
    if forget:
        say(f"forgot {name}" if deleting.forget(name) else f"nothing was known of {name}")
        return
    machines = _members(masters, nodes, _login(user, port, key, None))
    work = deleting.prepare(name, *machines)
    if not yes:
        say(f"cluster {name} on {', '.join(node.address for node in work.ssh.nodes)}")
        typer.confirm("Delete it, with all data of its applications?", abort=True)
    done = deleting.delete(name, *machines)
    if as_json:
        print_json(plain(done))
        return
    say(f"deleted {name}: {len(done.cleaned)} machines cleaned, {len(done.untouched)} untouched, {len(done.unreachable)} not reached")
    for address, reason in done.unreachable.items():
        say(f"  {address}: {reason}")


def _login(user: str, port: int, key: Path | None, passwd: str | None) -> Any:
    from harness.nodes import Login

    return Login(user=user, port=port, key=existing(key) if key else None, password=_password(passwd))


def _password(passwd: str | None) -> str | None:
    """The password of ``--passwd``, asked for or out of the environment. It is never shown from now on."""
    password = passwd
    if passwd == "-":  # noqa: S105 -- ask for it
        password = typer.prompt("SSH password", hide_input=True)
    elif passwd is None:
        password = os.environ.get("SLIPWAY_SSH_PASSWORD")
    else:
        # Taken all the same, for scripts that were written for sealer.
        log.warning(
            "--passwd VALUE: every user of this machine can read the password while the command runs, and it stays in the history of "
            "your shell; write --passwd - to be asked, set SLIPWAY_SSH_PASSWORD, or use passwdFile or passwdEnv in the Clusterfile"
        )
    log.hide(password)
    return password


def _machines(texts: Sequence[str] | None, login: Any, option: str) -> tuple[Any, ...]:
    """Addresses, comma lists and ranges as machines. Raises InputError with every address that is none."""
    from harness.nodes import Machine

    return tuple(Machine(address, login) for address in addresses(texts, option))


def addresses(texts: Sequence[str] | None, option: str) -> list[str]:
    """Addresses, comma lists and ranges one by one. Raises InputError with every address that is none."""
    faults: list[Fault] = []
    found: list[str] = []
    for text in (part.strip() for one in texts or () for part in one.split(",")):
        try:
            found += _range(text)
        except ValueError as error:
            faults.append(Fault(f"{option} {text}", str(error)))
    if faults:
        raise InputError(faults)
    return found


def _members(masters: Sequence[str] | None, nodes: Sequence[str] | None, login: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The masters and the workers that a command line names."""
    return _machines(masters, login, "--masters"), _machines(nodes, login, "--nodes")


def _range(text: str) -> list[str]:
    first, dash, last = text.partition("-")
    begin = ipaddress.ip_address(first.strip())
    if not dash:
        return [str(begin)]
    end = ipaddress.ip_address(last.strip())
    if begin.version != end.version or not 0 <= int(end) - int(begin) < 1024:
        raise ValueError("not a range of addresses")
    return [str(begin + step) for step in range(int(end) - int(begin) + 1)]
