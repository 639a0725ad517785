"""The sessions. Each calls the `slipway` command line, pytest or a linter; words after ``--`` are names: of kubefiles, rings or benchmarks.

./nox -s build-image test-image -- web      build the image kubefiles/web (and what it is built from), then test it
./nox -s tests                              what must hold; `-- unit types` runs these rings only
"""

from __future__ import annotations

import argparse
import atexit
import json
import re
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # the `nox` command does not put the project there, `python -m nox` does

from harness import catalog, paths  # noqa: E402 - standard library only, both
from harness.errors import UsageError  # noqa: E402

nox.needs_version = ">=2024.10.9"
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types"]

REPORTS = ROOT / "reports"
VM = "tests/vm"
UPGRADE = "tests/cluster/test_upgrade.py"


@nox.session(name="build-image")
def build_image(session: nox.Session) -> None:
    """Build kubefiles/NAME and what they are built from; all without names."""
    entries = pick(session, catalog.order, session.posargs)
    install(session)
    build(session, entries)
    say(*about(session, entries), f"next: ./nox -s test-image -- {entries[-1].name}")


@nox.session(name="test-image")
def test_image(session: nox.Session) -> None:
    """Boot each image on real nodes and run its tests; all without names."""
    entries = pick(session, catalog.select, session.posargs)
    install(session)
    failed = test(session, entries)
    program = Path(session.bin, "slipway").relative_to(ROOT)
    hint = f"next: {program} nodes up --nodes 1    # makes machines, and prints the command that runs {entries[-1].name} on them"
    say(*about(session, entries, tested=True), hint)
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


@nox.session(default=False)
def publish(session: nox.Session) -> None:
    """Build kubefiles/NAME and push them: `-- --registry HOST/NAMESPACE NAME...`; a matrix ends with `--join amd64,arm64`."""
    wanted = Publishing.read(session.posargs)
    entries = pick(session, catalog.select, wanted.names)
    install(session)
    if not wanted.join:
        build(session, pick(session, catalog.order, wanted.names), *wanted.build_options)
    for entry in entries:
        for words in wanted.commands(entry):
            session.run("slipway", *words)


@nox.session
def tests(session: nox.Session) -> None:
    """What must hold: linters, types, unit, integration, cluster, then every image and its tests; stops at what fails. Beside: upgrade."""
    names = session.posargs or [name for name in RINGS if name not in BESIDE]
    unknown = [name for name in names if name not in RINGS]
    if unknown:
        session.error(f"no ring is called {', '.join(unknown)}; there are {', '.join(RINGS)}")
    closing = Closing()
    atexit.register(closing.show)
    install(session, "lint", "types", "tests")
    # A home of its own: tests make and remove images and clusters, none of the user's.
    session.env["SLIPWAY_HOME"] = str(paths.cache() / "tests")
    for name in names:
        closing.ring = name
        session.log(f"ring {name}")
        RINGS[name](session)
    closing.ring = ""


