"""The command line ``slipway``: one small function a verb. The only place that prints results or ends the process."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from harness import log
from harness.errors import Fault, InputError, SlipwayError, UsageError
from harness.oci.store import Store

# The base of what the parser raises, in click itself or in the copy of it that newer releases of typer carry.
_WrongUsage: type[Any] = typer.BadParameter.__mro__[2]

HELP = """Builds, tests, shares and runs cluster images: a whole distributed application, Kubernetes included, in one OCI artifact.

  slipway build -t web kubefiles/web                     build a CloudImage
  slipway inspect web                                    what is in it
  slipway run web --masters 10.0.0.1 --nodes 10.0.0.2    make a cluster that runs it
"""

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
nodes_app = typer.Typer(help="Make machines to run clusters on.", no_args_is_help=True)
engine_app = typer.Typer(help="The Docker engine of this machine.", no_args_is_help=True)
app.add_typer(nodes_app, name="nodes")
app.add_typer(engine_app, name="engine")

Json = Annotated[str, typer.Option("--output", "-o", help="text, or json for machines.", metavar="text|json", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    sys.exit(execute(list(sys.argv[1:] if arguments is None else arguments)))


def execute(arguments: list[str]) -> int:
    """Run a command line; the exit code. Everything that fails is said here, once, and never as a traceback."""
    # A service manager's stop is as good a reason to clean up as Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    try:
        found = app(arguments, standalone_mode=False, prog_name="slipway")
    except _WrongUsage as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        found = 130
    except SlipwayError as error:
        return _explain(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _explain(SlipwayError(f"{error.filename or 'system'}: {error.strerror or error}"))
    except Exception as error:  # a user never sees a traceback; --verbose shows where it was
        if log.is_verbose():
            raise
        return _explain(
            SlipwayError(
                f"this should not have happened: {type(error).__name__}: {error}",
                hint="run it again with --verbose and report what it says",
            )
        )
    if found == 130:
        return _fail("interrupted; what was begun has been removed, the same command can be run again", 130)
    return int(found or 0)


def _fail(text: str, code: int) -> int:
    print(f"slipway: {text}", file=sys.stderr)
    return code


def _explain(error: SlipwayError) -> int:
    if isinstance(error, InputError):
        count = len(error.faults)
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return _fail(f"{count} fault{'s' if count != 1 else ''} in the input; nothing has been changed", error.exit_code)
    print(f"slipway: {error.message}", file=sys.stderr)
    if error.details:
        print(textwrap.indent(error.details.rstrip(), "    "), file=sys.stderr)
    if error.hint:
        print(f"  hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _wants_json(output: str) -> bool:
    if output not in ("text", "json"):
        raise UsageError(f"--output {output}: not a format", hint="text or json")
    return output == "json"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns without lines; never wrapped, so that other programs can cut them."""
    console = Console()
    if not console.is_terminal:
        _plain_table(columns, rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """``K=V`` options as a mapping. Raises InputError for one without a name or a value."""
    faults = [
        Fault(f"{option} {value}", "not NAME=VALUE") for value in values if not value.partition("=")[1] or not value.partition("=")[0]
    ]
    if faults:
        raise InputError(faults)
    return {name: value for name, _, value in (value.partition("=") for value in values)}


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


@app.callback()
def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every command and request.")] = False,
) -> None:
    log.setup(quiet=quiet, verbose=verbose)


@app.command()
def version() -> None:
    """Show the version."""
    from importlib import metadata

    print(f"slipway {metadata.version('slipway')}")


# Images


