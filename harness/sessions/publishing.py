"""Publication with proof: build, test, and push what passed, with its documents."""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nox
import nox.command

from harness import catalog
from harness.catalog import CatalogEntry
from harness.host import paths
from harness.sessions.reports import read_json, read_json_file
from harness.sessions.repository import Repository, test_file
from harness.sessions.requests import ImageRequest


class UnpublishedError(Exception):
    """The reason why an image is not published."""


class Publishing:
    """Options of `publish`. One machine builds for itself and pushes TAG-ARCH, or with --platform for several and pushes TAG.

    When every machine of a matrix has pushed its own, --join makes one TAG of them.
    """

    def __init__(self, wanted: argparse.Namespace, images: ImageRequest) -> None:
        self.images = images
        self.registry: str = wanted.registry.rstrip("/")
        self.tag: str = wanted.tag
        self.platform: str = wanted.platform
        self.built: bool = wanted.built
        self.allow_built: bool = wanted.allow_built
        self.allow_untested: bool = wanted.allow_untested
        self.connection: list[str] = wanted.connection
        self.key = ["--key", wanted.key] if wanted.key else []
        self.scan: list[str] = wanted.scan
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
        parser.add_argument(
            "--scan",
            type=_words,
            default=[],
            metavar="COMMAND",
            help="publish what this command accepts: it gets the bill of materials (CycloneDX) in place of {}, or as its last word",
        )
        parser.add_argument("--plain-http", action="store_const", dest="connection", const=["--plain-http"], default=[])
        ImageRequest.add_to(parser)
        wanted = parser.parse_intermixed_args(list(words))
        images = ImageRequest.of(parser, wanted)
        if bool(wanted.key) == wanted.unsigned:
            parser.error("sign with --key FILE, or say --unsigned: one of both")
        if wanted.join and (wanted.platform or wanted.built):
            parser.error("--join builds nothing, and takes every platform that was pushed: leave out --platform and --built")
        if wanted.join and (images.values or wanted.scan):
            parser.error("--join builds and tests nothing: leave out -e and --scan")
        return cls(wanted, images)

    def build_options(self, entry: CatalogEntry) -> list[str]:
        """Options of `slipway build`."""
        return [*(["--platform", self.platform] if self.platform else []), *self.images.build_options(entry)]

    def target(self, entry: CatalogEntry) -> str:
        """The name that an image gets in the registry."""
        there = f"{self.registry}/{entry.name}:{self.tag}"
        return there if self.join or self.platform else f"{there}-{paths.architecture()}"

    def scan_command(self, bill: str) -> list[str]:
        """The words of --scan with the path of a bill of materials."""
        return [word.replace("{}", bill) for word in self.scan] if any("{}" in word for word in self.scan) else [*self.scan, bill]

    def question(self, entry: CatalogEntry, digest: str) -> list[str]:
        """The words after `slipway` that ask the registry if the tag may be pushed, before minutes of tests."""
        return ["push", "--plan", *self.keep, *self.connection, digest, self.target(entry)]

    def commands(self, entry: CatalogEntry, digest: str, record: str, conformance: str = "") -> list[list[str]]:
        """The words after `slipway`, command by command, that publish the image that was tested: it is named by its digest.

        ``conformance`` is the record of the tests of Kubernetes itself, where they have passed.
        """
        target = self.target(entry)
        # A signature holds for the name that is signed, so the image has its public name before.
        named = ["tag", digest, target]
        proofs = self._proofs(target, ["--predicate", record])
        if conformance:
            # Another suite of the same type: both stay attached.
            proofs.insert(1, ["attest", "--type", "test-result", "--predicate", conformance, *self.key, target])
        return [named, *proofs, ["push", *self.keep, *self.connection, digest, target]]

    def join_commands(self, entry: CatalogEntry) -> list[list[str]]:
        """The same for one tag of the images that the machines of a matrix have pushed."""
        target = self.target(entry)
        parts = [f"{target}-{architecture}" for architecture in self.join]
        create = ["manifest", "create", "--pull", *self.connection, target, *parts]
        results = [word for part in parts for word in ("--part", part)]
        return [create, *self._proofs(target, results), ["push", *self.keep, *self.connection, target]]

    def _proofs(self, target: str, results: list[str]) -> list[list[str]]:
        tested = ["attest", "--type", "test-result", *results, *self.key, target]
        documents = [[verb, "--attach", *self.key, target] for verb in ("sbom", "provenance")]
        return [tested, *documents, *([["sign", *self.key, target]] if self.key else [])]


