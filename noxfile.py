"""The sessions. Each calls the `slipway` command line, pytest or a linter; words after ``--`` are names: of kubefiles, rings or benchmarks.

./nox -s build-image test-image -- web      build the image kubefiles/web (and what it is built from), then test it
./nox -s tests                              what must hold; `-- unit types` runs these rings only
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nox
import nox.command

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # the `nox` command does not put the project there, `python -m nox` does

from harness import catalog  # noqa: E402 - standard library only, both
from harness.errors import UsageError  # noqa: E402
from harness.host import paths  # noqa: E402 - standard library only, both

# Sessions start hundreds of commands: without its bytecode beside it, each would compile the whole program again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2024.10.9"
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "docs"]

REPORTS = ROOT / "reports"
DOCS_BUILT = ROOT / "build/docs"
CATALOG_SITE = ROOT / "build/catalog"
DIST = ROOT / "dist"
VM = "tests/vm"
UPGRADE = "tests/cluster/test_upgrade.py"


@nox.session(name="build-image")
def build_image(session: nox.Session) -> None:
    """Build kubefiles/NAME and what they are built from; all without names. `-e NAME=VALUE` gives a value for the throw-away cluster."""
    wanted = ImageRequest.read("build-image", session.posargs)
    entries = pick(session, catalog.order, wanted.names)
    install(session)
    for entry in entries:
        build(session, [entry], *wanted.build_options(entry))
    say(*about(session, entries), f"next: ./nox -s test-image -- {entries[-1].name}")


@nox.session(name="test-image")
def test_image(session: nox.Session) -> None:
    """Boot each image on real nodes and run its tests; all without names. `-e NAME=VALUE` gives a value that the images expect."""
    wanted = ImageRequest.read("test-image", session.posargs)
    entries = pick(session, catalog.select, wanted.names)
    install(session)
    failed = test(session, entries, *wanted.test_options)
    program = Path(session.bin, "slipway").relative_to(ROOT)
    hint = f"next: {program} nodes up --workers 1    # makes machines, and prints the command that runs {entries[-1].name} on them"
    say(*about(session, entries, tested=True), hint)
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


@nox.session(default=False)
def minor(session: nox.Session) -> None:
    """Build the base image with another version of Kubernetes, and test it on nodes: `-- 1.37`."""
    if len(session.posargs) != 1:
        session.error("give one version: ./nox -s minor -- 1.37")
    (version,) = session.posargs
    install(session)
    reference = f"kubernetes:{version}"
    session.run("slipway", "build", "--tag", reference, "--build-arg", f"VERSION={version}", "kubefiles/kubernetes")
    if not pytest(session, f"kubernetes-{version}", "kubefiles/kubernetes", "--image", reference):
        session.error(f"tests failed: {reference}")


@nox.session(default=False)
def publish(session: nox.Session) -> None:
    """Build kubefiles/NAME, test each on nodes, and push what passed, with its proof: `-- --registry HOST/NAMESPACE --key FILE NAME...`.

    SBOM, provenance and test results are attached, signed with the key; the tag is pushed last. A matrix ends with `--join A,B`.
    """
    wanted = Publishing.read(session.posargs)
    if wanted.key and not Path(wanted.key[1]).is_file():
        # Not after minutes of tests.
        session.error(f"--key {wanted.key[1]}: no such file; slipway keys create makes a pair")
    entries = pick(session, catalog.select, wanted.names)
    install(session)
    order = () if wanted.join or wanted.built else pick(session, catalog.order, wanted.names)
    refused = build_each(session, order, *wanted.build_options)
    published = []
    for entry in entries:
        if entry.name in refused:
            continue
        try:
            publish_one(session, wanted, entry)
            published.append(f"published {wanted.target(entry)}")
        except RefusedError as why:
            session.warn(f"{entry.name} is not published: {why}")
            refused[entry.name] = str(why)
    failed = [entry.name for entry in entries if entry.name in refused]
    say("", *published, *(f"not published: {name}: {refused[name]}" for name in failed))
    if failed:
        session.error(f"not published: {', '.join(failed)}")


@nox.session(default=False)
def package(session: nox.Session) -> None:
    """Build the Python package into dist/: wheel, sdist, SBOM; `-- --key FILE` signs each, `--tag v1.2.3` refuses another version."""
    parser = argparse.ArgumentParser(prog="nox -s package --")
    parser.add_argument("--key", default="", metavar="FILE", help="sign with this key; its password: SLIPWAY_KEY_PASSWORD")
    parser.add_argument("--tag", default="", metavar="vVERSION", help="the tag that is released")
    wanted = parser.parse_args(session.posargs)
    version = nox.project.load_toml(ROOT / "pyproject.toml")["project"]["version"]
    if wanted.tag not in ("", f"v{version}"):
        session.error(f"the tag is {wanted.tag}, and pyproject.toml says {version}")
    install(session, "build")
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "hatchling", "build", "--directory", shown(DIST))
    session.run("python", "-m", "harness.trust.release_files", shown(DIST), shown(LOCK), *([wanted.key] if wanted.key else []))


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """Build kubefiles/NAME and write what is in each to reports/NAME.cdx.json; all without names."""
    entries = pick(session, catalog.order, session.posargs)
    install(session)
    build(session, entries)
    for entry in pick(session, catalog.select, session.posargs):
        session.run("slipway", "sbom", entry.reference, "--to", shown(report(entry.name, "cdx.json")))


@nox.session
def tests(session: nox.Session) -> None:
    """Run every ring, print a table: lint types docs unit integration hostile fuzz cluster images.

    On request: long, upgrade, as-written, catalog.

    `-- --coverage unit integration` also measures which lines of harness/ these rings run together.
    """
    words = [word for word in session.posargs if word != COVERAGE]
    names = words or [name for name in RINGS if name not in ON_REQUEST]
    unknown = [name for name in names if name not in RINGS]
    if unknown:
        session.error(f"no ring is called {', '.join(unknown)}; there are {', '.join(RINGS)}")
    closing = Closing()
    atexit.register(closing.show)
    install(session, "lint", "types", "tests")
    if "docs" in names:
        install_docs(session)
    own_home(session)
    if COVERAGE in session.posargs:
        measure(session)
    for name in names:
        session.log(f"ring {name}")
        closing.run(name, lambda name=name: RINGS[name](session))  # type: ignore[misc]
    if COVERAGE in session.posargs:
        show_coverage(session)
    closing.finish()
    if closing.failed:
        session.error(f"rings failed: {', '.join(closing.failed)}")


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Feed generated input to the parsers of foreign data: `-- --seconds N [TARGET...]`."""
    install(session, "lint", "types", "tests")
    run_fuzzers(session, *session.posargs)


