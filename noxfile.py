"""The sessions. Each calls the `slipway` command line, pytest or a linter; words after ``--`` are names: of kubefiles, rings or benchmarks.

./nox -s build-image test-image -- web      build the image kubefiles/web (and what it is built from), then test it
./nox -s tests                              what must hold; `-- unit types` runs these rings only
"""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nox
import nox.command

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))  # the `nox` command does not put the project there, `python -m nox` does

from harness import catalog, sessions  # noqa: E402 - standard library and nox only, all three
from harness.host import paths  # noqa: E402
from harness.sessions.reports import Counts, read_json, say  # noqa: E402
from harness.sessions.repository import MEASURED  # noqa: E402

nox.needs_version = ">=2024.10.9"
nox.options.reuse_venv = "yes"
nox.options.default_venv_backend = "virtualenv"
nox.options.sessions = ["lint", "types", "docs"]

DOCS_BUILT = ROOT / "build/docs"
DIST = ROOT / "dist"
VM = "tests/vm"
UPGRADE = "tests/cluster/test_upgrade.py"
SUITE_FOLDER = ROOT / "kubefiles/conformance"
"""The end-to-end tests of Kubernetes as an application image."""

IMAGES = sessions.define(ROOT, lambda session: install(session))  # noqa: PLW0108 -- install() stands below
"""`build-image`, `test-image`, `publish`, `sbom`, `site` and `catalog`, as every repository of images has them."""


@nox.session(default=False)
def conformance(session: nox.Session) -> None:
    """Run the end-to-end tests of Kubernetes itself against an image on nodes: `-- IMAGE [--smoke | --focus RE | --specs FILE | --full]`.

    Without a choice, 134 specs that touch every subject; with `--smoke`, ten of them. `--processes N` runs N specs at a time;
    `--workers N`, `--control-plane N` make more nodes.
    """
    image, words = conformance_words(session.posargs)
    if not image or image.startswith("-"):
        session.error("give an image with Kubernetes: ./nox -s conformance -- kubernetes")
    install(session)
    facts = read_json(session.run("slipway", "inspect", image, "--output", "json", silent=True, log=False, success_codes=range(256)))
    version = next((one["info"].get("kubernetes") or "" for one in facts.get("platforms", ())), "")
    if not version:
        session.error(f"{image} is not in the store, or has no Kubernetes: ./nox -s build-image -- {image}")
    minor_version = ".".join(version.removeprefix("v").split(".")[:2])
    lists = SUITE_FOLDER / minor_version
    if not lists.is_dir():
        there = ", ".join(sorted(path.name for path in SUITE_FOLDER.iterdir() if path.is_dir()))
        session.error(f"{image} has Kubernetes {version}; {shown(SUITE_FOLDER)} has the tests of {there}")
    suite = f"{SUITE_FOLDER.name}:{version}"
    arguments = ("--build-arg", f"VERSION={version}", "--build-arg", f"MINOR={minor_version}")
    session.run("slipway", "build", shown(SUITE_FOLDER), "--tag", suite, *arguments)
    options = ("--suite", suite, "--unavailable", shown(lists / "unavailable.yaml"))
    session.run("slipway", "e2e", image, *options, *spec_words(words, lists))


def conformance_words(words: Sequence[str]) -> tuple[str, list[str]]:
    """The image, with its tag, and the other words after ``conformance --``: the name of a kubefile means what `build-image` made of it."""
    image, *others = words or [""]
    return (f"{image}:{catalog.TAG}" if image and not set(image) & set(":/@") else image), others


def spec_words(words: Sequence[str], lists: Path) -> list[str]:
    """The words after ``conformance -- IMAGE`` with a choice of specs: that of ``--smoke``, or the broad one where none is given.

    One of the broad choice counts two nodes without taints.
    """
    given = {word.partition("=")[0] for word in words}
    if "--smoke" in given:
        return ["--specs", shown(lists / "smoke.txt"), *(word for word in words if word != "--smoke")]
    if given & {"--focus", "--specs", "--full"}:
        return [*words]
    nodes = [] if "--workers" in given else ["--workers", "2"]
    return ["--specs", shown(lists / "broad.txt"), *nodes, *words]


