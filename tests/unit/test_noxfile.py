"""What the sessions print at the end, and what the linters are given. Running a session is the test of the rest."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import nox
import nox.command
import pytest
import yaml

import noxfile
from harness import catalog
from harness.host import paths
from tests.cluster.conftest import GROUPS, group_of

JUNIT = """<?xml version="1.0"?><testsuites>
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="100.5"><testcase/></testsuite></testsuites>"""
GREEN = '<testsuites><testsuite skipped="1" tests="3" time="1"/></testsuites>'


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(noxfile, "REPORTS", tmp_path)
    return tmp_path


def test_a_run_is_counted_from_its_report(reports: Path) -> None:
    (reports / "unit.xml").write_text(JUNIT)
    assert str(noxfile.Counts.read("unit")) == "4 passed, 3 failed, 3 skipped in 1 min 40 s"


def test_a_run_that_left_no_report_counts_nothing(reports: Path) -> None:
    assert noxfile.Counts.read("unit").passed == 0


def write_report(reports: Path, name: str, text: str = JUNIT) -> bool:
    """Leave the report of a run, as pytest does."""
    (reports / f"{name}.xml").write_text(text)
    return "failures" not in text


def closed(closing: noxfile.Closing, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that are shown at the end."""
    closing.show()
    return capsys.readouterr().out.splitlines()