@nox.session(default=False)
def vm(session: nox.Session) -> None:
    """What needs a kernel of its own, in a virtual machine that qemu imitates: ten minutes, and root on Debian or Ubuntu."""
    install(session)
    own_home(session)
    pytest(session, "vm", VM, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, spelling, and faults that need no types: Python (ruff, with the rules of bandit), workflows (their schema, zizmor), shell."""
    install(session, "lint", project=False)
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the package, the tests and this file."""
    install(session, "types")
    session.run("mypy", "--strict")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/docs/html and the manual page into build/docs/man; a warning is an error, and so is a broken link."""
    install(session)
    install_docs(session)
    build_docs(session)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure slipway beside a peer, writes bench-results/NAME.json; `-- --smoke` runs each at its smallest size, for its correctness."""
    install(session)
    session.run("python", "-m", "tests.bench.run", *session.posargs)


@nox.session(name="catalog", venv_backend="none", default=False)
def show_catalog(session: nox.Session) -> None:
    """List what can be built here, bases first; `-- --json` for a CI matrix; `-- --site FOLDER` writes the site instead."""
    if "--site" in session.posargs:
        session.notify("site", site_words(session.posargs))
        return
    words = [word for word in session.posargs if word != "--json"]
    entries = pick(session, catalog.order, words)
    if "--json" in session.posargs:
        say(json.dumps([entry.to_json() for entry in entries]))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    say(*(f"{entry.name:{width}}  from {entry.base}: {entry.summary or 'no README'}" for entry in entries))


@nox.session(default=False)
def site(session: nox.Session) -> None:
    """Write a web site about the images of the store into build/catalog: `-- --to FOLDER --registry HOST/NAMESPACE NAME...`."""
    install(session)
    session.run("slipway", "catalog", *site_words(session.posargs))


def site_words(words: Sequence[str]) -> list[str]:
    """The words after `slipway catalog`: those that are given, else the folder build/catalog and the READMEs of kubefiles/."""
    given = ["--to" if word == "--site" else word for word in words]
    default = {"--to": shown(CATALOG_SITE), "--readmes": "kubefiles"}
    missing = [option for option in default if not any(word.partition("=")[0] == option for word in given)]
    return [*given, *(word for option in missing for word in (option, default[option]))]


# What the sessions are made of


LOCK = ROOT / "requirements.lock"
"""What every session works with: exact versions with their hashes. docs/contributing/index.md says how it is refreshed."""
DOCS_LOCK = ROOT / "docs.lock"
"""What builds the documents, in addition; only the sessions that do so install it."""

FORMER_NAME = "slipway"
"""What the project's distribution was called: one that an environment still has names a pytest plugin that is not there any more."""


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """The locked packages and the project, editable; nothing is asked of an index again until a file that names them has changed.

    Only what the lock names with its hash is installed, the project's own build backend included. ``groups`` of tools are all in the lock.
    """
    pyproject = ROOT / "pyproject.toml"
    unlocked = missing_in_lock(nox.project.load_toml(pyproject), groups, LOCK.read_text())
    if unlocked:
        session.error(f"{LOCK.name} lacks {', '.join(unlocked)}: refresh it as docs/contributing/index.md says")
    stamp = Path(session.virtualenv.location or "", "installed.json")
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in (pyproject, LOCK, Path(__file__))):
        return
    session.install("--require-hashes", "--requirement", str(LOCK))
    if project:
        if list(Path(session.virtualenv.location or "").glob(f"lib/python*/site-packages/{FORMER_NAME}-*.dist-info")):
            session.run("python", "-m", "pip", "uninstall", "--yes", "--quiet", FORMER_NAME)
        session.install("--no-deps", "--no-build-isolation", "--no-index", "--editable", ".")
    stamp.write_text(json.dumps({"lock": LOCK.name}) + "\n")