@nox.session(default=False)
def vm(session: nox.Session) -> None:
    """What needs a kernel of its own, in a virtual machine that qemu imitates: ten minutes, and root on Debian or Ubuntu."""
    install(session)
    session.env["SLIPWAY_HOME"] = str(paths.cache() / "tests")
    pytest(session, "vm", VM, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and faults that need no types: Python, workflows, shell scripts."""
    install(session, "lint", project=False)
    check_style(session)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the package, the tests and this file."""
    install(session, "types")
    session.run("mypy", "--strict")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure us beside a peer; writes bench-results/NAME.json."""
    install(session)
    session.run("python", "-m", "tests.bench.run", *session.posargs)


@nox.session(name="catalog", venv_backend="none", default=False)
def show_catalog(session: nox.Session) -> None:
    """What can be built here, bases first; `-- --json` for a CI matrix."""
    words = [word for word in session.posargs if word != "--json"]
    entries = pick(session, catalog.order, words)
    if "--json" in session.posargs:
        say(json.dumps([entry.to_json() for entry in entries]))
        return
    width = max((len(entry.name) for entry in entries), default=0)
    say(*(f"{entry.name:{width}}  from {entry.base}: {entry.summary or 'no README'}" for entry in entries))


# What the sessions are made of


LOCK = ROOT / "requirements.lock"
"""What every session works with: exact versions with their hashes. README.md says how it is refreshed."""


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """The locked packages and the project, editable; nothing is asked of an index again until a file that names them has changed.

    Only what the lock names with its hash is installed, the project's own build backend included. ``groups`` of tools are all in the lock.
    """
    pyproject = ROOT / "pyproject.toml"
    unlocked = missing_in_lock(nox.project.load_toml(pyproject), groups, LOCK.read_text())
    if unlocked:
        session.error(f"{LOCK.name} lacks {', '.join(unlocked)}: refresh it as README.md says")
    stamp = Path(session.virtualenv.location or "", "installed.json")
    if stamp.exists() and stamp.stat().st_mtime > max(path.stat().st_mtime for path in (pyproject, LOCK, Path(__file__))):
        return
    session.install("--require-hashes", "--requirement", str(LOCK))
    if project:
        session.install("--no-deps", "--no-build-isolation", "--no-index", "--editable", ".")
    stamp.write_text(json.dumps({"lock": LOCK.name}) + "\n")


def missing_in_lock(pyproject: dict[str, Any], groups: Iterable[str], lock: str) -> list[str]:
    """The packages that pyproject.toml names, itself or in a group, and the lock does not."""
    tools = nox.project.dependency_groups(pyproject, *groups) if groups else ()
    wanted = [*pyproject["project"]["dependencies"], *tools]
    names = {re.split(r"[^\w.-]", word, maxsplit=1)[0] for word in wanted}
    return sorted(name for name in names if not re.search(rf"^{re.sub('[-_.]+', '-', name).lower()}==", lock, re.MULTILINE))


def pick(session: nox.Session, how: Callable[..., tuple[catalog.Entry, ...]], names: Iterable[str]) -> tuple[catalog.Entry, ...]:
    try:
        entries = how(catalog.find(ROOT / "kubefiles"), names)
    except UsageError as error:
        session.error(str(error))
    if not entries:
        session.error("kubefiles/ holds no Kubefile")
    return entries


def build(session: nox.Session, entries: Iterable[catalog.Entry], *options: str) -> None:
    """`slipway build` of each; its progress is shown, its result kept beside the reports."""
    REPORTS.mkdir(exist_ok=True)
    for entry in entries:
        with facts_of(entry).open("w") as result:
            folder = str(entry.folder.relative_to(ROOT))
            words = ("--tag", entry.reference, "--output", "json", *options)
            session.run("slipway", "build", folder, *words, stdout=result, stderr=sys.stderr)


class Publishing:
    """What `publish` is asked for. One machine builds for itself and pushes TAG-ARCH, or with --platform for several and pushes TAG.

    When every machine of a matrix has pushed its own, --join makes one TAG of them.
    """

    def __init__(self, registry: str, tag: str, platform: str, join: str, connection: list[str], names: list[str]) -> None:
        self.registry, self.tag, self.platform, self.connection, self.names = registry.rstrip("/"), tag, platform, connection, names
        self.join = [part for part in join.split(",") if part]

    @classmethod
    def read(cls, words: Iterable[str]) -> Publishing:
        """From the words after ``--``; ends the process when they are wrong."""
        parser = argparse.ArgumentParser(prog="nox -s publish --", usage="%(prog)s --registry HOST/NAMESPACE [options] [NAME...]")
        parser.add_argument("--registry", required=True, help="where to, as registry.example/team; log in before, with `slipway login`")
        parser.add_argument("--tag", default=catalog.TAG, help=f"the tag there [{catalog.TAG}]")
        parser.add_argument("--platform", default="", help="build for these on this machine, as linux/amd64,linux/arm64")
        parser.add_argument(
            "--join", default="", metavar="ARCH,ARCH", help="build nothing: make one tag of what the machines of a matrix pushed"
        )
        parser.add_argument("--plain-http", action="store_const", dest="connection", const=["--plain-http"], default=[])
        parser.add_argument("names", nargs="*", metavar="NAME", help="kubefiles; all without names")
        return cls(**vars(parser.parse_args(list(words))))

    @property
    def build_options(self) -> list[str]:
        return ["--platform", self.platform] if self.platform else []

    def commands(self, entry: catalog.Entry) -> list[list[str]]:
        """The words after `slipway`, command by command."""
        there = f"{self.registry}/{entry.name}:{self.tag}"
        if self.join:
            parts = [f"{there}-{architecture}" for architecture in self.join]
            return [["manifest", "create", "--pull", *self.connection, there, *parts], ["push", *self.connection, there]]
        target = there if self.platform else f"{there}-{paths.architecture()}"
        return [["push", *self.connection, entry.reference, target]]


def test(session: nox.Session, entries: Iterable[catalog.Entry]) -> list[str]:
    """The tests of each image on nodes of its own; the names of those that failed."""
    failed = []
    for entry in entries:
        if not entry.tests:
            session.error(f"{entry.folder.relative_to(ROOT)} holds no tests: write test_{entry.name.replace('-', '_')}.py")
        folder = str(entry.folder.relative_to(ROOT))
        if not pytest(session, entry.name, folder, "--image", entry.reference, "-v", success_codes=[0, 1]):
            failed.append(entry.name)
    return failed


def pytest(session: nox.Session, name: str, *words: str, success_codes: Iterable[int] = (0,)) -> bool:
    """One pytest run with its reports; whether all passed. Raises CommandFailed for other exit codes than ``success_codes``."""
    xml = report(name, "xml")
    xml.unlink(missing_ok=True)
    html = str(report(name, "html").relative_to(ROOT))
    options = ("--junitxml", str(xml.relative_to(ROOT)), "--html", html, "--self-contained-html")
    session.run("python", "-m", "pytest", *words, *options, success_codes=success_codes)
    return Counts.read(name).failed == 0


def check_style(session: nox.Session) -> None:
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    workflows = [str(path.relative_to(ROOT)) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run("shellcheck", "--severity=warning", *shell_scripts())


def shell_scripts() -> list[str]:
    """Every shell script of the project, whatever it is called."""
    folders = (".ci", "harness", "images", "kubefiles", "tests")
    candidates = [ROOT / "nox", *(path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())]
    first_lines = {path: path.open("rb").readline(64) for path in candidates}
    return sorted(str(path.relative_to(ROOT)) for path, line in first_lines.items() if re.match(rb"#!\s*/\S*(\s|/)(ba|da)?sh\b", line))


def check_images(session: nox.Session) -> None:
    entries = pick(session, catalog.order, ())
    build(session, entries)
    failed = test(session, entries)
    say(*about(session, entries, tested=True))
    if failed:
        session.error(f"tests failed: {', '.join(failed)}")


TWO_AT_A_TIME = ("-n", "2", "--dist", "loadfile")
"""Files that know nothing of each other, in two processes. Clusters want the machine for themselves."""

RINGS: dict[str, Callable[[nox.Session], object]] = {
    "lint": check_style,
    "types": lambda session: session.run("mypy", "--strict"),
    "unit": lambda session: pytest(session, "unit", "tests/unit", *TWO_AT_A_TIME),
    "integration": lambda session: pytest(session, "integration", "tests/integration", *TWO_AT_A_TIME),
    "cluster": lambda session: pytest(session, "cluster", "tests/cluster", "--ignore", UPGRADE),
    "images": check_images,
    "upgrade": lambda session: pytest(session, "upgrade", UPGRADE),
}
BESIDE = ("upgrade",)
"""Only when they are asked for: ten minutes, and a second Kubernetes."""


# What a person reads at the end


def report(name: str, kind: str) -> Path:
    return REPORTS / f"{name}.{kind}"


def facts_of(entry: catalog.Entry) -> Path:
    return report(entry.name, "build.json")


class Counts:
    """What pytest counted in one run."""

    def __init__(self, passed: int, failed: int, skipped: int, seconds: float) -> None:
        self.passed, self.failed, self.skipped, self.seconds = passed, failed, skipped, seconds

    @classmethod
    def read(cls, name: str) -> Counts:
        """Of the run ``name``; nothing when there was none."""
        path = report(name, "xml")
        suites = ET.parse(path).getroot().iter("testsuite") if path.exists() else []  # noqa: S314
        total, failed, skipped, seconds = 0, 0, 0, 0.0
        for suite in suites:
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
            seconds += float(suite.get("time", 0))
        return cls(total - failed - skipped, failed, skipped, seconds)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {duration(self.seconds)}"


class Closing:
    """The last line of `tests`: all rings together, in pytest's words. Shown when the process ends, behind whatever nox says."""

    def __init__(self) -> None:
        self.started = time.time()
        self.ring = "install"

    def show(self) -> None:
        names = [path.stem for path in REPORTS.glob("*.xml") if path.stat().st_mtime >= self.started]
        counts = [Counts.read(name) for name in names]
        passed, failed, skipped = (sum(getattr(one, kind) for one in counts) for kind in ("passed", "failed", "skipped"))
        if self.ring:
            say(f"stopped in ring {self.ring}")
            failed = failed or 1  # a linter or a build counts nothing itself
        line = f" {passed} passed, {failed} failed, {skipped} skipped in {time.time() - self.started:.2f}s "
        say(line.center(80, "="))


def about(session: nox.Session, entries: Iterable[catalog.Entry], *, tested: bool = False) -> list[str]:
    """Per image: how it came to be, what is in it, what its tests said, and where to read more."""
    return [line for entry in entries for line in about_one(session, entry, tested=tested)]


def about_one(session: nox.Session, entry: catalog.Entry, *, tested: bool) -> list[str]:
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
