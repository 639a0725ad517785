"""The verb `attest`, and what `verify` and `inspect` show of attestations: words in, exit code and text out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cli import app
from harness.cloudimage import CloudImage, tags
from harness.oci.model import digest_of
from harness.oci.reference import Reference
from harness.oci.registry import referrers
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.transfer import multi_platform
from harness.trust import attestation, keys, results
from harness.trust.attached_documents import documents
from harness.trust.results import SuiteRun
from tests.unit.cloudimage.examples import AMD64, ARM64, platform_image, write

OTHER = digest_of(b"another image")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "pw")
    monkeypatch.delenv("SLIPWAY_POLICY", raising=False)
    return Store(tmp_path / "home/store")


@pytest.fixture
def image(store: Store) -> CloudImage:
    return write(store, platform_image(store, AMD64), name="web")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.create(tmp_path_factory.mktemp("keys") / "release", "pw")


def predicate(digest: str, platform: str = "linux/amd64", **changes: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"passed": ["test_one"], **changes}
    return SuiteRun(digest, platform, "1.2.3", **facts).predicate()


def statement(digest: str, platform: str = "linux/amd64", **changes: Any) -> dict[str, Any]:
    """As the test kit writes it."""
    return attestation.statement("web:latest", digest, results.PREDICATE, predicate(digest, platform, **changes))


@pytest.fixture
def record(tmp_path: Path, image: CloudImage) -> Path:
    path = tmp_path / "web.test-result.json"
    path.write_text(json.dumps(statement(image.digest)))
    return path


def attest(name: str, record: Path, *words: object) -> int:
    return app.execute(["attest", name, "--type", "test-result", "--predicate", str(record), *map(str, words)])


def test_attest_test_result_attaches_signed_attestation_and_referrer(
    store: Store, image: CloudImage, record: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert attest("web", record, "--key", pair[0]) == 0
    assert capsys.readouterr().out == f"attached test-result to web:latest  {image.digest}\n  signed by {pair[0]}\n"
    signed, plain = documents(LocalReferrers(store, Reference.parse("web")), image.digest, [keys.read_public(pair[1])])
    assert (signed.kind, signed.signature, plain.kind, plain.signature) == ("attestation", str(pair[1]), "referrer", "no")
    for one in (signed, plain):
        assert one.statement is not None
        assert one.statement.predicate == predicate(image.digest)
        assert one.statement.subjects == {image.digest}


def test_attest_plain_predicate_is_about_named_image(
    store: Store, image: CloudImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.json").write_text('{"scanner": "x"}')
    assert (
        app.execute(["attest", "web", "--type", "https://example.com/scan/v1", "--predicate", str(tmp_path / "p.json"), "-o", "json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said == {"name": "web:latest", "digest": image.digest, "type": "https://example.com/scan/v1", "key": None}
    (found,) = documents(LocalReferrers(store, Reference.parse("web")), image.digest)
    assert found.statement is not None
    assert found.statement.subjects == {image.digest}
    assert found.statement.predicate == {"scanner": "x"}


def test_attest_record_of_other_image_is_refused_and_attaches_nothing(
    store: Store, image: CloudImage, record: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    record.write_text(json.dumps(statement(OTHER)))
    assert attest("web", record, "--key", pair[0]) == 4
    said = capsys.readouterr().err
    assert f"it is about {OTHER}, and web:latest is {image.digest}" in said
    assert "test this one" in said
    assert list(store.names()) == ["web:latest"]


BAD = {"result": "GOOD", "passedTests": "x"}


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("{", [], "--predicate"),
        ("[]", [], "is not a JSON object"),
        (json.dumps(BAD), [], "configuration is not a list of resource descriptors"),
        (json.dumps(statement(OTHER) | {"predicate": BAD}), [], "result is 'GOOD'; it is PASSED, WARNED or FAILED"),
        (json.dumps(statement(OTHER) | {"predicate": []}), [], "the statement has no predicate"),
        (json.dumps(statement(OTHER) | {"predicateType": "https://example.com/x"}), [], "is of type https://example.com/x, not"),
        (json.dumps(statement(OTHER) | {"_type": "x"}), [], "is not a statement of in-toto"),
        ("{}", ["--type", "wrong"], "--type wrong: not a type of predicates"),
        ("{}", ["--part", "web"], "give --predicate or --part"),
    ],
)
def test_attest_invalid_predicate_exits_2_and_attaches_nothing(
    text: str, words: list[str], message: str, store: Store, image: CloudImage, record: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record.write_text(text)
    assert attest("web", record, *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert list(store.names()) == ["web:latest"]


def test_attest_missing_file_or_part_of_other_type_is_refused(
    store: Store, image: CloudImage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attest("web", tmp_path / "none.json") == 2
    assert "none.json: No such file" in capsys.readouterr().err
    assert app.execute(["attest", "web", "--type", "sbom", "--part", "web"]) == 2
    assert "only results of tests are joined" in capsys.readouterr().err


# Of several platforms


@pytest.fixture
def parts(store: Store) -> dict[str, CloudImage]:
    """Two images of one platform each, and the image that was joined of them."""
    made = {
        f"web:1-{one.architecture}": write(store, platform_image(store, one), name=f"web:1-{one.architecture}") for one in (AMD64, ARM64)
    }
    joined = multi_platform.create(store, "web:1", list(made))
    return {**made, "web:1": cloudimage.read(store, joined.name)}


def attest_parts(parts: dict[str, CloudImage], tmp_path: Path, key: Path, **changes: Any) -> None:
    for name, image in parts.items():
        if name != "web:1":
            path = tmp_path / f"{image.digest[7:19]}.json"
            path.write_text(json.dumps(statement(image.digest, f"linux/{name.rpartition('-')[2]}", **changes)))
            assert attest(name, path, "--key", key) == 0


def join(key: Path, *parts: str) -> int:
    words = [word for part in parts for word in ("--part", part)]
    return app.execute(["attest", "web:1", "--type", "test-result", *words, "--key", str(key)])


def test_attest_joined_image_lists_results_of_all_parts(
    store: Store, parts: dict[str, CloudImage], tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    attest_parts(parts, tmp_path, pair[0])
    assert join(pair[0], "web:1-amd64", "web:1-arm64") == 0
    found, _ = documents(LocalReferrers(store, Reference.parse("web")), parts["web:1"].digest, [keys.read_public(pair[1])])
    assert found.result == "PASSED: 2 passed, 0 failed, 0 skipped on linux/amd64, linux/arm64"
    assert found.statement is not None
    runs = found.statement.predicate["slipwayTestRun"]["runs"]
    assert [run["image"] for run in runs] == [parts["web:1-amd64"].digest, parts["web:1-arm64"].digest]


def test_attest_joined_image_with_parts_signed_by_other_key_is_refused(
    store: Store, parts: dict[str, CloudImage], tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stranger, _ = keys.create(tmp_path / "stranger", "pw")
    attest_parts(parts, tmp_path, stranger)
    assert join(pair[0], "web:1-amd64", "web:1-arm64") == 4
    said = capsys.readouterr().err
    for part in ("web:1-amd64", "web:1-arm64"):
        assert f"{part} has no test results that are signed by this key" in said


def test_attest_joined_image_with_platform_in_no_part_is_refused(
    store: Store, parts: dict[str, CloudImage], tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    attest_parts(parts, tmp_path, pair[0])
    assert join(pair[0], "web:1-amd64") == 4
    assert "linux/arm64 of web:1 is in none of the parts" in capsys.readouterr().err


def test_attest_joined_image_with_failed_part_is_refused(
    store: Store, parts: dict[str, CloudImage], tmp_path: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    attest_parts(parts, tmp_path, pair[0], failed=["test_two"])
    assert join(pair[0], "web:1-amd64", "web:1-arm64") == 4
    assert "not all parts have passed their tests: web:1-amd64: FAILED" in capsys.readouterr().err


# Shown


def test_verify_attestations_shows_types_and_signing_key(
    store: Store, image: CloudImage, record: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(["sign", "web", "--key", str(pair[0])]) == 0
    verify = ["verify", "web", "--key", str(pair[1])]
    assert app.execute([*verify, "--attestations"]) == 4
    assert "no attestation is signed by any of the keys" in capsys.readouterr().err
    assert attest("web", record, "--key", pair[0]) == 0
    capsys.readouterr()
    assert app.execute([*verify, "--attestations", "--type", "test-result"]) == 0
    said = capsys.readouterr().out
    assert f"attestation test-result, signed by {pair[1]}" in said
    assert "referrer test-result, not signed: PASSED: 1 passed, 0 failed, 0 skipped on linux/amd64" in said
    assert app.execute([*verify, "--type", "sbom"]) == 4
    assert "no attestation of type sbom is signed" in capsys.readouterr().err
    assert app.execute([*verify, "--attestations", "-o", "json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["attached"]] == ["test-result", "test-result"]
    assert app.execute([*verify, "-o", "json"]) == 0
    assert "attached" not in json.loads(capsys.readouterr().out)


def test_verify_and_inspect_attestation_of_other_image_is_refused(
    store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    private = keys.read_private(pair[0], lambda _: "pw")
    attestation.attach(LocalReferrers(store, Reference.parse("web")), image.digest, statement(OTHER), private)
    assert app.execute(["sign", "web", "--key", str(pair[0])]) == 0
    assert app.execute(["verify", "web", "--key", str(pair[1]), "--attestations"]) == 4
    assert f"is about {OTHER}, not about {image.digest}" in capsys.readouterr().err
    assert app.execute(["inspect", "web"]) == 0
    said = capsys.readouterr().out
    assert "REFUSED: an attestation of type" in said
    assert "1 passed" not in said


def test_inspect_shows_attachments_as_not_verified(
    store: Store, image: CloudImage, record: Path, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(["inspect", "web"]) == 0
    assert "Attached" not in capsys.readouterr().out
    assert app.execute(["inspect", "web", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["attached"] == []
    assert attest("web", record, "--key", pair[0]) == 0
    tags.tag(store, "web", "other:1")
    capsys.readouterr()
    assert app.execute(["inspect", "other:1"]) == 0
    rows = [line.split(maxsplit=3) for line in capsys.readouterr().out.splitlines() if "test-result" in line]
    assert [row[:2] for row in rows] == [["attestation", "test-result"], ["referrer", "test-result"]]
    assert rows[0][2:] == ["not", "verified  PASSED: 1 passed, 0 failed, 0 skipped on linux/amd64"]
    assert app.execute(["inspect", "web", "-o", "json"]) == 0
    assert [one["signed"] for one in json.loads(capsys.readouterr().out)["attached"]] == [True, False]


def test_inspect_and_verify_escape_control_characters_of_attestation(
    store: Store, image: CloudImage, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    value = attestation.statement("web", image.digest, results.PREDICATE, {**predicate(image.digest), "result": "\x1b[2J\u202ePASSED"})
    private = keys.read_private(pair[0], lambda _: "pw")
    attestation.attach(LocalReferrers(store, Reference.parse("web")), image.digest, value, private)
    assert app.execute(["sign", "web", "--key", str(pair[0])]) == 0
    capsys.readouterr()
    for words in (["inspect", "web"], ["verify", "web", "--key", str(pair[1]), "--attestations"]):
        assert app.execute(words) == 0
        said = capsys.readouterr().out
        assert "\\x1b[2J\\u202ePASSED" in said
        assert not {"\x1b", "\u202e"} & set(said)


def test_inspect_unreadable_attestation_list_is_warned_about(store: Store, image: CloudImage, capsys: pytest.CaptureFixture[str]) -> None:
    shelf = LocalReferrers(store, Reference.parse("web"))
    shelf.name(referrers.tag_of(image.digest, ".att"), b"{}", "application/vnd.oci.image.manifest.v1+json")
    assert app.execute(["inspect", "web"]) == 0
    assert "what is attached to the image cannot be read" in capsys.readouterr().err