def install_docs(session: nox.Session) -> None:
    """The locked packages that build the documents, beside those of install(); once until their lock changes."""
    stamp = Path(session.virtualenv.location or "", "installed-docs.json")
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in (DOCS_LOCK, Path(__file__))):
        return
    session.install("--require-hashes", "--requirement", str(DOCS_LOCK))
    stamp.write_text(json.dumps({"lock": DOCS_LOCK.name}) + "\n")


def build_docs(session: nox.Session) -> None:
    """Site and manual page, from nothing and without a network."""
    shutil.rmtree(DOCS_BUILT, ignore_errors=True)
    strict = ("--fail-on-warning", "--keep-going", "--nitpicky", "--quiet")
    for builder in ("html", "man"):
        session.run(
            "sphinx-build", *strict, "--builder", builder, "--doctree-dir", shown(DOCS_BUILT / "trees"), "docs", shown(DOCS_BUILT / builder)
        )
    session.run("python", "-m", "docs.links", shown(DOCS_BUILT / "html"))


def built_here(facts: dict[str, Any]) -> list[str]:
    """The container images of a CloudImage that have another's name and were built, from what `slipway inspect -o json` says of it."""
    return sorted({image["name"] for platform in facts["platforms"] for image in platform["images"] if image.get("built")})


def missing_in_lock(pyproject: dict[str, Any], groups: Iterable[str], lock: str) -> list[str]:
    """The packages that pyproject.toml names, itself or in a group, and the lock does not."""
    tools = nox.project.dependency_groups(pyproject, *groups) if groups else ()
    wanted = [*pyproject["project"]["dependencies"], *tools]
    names = {re.split(r"[^\w.-]", word, maxsplit=1)[0] for word in wanted}
    return sorted(name for name in names if not re.search(rf"^{re.sub('[-_.]+', '-', name).lower()}==", lock, re.MULTILINE))


def pick(
    session: nox.Session, how: Callable[..., tuple[catalog.CatalogEntry, ...]], names: Iterable[str]
) -> tuple[catalog.CatalogEntry, ...]:
    try:
        entries = how(catalog.find(ROOT / "kubefiles"), names)
    except UsageError as error:
        session.error(str(error))
    if not entries:
        session.error("kubefiles/ holds no Kubefile")
    return entries


