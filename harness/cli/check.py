"""Checks of machines before a run, and of clusters that run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness import log
from harness.cli import completion
from harness.cli.cluster_options import ClusterOptions, wanted
from harness.cli.options import (
    CONTROL_PLANE_ALIASES,
    WORKER_ALIASES,
    Clusterfile,
    ClusterFlags,
    ClusterOption,
    Env,
    Output,
    SiteAccess,
    SkipCheck,
    Ssh,
    argument,
    image_option,
    machine_groups,
    machines,
)
from harness.cli.output import local_store, say, table
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.lifecycle.checks.findings import Report
    from harness.nodes import Machine

CIS = "cis"


@app.command()
def check(
    *,
    words: Annotated[
        list[str] | None,
        argument(
            help=f"The cluster; with --post, {CIS} or {CIS} NAME: check against the CIS benchmark.  [default: default]",
            metavar="NAME",
            complete=completion.clusters,
        ),
    ] = None,
    cluster: ClusterOption = None,
    pre: Annotated[bool, typer.Option("--pre", help="Run the preflight checks on machines; changes nothing.")] = False,
    post: Annotated[bool, typer.Option("--post", help="Check that a running cluster is healthy (default).")] = False,
    file: Clusterfile = None,
    image: Annotated[str | None, image_option("--image", help="With --pre: the image that is to run.")] = None,
    control_plane: Annotated[
        list[str] | None,
        machines("--control-plane", help="Its control-plane nodes, or with --pre the machines that are to become some."),
        CONTROL_PLANE_ALIASES,
    ] = None,
    workers: Annotated[list[str] | None, machines("--workers", help="Its workers."), WORKER_ALIASES] = None,
    ssh: Ssh,
    env: Env = None,
    skip_check: SkipCheck = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show passed checks as well.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="List all checks with their purpose.")] = False,
    report_file: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="With --post: write a page (HTML) with every check, its outcome and what was seen."),
    ] = None,
    output: Output,
) -> None:
    """Check machines before a run (--pre), or a running cluster. Exits with 7 if a check fails.

    \b
      slipway check --pre -f Clusterfile
      slipway check --pre --image web --control-plane 10.0.0.1-10.0.0.3 --workers 10.0.0.4 --skip-check swap
      slipway check
      slipway check --post cis
      slipway check --post cis --report shop.html
    """
    if pre and post:
        raise UsageError("--pre and --post are two things", hint="one after the other")
    name, secured = _asked(words or (), cluster, post)
    if report_file and (pre or listing):
        raise UsageError("--report is about a cluster that runs", hint="slipway check --post --report FILE")
    if listing:
        _list(pre, post, secured, output)
        return
    from harness.lifecycle.checks import findings

    if pre:
        report = _pre(ClusterFlags([image] if image else None, control_plane, workers, name, env), file, ssh, skip_check)
        what = "the machines are not fit"
    else:
        if file or image or env:
            raise UsageError("--file, --image and --env are for machines before a run", hint="slipway check --pre -f Clusterfile")
        from harness.lifecycle.checks import postflight

        way = _members(control_plane, workers, ssh, name or "default")
        if report_file:
            from harness.report import page

            page.prepare(report_file)
        report = (postflight.against_cis if secured else postflight.post)(name or "default", *way, skip=skip_check or ())
        what = f"the cluster {report.name} {'is not as the CIS benchmark wants it' if secured else 'does not work as it should'}"
    if report_file:
        from harness.lifecycle import check_report

        page.write(check_report.document(report, cis=secured), report_file)
    document = {"name": report.name, **findings.to_json(report.findings, report.checks, report.names)}
    if not output.printed({**document, "seconds": round(report.seconds, 1)}):
        _show(report, show_all)
    findings.require_healthy(report.findings, what)


def _asked(words: Sequence[str], cluster: str | None, post: bool) -> tuple[str | None, bool]:
    """The name of the cluster, where one is given, and whether it is held against the CIS benchmark."""
    secured = post and CIS in words
    at = words.index(CIS) if secured else len(words)
    names = [*words[:at], *words[at + 1 :], *([cluster] if cluster else [])]
    if len(set(names)) > 1:
        raise UsageError(
            f"{' '.join(names)}: one cluster at a time", hint=f"slipway check {names[0]}; slipway check --post {CIS} {names[0]}"
        )
    return (names[0] if names else None), secured


def _members(
    control_plane: Sequence[str] | None, workers: Sequence[str] | None, ssh: Ssh, cluster: str | None
) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    first, others = machine_groups(ssh.login(), cluster, (control_plane, "--control-plane"), (workers, "--workers"))
    return first, others


def _pre(spec: ClusterFlags, file: str | None, ssh: Ssh, skip: Sequence[str] | None) -> Report:
    from harness.lifecycle import check as lifecycle_check
    from harness.lifecycle import run as lifecycle_run

    if not file and not spec.images:
        if not spec.control_plane and not spec.workers:
            raise UsageError("no machine is named", hint="--control-plane 10.0.0.1 --workers 10.0.0.2, or -f Clusterfile")
        return lifecycle_check.pre(
            *_members(spec.control_plane, spec.workers, ssh, spec.cluster or "default"), name=spec.cluster or "default", skip=skip or ()
        )
    clusterfile, options, _ = wanted(ClusterOptions(spec=spec, file=file, ssh=ssh, site=SiteAccess()))
    prepared = lifecycle_run.prepare(clusterfile, local_store(), options).spec
    control_plane, workers = (tuple(node.machine for node in group) for group in (prepared.control_plane, prepared.workers))
    return lifecycle_check.pre(control_plane, workers, name=prepared.name, spec=prepared, skip=skip or ())


def _list(pre: bool, post: bool, secured: bool, output: Output) -> None:
    from harness.lifecycle.checks import postflight, preflight
    from harness.lifecycle.checks.postflight import cis

    groups = [("pre", preflight.CHECKS)] * (not post) + [("post", postflight.CHECKS)] * (not pre)
    groups = [(CIS, cis.CHECKS)] if secured else groups
    entries = [{"when": when, "id": one.id, "title": one.title, "for": one.why, "canBeSkipped": not one.needed}
               for when, checks in groups for one in checks.values()]  # fmt: skip
    if not output.printed(entries):
        table(("WHEN", "CHECK", "FOR"), [(str(one["when"]), str(one["id"]), str(one["for"])) for one in entries])


def _show(report: Report, everything: bool) -> None:
    """One line for what is the same in many places, and what to do about it below."""
    from harness.lifecycle.checks import findings

    groups = [group for group in findings.group(report.findings) if everything or group.verdict.result is not findings.Result.OK]
    width = max((len(group.check) for group in groups), default=0)
    for group in groups:
        say(f"{group.verdict.result.value:<8} {group.check:<{width}}  {findings.addresses(group.where)}: {group.verdict.text}")
        if group.verdict.remedy and group.verdict.result is not findings.Result.OK:
            say(f"{'':<8} {'':<{width}}  hint: {group.verdict.remedy}")
    if groups:
        say()
    counts = findings.to_json(report.findings, report.checks, report.names)["counts"]
    results = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
    total, places = sum(counts.values()), len({finding.where for finding in report.findings})
    what = f"{total} check{'' if total == 1 else 's'}, {places} place{'' if places == 1 else 's'}"
    say(f"{what}: {results} ({log.duration(report.seconds)})")
