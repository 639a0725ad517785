"""The verbs of trust: words in, exit code and text out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.cloudimage import CloudImage, ImageApp, Info, ProvingRun, tags
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import keys, policy, signature
from harness.trust.keys import PrivateKey
from tests.unit.cloudimage.examples import platform_image, write
from tests.unit.trust.damage import flip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.create(tmp_path_factory.mktemp("keys") / "release", "pw")


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
    ],
)
def test_trust_commands_invalid_use_gives_exit_code_and_message(
    words: list[str], code: int, message: str, store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"KEY": str(pair[0]), "PUB": str(pair[1])}
    assert app.execute([files.get(word, word) for word in words]) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


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
    assert app.execute(["sbom", "web", "-f", str(tmp_path / "bom.json")]) == 0
    assert json.loads((tmp_path / "bom.json").read_text())["bomFormat"] == "CycloneDX"
    assert capsys.readouterr().out == ""
    assert app.execute(["provenance", "web"]) == 0
    assert json.loads(capsys.readouterr().out)["predicateType"] == "https://slsa.dev/provenance/v1"
    assert list(store.names()) == ["web:latest"]
    assert app.execute(["provenance", "web", "--attach"]) == 0
    assert capsys.readouterr().out == f"attached to web:latest  {image.digest}\n"
    assert list(store.names()) == ["web:latest", f"web:{image.digest.replace(':', '-')}"]


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


def test_inspect_control_characters_of_image_are_escaped(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    odd = f"{ESCAPE}{BIDI}x\ry"
    info = Info(
        kubernetes=odd,
        runtime=odd,
        env={odd: odd},
        launch=(odd,),
        apps=(ImageApp(odd, odd),),
        base={"reference": odd, "digest": odd},
        kube_version=odd,
        converted_from={"tool": odd, "version": odd, "digest": odd},
    )
    write(store, platform_image(store, info=info), name="odd")
    assert app.execute(["inspect", "odd"]) == 0
    text = capsys.readouterr().out
    assert text.count("\\x1b[2J\\u202ex\\ry") > 8
    assert not {"\x1b", BIDI, "\r"} & set(text)


def test_inspect_shows_on_what_an_application_was_proven(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    on, exercise = {"reference": "kubernetes:latest", "digest": f"sha256:{'a' * 64}"}, f"sha256:{'b' * 64}"
    write(store, platform_image(store, info=Info(type="app", proven=ProvingRun(on, exercise))), name="shop")
    assert app.execute(["inspect", "shop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"proven on   kubernetes:latest  {'a' * 12}" in lines
    assert f"exercised   {'b' * 12}" in lines