def build(session: nox.Session, entries: Iterable[catalog.CatalogEntry], *options: str) -> None:
    """`slipway build` of each; its progress is shown, its result kept beside the reports."""
    REPORTS.mkdir(exist_ok=True)
    for entry in entries:
        with facts_of(entry).open("w") as result:
            folder = str(entry.folder.relative_to(ROOT))
            words = ("--tag", entry.reference, "--output", "json", *options)
            session.run("slipway", "build", folder, *words, stdout=result, stderr=sys.stderr)


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """A request for `build-image` and `test-image`: names of kubefiles, and values (NAME=VALUE) for these images."""

    names: tuple[str, ...]
    values: tuple[str, ...]

    @classmethod
    def read(cls, session: str, words: Iterable[str]) -> ImageRequest:
        """From the words after ``--``; ends the process when they are wrong."""
        parser = argparse.ArgumentParser(prog=f"nox -s {session} --", usage="%(prog)s [NAME...] [-e NAME=VALUE]...", allow_abbrev=False)
        parser.add_argument("-e", "--env", dest="values", metavar="NAME=VALUE", action="append", default=[], help="a value for the images")
        parser.add_argument("names", nargs="*", metavar="NAME", help="kubefiles; all without names")
        wanted = parser.parse_intermixed_args(list(words))
        wrong = [pair for pair in wanted.values if not pair.partition("=")[0] or "=" not in pair]
        if wrong:
            # The text may be a secret that was meant to have a name.
            parser.error(f"{len(wrong)} of {len(wanted.values)} values are not NAME=VALUE")
        return cls(tuple(wanted.names), tuple(wanted.values))

    def build_options(self, entry: catalog.CatalogEntry) -> list[str]:
        """Options of `slipway build`. A base that is built along gets no values: its throw-away cluster would boot again."""
        named = not self.names or entry.name in self.names
        return [word for pair in self.values if named for word in ("--env", pair)]

    @property
    def test_options(self) -> list[str]:
        """Options of pytest."""
        return [word for pair in self.values for word in ("--value", pair)]


class RefusedError(Exception):
    """An image is not published, and why."""


class Publishing:
    """What `publish` is asked for. One machine builds for itself and pushes TAG-ARCH, or with --platform for several and pushes TAG.

    When every machine of a matrix has pushed its own, --join makes one TAG of them.
    """

    def __init__(self, wanted: argparse.Namespace) -> None:
        self.registry: str = wanted.registry.rstrip("/")
        self.tag: str = wanted.tag
        self.names: list[str] = wanted.names
        self.platform: str = wanted.platform
        self.built: bool = wanted.built
        self.allow_built: bool = wanted.allow_built
        self.allow_untested: bool = wanted.allow_untested
        self.connection: list[str] = wanted.connection
        self.key = ["--key", wanted.key] if wanted.key else []
        self.keep = [] if wanted.replace else ["--no-replace"]
        self.join = [part for part in wanted.join.split(",") if part]

    @classmethod
    def read(cls, words: Iterable[str]) -> Publishing:
        """From the words after ``--``; ends the process when they are wrong."""
        parser = argparse.ArgumentParser(prog="nox -s publish --", usage="%(prog)s --registry HOST/NAMESPACE [options] [NAME...]")
        parser.add_argument("--registry", required=True, help="where to, as registry.example/team; log in before, with `slipway login`")
        parser.add_argument("--tag", default=catalog.TAG, help=f"the tag there [{catalog.TAG}]")
        parser.add_argument(
            "--replace", action="store_true", help="give the tag to this image even if the registry has it with other bytes"
        )
        parser.add_argument("--platform", default="", help="build for these on this machine, as linux/amd64,linux/arm64")
        parser.add_argument("--built", action="store_true", help="build nothing: take what `build-image` left in the store")
        parser.add_argument(
            "--join", default="", metavar="ARCH,ARCH", help="build nothing: make one tag of what the machines of a matrix pushed"
        )
        parser.add_argument("--key", default="", metavar="FILE", help="sign with this key; its password: SLIPWAY_KEY_PASSWORD")
        parser.add_argument("--unsigned", action="store_true", help="publish without signatures; the documents are attached all the same")
        parser.add_argument(
            "--allow-built", action="store_true", help="publish it although images in it were built here under the names of others"
        )
        parser.add_argument(
            "--allow-untested", action="store_true", help="publish it although this machine cannot test all of its platforms"
        )
        parser.add_argument("--plain-http", action="store_const", dest="connection", const=["--plain-http"], default=[])
        parser.add_argument("names", nargs="*", metavar="NAME", help="kubefiles; all without names")
        wanted = parser.parse_args(list(words))
        if bool(wanted.key) == wanted.unsigned:
            parser.error("sign with --key FILE, or say --unsigned: one of both")
        if wanted.join and (wanted.platform or wanted.built):
            parser.error("--join builds nothing, and takes every platform that was pushed: leave out --platform and --built")
        return cls(wanted)

    @property
    def build_options(self) -> list[str]:
        return ["--platform", self.platform] if self.platform else []

    def target(self, entry: catalog.CatalogEntry) -> str:
        """The name that an image gets in the registry."""
        there = f"{self.registry}/{entry.name}:{self.tag}"
        return there if self.join or self.platform else f"{there}-{paths.architecture()}"

    def question(self, entry: catalog.CatalogEntry, digest: str) -> list[str]:
        """The words after `slipway` that ask the registry whether the tag may be pushed, before minutes of tests."""
        return ["push", "--plan", *self.keep, *self.connection, digest, self.target(entry)]

    def commands(self, entry: catalog.CatalogEntry, digest: str) -> list[list[str]]:
        """The words after `slipway`, command by command, that publish the image that was tested: it is named by its digest."""
        target, record = self.target(entry), shown(record_of(entry))
        # A signature holds for the name that is signed, so the image has its public name before.
        named = ["tag", digest, target]
        return [named, *self._proofs(target, ["--predicate", record]), ["push", *self.keep, *self.connection, digest, target]]

    def join_commands(self, entry: catalog.CatalogEntry) -> list[list[str]]:
        """The same for one tag of what the machines of a matrix have pushed."""
        target = self.target(entry)
        parts = [f"{target}-{architecture}" for architecture in self.join]
        create = ["manifest", "create", "--pull", *self.connection, target, *parts]
        results = [word for part in parts for word in ("--part", part)]
        return [create, *self._proofs(target, results), ["push", *self.keep, *self.connection, target]]

    def _proofs(self, target: str, results: list[str]) -> list[list[str]]:
        tested = ["attest", "--type", "test-result", *results, *self.key, target]
        documents = [[verb, "--attach", *self.key, target] for verb in ("sbom", "provenance")]
        return [tested, *documents, *([["sign", *self.key, target]] if self.key else [])]


