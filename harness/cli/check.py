"""Whether machines are fit for a cluster, and whether a cluster works."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import log
from harness.cli.clusters import File, Masters, Nodes, Passwd, _login, _members, wanted
from harness.cli.output import Json, app, print_json, say, table, wants_json
from harness.errors import UsageError
from harness.oci.store import Store

CIS = "cis"


@app.command()
def check(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"The cluster; with --post, {CIS} or {CIS} NAME: check against the CIS benchmark.  [default: default]",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
    pre: Annotated[bool, typer.Option("--pre", help="Run the preflight checks on machines; changes nothing.")] = False,
    post: Annotated[bool, typer.Option("--post", help="Check that a running cluster is healthy (default).")] = False,
    file: File = None,
    image: Annotated[str | None, typer.Option(help="With --pre: the image that is to run.", show_default=False)] = None,
    masters: Masters = None,
    nodes: Nodes = None,
    user: Annotated[str | None, typer.Option("--user", "-u", help="The SSH user.  [default: root]", show_default=False)] = None,
    key: Annotated[Path | None, typer.Option("--key", "--pk", help="The SSH key.", show_default=False)] = None,
    passwd: Passwd = None,
    port: Annotated[int | None, typer.Option(help="The SSH port.  [default: 22]", show_default=False)] = None,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", "-e", help="With --pre: a value for the image's templates.", metavar="NAME=VALUE", show_default=False),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="A check that may fail; `--list` shows all.", metavar="ID[,ID...]", show_default=False)
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show passed checks as well.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List all checks with their purpose.")] = False,
    output: Json = "text",
) -> None:
    """Check machines before a run (--pre), or a running cluster. Exits with 7 if a check fails.

    \b
      slipway check --pre -f Clusterfile
      slipway check --pre --image web --masters 10.0.0.1-10.0.0.3 --nodes 10.0.0.4 --skip swap
      slipway check
      slipway check --post cis
    """
    as_json = wants_json(output)
    if pre and post:
        raise UsageError("--pre and --post are two things", hint="one after the other")
    name, secured = _asked(words or (), post)
    if listing:
        _list(pre, post, secured, as_json)
        return
    from harness.lifecycle.checks import findings

    if pre:
        report = _pre(name, file, image, masters, nodes, user, key, passwd, port, env, skip)
        what = "the machines are not fit"
    else:
        if file or image or env:
            raise UsageError("--file, --image and --env are for machines before a run", hint="slipway check --pre -f Clusterfile")
        from harness.lifecycle.checks import postflight

        way = _members(masters, nodes, _login(user or "root", port or 22, key, passwd))
        report = (postflight.against_cis if secured else postflight.post)(name or "default", *way, skip=skip or ())
        what = f"the cluster {report.name} {'is not as the CIS benchmark wants it' if secured else 'does not work as it should'}"
    if as_json:
        found = {"name": report.name, **findings.to_json(report.findings, report.checks, report.names)}
        print_json({**found, "seconds": round(report.seconds, 1)})
    else:
        _show(report, show_all)
    findings.verdict(report.findings, what)


def _asked(words: Sequence[str], post: bool) -> tuple[str | None, bool]:
    """The name of the cluster, where one is given, and whether it is held against the CIS benchmark."""
    secured = post and CIS in words
    at = words.index(CIS) if secured else len(words)
    names = [*words[:at], *words[at + 1 :]]
    if len(names) > 1:
        raise UsageError(
            f"{' '.join(names)}: one cluster at a time", hint=f"slipway check {names[0]}; slipway check --post {CIS} {names[0]}"
        )
    return (names[0] if names else None), secured


def _pre(
    name: str | None,
    file: str | None,
    image: str | None,
    masters: list[str] | None,
    nodes: list[str] | None,
    user: str | None,
    key: Path | None,
    passwd: str | None,
    port: int | None,
    env: list[str] | None,
    skip: list[str] | None,
) -> Any:
    from harness.lifecycle import check as checking
    from harness.lifecycle import run as running

    if not file and not image:
        if not masters and not nodes:
            raise UsageError("no machine is named", hint="--masters 10.0.0.1 --nodes 10.0.0.2, or -f Clusterfile")
        way = _members(masters, nodes, _login(user or "root", port or 22, key, passwd))
        return checking.pre(*way, name=name or "default", skip=skip or ())
    options, _ = wanted(file, image, masters, nodes, user, key, passwd, port, env, None, name, None, False, None, 600)
    setup = running.prepare(options, Store.default())
    return checking.pre(options.masters, options.nodes, name=options.name, setup=setup, skip=skip or ())


def _list(pre: bool, post: bool, secured: bool, as_json: bool) -> None:
    from harness.lifecycle.checks import postflight, preflight
    from harness.lifecycle.checks.postflight import cis

    groups = [("pre", preflight.CHECKS)] * (not post) + [("post", postflight.CHECKS)] * (not pre)
    groups = [(CIS, cis.CHECKS)] if secured else groups
    entries = [{"when": when, "id": one.id, "title": one.title, "for": one.why, "canBeSkipped": not one.needed}
               for when, checks in groups for one in checks.values()]  # fmt: skip
    if as_json:
        print_json(entries)
    else:
        table(("WHEN", "CHECK", "FOR"), [(str(one["when"]), str(one["id"]), str(one["for"])) for one in entries])


def _show(report: Any, everything: bool) -> None:
    """One line for what is the same in many places, and what to do about it below."""
    from harness.lifecycle.checks import findings

    groups = [group for group in findings.group(report.findings) if everything or group.seen.result is not findings.Result.OK]
    width = max((len(group.check) for group in groups), default=0)
    for group in groups:
        say(f"{group.seen.result.value:<8} {group.check:<{width}}  {findings.addresses(group.where)}: {group.seen.text}")
        if group.seen.remedy and group.seen.result is not findings.Result.OK:
            say(f"{'':<8} {'':<{width}}  hint: {group.seen.remedy}")
    if groups:
        say()
    counts = findings.to_json(report.findings, report.checks, report.names)["counts"]
    said = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    machines = len({finding.where for finding in report.findings})
    say(f"{sum(counts.values())} checks, {machines} place{'s' if machines > 1 else ''}: {said} ({log.duration(report.seconds)})")
