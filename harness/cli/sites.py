"""Several Clusterfiles in one command: a cluster for each, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli.options import Output, Ssh, argument
from harness.cli.output import plain, say, table
from harness.cli.program import CommandEnded
from harness.cli.root import app
from harness.errors import Fault, InputError

if TYPE_CHECKING:
    from harness.cli.cluster_options import ClusterOptions
    from harness.lifecycle.sites import SiteCluster, SiteResult

_HINT = "write it into the Clusterfiles"


def clusterfiles(file: str | None, words: Sequence[str] | None) -> list[str]:
    """The Clusterfiles of a command line: that of ``-f``, and the files behind it, as a shell lists them for ``-f sites/*.yaml``."""
    more = [word for word in words or () if Path(word).is_file()]
    return [file, *more] if file is not None and more else []


def apply(files: Sequence[str], asked: ClusterOptions, *, plan: bool, yes: bool, output: Output) -> None:
    """Apply each Clusterfile, and print a table. Ends with the exit code of the first that failed."""
    from harness.lifecycle import sites

    _refuse(files, asked)
    read = sites.read(files)
    common = _words(asked.ssh)
    for option, wanted in (("--plan", plan), ("--yes", yes), ("--plain-http", asked.site.plain_http)):
        common += [option] if wanted else []
    common += ["--timeout", f"{asked.timeout:g}"]
    common += ["--ca", str(asked.site.ca)] if asked.site.ca else []
    common += [word for check in asked.skip_check or () for word in ("--skip-check", check)]
    results = sites.each(read, lambda site: ("apply", "--file", site.file, *common), _show, env=_password(asked.ssh))
    if not output.printed([_plain(result) for result in results]):
        rows = [(one.file, one.cluster, _outcome(one), log.duration(one.seconds), log.hidden(one.error)) for one in results]
        table(("CLUSTERFILE", "CLUSTER", "OUTCOME", "TIME", "REASON"), rows)
    _end(results)


def _refuse(files: Sequence[str], asked: ClusterOptions) -> None:
    """Raises InputError for options that are about one cluster."""
    spec = asked.spec
    images = [image for image in spec.images or () if image not in files]
    given = {
        ", ".join(images): images, "--control-plane": spec.control_plane, "--workers": spec.workers, "--cluster": spec.cluster,
        "--env": spec.env, "--cmds": spec.cmds, "--registry": spec.registry, "--profile": spec.profile,
    }  # fmt: skip
    faults = [Fault(name, f"is for one cluster, and there are {len(files)} Clusterfiles", _HINT) for name, value in given.items() if value]
    if "-" in files:
        faults.append(Fault("-f -", "is one Clusterfile", "name files"))
    if faults:
        raise InputError(faults)


def _words(ssh: Ssh) -> list[str]:
    given = (("--user", ssh.user), ("--key", ssh.key), ("--port", ssh.port))
    return [word for option, value in given if value is not None for word in (option, str(value))]


def _password(ssh: Ssh) -> Mapping[str, str] | None:
    """The password in the environment of the commands: their arguments can be read by every user of this machine."""
    password = ssh.password()
    return {"SLIPWAY_SSH_PASSWORD": password} if password is not None else None


def _show(site: SiteCluster, line: str) -> None:
    log.info(f"{site.cluster}: {line}")


def _outcome(result: SiteResult) -> str:
    if not result.ok:
        return f"failed ({result.code})"
    answer: Any = result.answer
    if answer.get("made") is not None:
        return "made"
    if not _exists(answer):
        return "new"
    if not answer["changes"]:
        return "up to date"
    return f"{len(answer['changes'])} changes{'' if answer['done'] else ' to come'}"


def _plain(result: SiteResult) -> dict[str, Any]:
    return {**plain(result), "error": log.hidden(result.error)}


def _end(results: Sequence[SiteResult]) -> None:
    failed = [result for result in results if not result.ok]
    if failed:
        log.warning(f"{len(failed)} of {len(results)} clusters failed; the same command goes on where each of them stopped")
        raise CommandEnded(failed[0].code)


@app.command()
def drift(
    *,
    files: Annotated[list[str], argument(help="The Clusterfiles.", metavar="CLUSTERFILE...")],
    ssh: Ssh,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 when there are differences.")] = False,
    output: Output,
) -> None:
    """Compare clusters with their Clusterfiles and each other.

    \b
      slipway drift sites/*.yaml

    Nothing is changed. Between clusters it compares Kubernetes, the image, the number of nodes, and applications.
    """
    from harness.lifecycle import sites

    read, words, env = sites.read(files), _words(ssh), _password(ssh)
    plans = sites.each(read, lambda site: ("apply", "--plan", "--file", site.file, *words), _show, env=env)
    there = [site for site, one in zip(read, plans, strict=True) if one.ok and _exists(one.answer)]
    states = sites.each(there, lambda site: ("status", site.cluster, *words), _show, env=env)
    apps = sites.each(there, lambda site: ("apps", "list", "--cluster", site.cluster, *words), _show, env=env)
    known = {
        site.cluster: sites.facts(state.answer, installed.answer)
        for site, state, installed in zip(there, states, apps, strict=True)
        if state.ok and installed.ok
    }
    differences = sites.between(known)
    failed = [one for one in (*plans, *states, *apps) if not one.ok]
    if not output.printed({"clusters": [_plain(one) for one in plans], "between": differences, "failed": [_plain(one) for one in failed]}):
        _tell(plans, differences)
        for one in failed:
            log.warning(f"{one.file}: {log.hidden(one.error)}")
    if failed:
        raise CommandEnded(failed[0].code)
    if exit_code and (differences or any(not _exists(one.answer) or one.answer["changes"] for one in plans)):
        raise CommandEnded(1)


def _exists(answer: Any) -> bool:
    """A plan without changes that has steps is that of a cluster to be made."""
    return bool(answer["changes"]) or not answer["steps"]


def _tell(plans: Sequence[SiteResult], differences: Mapping[str, Mapping[str, str]]) -> None:
    for one in plans:
        if not one.ok:
            continue
        if not _exists(one.answer):
            say(f"{one.cluster}: does not exist yet")
        elif not one.answer["changes"]:
            say(f"{one.cluster}: is what {one.file} says")
        else:
            say(f"{one.cluster}: differs from {one.file}")
            for change in one.answer["changes"]:
                say(f"  {change['text']}")
    if differences:
        say()
        names = list(next(iter(differences.values())))
        table(("DIFFERENT", *names), [(fact, *values.values()) for fact, values in differences.items()])