@app.command()
def build(
    context: Annotated[Path, typer.Argument(help="The folder that COPY and APP take files from.", show_default=False)],
    tag: Annotated[
        str | None, typer.Option("--tag", "-t", help="The name of the image.  [default: the folder's name]", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="The Kubefile.  [default: CONTEXT/Kubefile]", show_default=False)
    ] = None,
    platform: Annotated[
        str | None, typer.Option(help="What the image is for, as linux/arm64.  [default: this machine]", show_default=False)
    ] = None,
    build_arg: Annotated[
        list[str] | None, typer.Option("--build-arg", help="A value for an ARG.", metavar="NAME=VALUE", show_default=False)
    ] = None,
    image_list: Annotated[Path | None, typer.Option(help="A file with more container images, one a line.", show_default=False)] = None,
    discover: Annotated[
        str, typer.Option(help="How container images are found: pulled (by running), declared (by reading), or both.")
    ] = "pulled,declared",
    cluster: Annotated[str, typer.Option(help="What runs the image to discover: kind or container.")] = "kind",
    settle: Annotated[float, typer.Option(help="Seconds without change after which workloads count as settled.")] = 5,
    timeout: Annotated[float, typer.Option(help="Seconds that workloads may take to become ready.")] = 600,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do every step again.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the throw-away cluster running, to look into it.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only read the Kubefile and show what would be done.")] = False,
    output: Json = "text",
) -> None:
    """Build a CloudImage from a Kubefile: layers, and every container image that a run of it pulls."""
    from harness import build as building
    from harness.oci.model import Platform

    as_json = _wants_json(output)
    _one_of(cluster, building.CLUSTERS, "--cluster")
    modes = tuple(sorted({_one_of(mode.strip(), ("pulled", "declared"), "--discover") for mode in discover.split(",") if mode.strip()}))
    options = building.Options(
        context=_existing(context), tag=tag or context.resolve().name, file=file, platform=platform or str(Platform.host()),
        build_args=_pairs(build_arg or [], "--build-arg"), image_list=_existing(image_list) if image_list else None,
        cluster=cluster, discover=modes, settle=settle, timeout=timeout, use_cache=not no_cache, keep=keep,
    )  # fmt: skip
    _platform(options.platform)
    if check:
        plan = building.check(options)
        _print_json(plan) if as_json else _show_plan(plan)
        return
    built = building.build(options, Store.default())
    if as_json:
        from harness import cloudimage

        _print_json(
            {
                **cloudimage.describe(built.image),
                "cached": built.cached,
                "booted": built.booted,
                "undeclared": built.undeclared,
                "unpulled": built.unpulled,
            }
        )
        return
    _show_built(built, options.tag)


def _one_of(value: str, known: Iterable[str], option: str) -> str:
    if value not in known:
        raise UsageError(f"{option} {value}: not known", hint=f"one of {', '.join(known)}")
    return value


def _platform(text: str) -> None:
    from harness.oci.model import Platform

    try:
        Platform.parse(text)
    except ValueError as error:
        raise UsageError(f"--platform {text}: {error}") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    return path


def _show_built(built: Any, tag: str) -> None:
    part = built.image.platforms[0]
    name = built.image.name or tag
    print(f"{name}  {built.image.digest}")
    kubernetes = f", Kubernetes {part.info.kubernetes}" if part.info.kubernetes else ""
    print(f"  {log.size(built.image.size)}, {len(part.images.images)} container images, {part.info.type} image{kubernetes}")
    for image in built.undeclared:
        print(f"  pulled, but declared in no file: {image}")
    for image in built.unpulled:
        print(f"  declared, but not pulled by the run: {image}")
    if built.cached:
        print("  nothing had changed")


def _show_plan(plan: Mapping[str, Any]) -> None:
    print(f"base      {plan['base']}")
    print(f"platform  {plan['platform']}")
    for step in plan["steps"]:
        print(f"{step['line']:>8}  {step['text']}")
    for application in plan["apps"]:
        print(f"app       {application['name']} ({application['kind']})")
    for command in plan["launch"]:
        print(f"launch    {command}")
    for image in plan["images"]:
        print(f"image     {image if isinstance(image, str) else image['name']}")