def build_each(session: nox.Session, entries: Iterable[catalog.CatalogEntry], *options: str) -> dict[str, str]:
    """Build images, bases first; the names of those that were not built, each with the reason."""
    failed: dict[str, str] = {}
    for entry in entries:
        if entry.needs in failed:
            failed[entry.name] = f"its base {entry.needs} was not built"
            continue
        try:
            build(session, [entry], *options)
        except nox.command.CommandFailed:
            failed[entry.name] = "its build failed"
    return failed


def publish_one(session: nox.Session, wanted: Publishing, entry: catalog.CatalogEntry) -> None:
    """Test an image and push it with its proof. Raises RefusedError; then its tag in the registry is as before."""
    if wanted.join:
        commands = wanted.join_commands(entry)
    else:
        image = inspected(session, entry)
        reason = unfit(image, wanted)
        if reason:
            raise RefusedError(reason)
        if not entry.tests:
            raise RefusedError(f"it has no tests: write test_{entry.name.replace('-', '_')}.py beside its Kubefile")
        slipway(session, *wanted.question(entry, image["digest"]))
        if test(session, [entry]):
            raise RefusedError(f"its tests failed: {shown(report(entry.name, 'html'))}")
        reason = untested(entry, image["digest"])
        if reason:
            raise RefusedError(reason)
        commands = wanted.commands(entry, image["digest"])
    for words in commands:
        slipway(session, *words)


def slipway(session: nox.Session, *words: str) -> None:
    """Run the command line for an image that is to be published. Raises RefusedError when it fails: it has said why."""
    try:
        session.run("slipway", *words)
    except nox.command.CommandFailed as failed:
        raise RefusedError(f"slipway {words[0]} failed ({failed.reason})") from failed


def inspected(session: nox.Session, entry: catalog.CatalogEntry) -> dict[str, Any]:
    """The output of `slipway inspect` for an image, as data. Raises RefusedError for one that is not in the store."""
    words = ("slipway", "inspect", entry.reference, "--output", "json")
    image = read_json(session.run(*words, silent=True, log=False, success_codes=range(256), stderr=sys.stderr))
    if not image:
        raise RefusedError(f"{entry.reference} is not in the store, or not whole")
    return image


def unfit(image: dict[str, Any], wanted: Publishing) -> str:
    """Why an image is not published whatever its tests say; empty for one that may be."""
    made = [] if wanted.allow_built else built_here(image)
    if made:
        return (
            f"{len(made)} of its images were built here under the names of others, as {', '.join(made[:5])}: "
            "build where their registries answer, or say --allow-built"
        )
    own = f"linux/{paths.architecture()}"
    others = [one["platform"] for one in image["platforms"] if one["platform"] != own and not one["platform"].startswith(f"{own}/")]
    if others and not wanted.allow_untested:
        return f"this machine tests {own}, not {', '.join(others)}: let a machine of each push its own and --join, or say --allow-untested"
    return ""


