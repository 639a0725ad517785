"""Signatures, attestations and policy against the real cosign and a real registry."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import pytest

from harness import cloudimage, process
from harness.cloudimage import CloudImage
from harness.errors import CommandError
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers, tag_of
from harness.oci.statement import IN_TOTO
from harness.oci.store import Store
from harness.transfer import access, pull, push
from harness.trust import keys, policy, sbom, signature
from harness.trust.signature import RefusedError
from tests.conftest import Slipway
from tests.integration import gotool
from tests.integration.cosign import PASSWORD, Cosign
from tests.integration.registry import Registry
from tests.integration.test_store import PLATFORMS, platform_image
from tests.waiting import HANG

WEB = "acme/web:1"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home/store")


@pytest.fixture
def image(store: Store, tmp_path: Path) -> CloudImage:
    return make(store, tmp_path / "rootfs", "web")


def make(store: Store, root: Path, name: str) -> CloudImage:
    """A CloudImage of random content, for two platforms, with a container image in it."""
    (root / "bin").mkdir(parents=True)
    (root / "bin/run").write_bytes(os.urandom(300_000))
    with store.shared_lease():
        store.tag(name, cloudimage.write(store, [platform_image(store, platform, root) for platform in PLATFORMS]))
    return cloudimage.read(store, name)


class Command(Protocol):
    def __call__(self, *words: str | Path, check: bool = True, password: str | None = PASSWORD) -> process.ProcessResult: ...


@pytest.fixture
def command(slipway: Slipway, tmp_path: Path) -> Command:
    """The command line with a store and a configuration of its own."""

    def run(*words: str | Path, check: bool = True, password: str | None = PASSWORD) -> process.ProcessResult:
        environment = {"SLIPWAY_HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "config"), "SLIPWAY_POLICY": ""}
        if password is not None:
            environment["SLIPWAY_KEY_PASSWORD"] = password
        return slipway(*words, check=check, env=environment, cwd=tmp_path)

    return run


@pytest.fixture
def key(command: Command, tmp_path: Path) -> tuple[Path, Path]:
    """A key pair of ours."""
    made = json.loads(command("keys", "create", "-f", tmp_path / "ours", "-o", "json").stdout)
    return Path(made["private"]), Path(made["public"])


def refusal(result: process.ProcessResult) -> str:
    assert result.returncode == 4, result.output
    assert "Traceback" not in result.output
    return result.stderr


# With cosign


def test_sign_signature_is_accepted_by_cosign_for_its_key_and_digest_only(
    command: Command, cosign: Cosign, there: Registry, store: Store, image: CloudImage, key: tuple[Path, Path], tmp_path: Path
) -> None:
    private, public = key
    _, stranger = cosign.key_pair("stranger")
    command("sign", "web", "--key", private, "--annotation", "stage=released")
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    said = cosign.verify(f"{there.host}/{WEB}", public)
    assert said.ok, said.output
    (payload,) = json.loads(said.stdout)
    assert payload["critical"]["image"]["docker-manifest-digest"] == image.digest
    assert cosign.verify(f"{there.host}/{WEB}", public, "-a", "stage=released").ok
    assert not cosign.verify(f"{there.host}/{WEB}", public, "-a", "stage=test").ok
    assert not cosign.verify(f"{there.host}/{WEB}", stranger).ok

    # Another image under the name, and the old signature moved to where its own would be.
    changed = make(store, tmp_path / "changed", "changed")
    signed = store.names()[f"web:{tag_of(image.digest, '.sig')}"]
    store.tag(f"changed:{tag_of(changed.digest, '.sig')}", signed)
    command("push", "changed", f"{there.host}/{WEB}", "--plain-http")
    assert not cosign.verify(f"{there.host}/{WEB}", public).ok
    for where in ("changed", f"{there.host}/{WEB}"):
        remote = ["--remote", "--plain-http"] if ":" in where else []
        error = refusal(command("verify", where, "--key", public, *remote, check=False))
        assert f"signed another digest: {image.digest}" in error


def test_verify_accepts_cosign_signature_also_after_copy_pull_and_push(
    command: Command, cosign: Cosign, there: Registry, image: CloudImage, key: tuple[Path, Path], tmp_path: Path
) -> None:
    theirs, public = cosign.key_pair("theirs")
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    where = (f"{there.host}/{WEB}", "--remote", "--plain-http")
    assert "is not signed" in refusal(command("verify", *where, "--key", public, check=False))
    cosign.sign(f"{there.host}/{WEB}", theirs)
    said = json.loads(command("verify", *where, "--key", public, "-o", "json").stdout)
    assert (said["digest"], said["blobs"], said["bytes"]) == (image.digest, len(image.blobs), image.size)
    assert said["signatures"][0]["identity"] == f"{there.host}/acme/web"
    assert "not by any of the keys" in refusal(command("verify", *where, "--key", key[1], check=False))

    # Through cosign's own copy.
    cosign("copy", "--allow-http-registry", f"{there.host}/{WEB}", f"{there.host}/copy/web:1")
    command("verify", f"{there.host}/copy/web:1", *where[1:], "--key", public)

    # Through a pull, and a second signature of ours beside it, back to the registry.
    command("pull", f"{there.host}/{WEB}", "--plain-http")
    command("verify", f"{there.host}/{WEB}", "--key", public)
    command("sign", f"{there.host}/{WEB}", "--key", key[0])
    command("push", f"{there.host}/{WEB}", "--plain-http")
    assert cosign.verify(f"{there.host}/{WEB}", public).ok
    assert cosign.verify(f"{there.host}/{WEB}", key[1]).ok


def test_sign_with_key_of_other_tool_is_verified_by_slipway_and_cosign(
    command: Command, cosign: Cosign, there: Registry, image: CloudImage, key: tuple[Path, Path]
) -> None:
    assert cosign("public-key", "--key", key[0]).stdout == key[1].read_text()
    theirs, their_public = cosign.key_pair("theirs")
    command("sign", "web", "--key", theirs)
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    cosign.sign(f"{there.host}/{WEB}", key[0])
    for public in (key[1], their_public):
        assert cosign.verify(f"{there.host}/{WEB}", public).ok
        command("verify", f"{there.host}/{WEB}", "--remote", "--plain-http", "--key", public)


def test_sign_remote_image_is_signed_in_registry_without_local_copy(
    command: Command, cosign: Cosign, there: Registry, key: tuple[Path, Path], tmp_path: Path
) -> None:
    elsewhere = Store(tmp_path / "elsewhere")
    made = make(elsewhere, tmp_path / "rootfs", "web")
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        push.push(elsewhere, "web", Reference.parse(f"{there.host}/{WEB}"), client)
    said = command("sign", f"{there.host}/{WEB}", "--plain-http", "--key", key[0])
    assert made.digest in said.stdout
    assert cosign.verify(f"{there.host}/{WEB}", key[1]).ok
    assert not Store(tmp_path / "home/store").names()


def test_sbom_and_provenance_attestations_are_verified_by_cosign(
    command: Command, cosign: Cosign, there: Registry, image: CloudImage, key: tuple[Path, Path]
) -> None:
    _, stranger = cosign.key_pair("stranger")
    command("provenance", "web", "--attach", "--key", key[0])
    command("sbom", "web", "--attach", "--key", key[0])
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    for kind, predicate in (("slsaprovenance1", "https://slsa.dev/provenance/v1"), ("cyclonedx", "https://cyclonedx.org/bom")):
        said = cosign.verify_attestation(f"{there.host}/{WEB}", key[1], kind)
        assert said.ok, said.output
        statement = json.loads(base64.b64decode(json.loads(said.stdout)["payload"]))
        assert statement["predicateType"] == predicate
        assert statement["subject"][0]["digest"]["sha256"] == image.digest.removeprefix("sha256:")
        assert not cosign.verify_attestation(f"{there.host}/{WEB}", stranger, kind).ok
    assert not cosign.verify_attestation(f"{there.host}/{WEB}", key[1], "spdxjson").ok


# With a registry


def test_attached_documents_are_found_as_referrers_and_keep_image_digest(
    command: Command, there: Registry, image: CloudImage, tmp_path: Path
) -> None:
    written = json.loads(command("sbom", "web").stdout)
    command("sbom", "web", "--attach")
    command("provenance", "web", "--attach")
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        subject = Reference.parse(f"{there.host}/acme/web@{image.digest}")
        (bill,) = client.referrers(subject, sbom.MEDIA_TYPE)
        assert len(client.referrers(subject)) == 2
        manifest = json.loads(client.manifest(Reference.parse(f"{there.host}/acme/web@{bill.digest}")).data)
        assert manifest["subject"]["digest"] == image.digest
        layer = Descriptor.from_json(manifest["layers"][0])
        stream = client.blob(subject, layer.digest, layer.size)
        assert json.loads(stream.read(layer.size)) == written
        stream.close()
    # Another client of registries finds them, and takes them along.
    found = process.run([gotool.oras(), "discover", "--plain-http", "--format", "json", f"{there.host}/{WEB}"]).stdout
    assert {one["artifactType"] for one in json.loads(found)["referrers"]} == {sbom.MEDIA_TYPE, IN_TOTO}
    process.run([gotool.oras(), "cp", "-r", "--from-plain-http", "--to-plain-http", f"{there.host}/{WEB}", f"{there.host}/copy/web:1"])
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        assert client.manifest(Reference.parse(f"{there.host}/copy/web:1")).digest == image.digest
        assert len(client.referrers(Reference.parse(f"{there.host}/copy/web@{image.digest}"))) == 2
    # An image with attachments is copied as it was before: same digest.
    layout = tmp_path / "layout"
    copy = ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false"]
    process.run([*copy, f"docker://{there.host}/{WEB}", f"oci:{layout}:web"])
    assert json.loads((layout / "index.json").read_text())["manifests"][0]["digest"] == image.digest


def test_verify_remote_changed_byte_in_any_blob_is_refused(
    command: Command, there: Registry, store: Store, image: CloudImage, key: tuple[Path, Path]
) -> None:
    """In each kind of blob, behind the registry's back, each followed by a verify."""
    command("sign", "web", "--key", key[0])
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    index = store.json(image.digest)
    rootfs, images = (store.json(entry["digest"]) for entry in index["manifests"][:2])
    signatures = store.names()[f"web:{tag_of(image.digest, '.sig')}"].digest
    kinds = {
        "index": image.digest,
        "manifest": index["manifests"][0]["digest"],
        "config": rootfs["config"]["digest"],
        "layer": rootfs["layers"][0]["digest"],
        "image set": index["manifests"][1]["digest"],
        "image set config": images["config"]["digest"],
        "image set blob": images["layers"][0]["digest"],
        "signature image": signatures,
        "payload": store.json(signatures)["layers"][0]["digest"],
    }
    verify = ("verify", f"{there.host}/{WEB}", "--remote", "--plain-http", "--key", key[1])
    command(*verify)
    for kind, digest in kinds.items():
        path = there.log.parent / "data/docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:] / "data"
        good = path.read_bytes()
        path.write_bytes(with_another_byte(good))
        said = command(*verify, check=False)
        assert said.returncode == 4, (kind, said.output)
        assert digest in said.stderr or kind in ("index", "signature image"), (kind, said.stderr)
        path.write_bytes(good)
    command(*verify)