@app.command()
def images(output: Json = "text") -> None:
    """List the CloudImages of the local store."""
    import dataclasses

    from harness import cloudimage

    rows = cloudimage.images(Store.default())
    if _wants_json(output):
        _print_json([dataclasses.asdict(row) for row in rows])
        return
    _table(
        ("NAME", "DIGEST", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"),
        [
            (
                row.name,
                _short(row.digest),
                ",".join(row.platforms),
                row.kubernetes or "-",
                str(row.images),
                row.problem or log.size(row.size),
            )
            for row in rows
        ],
    )


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help="A name, a digest, or the beginning of one.", show_default=False)], output: Json = "text"
) -> None:
    """Show what is in a CloudImage: how it runs, its layers, and each embedded image under its original name."""
    from harness import cloudimage

    store = Store.default()
    image = cloudimage.read(store, name)
    if _wants_json(output):
        _print_json(cloudimage.describe(image))
        return
    for part in image.platforms:
        info = part.info
        print(f"{image.name or name}  {image.digest}")
        print(f"platform    {part.platform}")
        print(f"type        {info.type}" + (f", Kubernetes {info.kubernetes} ({info.runtime})" if info.kubernetes else ""))
        if info.base:
            print(f"base        {info.base['reference']}  {_short(info.base['digest'])}")
        for key, value in info.env.items():
            print(f"env         {key}={value}")
        for application in info.apps:
            print(f"app         {application.name} ({application.kind})")
        for command in info.launch:
            print(f"launch      {command}")
        rootfs = f"{len(part.layers)} layers of rootfs with {log.size(sum(one.size for one in part.layers))}"
        print(f"size        {log.size(image.size)} in all, {rootfs}\n")
        sizes = cloudimage.content_sizes(store, part.images)
        _table(
            ("IMAGE", "DIGEST", "SIZE", "FOUND BY", "ASKED FOR BY"),
            [
                (one.name, _short(one.digest), log.size(sizes[one.name]), "+".join(one.found_by), _several(one.requested_by))
                for one in part.images.images
            ],
        )