def untested(entry: catalog.CatalogEntry, digest: str) -> str:
    """Why the record of the last tests does not stand for the image with ``digest``; empty when it does."""
    path = record_of(entry)
    record = read_json(path.read_text() if path.exists() else "")
    if not record:
        return "no test has booted it"
    ran = [f"sha256:{one['digest']['sha256']}" for one in record["subject"]]
    if digest not in ran:
        return f"{', '.join(ran)} was tested, and {entry.reference} was {digest}: it changed during the tests"
    result = record["predicate"]["result"]
    return "" if result == "PASSED" else f"the record of its tests says {result}"


def test(session: nox.Session, entries: Iterable[catalog.CatalogEntry], *options: str) -> list[str]:
    """The tests of each image on nodes of its own, with options of pytest; the names of those that failed."""
    failed = []
    for entry in entries:
        if not entry.tests:
            session.error(f"{entry.folder.relative_to(ROOT)} holds no tests: write test_{entry.name.replace('-', '_')}.py")
        folder = str(entry.folder.relative_to(ROOT))
        record = record_of(entry)
        record.unlink(missing_ok=True)
        try:
            passed = pytest(session, entry.name, folder, "--image", entry.reference, "--test-result", shown(record), *options, "-v")
        except RingError as error:
            session.warn(f"{entry.name}: {error}")
            passed = False
        if not passed:
            failed.append(entry.name)
    return failed


ENDINGS = {2: "interrupted, or tests could not be collected", 3: "an internal error of pytest", 4: "wrong usage of pytest", 5: "no tests"}
"""What pytest's exit codes mean, beside 0 (passed) and 1 (tests failed)."""


def pytest(session: nox.Session, name: str, *words: str) -> bool:
    """Run pytest once, with its reports; return whether all tests passed. Raises RingError when pytest did not run to its end."""
    xml = report(name, "xml")
    xml.unlink(missing_ok=True)
    options = ("--junitxml", shown(xml), "--html", shown(report(name, "html")), "--self-contained-html")
    measured = ("coverage", "run", "-m") if MEASURED in session.env else ()
    try:
        session.run("python", "-m", *measured, "pytest", *words, *options)
    except nox.command.CommandFailed as ended:
        code = int(found[0]) if (found := re.search(r"-?\d+$", str(ended.reason))) else 1
        if code == 1 and Counts.read(name).failed:
            return False
        raise RingError(f"pytest ended with exit code {code}: {ending(code)}") from ended
    return True


COVERAGE = "--coverage"
"""Among the names of rings: measure them."""
MEASURED = "COVERAGE_FILE"
"""The variable by which coverage knows where its data is. It is set while rings are measured."""


def measure(session: nox.Session) -> None:
    """Measure every pytest from now on, with the processes that it starts: pytest's workers and slipway's commands."""
    REPORTS.mkdir(exist_ok=True)
    session.env[MEASURED] = str(REPORTS / "coverage")
    session.run("coverage", "erase")


def show_coverage(session: nox.Session) -> None:
    """Print the share of each module's lines that were run, the lowest first, and write reports/coverage-html."""
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--quiet", "--directory", shown(REPORTS / "coverage-html"))
    session.run("coverage", "report", "--sort=cover", "--skip-covered", "--skip-empty")


class RingError(Exception):
    """A ring ended before all of its tests were run."""


