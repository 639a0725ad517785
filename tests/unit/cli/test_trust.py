"""The verbs of trust: words in, exit code and text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import log
from harness.cli import app
from harness.cli.output import short
from harness.cloudimage import CloudImage, tags
from harness.errors import UsageError
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import keys, policy, signature
from harness.trust.keys import PrivateKey
from tests.unit.sealer.examples import said as execute
from tests.unit.trust.conftest import image, key, other, store
from tests.unit.trust.damage import flip

__all__ = ["image", "key", "other", "store"]  # fixtures


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.create(tmp_path_factory.mktemp("keys") / "release", "pw")


# keys create


def test_keys_create_prints_both_files_and_fingerprint(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    out, err = execute(capsys, "keys", "create", "--to", str(home / "release"))
    fingerprint = keys.read_public(home / "release.pub").fingerprint
    assert out.splitlines() == [f"{home}/release.key  keep it secret", f"{home}/release.pub  give it to those who verify", fingerprint]
    assert err == ""
    assert ((home / "release.key").stat().st_mode & 0o777, (home / "release.pub").stat().st_mode & 0o777) == (0o600, 0o644)
    with pytest.raises(UsageError, match="the password is wrong"):
        keys.read_private(home / "release.key", lambda _: "wp")
    assert keys.read_private(home / "release.key", lambda _: "pw").public.fingerprint == fingerprint


def test_keys_create_output_json_in_folder_of_command_has_default_names(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "")
    made = json.loads(execute(capsys, "keys", "create", "-o", "json")[0])
    fingerprint = keys.read_public(Path("slipway.pub")).fingerprint
    assert made == {"private": "slipway.key", "public": "slipway.pub", "fingerprint": fingerprint}


def test_keys_create_keeps_existing_pair_unless_forced(
    home: Path, monkeypatch: pytest.MonkeyPatch, contents: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "")
    words = ("keys", "create", "--to", str(home / "release"))
    execute(capsys, *words)
    before = contents()
    out, err = execute(capsys, *words, code=2)
    assert (out, f"{home}/release.key already exists" in err) == ("", True)
    assert "hint: choose another name with --to; --force replaces the pair" in err
    assert contents() == before
    execute(capsys, *words, "--force")
    assert {path for path, data in contents().items() if data != before.get(path)} == {"release.key", "release.pub"}


def test_keys_create_in_missing_folder_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, contents: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "")
    out, err = execute(capsys, "keys", "create", "--to", str(home / "none/release"), code=2)
    assert (out, contents()) == ("", {})
    assert f"{home}/none/release.key: No such file or directory" in err


# sign and verify


def test_sign_and_verify_print_key_repository_and_blobs(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    monkeypatch.setattr("time.time", lambda: 1000)
    out, _ = execute(capsys, "sign", "web", "--key", str(pair[0]), "-a", "stage=released")
    assert out.splitlines() == [f"signed web:latest  {image.digest}", f"  by {pair[0]}; `slipway push` takes the signature along"]
    out, _ = execute(capsys, "verify", "web", "--key", str(pair[1]))
    blobs = {blob.digest: blob.size for blob in image.blobs}
    fingerprint = keys.read_public(pair[1]).fingerprint
    assert out.splitlines() == [
        f"verified web:latest  {image.digest}",
        f"  signed by {pair[1]} ({short(fingerprint)}) as docker.io/library/web at 1970-01-01 00:16:40 UTC, stage=released",
        f"  {len(blobs)} blobs with {log.size(sum(blobs.values()))} are what their digests say",
    ]


def test_verify_platform_that_was_not_fetched_is_said(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    execute(capsys, "sign", "web", "--key", str(pair[0]))
    store.path(store.json(image.digest)["manifests"][2]["digest"]).unlink()
    out, _ = execute(capsys, "verify", "web", "--key", str(pair[1]))
    assert out.splitlines()[-1] == "  not looked at: linux/arm64, which was not fetched"
    found = json.loads(execute(capsys, "verify", "web", "--key", str(pair[1]), "-o", "json")[0])
    assert set(found) == {"name", "digest", "remote", "blobs", "bytes", "absent", "signatures"}
    assert found["absent"] == ["linux/arm64"]


def test_verify_type_that_is_not_attached_is_refused(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    execute(capsys, "sign", "web", "--key", str(pair[0]))
    verify = ("verify", "web", "--key", str(pair[1]), "--type", "sbom", "-o", "json")
    out, err = execute(capsys, *verify, code=4)
    assert (out, "sbom" in err) == ("", True)
    execute(capsys, "sbom", "web", "--attach", "--key", str(pair[0]))
    assert "sbom" in str(json.loads(execute(capsys, *verify)[0])["attached"])


def test_sign_and_verify_report_digest_key_and_annotations(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    assert app.execute(["sign", "web", "--key", str(pair[0]), "-a", "stage=released", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "name": "web:latest",
        "digest": image.digest,
        "key": keys.read_public(pair[1]).fingerprint,
        "annotations": {"stage": "released"},
    }
    assert app.execute(["verify", image.digest[7:20], "--key", str(pair[1]), "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["digest"], said["remote"], said["blobs"]) == ("web:latest", image.digest, False, len(image.blobs))
    assert said["signatures"][0]["annotations"] == {"stage": "released"}
    assert said["signatures"][0]["signedAt"] > 1767225600
    assert app.execute(["verify", "web", "--key", str(pair[1]), "-a", "stage=test"]) == 4
    assert "without the annotation stage=test" in capsys.readouterr().err


def test_sign_renews_time_of_signing_only_with_again_option(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    times = iter((1000, 2000, 3000))
    monkeypatch.setattr("time.time", lambda: next(times))
    for words, when in (((), "00:16:40"), ((), "00:16:40"), (("--again",), "00:50:00")):
        assert app.execute(["sign", "web", "--key", str(pair[0]), *words]) == 0
        assert app.execute(["verify", "web", "--key", str(pair[1])]) == 0
        assert f"as docker.io/library/web at 1970-01-01 {when} UTC" in capsys.readouterr().out


def test_sign_slipway_password_variable_wins_over_cosign_variable(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "of something else")
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    assert app.execute(["sign", "web", "--key", str(pair[0])]) == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["sign", "web"], 2, "--key"),
        (["sign", "web", "--key", "none.key"], 2, "none.key: No such file"),
        (["sign", "web", "--key", "PUB"], 2, "is a public key; signing needs the private one"),
        (["sign", "web", "--key", "KEY", "-a", "x"], 2, "--annotation x: not NAME=VALUE"),
        (["sign", "web", "--key", "KEY", "-a", "timestamp=1"], 2, "a signature says by itself when it was made"),
        (["sign", "nothere", "--key", "KEY"], 4, "nothere: no such image"),
        (["verify", "web"], 2, "no key to verify web:latest with"),
        (["verify", "web", "--key", "KEY"], 2, "is a private key"),
        (["verify", "web", "--key", "PUB"], 4, "is not signed"),
        (["verify", "web", "--key", "PUB", "-o", "yaml"], 2, "--output yaml"),
        (["verify", "nothere", "--key", "PUB"], 4, "nothere: no such image"),
        (["verify", "We b", "--remote", "--key", "PUB"], 2, "is not an image name"),
        (["sbom", "web", "--key", "KEY"], 2, "--key signs what is attached"),
        (["provenance", "nothere"], 4, "nothere: no such image"),
        (["keys", "create"], 2, "there is no terminal to ask for it"),
        (["verify", "web", "--key", "PUB", "--type", "x"], 2, "--type x: not a type of predicates"),
        (["sbom", "web", "--attach", "--key", "none.key"], 2, "none.key: No such file"),
        (["provenance", "web", "--attach", "--key", "PUB"], 2, "is a public key; signing needs the private one"),
    ],
)
def test_trust_commands_invalid_use_gives_exit_code_and_message(
    words: list[str], code: int, message: str, store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"KEY": str(pair[0]), "PUB": str(pair[1])}
    before = store.names()
    out, said = execute(capsys, *(files.get(word, word) for word in words), code=code)
    assert (out, message in said) == ("", True), said
    assert "Traceback" not in said
    assert store.names() == before


def test_verify_damaged_local_image_under_registry_name_names_damaged_blob(
    store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tags.tag(store, "web", "registry.example.com/acme/web:1")
    flip(store, image.digest)
    assert app.execute(["verify", "registry.example.com/acme/web:1", "--key", str(pair[1])]) == 4
    assert f"blob {image.digest}" in capsys.readouterr().err


def test_sbom_and_provenance_are_written_to_file_stdout_or_attached(
    store: Store, image: CloudImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(["sbom", "web", "--to", str(tmp_path / "bom.json")]) == 0
    assert json.loads((tmp_path / "bom.json").read_text())["bomFormat"] == "CycloneDX"
    assert capsys.readouterr().out == ""
    assert app.execute(["provenance", "web"]) == 0
    assert json.loads(capsys.readouterr().out)["predicateType"] == "https://slsa.dev/provenance/v1"
    assert list(store.names()) == ["web:latest"]
    assert app.execute(["provenance", "web", "--attach"]) == 0
    assert capsys.readouterr().out == f"attached to web:latest  {image.digest}\n"
    assert list(store.names()) == ["web:latest", f"web:{image.digest.replace(':', '-')}"]


# sbom and provenance


def test_sbom_attach_with_key_is_signed(
    store: Store, image: CloudImage, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    out, _ = execute(capsys, "sbom", "web", "--attach", "--key", str(pair[0]))
    assert out.splitlines() == [f"attached to web:latest  {image.digest}", f"  signed by {pair[0]}"]
    assert {name.rpartition(".")[2] for name in store.names()} > {"att"}


def test_sbom_attach_with_file_does_both(store: Store, image: CloudImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = execute(capsys, "sbom", "web", "--attach", "--to", str(tmp_path / "bom.json"))
    assert out == f"attached to web:latest  {image.digest}\n"
    assert f"wrote {tmp_path}/bom.json" in err
    assert json.loads((tmp_path / "bom.json").read_text())["bomFormat"] == "CycloneDX"
    assert len(store.names()) == 2


def test_provenance_attach_with_standard_output_prints_document_alone(
    store: Store, image: CloudImage, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = execute(capsys, "provenance", "web", "--attach", "--to", "-")
    assert json.loads(out)["predicateType"] == "https://slsa.dev/provenance/v1"
    assert f"attached to web:latest  {image.digest}" in err
    assert len(store.names()) == 2


def test_sbom_file_that_cannot_be_written_is_refused_and_nothing_is_attached(
    store: Store, image: CloudImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = execute(capsys, "sbom", "web", "--attach", "--to", str(tmp_path / "none/bom.json"), code=2)
    assert (out, f"--to {tmp_path}/none/bom.json: No such file or directory" in err) == ("", True)
    assert list(store.names()) == ["web:latest"]


def test_sign_unnamed_image_is_refused_with_tag_hint(
    store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    store.untag("web")
    assert app.execute(["sign", image.digest, "--key", str(pair[0])]) == 4
    assert "give it one with `slipway tag`" in capsys.readouterr().err


def test_sbom_attach_for_partial_image_is_refused(store: Store, image: CloudImage, capsys: pytest.CaptureFixture[str]) -> None:
    store.path(store.json(image.digest)["manifests"][2]["digest"]).unlink()
    assert app.execute(["sbom", "web", "--attach"]) == 4
    assert "is here without linux/arm64" in capsys.readouterr().err
    assert list(store.names()) == ["web:latest"]


def test_verify_requires_signatures_of_system_and_user_policy(
    store: Store,
    image: CloudImage,
    pair: tuple[Path, Path],
    other: PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "pw")
    (tmp_path / "other.pub").write_bytes(other.public.pem)
    monkeypatch.setattr(policy, "SYSTEM", tmp_path / "system.yaml")
    (tmp_path / "system.yaml").write_text("default: {require: signed, keys: [other.pub]}\n")
    (tmp_path / "own.yaml").write_text(f"default: {{require: signed, keys: ['{pair[1]}']}}\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(tmp_path / "own.yaml"))
    assert app.execute(["sign", "web", "--key", str(pair[0])]) == 0
    assert app.execute(["verify", "web"]) == 4
    signature.sign(LocalReferrers(store, Reference.parse("web")), image.digest, other)
    capsys.readouterr()
    assert app.execute(["verify", "web"]) == 0
    assert capsys.readouterr().out.count("signed by") == 2


ESCAPE, BIDI = "\x1b[2J", "\u202e"


def test_verify_control_characters_of_signature_are_escaped(
    store: Store, image: CloudImage, key: PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ours.pub").write_bytes(key.public.pem)
    attachments = LocalReferrers(store, Reference.parse("web"))
    signature.sign(attachments, image.digest, key, {"stage": f"{ESCAPE}{BIDI}x\ry"})
    assert app.execute(["verify", "web", "--key", str(tmp_path / "ours.pub")]) == 0
    assert app.execute(["verify", "web", "--key", str(tmp_path / "ours.pub"), "-a", "stage=released"]) == 4
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "\\x1b[2J\\u202ex\\ry" in text
        assert not {"\x1b", BIDI, "\r"} & set(text)