def _several(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "-"


@app.command()
def history(name: Annotated[str, typer.Argument(show_default=False)], output: Json = "text") -> None:
    """Show the steps that made a CloudImage, with the size of each layer."""
    import dataclasses

    from harness import cloudimage

    rows = cloudimage.history(cloudimage.read(Store.default(), name))
    if _wants_json(output):
        _print_json([dataclasses.asdict(row) for row in rows])
        return
    _table(
        ("LAYER", "SIZE", "STEP"),
        [(_short(row.layer) if row.layer else "-", log.size(row.size) if row.layer else "-", row.created_by) for row in rows],
    )


@app.command()
def tag(
    source: Annotated[str, typer.Argument(show_default=False)], names: Annotated[list[str], typer.Argument(show_default=False)]
) -> None:
    """Give a CloudImage more names."""
    from harness import cloudimage

    for name in names:
        cloudimage.tag(Store.default(), source, name)


@app.command()
def rmi(names: Annotated[list[str], typer.Argument(show_default=False)]) -> None:
    """Remove names, and the blobs that no other name needs."""
    from harness import cloudimage

    removed, freed = cloudimage.remove(Store.default(), names)
    for name in removed:
        print(f"untagged {name}")
    print("blobs stay for now: the store is in use" if freed.busy else f"freed {log.size(freed.bytes)}")


@app.command()
def prune(
    cache: Annotated[bool, typer.Option("--cache", help="Also forget build steps and discoveries.")] = False, output: Json = "text"
) -> None:
    """Remove what no image and no cached build step needs."""
    store = Store.default()
    if cache:
        store.forget()
    freed = store.collect()
    if _wants_json(output):
        _print_json(freed._asdict())
    else:
        print("nothing removed: the store is in use" if freed.busy else f"removed {freed.blobs} blobs, freed {log.size(freed.bytes)}")


@app.command()
def save(
    names: Annotated[list[str], typer.Argument(show_default=False)],
    file: Annotated[Path, typer.Option("--file", "-f", help="The archive to write; - for standard output.", show_default=False)],
) -> None:
    """Write CloudImages into one file: a standard OCI archive, each blob once."""
    from harness.oci import archive

    with log.step(f"save {', '.join(names)}") as shown:
        written = archive.save(Store.default(), names, sys.stdout.buffer if str(file) == "-" else file)
        shown.note = log.size(written)


@app.command()
def load(
    file: Annotated[Path, typer.Option("--file", "-f", help="The archive to read; - for standard input.", show_default=False)],
) -> None:
    """Take the CloudImages of an archive into the store; nothing is visible before all of it is verified."""
    from harness.oci import archive

    with log.step(f"load {file}"):
        found = archive.load(Store.default(), sys.stdin.buffer if str(file) == "-" else _existing(file))
    for name, descriptor in sorted(found.items()):
        print(f"{name}  {descriptor.digest}")


# Clusters


@app.command()
def run(
    image: Annotated[str, typer.Argument(help="The CloudImage.", show_default=False)],
    masters: Annotated[
        list[str] | None,
        typer.Option(
            "--masters", "--master", "-m", help="Addresses, or ranges as 10.0.0.1-10.0.0.3.", metavar="IP[,IP...]", show_default=False
        ),
    ] = None,
    nodes: Annotated[
        list[str] | None,
        typer.Option("--nodes", "--node", "-n", help="Addresses of the workers.", metavar="IP[,IP...]", show_default=False),
    ] = None,
    user: Annotated[str, typer.Option("--user", "-u", help="Who we are on the machines: root, or somebody with sudo.")] = "root",
    key: Annotated[
        Path | None, typer.Option("--key", "--pk", help="The SSH key.  [default: the agent's and yours]", show_default=False)
    ] = None,
    passwd: Annotated[str | None, typer.Option("--passwd", "-p", help="The SSH password; - asks for it.", show_default=False)] = None,
    port: Annotated[int, typer.Option(help="The SSH port.")] = 22,
    env: Annotated[
        list[str] | None, typer.Option("--env", "-e", help="A value for the image's templates.", metavar="NAME=VALUE", show_default=False)
    ] = None,
    cmds: Annotated[list[str] | None, typer.Option("--cmds", help="A launch command in place of the image's.", show_default=False)] = None,
    name: Annotated[str, typer.Option(help="The name of the cluster.")] = "default",
    timeout: Annotated[float, typer.Option(help="Seconds that workloads may take to become ready.")] = 600,
    plan: Annotated[bool, typer.Option("--plan", help="Show the steps and touch nothing.")] = False,
    output: Json = "text",
) -> None:
    """Make machines a cluster that runs the image. The same command again finishes what was interrupted."""
    from harness.lifecycle import plan as planning
    from harness.lifecycle import run as running

    as_json = _wants_json(output)
    login = _login(user, port, key, passwd)
    options = running.Options(
        image=image, masters=_machines(masters, login, "--masters"), nodes=_machines(nodes, login, "--nodes"), name=name,
        env=_pairs(env or [], "--env"), commands=tuple(cmds) if cmds else None, timeout=timeout,
    )  # fmt: skip
    if plan:
        described = planning.describe(running.plan(running.prepare(options, Store.default())))
        if as_json:
            _print_json(described)
        else:
            _table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])
        return
    summary = running.run(options, Store.default())
    if as_json:
        _print_json(_plain(summary))
        return
    print(
        f"cluster {summary.name} runs {summary.image} on {len(summary.masters) + len(summary.nodes)} nodes, Kubernetes {summary.kubernetes}"
    )
    print(f"  made in {log.duration(summary.seconds)}; the longest steps:")
    for step in sorted((one for one in log.finished if one.seconds), key=lambda one: -(one.seconds or 0))[:5]:
        print(f"    {log.duration(step.seconds or 0):>10}  {step.title}")
    print(f"  kubectl --kubeconfig {summary.kubeconfig} get pods -A")
    print("  slipway status" + (f" {summary.name}" if summary.name != "default" else ""))