def ending(code: int) -> str:
    """What an exit code of pytest means."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return ENDINGS.get(code, "it crashed")


def check_style(session: nox.Session) -> None:
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    workflows = [str(path.relative_to(ROOT)) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("check-jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml")
    forms = [shown(path) for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-issue-forms", *forms)
    session.run("zizmor", "--offline", "--no-progress", ".github")
    session.run("shellcheck", "--severity=warning", *shell_scripts())


def shell_scripts() -> list[str]:
    """Every shell script of the project, whatever it is called."""
    folders = (".ci", "harness", "images", "kubefiles", "tests")
    candidates = [ROOT / "nox", *(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())]
    return sorted(str(path.relative_to(ROOT)) for path in candidates if re.match(rb"#!\s*/\S*(\s|/)(ba|da)?sh\b", beginning(path)))


def beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline(64)


def own_home(session: nox.Session) -> None:
    """Let commands use a store and clusters of the tests' own: they make and remove images, none of the user's."""
    session.env["SLIPWAY_HOME"] = str(paths.cache() / "tests")


def run_fuzzers(session: nox.Session, *words: str) -> None:
    session.run("python", "-m", "tests.fuzz.run", *words)


def check_images(session: nox.Session, *names: str) -> bool:
    """Build images (all without ``names``) and what they are built from, then test them, two at a time; return whether all tests passed."""
    entries = pick(session, catalog.order, names)
    build(session, entries)
    untested = [entry.name for entry in entries if not entry.tests]
    if untested:
        session.error(f"no tests beside the Kubefile of {', '.join(untested)}")
    ring = "images" if names else "catalog"
    passed = pytest(session, ring, *(shown(entry.folder) for entry in entries), *TWO_AT_A_TIME)
    say(*about(session, entries))
    return passed


TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile")
"""Files that know nothing of each other, in two processes."""

CLUSTER = ("tests/cluster", "--ignore", UPGRADE, *TWO_AT_A_TIME)
"""The groups of files that its conftest.py names, in two processes: one waits for a cluster while the other works."""

FUZZ_SECONDS = 10
"""Seconds for each target in the ring ``fuzz``, which tries the same 300 inputs each time: a change makes it fail, not chance. New inputs
are tried every night."""

SMOKE_IMAGES = ("web",)
"""Images that stand for all of kubefiles/ in the ring ``images``."""

RINGS: dict[str, Callable[[nox.Session], object]] = {
    "lint": check_style,
    "types": lambda session: session.run("mypy", "--strict"),
    "docs": build_docs,
    "unit": lambda session: pytest(session, "unit", "tests/unit", *TWO_AT_A_TIME),
    "integration": lambda session: pytest(session, "integration", "tests/integration", *TWO_AT_A_TIME, "-m", "not long"),
    "hostile": lambda session: pytest(session, "hostile", "tests/hostile", *TWO_AT_A_TIME, "-m", "not long"),
    "fuzz": lambda session: run_fuzzers(session, "--seconds", str(FUZZ_SECONDS), "--inputs", "300", "--plain", "--seed", "1"),
    "cluster": lambda session: pytest(session, "cluster", *CLUSTER, "-m", "not long"),
    "images": lambda session: check_images(session, *SMOKE_IMAGES),
    "long": lambda session: pytest(session, "long", *CLUSTER, "tests/integration", "tests/hostile", "-m", "long"),
    "upgrade": lambda session: pytest(session, "upgrade", UPGRADE),
    "as-written": lambda session: pytest(session, "as-written", "tests/as_written"),
    "catalog": check_images,
}
ON_REQUEST = ("long", "upgrade", "as-written", "catalog")
"""Rings that run only when they are named, and every night: what takes minutes for one test, a second Kubernetes, texts as they were
published, every image."""


# What a person reads at the end


def report(name: str, kind: str) -> Path:
    return REPORTS / f"{name}.{kind}"


def facts_of(entry: catalog.CatalogEntry) -> Path:
    return report(entry.name, "build.json")


def record_of(entry: catalog.CatalogEntry) -> Path:
    """The record of the tests of an image: a statement about the digest that ran."""
    return report(entry.name, "test-result.json")


class Counts:
    """What pytest counted in one run."""

    def __init__(self, passed: int, failed: int, skipped: int, seconds: float) -> None:
        self.passed, self.failed, self.skipped, self.seconds = passed, failed, skipped, seconds

    @classmethod
    def read(cls, name: str) -> Counts:
        """Of the run ``name``; nothing when there was none."""
        path = report(name, "xml")
        try:
            suites = list(ET.parse(path).getroot().iter("testsuite"))  # noqa: S314
        except (OSError, ET.ParseError):  # pytest was killed, or could not begin
            suites = []
        total, failed, skipped, seconds = 0, 0, 0, 0.0
        for suite in suites:
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
            seconds += float(suite.get("time", 0))
        return cls(total - failed - skipped, failed, skipped, seconds)

    @classmethod
    def together(cls, several: Iterable[Counts]) -> Counts:
        """The sum of several runs."""
        counts = list(several)
        passed, failed, skipped = (sum(getattr(one, kind) for one in counts) for kind in ("passed", "failed", "skipped"))
        return cls(passed, failed, skipped, sum(one.seconds for one in counts))

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {duration(self.seconds)}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A row of the table: one ring. ``counts`` is None for a ring that counts no tests; ``reason`` says why the ring failed."""

    ring: str
    counts: Counts | None
    seconds: float
    reports: tuple[str, ...] = ()
    reason: str = ""

    @property
    def failed(self) -> int:
        """Failed tests, and 1 for a ring that failed without one: a linter, a crash, a build."""
        counted = self.counts.failed if self.counts else 0
        return counted or int(bool(self.reason))

    @property
    def row(self) -> tuple[str, ...]:
        passed, skipped = (str(self.counts.passed), str(self.counts.skipped)) if self.counts else ("-", "-")
        return (self.ring, passed, str(self.failed), skipped, f"{self.seconds:.0f}", " ".join(self.reports) or "-")


