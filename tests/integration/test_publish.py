"""Publishing with proof: the commands of the session `publish` against a real registry, and cosign, which verifies what they leave there.

Nodes are not booted: the record of the tests is what the test kit would write.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness import catalog, cloudimage, process
from harness.cloudimage import CloudImage
from harness.host import paths
from harness.oci.reference import Reference
from harness.oci.registry.referrers import ATTESTATIONS, LocalReferrers, tag_of
from harness.oci.store import Store
from harness.sessions.publishing import Publishing
from harness.transfer import access
from harness.trust import attestation, keys, results
from harness.trust.results import SuiteRun, Topology
from tests.conftest import Slipway
from tests.integration.cosign import PASSWORD, Cosign
from tests.integration.faulty import Handler, faulty, passed_on
from tests.integration.registry import Registry
from tests.integration.test_store import PLATFORMS, platform_image

REPOSITORY = "team/web"


class Publisher:
    """One machine: its store, its key, and the registry to which it publishes ``web``."""

    def __init__(self, folder: Path, slipway: Slipway, host: str, entry: catalog.CatalogEntry) -> None:
        self.folder, self.host, self.entry = folder, host, entry
        self.store = Store(folder / "home/store")
        self._slipway = slipway
        self._env = {
            "SLIPWAY_HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "SLIPWAY_POLICY": "",
            "SLIPWAY_KEY_PASSWORD": PASSWORD,
        }
        self.key = folder / "release.key"
        self.record = folder / "web.test-result.json"
        self.run("keys", "create", "--to", folder / "release")

    @property
    def public(self) -> Path:
        return self.folder / "release.pub"

    def run(self, *words: str | Path, check: bool = True) -> process.ProcessResult:
        return self._slipway(*words, check=check, env=self._env, cwd=self.folder)

    def build(self, *platforms: int) -> CloudImage:
        """Something to publish as web:latest: random content, for the platforms with these numbers."""
        root = self.folder / "rootfs/bin"
        root.mkdir(parents=True, exist_ok=True)
        (root / "run").write_bytes(os.urandom(50_000))
        with self.store.shared_lease():
            parts = [platform_image(self.store, PLATFORMS[number], root.parent) for number in platforms or (0,)]
            self.store.tag("web", cloudimage.write(self.store, parts))
        return cloudimage.read(self.store, "web")

    def tested(self, digest: str, platform: str = "linux/amd64") -> None:
        """Leave the record of tests that passed."""
        run = SuiteRun(digest, platform, "1.2.3", passed=["test_web.py::test_page"], topologies=[Topology(1, 1)])
        statement = attestation.statement("web:latest", digest, results.PREDICATE, run.predicate())
        self.record.write_text(json.dumps(statement))

    def wanted(self, *words: str) -> Publishing:
        given = ("--registry", f"{self.host}/team", "--tag", "1", "--plain-http", "--key", str(self.key))
        return Publishing.read([*given, *words, "web"])

    def publish(self, digest: str, *words: str) -> process.ProcessResult:
        """Run the commands of the session one by one; the first that fails, or the last."""
        wanted = self.wanted(*words)
        commands = wanted.join_commands(self.entry) if wanted.join else wanted.commands(self.entry, digest, str(self.record))
        done = None
        for command in commands:
            done = self.run(*command, check=False)
            if not done.ok:
                break
        assert done is not None
        return done


@pytest.fixture
def publisher(tmp_path: Path, slipway: Slipway, there: Registry, monkeypatch: pytest.MonkeyPatch) -> Publisher:
    monkeypatch.setattr(paths, "architecture", lambda: "amd64")
    return Publisher(tmp_path, slipway, there.host, catalog.find(Path(__file__).parents[2] / "kubefiles")["web"])


def digest_in(there: Registry, tag: str) -> str | None:
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        now = client.head(Reference.parse(f"{there.host}/{REPOSITORY}:{tag}"))
    return now.digest if now else None


def test_publish_tested_image_has_signature_and_attestations_that_cosign_verifies(
    publisher: Publisher, there: Registry, cosign: Cosign, slipway: Slipway, tmp_path: Path
) -> None:
    image = publisher.build()
    publisher.tested(image.digest)
    assert publisher.publish(image.digest).ok
    assert digest_in(there, "1-amd64") == image.digest
    name = f"{there.host}/{REPOSITORY}:1-amd64"
    puts = there.requests("PUT", "/manifests/")
    assert puts[-1].endswith("/manifests/1-amd64"), puts
    assert cosign.verify(name, publisher.public).ok
    _, stranger = cosign.key_pair("stranger")
    for kind in (results.PREDICATE, "cyclonedx", "slsaprovenance1"):
        said = cosign.verify_attestation(name, publisher.public, kind)
        assert said.ok, said.output
        statement = json.loads(base64.b64decode(json.loads(said.stdout)["payload"]))
        assert statement["subject"][0]["digest"]["sha256"] == image.digest.removeprefix("sha256:")
        assert not cosign.verify_attestation(name, stranger, kind).ok
        if kind == results.PREDICATE:
            assert statement["predicate"]["result"] == "PASSED"
            assert statement["predicate"]["slipwayTestRun"]["runs"][0]["image"] == image.digest
    types = ("--type", "test-result", "--type", "sbom", "--type", "provenance")
    verify = ("verify", name, "--remote", "--plain-http", "--key", publisher.public, *types, "-o", "json")
    attached = json.loads(publisher.run(*verify).stdout)["attached"]
    assert sorted((one["name"], one["signed"]) for one in attached if one["kind"] == "attestation") == [
        ("provenance", True),
        ("sbom", True),
        ("test-result", True),
    ]

    # Whoever pulls it has the proof too.
    site = {"SLIPWAY_HOME": str(tmp_path / "site"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "SLIPWAY_POLICY": ""}
    slipway("pull", name, "--plain-http", env=site)
    slipway("verify", name, "--key", publisher.public, *types, env=site)
    assert "PASSED: 1 passed, 0 failed, 0 skipped on linux/amd64" in slipway("inspect", name, env=site).stdout


def test_publish_image_other_than_tested_is_refused(publisher: Publisher, there: Registry) -> None:
    publisher.tested(publisher.build().digest)
    rebuilt = publisher.build()
    refused = publisher.publish(rebuilt.digest)
    assert refused.returncode == 4
    assert f"and {there.host}/{REPOSITORY}:1-amd64 is {rebuilt.digest}" in refused.stderr
    assert there.requests("PUT", "") == []


def test_publish_existing_tag_with_other_bytes_is_replaced_on_request_only(publisher: Publisher, there: Registry) -> None:
    first = publisher.build()
    publisher.tested(first.digest)
    assert publisher.publish(first.digest).ok
    assert publisher.publish(first.digest).ok  # the same bytes
    second = publisher.build()
    publisher.tested(second.digest)
    question = publisher.wanted().question(publisher.entry, second.digest)
    for refused in (publisher.run(*question, check=False), publisher.publish(second.digest)):
        assert refused.returncode == 4
        assert f"exists with other bytes: {first.digest}, and not {second.digest}" in refused.stderr
    assert digest_in(there, "1-amd64") == first.digest
    assert "would be replaced" in publisher.run(*publisher.wanted("--replace").question(publisher.entry, second.digest)).stdout
    assert publisher.publish(second.digest, "--replace").ok
    assert digest_in(there, "1-amd64") == second.digest


@pytest.mark.parametrize("sent", [0, 1])
def test_publish_to_registry_that_dies_leaves_former_tag_and_completes_later(sent: int, publisher: Publisher, there: Registry) -> None:
    with faulty(upstream=there.host) as front:
        publisher.host = front.host
        first = publisher.build()
        publisher.tested(first.digest)
        assert publisher.publish(first.digest).ok
        second = publisher.build()
        publisher.tested(second.digest)
        front.spoil("PUT", "/manifests/", *[passed_on] * sent, *[Handler.reset] * 1000)
        died = publisher.publish(second.digest, "--replace")
        assert died.returncode == 4
        assert front.host in died.stderr
        assert "Traceback" not in died.stderr
        assert digest_in(there, "1-amd64") == first.digest
        front.heal()
        assert publisher.publish(second.digest, "--replace").ok
        assert digest_in(there, "1-amd64") == second.digest
        types = ("--type", "test-result", "--type", "sbom", "--type", "provenance")
        publisher.run("verify", f"{front.host}/{REPOSITORY}:1-amd64", "--remote", "--plain-http", "--key", publisher.public, *types)


def test_verify_attestation_of_other_image_is_refused_and_pull_omits_it(
    publisher: Publisher, there: Registry, slipway: Slipway, tmp_path: Path
) -> None:
    image = publisher.build()
    publisher.tested(image.digest)
    assert publisher.publish(image.digest).ok
    other = publisher.build()
    publisher.run("push", other.digest, f"{there.host}/{REPOSITORY}:other", "--plain-http")
    # Whoever writes to the registry moves the proof of the tested image to one that was never tested.
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        tag = Reference.parse(f"{there.host}/{REPOSITORY}:{tag_of(image.digest, ATTESTATIONS)}")
        moved = client.manifest(tag)
        place = Reference.parse(f"{there.host}/{REPOSITORY}:{tag_of(other.digest, ATTESTATIONS)}")
        client.put_manifest(place, moved.data, moved.media_type)
    name = f"{there.host}/{REPOSITORY}:other"
    publisher.run("sign", name, "--plain-http", "--key", publisher.key)
    verify = ("verify", name, "--remote", "--plain-http", "--key", publisher.public, "--attestations")
    refused = publisher.run(*verify, check=False)
    assert refused.returncode == 4
    assert f"is about {image.digest}, not about {other.digest}" in refused.output
    site = {"SLIPWAY_HOME": str(tmp_path / "site"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "SLIPWAY_POLICY": ""}
    pulled = slipway("pull", name, "--plain-http", env=site)
    assert f"refused: an attestation of type {results.PREDICATE} is about {image.digest}" in pulled.stderr
    assert LocalReferrers(Store(tmp_path / "site/store"), Reference.parse(name)).find(tag_of(other.digest, ATTESTATIONS)) == ()


def test_publish_join_puts_test_results_of_each_platform_under_one_tag(
    publisher: Publisher, there: Registry, cosign: Cosign, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, architecture in enumerate(("amd64", "arm64")):
        monkeypatch.setattr(paths, "architecture", lambda architecture=architecture: architecture)
        image = publisher.build(number)
        if architecture == "amd64":
            first = image
        publisher.tested(image.digest, f"linux/{architecture}")
        assert publisher.publish(image.digest).ok
    joined = publisher.publish("", "--join", "amd64,arm64")
    assert joined.ok, joined.output
    name = f"{there.host}/{REPOSITORY}:1"
    said = cosign.verify_attestation(name, publisher.public, results.PREDICATE)
    assert said.ok, said.output
    predicate: dict[str, Any] = json.loads(base64.b64decode(json.loads(said.stdout)["payload"]))["predicate"]
    assert [run["platform"] for run in predicate["slipwayTestRun"]["runs"]] == ["linux/amd64", "linux/arm64"]
    assert predicate["slipwayTestRun"]["runs"][0]["image"] == first.digest
    assert cosign.verify(name, publisher.public).ok


def test_publish_join_part_attested_by_other_key_is_refused(publisher: Publisher, there: Registry, tmp_path: Path) -> None:
    image = publisher.build()
    publisher.tested(image.digest)
    keys.create(tmp_path / "stranger", PASSWORD)
    own, publisher.key = publisher.key, tmp_path / "stranger.key"
    assert publisher.publish(image.digest).ok
    publisher.key = own
    refused = publisher.publish("", "--join", "amd64")
    assert refused.returncode == 4
    assert "has no test results that are signed by this key" in refused.stderr
    assert digest_in(there, "1") is None