def _words(text: str) -> list[str]:
    """The words of a command line, as a shell divides them; raises what makes argparse refuse it."""
    try:
        words = shlex.split(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(f"{text}: {wrong}") from wrong
    if not words:
        raise argparse.ArgumentTypeError("a command is needed, as 'grype --fail-on critical sbom:{}'")
    return words


def publish(session: nox.Session, repository: Repository, wanted: Publishing) -> tuple[list[str], dict[str, str]]:
    """Publish images; a line for each that is published, and the names of the others with the reason."""
    if wanted.key and not Path(wanted.key[1]).is_file():
        # Not after minutes of tests.
        session.error(f"--key {wanted.key[1]}: no such file; slipway keys create makes a pair")
    if wanted.scan and shutil.which(wanted.scan[0]) is None:
        session.error(f"--scan {wanted.scan[0]}: no such program")
    entries = repository.pick(session, catalog.select, wanted.images.names)
    repository.install(session)
    order = () if wanted.join or wanted.built else repository.pick(session, catalog.order, wanted.images.names)
    refused = build_each(session, repository, order, wanted)
    published = []
    for entry in entries:
        if entry.name in refused:
            continue
        try:
            publish_one(session, repository, wanted, entry)
            published.append(f"published {wanted.target(entry)}")
        except (UnpublishedError, OSError) as why:
            # A full disk, or a report that cannot be written: the next image may be smaller.
            session.warn(f"{entry.name} is not published: {why}")
            refused[entry.name] = str(why)
    return published, {entry.name: refused[entry.name] for entry in entries if entry.name in refused}


def build_each(session: nox.Session, repository: Repository, entries: Iterable[CatalogEntry], wanted: Publishing) -> dict[str, str]:
    """Build images, bases first; the names of those that were not built, each with the reason."""
    failed: dict[str, str] = {}
    for entry in entries:
        if entry.needs in failed:
            failed[entry.name] = f"its base {entry.needs} was not built"
            continue
        try:
            repository.build(session, [entry], *wanted.build_options(entry))
        except nox.command.CommandFailed:
            failed[entry.name] = "its build failed"
        except OSError as wrong:
            failed[entry.name] = f"the result of its build cannot be written: {wrong}"
    return failed


def publish_one(session: nox.Session, repository: Repository, wanted: Publishing, entry: CatalogEntry) -> None:
    """Test an image and push it with its proof. Raises UnpublishedError; then its tag in the registry is as before."""
    if wanted.join:
        commands = wanted.join_commands(entry)
    else:
        image = inspected(session, entry)
        reason = unfit(image, wanted)
        if reason:
            raise UnpublishedError(reason)
        if not entry.tests:
            raise UnpublishedError(f"it has no tests: write {test_file(entry)} beside its Kubefile")
        conformance = conformance_record(repository, entry, image["digest"])
        slipway(session, *wanted.question(entry, image["digest"]))
        if wanted.scan:
            scan(session, repository, wanted, entry, image["digest"])
        if repository.test(session, [entry], *wanted.images.test_options):
            raise UnpublishedError(f"its tests failed: {repository.shown(repository.report(entry.name, 'html'))}")
        record = repository.record_of(entry)
        reason = untested(entry, image["digest"], record)
        if reason:
            raise UnpublishedError(reason)
        commands = wanted.commands(entry, image["digest"], repository.shown(record), conformance)
    for words in commands:
        slipway(session, *words)


def scan(session: nox.Session, repository: Repository, wanted: Publishing, entry: CatalogEntry, digest: str) -> None:
    """Hand the bill of materials of an image to the user's scanner. Raises UnpublishedError when the scanner refuses it."""
    bill = repository.shown(repository.report(entry.name, "cdx.json"))
    slipway(session, "sbom", digest, "--to", bill)
    command = wanted.scan_command(bill)
    try:
        session.run(*command, external=True)
    except nox.command.CommandFailed as failed:
        raise UnpublishedError(f"its scan failed: {shlex.join(command)} ({failed.reason})") from failed


def conformance_record(repository: Repository, entry: CatalogEntry, digest: str) -> str:
    """Path of the record of the tests of Kubernetes itself about this digest; empty when there is none.

    Raises UnpublishedError when they have failed: a proof that is left out would hide it.
    """
    path = repository.conformance_of(entry)
    record = read_json_file(path)
    if proves(record, digest):
        return repository.shown(path)
    if digest in subjects(record):
        result = record["predicate"]["result"]
        raise UnpublishedError(
            f"the tests of Kubernetes itself say {result}: {repository.shown(path)}; run them again with `conformance`, or remove this file"
        )
    return ""


def slipway(session: nox.Session, *words: str) -> None:
    """Run the command line for an image that is to be published. Raises UnpublishedError when it fails: it has said why."""
    try:
        session.run("slipway", *words)
    except nox.command.CommandFailed as failed:
        raise UnpublishedError(f"slipway {words[0]} failed ({failed.reason})") from failed


def inspected(session: nox.Session, entry: CatalogEntry) -> dict[str, Any]:
    """The output of `slipway inspect` for an image, as data. Raises UnpublishedError for one that is not in the store."""
    words = ("slipway", "inspect", entry.reference, "--output", "json")
    image = read_json(session.run(*words, silent=True, log=False, success_codes=range(256), stderr=sys.stderr))
    if not image:
        raise UnpublishedError(f"{entry.reference} is not in the store, or not whole")
    return image


def built_here(facts: dict[str, Any]) -> list[str]:
    """The container images of a CloudImage that were built under the name of another project, from `slipway inspect -o json`."""
    return sorted({image["name"] for platform in facts["platforms"] for image in platform["images"] if image.get("built")})


def unfit(image: dict[str, Any], wanted: Publishing) -> str:
    """The reason why an image is not published, for any outcome of its tests; empty for one that may be."""
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


def untested(entry: CatalogEntry, digest: str, path: Path) -> str:
    """The reason why the record of the last tests does not stand for the image with ``digest``; empty when it does."""
    record = read_json_file(path)
    if not record:
        return "no test has booted it"
    ran = subjects(record)
    if digest not in ran:
        return f"{', '.join(ran)} was tested, and {entry.reference} was {digest}: it changed during the tests"
    result = record["predicate"]["result"]
    return "" if result == "PASSED" else f"the record of its tests says {result}"


def proves(record: dict[str, Any], digest: str) -> bool:
    """Return True for a statement that tests of the image with ``digest`` have passed."""
    return digest in subjects(record) and record["predicate"]["result"] == "PASSED"


def subjects(record: dict[str, Any]) -> list[str]:
    """The digests that a statement is about."""
    return [f"sha256:{one['digest']['sha256']}" for one in record.get("subject", ())]
