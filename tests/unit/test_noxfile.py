"""What the sessions print at the end, and what the linters are given. Running a session is the test of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

import noxfile
from harness import catalog, paths

JUNIT = """<?xml version="1.0"?><testsuites>
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="100.5"><testcase/></testsuite></testsuites>"""


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(noxfile, "REPORTS", tmp_path)
    return tmp_path


def test_a_run_is_counted_from_its_report(reports: Path) -> None:
    (reports / "unit.xml").write_text(JUNIT)
    assert str(noxfile.Counts.read("unit")) == "4 passed, 3 failed, 3 skipped in 1 min 40 s"


def test_a_run_that_left_no_report_counts_nothing(reports: Path) -> None:
    assert noxfile.Counts.read("unit").passed == 0


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1].strip("= ")


def test_the_last_line_sums_up_all_rings(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.started -= 5
    for name in ("unit", "web"):
        (reports / f"{name}.xml").write_text(JUNIT)
    closing.ring = ""
    closing.show()
    assert last_line(capsys).startswith("8 passed, 6 failed, 6 skipped in 5.")


def test_reports_of_earlier_runs_do_not_count(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (reports / "unit.xml").write_text(JUNIT)
    closing = noxfile.Closing()
    closing.started += 60
    closing.ring = ""
    closing.show()
    assert last_line(capsys).startswith("0 passed, 0 failed")


def test_a_linter_that_fails_is_a_failure_of_its_ring(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.ring = "lint"
    closing.show()
    said = capsys.readouterr().out
    assert "stopped in ring lint" in said
    assert "0 passed, 1 failed" in said.splitlines()[-1]


def test_every_shell_script_is_checked_whatever_it_is_called() -> None:
    found = noxfile.shell_scripts()
    assert {"nox", ".ci/run", "images/builder/gather", "images/network/network.sh"} <= set(found)
    assert not [path for path in found if path.endswith(".py")]


def test_all_tests_are_in_some_ring() -> None:
    folders = {path.name for path in (noxfile.ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert folders <= {*noxfile.RINGS, Path(noxfile.VM).name}


def entry(name: str) -> catalog.Entry:
    return catalog.find(noxfile.ROOT / "kubefiles")[name]


def test_a_machine_of_a_matrix_publishes_under_its_own_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "arm64")
    wanted = noxfile.Publishing.read(["--registry", "registry.example/team/", "--tag", "v1", "web"])
    assert (wanted.names, wanted.build_options) == (["web"], [])
    assert wanted.commands(entry("web")) == [["push", "web:latest", "registry.example/team/web:v1-arm64"]]


def test_the_last_job_of_a_matrix_makes_one_tag_of_them() -> None:
    wanted = noxfile.Publishing.read(["--registry", "localhost:5000", "--plain-http", "--join", "amd64,arm64"])
    there = "localhost:5000/web:latest"
    assert wanted.commands(entry("web")) == [
        ["manifest", "create", "--pull", "--plain-http", there, f"{there}-amd64", f"{there}-arm64"],
        ["push", "--plain-http", there],
    ]


def test_one_machine_that_builds_for_all_publishes_the_tag_itself() -> None:
    wanted = noxfile.Publishing.read(["--registry", "registry.example", "--platform", "linux/amd64,linux/arm64", "web"])
    assert wanted.build_options == ["--platform", "linux/amd64,linux/arm64"]
    assert wanted.commands(entry("web")) == [["push", "web:latest", "registry.example/web:latest"]]


def test_publishing_without_a_registry_says_what_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        noxfile.Publishing.read(["web"])
    assert "--registry" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "text"), [(244_000_000, "244 MB"), (1_234_000_000, "1.23 GB")])
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert noxfile.size(count) == text
