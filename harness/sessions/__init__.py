"""Sessions of nox that build, test and publish the images of a repository with kubefiles/. A noxfile needs two lines for them:

    from harness import sessions
    sessions.define(Path(__file__).parent)

They are `build-image`, `test-image`, `publish`, `sbom`, `catalog` and `site`; words after ``--`` are names of kubefiles. Images that come
with slipway, as ``FROM kubernetes``, are built along. The standard library and nox are all that this package loads.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import nox

from harness import catalog
from harness.sessions import publishing
from harness.sessions.reports import say
from harness.sessions.repository import Repository
from harness.sessions.requests import ImageRequest


def define(root: Path, installer: Callable[[nox.Session], None] | None = None) -> Repository:
    """Make the sessions for the repository in ``root``.

    ``installer`` fills the environment of a session with slipway. Without one, sessions use the environment that runs nox, in which
    slipway is installed.
    """
    repository = Repository.at(root.absolute(), installer)
    # Sessions start many commands: without its bytecode beside it, each would compile the whole program again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if installer is None:
        nox.options.default_venv_backend = "none"
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    _define(repository, build_image, "build-image", default=True)
    _define(repository, test_image, "test-image", default=True)
    for name, action in {"publish": publish, "sbom": sbom, "site": site}.items():
        _define(repository, action, name)
    _define(repository, show_catalog, "catalog", backend="none")
    return repository


def _define(
    repository: Repository,
    action: Callable[[nox.Session, Repository], None],
    name: str,
    *,
    default: bool = False,
    backend: str | None = None,
) -> None:
    def session_function(session: nox.Session) -> None:
        action(session, repository)

    session_function.__doc__ = action.__doc__
    nox.session(name=name, default=default, venv_backend=backend)(session_function)


def build_image(session: nox.Session, repository: Repository) -> None:
    """Build kubefiles/NAME and what they are built from; all without names. `-e NAME=VALUE` gives a value for the throw-away cluster."""
    wanted = ImageRequest.read("build-image", session.posargs)
    entries = repository.pick(session, catalog.order, wanted.names)
    repository.install(session)
    for entry in entries:
        repository.build(session, [entry], *wanted.build_options(entry))
    say(*repository.about(session, entries), f"next: ./nox -s test-image -- {entries[-1].name}")


def test_image(session: nox.Session, repository: Repository) -> None:
    """Boot each image on real nodes and run its tests; all without names. `-e NAME=VALUE` gives a value that the images expect."""
    wanted = ImageRequest.read("test-image", session.posargs)
    entries = repository.pick(session, catalog.select, wanted.names)
    repository.install(session)
    failed = repository.test(session, entries, *wanted.test_options)
    say(*repository.about(session, entries, tested=True), _next_step(session, repository, entries[-1].name))
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


def _next_step(session: nox.Session, repository: Repository, name: str) -> str:
    program = (Path(session.bin) if repository.installer else Path(sys.executable).parent) / "slipway"
    return f"next: {repository.shown(program)} nodes up --workers 1    # makes machines, and prints the command that runs {name} on them"


def publish(session: nox.Session, repository: Repository) -> None:
    """Build kubefiles/NAME, test each on nodes, and push what passed, with its proof: `-- --registry HOST/NAMESPACE --key FILE NAME...`.

    SBOM, provenance and test results are attached, signed with the key; the tag is pushed last. A matrix ends with `--join A,B`.
    """
    wanted = publishing.Publishing.read(session.posargs)
    published, refused = publishing.publish(session, repository, wanted)
    say("", *published, *(f"not published: {name}: {reason}" for name, reason in refused.items()))
    if refused:
        session.error(f"not published: {', '.join(refused)}")


def sbom(session: nox.Session, repository: Repository) -> None:
    """Build kubefiles/NAME and write what is in each to reports/NAME.cdx.json; all without names."""
    entries = repository.pick(session, catalog.order, session.posargs)
    repository.install(session)
    repository.build(session, entries)
    for entry in repository.pick(session, catalog.select, session.posargs):
        session.run("slipway", "sbom", entry.reference, "--to", repository.shown(repository.report(entry.name, "cdx.json")))


def show_catalog(session: nox.Session, repository: Repository) -> None:
    """List what can be built here, bases first; `-- --json` for a CI matrix; `-- --site FOLDER` writes the site instead."""
    if "--site" in session.posargs:
        session.notify("site", site_words(repository, session.posargs))
        return
    words = [word for word in session.posargs if word != "--json"]
    entries = repository.pick(session, catalog.order, words)
    if "--json" in session.posargs:
        say(json.dumps([entry.to_json() for entry in entries]))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    say(*(f"{entry.name:{width}}  from {entry.base}: {entry.summary or 'no README'}" for entry in entries))


def site(session: nox.Session, repository: Repository) -> None:
    """Write a web site about the images of the store into build/catalog: `-- --to FOLDER --registry HOST/NAMESPACE NAME...`."""
    repository.install(session)
    session.run("slipway", "catalog", *site_words(repository, session.posargs))


def site_words(repository: Repository, words: Sequence[str]) -> list[str]:
    """The words after `slipway catalog`: those that are given, else the folder build/catalog, the READMEs of kubefiles/, the reports."""
    given = ["--to" if word == "--site" else word for word in words]
    default = {"--to": repository.shown(repository.root / "build/catalog"), "--readmes": "kubefiles"}
    if repository.reports.is_dir():
        default["--reports"] = repository.shown(repository.reports)
    return [*given, *(word for option in default if not _has(given, option) for word in (option, default[option]))]


def _has(words: Iterable[str], option: str) -> bool:
    return any(word.partition("=")[0] == option for word in words)