class Closing:
    """The end of `tests`: a table of the rings, why each one failed, and all of them together in pytest's words.

    It is shown when the process ends, after everything that nox prints.
    """

    HEAD = ("ring", "passed", "failed", "skipped", "seconds", "report")

    def __init__(self) -> None:
        self.started = time.time()
        self.outcomes: list[Outcome] = []
        self._unfinished = "install"

    def run(self, ring: str, action: Callable[[], object]) -> None:
        """Run a ring and note its outcome. Its failure is no reason to stop; Ctrl-C is."""
        self._unfinished = ring
        before, began = written(), time.time()
        reason = ""
        try:
            if action() is False:
                reason = "tests failed"
        except nox.command.CommandFailed as error:
            reason = f"its last command failed: {error.reason}"
        except Exception as error:  # whatever ends a ring, the ones behind it are run
            reason = str(error) or type(error).__name__
        self._note(ring, before, time.time() - began, reason)

    def finish(self) -> None:
        """Every ring has been run."""
        self._unfinished = ""

    def _note(self, ring: str, before: set[tuple[Path, int, int]], seconds: float, reason: str) -> None:
        new = sorted(path for path, *_ in written() - before)
        counts = Counts.together(Counts.read(path.stem) for path in new) if new else None
        if counts is not None and counts.failed and not reason:
            reason = "tests failed"
        reports = tuple(shown(path.with_suffix(".html")) for path in new)
        self.outcomes.append(Outcome(ring, counts, seconds, reports, reason))

    @property
    def failed(self) -> tuple[str, ...]:
        """The rings that failed."""
        return tuple(one.ring for one in self.outcomes if one.failed)

    def show(self) -> None:
        if self.outcomes:
            say("", *columns([self.HEAD, *(one.row for one in self.outcomes)]))
        for one in self.outcomes:
            if one.reason:
                say(f"ring {one.ring} failed: {one.reason}")
        if self._unfinished:
            say(f"stopped in ring {self._unfinished}")
        counts = Counts.together(one.counts for one in self.outcomes if one.counts)
        failed = sum(one.failed for one in self.outcomes) or int(bool(self._unfinished))
        line = f" {counts.passed} passed, {failed} failed, {counts.skipped} skipped in {time.time() - self.started:.2f}s "
        say(line.center(80, "="))


def written() -> set[tuple[Path, int, int]]:
    """The reports that exist, each with what tells it from a later one of the same name."""
    return {(path, (stat := path.stat()).st_mtime_ns, stat.st_ino) for path in REPORTS.glob("*.xml")}


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of aligned columns; numbers stand to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    last = len(widths) - 1

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if place in (0, last) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def shown(path: Path) -> str:
    """A path as it is shown: from the project's folder on, when it is below it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def about(session: nox.Session, entries: Iterable[catalog.CatalogEntry], *, tested: bool = False) -> list[str]:
    """Per image: how it came to be, what is in it, what its tests said, and where to read more."""
    return [line for entry in entries for line in about_one(session, entry, tested=tested)]


def about_one(session: nox.Session, entry: catalog.CatalogEntry, *, tested: bool) -> list[str]:
    image = read_json(
        session.run("slipway", "inspect", entry.reference, "--output", "json", silent=True, log=False, success_codes=range(256))
    )
    if not image:
        return ["", f"{entry.reference}  is not in the store"]
    made = read_json(facts_of(entry).read_text() if facts_of(entry).exists() else "")
    cached = made.get("cached", not made.get("booted"))
    how = "" if made.get("digest") != image["digest"] else "cached, " if cached else "built, "
    embedded = image["platforms"][0]["images"]
    found = {way: sum(way in one["foundBy"] for one in embedded) for way in ("pulled", "declared", "listed")}
    ways = ", ".join(f"{count} {way}" for way, count in found.items() if count) or "none found"
    home = session.env.get("SLIPWAY_HOME") or paths.home()
    lines = [
        "",
        f"{entry.reference}  {how}{size(image['size'])}, {len(embedded)} container images ({ways})",
        f"  {image['digest']} in {home}",
    ]
    if tested:
        lines.append(f"  tests: {Counts.read(entry.name)}; report: {report(entry.name, 'html').relative_to(ROOT)}")
    return lines


def read_json(text: object) -> dict[str, Any]:
    """What a command printed as JSON; nothing when it printed something else."""
    try:
        return dict(json.loads(str(text)))
    except ValueError:
        return {}


def size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s" if seconds >= 99.5 else f"{seconds:.1f} s"


def say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)
