"""An author outside of this project: a new repository, and one command that builds its image, tests it and publishes it with proof."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from harness.host import paths
from tests.conftest import Slipway
from tests.integration.registry import Registry, registry
from tests.waiting import HANG

pytestmark = pytest.mark.long

PROJECT = Path(__file__).parents[2]
NAME = f"storefront-{os.getpid()}"
PASSWORD = "a password of the test"
PROOF = ("--type", "test-result", "--type", "sbom", "--type", "provenance")
PROBE = """import sys
from pathlib import Path

import nox


@nox.session(venv_backend="none")
def renew(session):
    folder, source = session.posargs
    session.run(str(Path(sys.executable).parent / "slipway"), "new", "--update", folder, "--source", source)
"""
"""A noxfile: the slipway of the environment that `./nox` has made renews the repository."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as running:
        yield running


@pytest.fixture
def folder(slipway: Slipway, tmp_path: Path) -> Iterator[Path]:
    """A new repository that installs slipway from this checkout, and a key beside it. Its images leave the store of the tests."""
    target = tmp_path / "author"
    slipway("new", NAME, "--to", target, "--source", PROJECT)
    slipway("keys", "create", "--to", tmp_path / "release", env={"SLIPWAY_KEY_PASSWORD": PASSWORD})
    # `./nox` makes an environment for each text of this file: one of an earlier run has what the checkout was then.
    with (target / "requirements.txt").open("a") as requirements:
        requirements.write(f"# {tmp_path}\n")
    number = process.run(["sh", "-c", "cat nox.lock requirements.txt | cksum"], cwd=target).stdout.split()[0]
    yield target
    for environment in paths.cache().glob(f"venv-*-{number}"):
        shutil.rmtree(environment)
    names = [row["name"] for row in json.loads(slipway("images", "-o", "json").stdout)]
    slipway("rmi", *(name for name in names if NAME in name))


def session(folder: Path, *words: str | Path) -> process.ProcessResult:
    """Run `./nox -s` as its README says."""
    return process.run(["./nox", "-s", *words], cwd=folder, env={"SLIPWAY_KEY_PASSWORD": PASSWORD}, timeout=6 * HANG)


def test_publish_in_new_repository_builds_tests_and_pushes_image_with_proof(
    slipway: Slipway, kubernetes: str, site: Registry, folder: Path, tmp_path: Path
) -> None:
    assert kubernetes
    place = ("--registry", f"{site.host}/team", "--plain-http")
    # What is compiled on a machine without upstream's registries has their names, and is published on request only.
    options = ("--tag", "1", "--key", tmp_path / "release.key", "--allow-built", "-e", "Port=30081")
    done = session(folder, "publish", "--", *place, *options, NAME)
    assert f"published {site.host}/team/{NAME}:1-" in done.output
    record = json.loads((folder / f"reports/{NAME}.test-result.json").read_text())
    assert record["predicate"]["result"] == "PASSED"
    assert len(record["predicate"]["passedTests"]) == 3  # one test for each of two nodes, and the proof of isolation

    (pushed,) = {path.rpartition("/")[2] for path in site.requests("PUT", rf"/{NAME}/manifests/1-")}
    name = f"{site.host}/team/{NAME}:{pushed}"
    user = {"SLIPWAY_HOME": str(tmp_path / "home"), "DOCKER_CONFIG": str(tmp_path / "docker")}
    slipway("verify", name, "--remote", "--plain-http", "--key", tmp_path / "release.pub", *PROOF, env=user)
    pulled = json.loads(slipway("pull", name, "--plain-http", "-o", "json", env=user).stdout)
    assert pulled["digest"] == f"sha256:{record['subject'][0]['digest']['sha256']}"
    embedded = json.loads(slipway("inspect", name, "-o", "json", env=user).stdout)["platforms"][0]["images"]
    assert f"slipway.dev/{NAME}:1" in {image["name"] for image in embedded}

    session(folder, "site", "--", *place, "--to", "build/site", NAME)
    index = json.loads((folder / "build/site/index.json").read_text())
    assert [image["name"] for image in index["images"]] == [f"{site.host}/team/{NAME}"]

    # What the author's environment holds is a package, no checkout; it has all that makes another repository.
    (tmp_path / "probe.py").write_text(PROBE)
    renewed = process.run(["./nox", "-f", tmp_path / "probe.py", "-s", "renew", "--", folder, PROJECT], cwd=folder, timeout=HANG)
    assert "(requirements.txt)" in renewed.output