def with_another_byte(data: bytes) -> bytes:
    """One byte changed; JSON stays JSON, so that a registry serves it without a second look."""
    at = data.find(b"sha256:") + 10 if b"sha256:" in data else len(data) // 2
    return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]


def test_pull_unsigned_image_is_refused_by_policy_before_blobs_are_fetched(
    command: Command, there: Registry, image: CloudImage, key: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "policy.yaml"
    rules.write_text(f"default: deny\nrules:\n  - {{repository: '{there.host}/**', require: signed, keys: [ours.pub]}}\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(rules))
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    site = Store(tmp_path / "site")
    wanted = Reference.parse(f"{there.host}/{WEB}")
    with access.client(access.RegistryAccess(plain_http=True)) as client:
        with pytest.raises(RefusedError, match=r"refused by policy: .* is not signed"):
            pull.pull(site, wanted, client)
        assert not site.names()
        assert not there.requests("GET", "/blobs/")
        command("sign", f"{there.host}/{WEB}", "--plain-http", "--key", key[0])
        pull.pull(site, wanted, client)
    (signed,) = policy.admit(site, str(wanted), image.digest).signatures
    assert signed.key.fingerprint
    with pytest.raises(RefusedError, match="the default is deny"):
        policy.admit(site, "localhost:1/other", image.digest)


def test_pull_older_signed_image_under_same_tag_is_refused_unless_allowed(
    command: Command, cosign: Cosign, there: Registry, store: Store, image: CloudImage, key: tuple[Path, Path], tmp_path: Path
) -> None:
    rules = tmp_path / "config/slipway/policy.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text(f"default: {{require: signed, keys: ['{key[1]}']}}\n")
    where = f"{there.host}/{WEB}"
    newer = make(store, tmp_path / "newer", "newer")
    private = keys.read_private(key[0], lambda _: PASSWORD)
    for at, name, digest in ((1000, "web", image.digest), (2000, "newer", newer.digest)):
        attachments = LocalReferrers(store, Reference.parse(f"{there.host}/acme/web"))
        signature.sign(attachments, digest, private, {"version": f"1.{at}.0"}, at=at)
        command("push", name, where, "--plain-http")
        assert cosign.verify(where, key[1]).ok
        assert digest in command("pull", where, "--plain-http").stdout
    command("push", "web", where, "--plain-http")  # whoever controls the registry
    assert f"{where} is refused: it goes back. {image.digest} was signed" in refusal(command("pull", where, "--plain-http", check=False))
    assert store.resolve(where).digest == newer.digest
    said = command("pull", where, "--plain-http", "--allow-older")
    assert "GOES BACK" in said.stderr
    command("pull", where, "--plain-http")
    rules.write_text(f"default: {{require: signed, keys: ['{key[1]}'], minimum: 1.1500}}\n")
    assert "as version=1.1000.0, and it must be 1.1500 or newer" in refusal(command("pull", where, "--plain-http", check=False))
    command("push", "newer", where, "--plain-http")
    command("pull", where, "--plain-http")


def test_verify_timestamp_annotation_of_cosign_is_reported_as_signed_at(
    command: Command, cosign: Cosign, there: Registry, image: CloudImage
) -> None:
    theirs, public = cosign.key_pair("theirs")
    command("push", "web", f"{there.host}/{WEB}", "--plain-http")
    cosign.sign(f"{there.host}/{WEB}", theirs, "-a", "timestamp=1767225600")
    said = command("verify", f"{there.host}/{WEB}", "--remote", "--plain-http", "--key", public, "-o", "json")
    assert [one["signedAt"] for one in json.loads(said.stdout)["signatures"]] == [1767225600]


# The command line


def test_verify_damaged_local_layer_exits_4_and_reports_its_digest(
    command: Command, store: Store, image: CloudImage, key: tuple[Path, Path]
) -> None:
    command("sign", "web", "--key", key[0])
    said = command("verify", "web", "--key", key[1])
    assert f"verified web:latest  {image.digest}" in said.stdout
    assert "signed by" in said.stdout
    assert f"{len(image.blobs)} blobs" in said.stdout
    layer = image.platforms[1].layers[0].digest
    path = store.path(layer)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    error = refusal(command("verify", "web", "--key", key[1], check=False))
    assert f"layer of linux/arm64 {layer} is damaged: its bytes have another digest" in error


def test_verify_without_key_uses_keys_of_policy(command: Command, image: CloudImage, key: tuple[Path, Path], tmp_path: Path) -> None:
    command("sign", "web", "--key", key[0])
    said = command("verify", "web", check=False)
    assert said.returncode == 2
    assert "no key to verify web:latest with" in said.stderr
    (tmp_path / "config/slipway").mkdir(parents=True)
    shutil.copy(key[1], tmp_path / "config/slipway/release.pub")
    (tmp_path / "config/slipway/policy.yaml").write_text("default: {require: signed, keys: [release.pub]}\n")
    assert "release.pub" in command("verify", "web").stdout


def test_run_image_denied_by_policy_is_refused(command: Command, image: CloudImage, key: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "config/slipway").mkdir(parents=True)
    rules = tmp_path / "config/slipway/policy.yaml"
    rules.write_text(f"default: deny\nrules: [{{repository: web, require: signed, keys: ['{key[1]}']}}]\n")
    run = ("run", "web", "--control-plane", "127.0.0.1", "--plan")
    assert "refused by policy" in refusal(command(*run, check=False))
    command("sign", "web", "--key", key[0])
    assert "refused by policy" not in command(*run, check=False).stderr
    rules.write_text("default: maybe\n")
    said = command(*run, check=False)
    assert said.returncode == 2
    assert f"{rules}:1: 'maybe' is nothing that can be required" in said.stderr


def test_sign_wrong_or_missing_password_is_reported_and_signs_nothing(
    command: Command, store: Store, image: CloudImage, key: tuple[Path, Path]
) -> None:
    said = command("sign", "web", "--key", key[0], password="wrong", check=False)
    assert (said.returncode, "does not open: the password is wrong" in said.stderr) == (2, True)
    said = command("sign", "web", "--key", key[0], password=None, check=False)
    assert (said.returncode, "there is no terminal to ask for it" in said.stderr) == (2, True)
    assert list(store.names()) == ["web:latest"]


def test_sign_and_provenance_do_not_expose_password_or_key(
    command: Command, store: Store, image: CloudImage, key: tuple[Path, Path], tmp_path: Path
) -> None:
    said = [command("--verbose", "sign", "web", "--key", key[0]), command("--verbose", "provenance", "web", "--attach", "--key", key[0])]
    secrets = [PASSWORD.encode(), key[0].read_bytes().splitlines()[1]]
    for result in said:
        assert all(secret.decode() not in result.output for secret in secrets)
    for path in (path for path in (tmp_path / "home").rglob("*") if path.is_file()):
        assert all(secret not in path.read_bytes() for secret in secrets), path


def test_keys_create_and_sign_prompt_for_password_without_echo(tmp_path: Path, image: CloudImage) -> None:
    typed, said = type_in(tmp_path, ["keys", "create", "-f", str(tmp_path / "asked")], ["secret words", "secret words"])
    assert typed == 0, said
    assert stat.S_IMODE((tmp_path / "asked.key").stat().st_mode) == 0o600
    assert "secret" not in said.replace("keep it secret", "")
    typed, said = type_in(tmp_path, ["sign", "web", "--key", str(tmp_path / "asked.key")], ["secret words"])
    assert typed == 0, said
    assert "signed web:latest" in said
    typed, said = type_in(tmp_path, ["sign", "web", "--key", str(tmp_path / "asked.key")], ["wrong words"])
    assert typed == 2
    assert "the password is wrong" in said


def type_in(folder: Path, words: list[str], answers: list[str]) -> tuple[int, str]:
    """Run the command line at a terminal, typing an answer whenever it asks; its exit code and what the terminal shows."""
    keyboard, terminal = pty.openpty()
    environment: dict[str, Any] = {
        **os.environ,
        "SLIPWAY_HOME": str(folder / "home"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "TERM": "dumb",
    }
    for name in ("SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD", "SLIPWAY_POLICY"):
        environment.pop(name, None)
    running = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *words],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    shown, asked = b"", 0
    end = time.monotonic() + HANG
    try:
        while time.monotonic() < end:
            if not select.select([keyboard], [], [], 1)[0]:
                continue
            try:
                data = os.read(keyboard, 4096)
            except OSError:  # how Linux says that nobody holds the terminal any more
                break
            if not data:
                break
            shown += data
            if asked < len(answers) and shown.count(b": ") > asked and shown.endswith(b": "):
                os.write(keyboard, answers[asked].encode() + b"\n")
                asked += 1
        return running.wait(HANG), shown.decode(errors="replace")
    finally:
        running.kill()
        os.close(keyboard)


def test_keys_create_existing_pair_is_refused_and_kept(command: Command, key: tuple[Path, Path]) -> None:
    before = key[0].read_bytes()
    with pytest.raises(CommandError, match="exit code 2"):
        command("keys", "create", "-f", key[0].with_suffix(""))
    assert key[0].read_bytes() == before
