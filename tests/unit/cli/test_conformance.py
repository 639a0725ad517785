"""``slipway conformance``: the command line of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.cloudimage.conformance import CLAUSES
from harness.oci.store import Store
from tests.unit.cloudimage.conformance.drafts import Draft, write


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Store.default()


def test_conformance_valid_image_lists_all_clauses_and_exits_0(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    digest = write(store).digest
    assert app.execute(["conformance", "web"]) == 0
    first, *lines, last = capsys.readouterr().out.splitlines()
    assert first == f"web  {digest}  CloudImage format 1.0"
    assert [line[16:].split()[0] for line in lines] == list(CLAUSES)
    assert lines[2] == "passed          CI-LAYOUT-1    the name leads to an OCI image index (indexes: 1)"
    assert lines[0].startswith("not applicable  CI-ARCHIVE-1")
    assert last == f"{len(CLAUSES)} clauses: {len(CLAUSES) - 2} passed, 2 not applicable"
    assert app.execute(["conformance", digest[7:20]]) == 0


def test_conformance_failed_clauses_are_all_listed_and_exit_code_is_1(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    draft = Draft(store, write(store))
    draft.index["artifactType"] = "a"
    draft.info["type"] = "\x1b[31m"
    draft.save()
    assert app.execute(["conformance", "web"]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = out.splitlines()
    failed = [number for number, line in enumerate(lines) if line.startswith("failed")]
    assert [lines[number][16:].split()[0] for number in failed] == ["CI-MEDIA-1", "CI-INFO-4"]
    assert lines[failed[0] + 1].strip() == "index: has an artifactType"


def test_conformance_output_json_reports_counts_and_evidence(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    draft = Draft(store, write(store))
    draft.index["artifactType"] = "a"
    digest = draft.save()
    assert app.execute(["conformance", "web", "--output", "json"]) == 1
    value = json.loads(capsys.readouterr().out)
    assert (value["name"], value["digest"], value["formatVersion"], value["conforms"]) == ("web", digest, "1.0", False)
    assert value["counts"] == {"passed": len(CLAUSES) - 3, "failed": 1, "not applicable": 2}
    clause = next(clause for clause in value["clauses"] if clause["result"] == "failed")
    assert (clause["id"], clause["evidence"]) == ("CI-MEDIA-1", ["index: has an artifactType"])


def test_conformance_archive_file_is_checked(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(store)
    assert app.execute(["save", "web", "--to", "Web.tar"]) == 0
    capsys.readouterr()
    assert app.execute(["conformance", "Web.tar"]) == 0
    assert capsys.readouterr().out.startswith("web:latest  sha256:")
    assert app.execute(["conformance", str(tmp_path / "Web.tar"), "--image", "web"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ((), 2, "IMAGE"),
        (("web", "--output", "yaml"), 2, "not a format"),
        (("./web.tar",), 2, "no such file"),
        (("web", "--image", "web"), 2, "chooses an image of an archive"),
        (("shop",), 4, "no such image"),
    ],
)
def test_conformance_invalid_command_line_or_missing_image_is_refused(
    words: tuple[str, ...], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(["conformance", *words]) == code
    assert says in capsys.readouterr().err