Name = Annotated[str, typer.Argument(help="The cluster.")]
Masters = Annotated[
    list[str] | None,
    typer.Option(
        "--masters", "--master", "-m", help="Its masters, when this machine knows nothing of it.", metavar="IP[,IP...]", show_default=False
    ),
]
Nodes = Annotated[list[str] | None, typer.Option("--nodes", "--node", "-n", help="Its workers.", metavar="IP[,IP...]", show_default=False)]
User = Annotated[str, typer.Option("--user", "-u", help="Who we are on the machines.")]
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
    """Show how a cluster is."""
    from harness.lifecycle import status as states

    as_json = _wants_json(output)
    found = states.status(name, *_members(masters, nodes, _login(user, port, key, None)))
    _print_json(found) if as_json else _show_status(found)


def _show_status(found: Mapping[str, Any]) -> None:
    health = "healthy" if found["healthy"] else "not healthy"
    print(f"{found['name']}  {health}, Kubernetes {found['kubernetes'] or 'does not answer'}")
    if found["image"]:
        print(f"image  {found['image']}  {_short(found['digest'])}")
    serving = sum(one["active"] for one in found["registry"])
    counts = [f"{counted['ready']} of {counted['total']} {kind}s" for kind, counted in found["workloads"].items()]
    print(f"ready  {', '.join(counts) or 'nothing'}; {serving} of {len(found['registry'])} registries\n")
    _table(
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
        print(f"\n{problem['object']}: {problem['reason']}")
        for line in (*problem["events"], *problem["log"]):
            print(f"    {line}")
    for one in found["unreachable"]:
        print(f"\n{one['address']}: {one['reason']}")


@app.command()
def check(
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    pre: Annotated[bool, typer.Option("--pre", help="Look whether machines are fit to become a cluster; changes nothing.")] = False,
    image: Annotated[str | None, typer.Option(help="With --pre: the image that is to run.", show_default=False)] = None,
    output: Json = "text",
) -> None:
    """Check a running cluster, or with --pre machines that are to become one. Ends with 7 when something does not hold."""
    from harness.errors import CheckError
    from harness.lifecycle import run as running
    from harness.lifecycle import status as states

    as_json = _wants_json(output)
    machines = _members(masters, nodes, _login(user, port, key, None))
    if pre:
        if image is None:
            raise UsageError("--pre needs to know what is to run", hint="--image NAME")
        running.check(running.Options(image=image, masters=machines[0], nodes=machines[1], name=name), Store.default())
        _print_json({"fit": True}) if as_json else print("the machines are fit")
        return
    found = states.status(name, *machines)
    _print_json(found) if as_json else _show_status(found)
    if not found["healthy"]:
        count = len(found["notReady"]) + len(found["unreachable"])
        raise CheckError(f"the cluster {name} is not healthy: {count or 'some'} things do not hold")


@app.command()
def delete(
    name: Name = "default",
    masters: Masters = None,
    nodes: Nodes = None,
    user: User = "root",
    key: Key = None,
    port: Port = 22,
    forget: Annotated[bool, typer.Option("--forget", help="Only forget it here: its machines are gone.")] = False,
    yes: Yes = False,
    output: Json = "text",
) -> None:
    """Take a cluster off its machines and leave them as they were found. Data of its applications is lost."""
    from harness.lifecycle import delete as deleting

    as_json = _wants_json(output)
    if forget:
        print(f"forgot {name}" if deleting.forget(name) else f"nothing was known of {name}")
        return
    machines = _members(masters, nodes, _login(user, port, key, None))
    work = deleting.prepare(name, *machines)
    if not yes:
        print(f"cluster {name} on {', '.join(node.address for node in work.ssh.nodes)}")
        typer.confirm("Delete it, with all data of its applications?", abort=True)
    done = deleting.delete(name, *machines)
    if as_json:
        _print_json(_plain(done))
        return
    print(f"deleted {name}: {len(done.cleaned)} machines cleaned, {len(done.untouched)} untouched, {len(done.unreachable)} not reached")
    for address, reason in done.unreachable.items():
        print(f"  {address}: {reason}")


def _plain(value: Any) -> Any:
    """A dataclass as JSON values; paths as text."""
    import dataclasses

    return json.loads(json.dumps(dataclasses.asdict(value), default=str))


def _login(user: str, port: int, key: Path | None, passwd: str | None) -> Any:
    from harness.nodes import Login

    password = passwd
    if passwd == "-":  # noqa: S105 -- ask for it
        password = typer.prompt("SSH password", hide_input=True)
    elif passwd is None:
        password = os.environ.get("SLIPWAY_SSH_PASSWORD")
    else:
        log.warning("--passwd stays in the history of your shell; write --passwd - to be asked, or set SLIPWAY_SSH_PASSWORD")
    return Login(user=user, port=port, key=_existing(key) if key else None, password=password)


def _machines(texts: Sequence[str] | None, login: Any, option: str) -> tuple[Any, ...]:
    """Addresses, comma lists and ranges as machines. Raises InputError with every address that is none."""
    from harness.nodes import Machine

    faults: list[Fault] = []
    found: list[str] = []
    for text in (part.strip() for one in texts or () for part in one.split(",")):
        try:
            found += _range(text)
        except ValueError as error:
            faults.append(Fault(f"{option} {text}", str(error)))
    if faults:
        raise InputError(faults)
    return tuple(Machine(address, login) for address in found)


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


# Machines


@nodes_app.command("up")
def nodes_up(
    masters: Annotated[int, typer.Option("--masters", "-m", min=0, help="How many are to be masters.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", "-n", min=0, help="How many are to be workers.")] = 0,
    name: Annotated[str, typer.Option(help="The name of the group.")] = "default",
    provider: Annotated[str, typer.Option(help="What makes them: container.")] = "container",
    output: Json = "text",
) -> None:
    """Boot machines on a network without a way out, ready for `slipway run`."""
    as_json = _wants_json(output)
    group = _provider(provider).up(name, masters, nodes)
    _show_group(group, as_json)


@nodes_app.command("down")
def nodes_down(name: Annotated[str, typer.Argument()] = "default", provider: Annotated[str, typer.Option()] = "container") -> None:
    """Remove a group of machines, their disks, network and keys."""
    print(f"removed {name}" if _provider(provider).down(name) else f"there were no nodes named {name}")


@nodes_app.command("list")
def nodes_list(provider: Annotated[str, typer.Option()] = "container", output: Json = "text") -> None:
    """List the machines that exist."""
    groups = _provider(provider).list()
    if _wants_json(output):
        _print_json([_group_json(group) for group in groups])
        return
    _table(
        ("GROUP", "NAME", "ROLE", "ADDRESS"),
        [(group.name, made.name, made.role, made.address) for group in groups for made in group.members],
    )


def _provider(name: str) -> Any:
    from harness import engine
    from harness.images import Builder, bundled
    from harness.nodes.container import IMAGE, ContainerProvider
    from harness.oci.reference import Reference

    _one_of(name, ("container",), "--provider")
    client = engine.connect()
    Builder(Store.default(), tuple(bundled())).engine_image(client, Reference.parse(IMAGE))
    return ContainerProvider(client)


def _group_json(group: Any) -> dict[str, Any]:
    members = [{"name": made.name, "address": made.address, "role": made.role} for made in group.members]
    return {"name": group.name, "provider": group.provider, "user": group.login.user, "key": str(group.login.key), "nodes": members}


def _show_group(group: Any, as_json: bool) -> None:
    if as_json:
        _print_json(_group_json(group))
        return
    _table(("NAME", "ROLE", "ADDRESS"), [(made.name, made.role, made.address) for made in group.members])
    masters = ",".join(machine.address for machine in group.masters)
    workers = ",".join(machine.address for machine in group.nodes)
    print(f"\nkey  {group.login.key}\n")
    print(f"slipway run IMAGE --masters {masters}" + (f" --nodes {workers}" if workers else "") + f" --user root --key {group.login.key}")


@engine_app.command("repair")
def engine_repair(yes: Yes = False) -> None:
    """Restart the running engine with a runtime for machines that lack capabilities. Containers are stopped by that."""
    from harness import engine

    if not yes:
        typer.confirm("This restarts the Docker engine and stops what runs in it. Go on?", abort=True)
    engine.repair()


if __name__ == "__main__":
    main()