@nox.session(default=False)
def minor(session: nox.Session) -> None:
    """Build the base image with another version of Kubernetes, and test it on nodes: `-- 1.36`."""
    if len(session.posargs) != 1:
        session.error("give one version: ./nox -s minor -- 1.36")
    (version,) = session.posargs
    install(session)
    reference = f"kubernetes:{version}"
    session.run("slipway", "build", "--tag", reference, "--build-arg", f"VERSION={version}", "kubefiles/kubernetes")
    if not IMAGES.pytest(session, f"kubernetes-{version}", "kubefiles/kubernetes", "--image", reference):
        session.error(f"tests failed: {reference}")


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
    IMAGES.pytest(session, "vm", VM, *session.posargs)


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


def missing_in_lock(pyproject: dict[str, Any], groups: Iterable[str], lock: str) -> list[str]:
    """The packages that pyproject.toml names, itself or in a group, and the lock does not."""
    tools = nox.project.dependency_groups(pyproject, *groups) if groups else ()
    wanted = [*pyproject["project"]["dependencies"], *tools]
    names = {re.split(r"[^\w.-]", word, maxsplit=1)[0] for word in wanted}
    return sorted(name for name in names if not re.search(rf"^{re.sub('[-_.]+', '-', name).lower()}==", lock, re.MULTILINE))


COVERAGE = "--coverage"
"""Among the names of rings: measure them."""


def measure(session: nox.Session) -> None:
    """Measure every pytest from now on, with the processes that it starts: pytest's workers and slipway's commands."""
    IMAGES.reports.mkdir(exist_ok=True)
    session.env[MEASURED] = str(IMAGES.reports / "coverage")
    session.run("coverage", "erase")


def show_coverage(session: nox.Session) -> None:
    """Print the share of each module's lines that were run, the lowest first, and write reports/coverage-html."""
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "html", "--quiet", "--directory", shown(IMAGES.reports / "coverage-html"))
    session.run("coverage", "report", "--sort=cover", "--skip-covered", "--skip-empty")


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
    entries = IMAGES.pick(session, catalog.order, names)
    IMAGES.build(session, entries)
    untested = [entry.name for entry in entries if not entry.tests]
    if untested:
        session.error(f"no tests beside the Kubefile of {', '.join(untested)}")
    ring = "images" if names else "catalog"
    passed = IMAGES.pytest(session, ring, *(shown(entry.folder) for entry in entries), *TWO_AT_A_TIME)
    say(*IMAGES.about(session, entries))
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
    "unit": lambda session: IMAGES.pytest(session, "unit", "tests/unit", *TWO_AT_A_TIME),
    "integration": lambda session: IMAGES.pytest(session, "integration", "tests/integration", *TWO_AT_A_TIME, "-m", "not long"),
    "hostile": lambda session: IMAGES.pytest(session, "hostile", "tests/hostile", *TWO_AT_A_TIME, "-m", "not long"),
    "fuzz": lambda session: run_fuzzers(session, "--seconds", str(FUZZ_SECONDS), "--inputs", "300", "--plain", "--seed", "1"),
    "cluster": lambda session: IMAGES.pytest(session, "cluster", *CLUSTER, "-m", "not long"),
    "images": lambda session: check_images(session, *SMOKE_IMAGES),
    "long": lambda session: IMAGES.pytest(session, "long", *CLUSTER, "tests/integration", "tests/hostile", "-m", "long"),
    "upgrade": lambda session: IMAGES.pytest(session, "upgrade", UPGRADE),
    "as-written": lambda session: IMAGES.pytest(session, "as-written", "tests/as_written"),
    "catalog": check_images,
}
ON_REQUEST = ("long", "upgrade", "as-written", "catalog")
"""Rings that run only when they are named, and every night: what takes minutes for one test, a second Kubernetes, texts as they were
published, every image."""


# What a person reads at the end


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
        counts = Counts.together(Counts.read(path) for path in new) if new else None
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
    return {(path, (stat := path.stat()).st_mtime_ns, stat.st_ino) for path in IMAGES.reports.glob("*.xml")}


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
    return IMAGES.shown(path)