def test_the_last_line_sums_up_all_rings(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.started -= 5
    for name in ("unit", "web"):
        closing.run(name, lambda name=name: write_report(reports, name))  # type: ignore[misc]
    closing.finish()
    assert closed(closing, capsys)[-1].strip("= ").startswith("8 passed, 6 failed, 6 skipped in 5.")


def test_the_table_has_a_row_for_each_ring_with_its_reports(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.run("lint", lambda: None)
    closing.run("unit", lambda: write_report(reports, "unit", GREEN))
    closing.run("images", lambda: [write_report(reports, name, GREEN) for name in ("chart", "web")])
    closing.finish()
    head, *rows = [line.split() for line in closed(closing, capsys)[1:-1]]
    assert head == ["ring", "passed", "failed", "skipped", "seconds", "report"]
    assert rows == [
        ["lint", "-", "0", "-", "0", "-"],
        ["unit", "2", "0", "1", "0", f"{reports}/unit.html"],
        ["images", "4", "0", "2", "0", f"{reports}/chart.html", f"{reports}/web.html"],
    ]
    assert closing.failed == ()


def test_reports_of_earlier_runs_do_not_count(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(reports, "unit")
    closing = noxfile.Closing()
    closing.run("unit", lambda: None)
    closing.finish()
    assert closed(closing, capsys)[-1].strip("= ").startswith("0 passed, 0 failed")


def failing(error: BaseException) -> Callable[[], object]:
    def ring() -> object:
        raise error

    return ring


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (noxfile.RingError("pytest ended with exit code -9: killed by SIGKILL"), "pytest ended with exit code -9: killed by SIGKILL"),
        (nox.command.CommandFailed("Returned code 1"), "its last command failed: Returned code 1"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_a_ring_that_dies_has_failed_and_says_why_and_the_next_one_runs(
    error: Exception, reason: str, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closing = noxfile.Closing()
    closing.run("lint", failing(error))
    closing.run("unit", lambda: write_report(reports, "unit", GREEN))
    closing.finish()
    lines = closed(closing, capsys)
    assert closing.failed == ("lint",)
    assert f"ring lint failed: {reason}" in lines
    assert "2 passed, 1 failed, 1 skipped" in lines[-1]


def test_a_ring_that_dies_after_tests_failed_counts_these(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()

    def ring() -> None:
        write_report(reports, "unit")
        raise noxfile.RingError("pytest ended with exit code 2: interrupted")

    closing.run("unit", ring)
    closing.finish()
    assert "4 passed, 3 failed, 3 skipped" in closed(closing, capsys)[-1]


def test_ctrl_c_stops_the_rings_and_is_a_failure(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.run("unit", lambda: write_report(reports, "unit", GREEN))
    with pytest.raises(KeyboardInterrupt):
        closing.run("integration", failing(KeyboardInterrupt()))
    lines = closed(closing, capsys)
    assert "stopped in ring integration" in lines
    assert "2 passed, 1 failed" in lines[-1]


def test_a_run_that_never_came_to_a_ring_has_failed(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = closed(noxfile.Closing(), capsys)
    assert lines[0] == "stopped in ring install"
    assert "0 passed, 1 failed" in lines[-1]


class Session:
    """Stands in for nox's: pytest ends with an exit code, after it has left a report or none."""

    def __init__(self, reports: Path, code: int, text: str = "") -> None:
        self.reports, self.code, self.text = reports, code, text
        self.env: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []

    def run(self, *words: str) -> None:
        self.commands.append(words)
        if self.text and "--junitxml" in words:
            write_report(self.reports, Path(words[words.index("--junitxml") + 1]).stem, self.text)
        if self.code:
            raise nox.command.CommandFailed(f"Returned code {self.code}")


def test_tests_that_fail_are_no_crash(reports: Path) -> None:
    assert noxfile.pytest(cast("nox.Session", Session(reports, 0, GREEN)), "unit", "tests/unit")
    assert not noxfile.pytest(cast("nox.Session", Session(reports, 1, JUNIT)), "unit", "tests/unit")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-9, "killed by SIGKILL"),
        (1, "it crashed"),
        (2, "could not be collected"),
        (3, "internal error"),
        (4, "usage"),
        (5, "no tests"),
        (134, "it crashed"),
    ],
)
def test_pytest_that_does_not_run_to_its_end_is_reported_with_the_reason(code: int, reason: str, reports: Path) -> None:
    write_report(reports, "unit")  # of an earlier run
    with pytest.raises(noxfile.RingError, match=reason):
        noxfile.pytest(cast("nox.Session", Session(reports, code)), "unit", "tests/unit")


def test_measured_rings_run_under_coverage_and_end_with_its_report(reports: Path) -> None:
    session = Session(reports, 0, GREEN)
    plain = cast("nox.Session", session)
    noxfile.pytest(plain, "unit", "tests/unit")
    noxfile.measure(plain)
    assert noxfile.pytest(plain, "unit", "tests/unit")
    noxfile.show_coverage(plain)
    before, erase, measured, *ending = session.commands
    assert (before[:4], erase) == (("python", "-m", "pytest", "tests/unit"), ("coverage", "erase"))
    assert measured[:7] == ("python", "-m", "coverage", "run", "-m", "pytest", "tests/unit")
    assert [words[:2] for words in ending] == [("coverage", "combine"), ("coverage", "html"), ("coverage", "report")]
    assert session.env["COVERAGE_FILE"] == str(reports / "coverage")


def test_a_report_that_was_cut_counts_nothing(reports: Path) -> None:
    (reports / "unit.xml").write_text(JUNIT[:80])
    assert noxfile.Counts.read("unit").passed == 0


def test_fuzzing_and_hostile_machines_are_part_of_the_tests() -> None:
    rings = list(noxfile.RINGS)
    assert rings.index("integration") < rings.index("hostile") < rings.index("fuzz") < rings.index("cluster")
    assert not {"hostile", "fuzz"} & set(noxfile.ON_REQUEST)


def test_every_shell_script_is_checked_whatever_it_is_called() -> None:
    found = noxfile.shell_scripts()
    assert {"nox", ".ci/run", "images/builder/gather", "images/builder/iptables-select"} <= set(found)
    assert not [path for path in found if path.endswith(".py")]


def test_all_tests_are_in_some_ring() -> None:
    folders = {path.name.replace("_", "-") for path in (noxfile.ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert folders <= {*noxfile.RINGS, Path(noxfile.VM).name}


def test_every_file_of_the_cluster_ring_is_in_one_group_that_stays_together() -> None:
    files = sorted(path.name for path in (noxfile.ROOT / "tests/cluster").glob("test_*.py"))
    assert sorted(name for group in GROUPS for name in group) == files
    assert group_of("test_members.py") == group_of("test_run.py") == "test_run.py"


def entry(name: str) -> catalog.CatalogEntry:
    return catalog.find(noxfile.ROOT / "kubefiles")[name]


def test_a_machine_of_a_matrix_publishes_under_its_own_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "arm64")
    wanted = noxfile.Publishing.read(["--registry", "registry.example/team/", "--tag", "v1", "web"])
    assert (wanted.names, wanted.build_options) == (["web"], [])
    assert wanted.commands(entry("web")) == [["push", "web:latest", "registry.example/team/web:v1-arm64"]]


def test_images_that_were_built_under_the_names_of_others_are_found() -> None:
    image = {"name": "registry.k8s.io/pause:3.10.2", "built": {"from": ["gcc 12.2"], "by": "images/pause"}}
    facts = {"platforms": [{"images": [image, {"name": "quay.io/team/app:1"}]}, {"images": [image]}]}
    assert noxfile.built_here(facts) == ["registry.k8s.io/pause:3.10.2"]
    assert noxfile.Publishing.read(["--registry", "registry.example", "--allow-built"]).allow_built
    assert not noxfile.Publishing.read(["--registry", "registry.example"]).allow_built


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


def test_a_release_is_signed_under_its_public_name_and_carries_its_documents() -> None:
    wanted = noxfile.Publishing.read(["--registry", "registry.example", "--platform", "linux/amd64", "--key", "release.key", "web"])
    there = "registry.example/web:latest"
    assert wanted.commands(entry("web")) == [
        ["tag", "web:latest", there],
        ["sbom", "--attach", "--key", "release.key", there],
        ["provenance", "--attach", "--key", "release.key", there],
        ["sign", "--key", "release.key", there],
        ["push", there],
    ]


def test_the_one_tag_of_a_matrix_is_signed_before_it_is_pushed() -> None:
    wanted = noxfile.Publishing.read(["--registry", "registry.example", "--join", "amd64,arm64", "--key", "release.key"])
    assert [words[0] for words in wanted.commands(entry("web"))] == ["manifest", "sign", "push"]


WORKFLOWS = sorted((noxfile.ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_actions_by_digest_and_gives_jobs_no_more_than_they_need(path: Path) -> None:
    text = path.read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert [
        use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*|\./\.github/workflows/ci\.yml( #.*)?", use)
    ] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert "latest" not in str(job.get("runs-on"))
        checkouts = [step for step in job.get("steps", ()) if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_what_runs_on_request_only_runs_every_night() -> None:
    nightly = yaml.safe_load((noxfile.ROOT / ".github/workflows/nightly.yml").read_text())
    words = [entry["words"] for entry in nightly["jobs"]["session"]["strategy"]["matrix"]["include"]]
    assert {f"tests -- {ring}" for ring in noxfile.ON_REQUEST} <= set(words)
    assert {"vm", "bench -- --smoke"} <= set(words)


def test_a_secret_of_a_workflow_is_in_no_command() -> None:
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            assert not [step["run"] for step in job.get("steps", ()) if "secrets." in step.get("run", "")]


def test_publishing_without_a_registry_says_what_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        noxfile.Publishing.read(["web"])
    assert "--registry" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "text"), [(244_000_000, "244 MB"), (1_234_000_000, "1.23 GB")])
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert noxfile.size(count) == text
