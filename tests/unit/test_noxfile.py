"""What the sessions print at the end, and what the linters are given. Running a session is the test of the rest."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nox
import nox.command
import pytest
import yaml

import noxfile
from harness.sessions.reports import PytestError
from tests.cluster.conftest import GROUPS, group_of
from tests.unit.sessions.sessions import GREEN, Session, write_report


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(noxfile, "IMAGES", dataclasses.replace(noxfile.IMAGES, reports=tmp_path))
    return tmp_path


def closed(closing: noxfile.Closing, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines that are shown at the end."""
    closing.show()
    return capsys.readouterr().out.splitlines()


def test_closing_last_line_sums_all_rings(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.started -= 5
    for name in ("unit", "web"):
        closing.run(name, lambda name=name: write_report(reports, name))  # type: ignore[misc]
    closing.finish()
    assert closed(closing, capsys)[-1].strip("= ").startswith("8 passed, 6 failed, 6 skipped in 5.")


def test_closing_table_has_row_per_ring_with_reports(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_closing_reports_of_earlier_runs_are_ignored(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
        (PytestError("pytest ended with exit code -9: killed by SIGKILL"), "pytest ended with exit code -9: killed by SIGKILL"),
        (nox.command.CommandFailed("Returned code 1"), "its last command failed: Returned code 1"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_closing_crashed_ring_fails_with_reason_and_next_ring_runs(
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


def test_closing_crashed_ring_counts_failed_tests(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()

    def ring() -> None:
        write_report(reports, "unit")
        raise PytestError("pytest ended with exit code 2: interrupted")

    closing.run("unit", ring)
    closing.finish()
    assert "4 passed, 3 failed, 3 skipped" in closed(closing, capsys)[-1]


def test_closing_keyboard_interrupt_stops_rings_and_counts_as_failure(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    closing = noxfile.Closing()
    closing.run("unit", lambda: write_report(reports, "unit", GREEN))
    with pytest.raises(KeyboardInterrupt):
        closing.run("integration", failing(KeyboardInterrupt()))
    lines = closed(closing, capsys)
    assert "stopped in ring integration" in lines
    assert "2 passed, 1 failed" in lines[-1]


def test_closing_without_any_ring_fails(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = closed(noxfile.Closing(), capsys)
    assert lines[0] == "stopped in ring install"
    assert "0 passed, 1 failed" in lines[-1]


def test_measure_runs_rings_under_coverage_and_shows_report(reports: Path) -> None:
    session = Session(reports, 0, GREEN)
    plain = cast("nox.Session", session)
    noxfile.IMAGES.pytest(plain, "unit", "tests/unit")
    noxfile.measure(plain)
    assert noxfile.IMAGES.pytest(plain, "unit", "tests/unit")
    noxfile.show_coverage(plain)
    before, erase, measured, *ending = session.commands
    assert (before[:4], erase) == (("python", "-m", "pytest", "tests/unit"), ("coverage", "erase"))
    assert measured[:7] == ("python", "-m", "coverage", "run", "-m", "pytest", "tests/unit")
    assert [words[:2] for words in ending] == [("coverage", "combine"), ("coverage", "html"), ("coverage", "report")]
    assert session.env["COVERAGE_FILE"] == str(reports / "coverage")


def test_rings_include_hostile_and_fuzz_by_default() -> None:
    rings = list(noxfile.RINGS)
    assert rings.index("integration") < rings.index("hostile") < rings.index("fuzz") < rings.index("cluster")
    assert not {"hostile", "fuzz"} & set(noxfile.ON_REQUEST)


def test_shell_scripts_are_found_by_their_first_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "nox": "#!/bin/sh\n",
        ".ci/run": "#!/usr/bin/env bash\n",
        "harness/assets/a.sh": "#! /bin/dash -e\n",
        "images/b": "#!/bin/bash\n",
        "kubefiles/c.txt": "#!/bin/sh\n",
        "tests/d": "#!/usr/bin/sh\n",
        "tests/e": "#!/usr/bin/python3\n",
        "tests/f.py": "#!/usr/bin/env python3\n# sh\n",
        "tests/g": "text\n#!/bin/sh\n",
        "tests/h": "#!/bin/shell\n",
        "tests/i": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(noxfile, "ROOT", tmp_path)
    assert noxfile.shell_scripts() == [".ci/run", "harness/assets/a.sh", "images/b", "kubefiles/c.txt", "nox", "tests/d"]


def test_shell_scripts_of_project_are_all_found() -> None:
    found = set(noxfile.shell_scripts())
    assert {"nox", ".ci/run", "images/builder/gather", "images/builder/iptables-select", "images/runtime/program"} <= found
    folders = [path for path in noxfile.ROOT.iterdir() if path.is_dir() and not path.name.startswith((".", "reports"))]
    suffixed = {str(path.relative_to(noxfile.ROOT)) for folder in folders for path in folder.rglob("*.sh")}
    assert len(suffixed) > 40
    assert suffixed <= found


def test_rings_cover_all_test_folders() -> None:
    folders = {path.name.replace("_", "-") for path in (noxfile.ROOT / "tests").iterdir() if path.is_dir() and any(path.rglob("test_*.py"))}
    assert folders <= {*noxfile.RINGS, Path(noxfile.VM).name}


def test_cluster_ring_groups_contain_each_test_file_once() -> None:
    files = sorted(path.name for path in (noxfile.ROOT / "tests/cluster").glob("test_*.py"))
    assert sorted(name for group in GROUPS for name in group) == files
    assert group_of("test_members.py") == group_of("test_run.py") == "test_run.py"


WORKFLOWS = sorted((noxfile.ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_actions_by_commit_and_states_permissions(path: Path) -> None:
    text = path.read_text()
    uses = re.findall(r"uses: (.*)", text)
    assert [
        use for use in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*|\./\.github/workflows/(ci|image)\.yml( #.*)?", use)
    ] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert "latest" not in str(job.get("runs-on"))
        checkouts = [step for step in job.get("steps", ()) if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def workflow(name: str) -> dict[str, Any]:
    """A workflow by its name. What YAML 1.1 reads as a boolean, the key ``on``, goes by its name."""
    read = yaml.safe_load((noxfile.ROOT / f".github/workflows/{name}.yml").read_text())
    return {"on" if key is True else key: value for key, value in read.items()}


def steps(name: str, job: str, action: str) -> list[dict[str, Any]]:
    """The steps of a job that use an action, in order."""
    return [step for step in workflow(name)["jobs"][job]["steps"] if step.get("uses", "").startswith(f"{action}@")]


def test_workflows_are_those_of_project_and_those_that_others_call() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "codeql", "dependency-review", "image", "nightly", "release", "scan", "site"]
    assert [path.stem for path in WORKFLOWS if "workflow_call" in workflow(path.stem)["on"]] == ["ci", "image", "site"]


def test_codeql_workflow_analyzes_python_and_workflows_of_each_change() -> None:
    assert {"push", "pull_request", "schedule"} <= set(workflow("codeql")["on"])
    assert set(workflow("codeql")["jobs"]["analyze"]["strategy"]["matrix"]["language"]) == {"python", "actions"}
    (start,) = steps("codeql", "analyze", "github/codeql-action/init")
    assert start["with"] == {"languages": "${{ matrix.language }}", "queries": "security-extended"}
    assert steps("codeql", "analyze", "github/codeql-action/analyze")


def test_dependency_review_workflow_fails_pull_request_for_severity_high() -> None:
    assert set(workflow("dependency-review")["on"]) == {"pull_request"}
    (review,) = steps("dependency-review", "review", "actions/dependency-review-action")
    assert review["with"]["fail-on-severity"] == "high"


def test_lint_ring_runs_zizmor_on_workflows(reports: Path) -> None:
    session = Session(reports, 0)
    noxfile.RINGS["lint"](cast("nox.Session", session))
    (words,) = [words for words in session.commands if words[0] == "zizmor"]
    assert words[-1] == ".github"
    assert "lint" in next(iter(workflow("ci")["jobs"].values()))["strategy"]["matrix"]["session"]


def test_scan_workflow_covers_published_images_and_runs_on_schedule() -> None:
    assert workflow("scan")["on"]["schedule"]
    published = workflow("release")["jobs"]["images"]["with"]["names"].split()
    assert {"kubernetes", "web", "operator"} <= set(published)
    assert set(published) <= set(workflow("scan")["jobs"]["image"]["strategy"]["matrix"]["image"])


def test_scan_workflow_lists_all_findings_and_then_fails_for_critical_ones_with_fix() -> None:
    written, listed, uploaded, judged = workflow("scan")["jobs"]["image"]["steps"][-4:]
    assert "-s sbom -- " in written["run"]
    assert [step["with"]["sbom"] for step in (listed, judged)] == ["reports/${{ matrix.image }}.cdx.json"] * 2
    assert all(step["uses"].startswith("anchore/scan-action@") for step in (listed, judged))
    # Without other inputs everything is listed, also what has no fix yet.
    assert {name: value for name, value in listed["with"].items() if name != "sbom"} == {"output-format": "sarif", "fail-build": False}
    assert uploaded["with"]["sarif_file"] == "${{ steps.scan.outputs.sarif }}"
    assert (judged["with"]["only-fixed"], judged["with"]["severity-cutoff"], judged["with"]["fail-build"]) == (True, "critical", True)
    assert not any("continue-on-error" in step or "if" in step for step in (written, listed, uploaded, judged))


def nightly_words() -> list[str]:
    """What sessions nightly.yml runs, with their arguments."""
    return [entry["words"] for entry in workflow("nightly")["jobs"]["session"]["strategy"]["matrix"]["include"]]


def test_nightly_workflow_runs_rings_on_request() -> None:
    assert {f"tests -- {ring}" for ring in noxfile.ON_REQUEST} <= set(nightly_words())
    assert {"vm", "bench -- --smoke"} <= set(nightly_words())


def test_nightly_workflow_tests_default_kubernetes_minor_and_its_neighbours() -> None:
    """Rings test the default, sessions the minors beside it. The dates of upstream's support are not known here; the distance is."""
    (default,) = re.findall(r"^ARG VERSION=v1\.(\d+)\.\d+$", (noxfile.ROOT / "kubefiles/kubernetes/Kubefile").read_text(), re.MULTILINE)
    assert {"tests -- cluster", "tests -- catalog", "tests -- upgrade"} <= set(nightly_words())
    others = [int(words.removeprefix("minor -- 1.")) for words in nightly_words() if words.startswith("minor -- ")]
    minors = sorted([int(default), *others])
    # Upstream serves three minors at least.
    assert minors == list(range(minors[0], minors[0] + len(minors)))
    assert int(default) >= minors[-1] - 2


def test_workflow_commands_contain_no_secrets() -> None:
    workflows = [yaml.safe_load(path.read_text()) for path in WORKFLOWS]
    steps = [step for workflow in workflows for job in workflow["jobs"].values() for step in job.get("steps", ())]
    commands = [step["run"] for step in steps if "run" in step]
    assert len(commands) >= 10
    assert [command for command in commands if re.search(r"\bsecrets\b", command)] == []
    # A step gets them by its environment.
    given = {value for step in steps if "run" in step for value in step.get("env", {}).values() if "secrets." in value}
    assert given == {"${{ secrets.SIGNING_KEY }}", "${{ secrets.SIGNING_KEY_PASSWORD }}"}


def test_image_workflow_jobs_may_do_what_they_need_only() -> None:
    permissions = {name: job["permissions"] for name, job in workflow("image")["jobs"].items()}
    write = {"contents": "read", "packages": "write"}
    assert permissions == {"test": {"contents": "read"}, "publish": write, "join": write}
    assert "pages" not in str(permissions)
    assert {name: job["permissions"] for name, job in workflow("site")["jobs"].items()} == {
        "write": {"contents": "read", "packages": "read"},
        "deploy": {"pages": "write", "id-token": "write"},
    }


def test_image_workflow_publishes_on_request_what_each_platform_has_tested() -> None:
    jobs, inputs = workflow("image")["jobs"], workflow("image")["on"]["workflow_call"]["inputs"]
    assert (inputs["publish"]["default"], jobs["test"]["if"], jobs["publish"]["if"]) == (False, "${{ !inputs.publish }}", "inputs.publish")
    for name in ("test", "publish"):
        assert jobs[name]["strategy"]["matrix"]["platform"] == "${{ fromJSON(inputs.platforms) }}"
        assert "ubuntu-24.04-arm" in jobs[name]["runs-on"]
    assert jobs["join"]["needs"] == "publish"
    assert {"amd64", "arm64"} == set(json.loads(inputs["platforms"]["default"]))
    for secret in workflow("image")["on"]["workflow_call"]["secrets"].values():
        assert secret["required"] is False  # those of a fork have none, and test all the same


def test_image_workflow_and_release_share_pinned_actions() -> None:
    """The same commit of an action everywhere: one update reaches all."""
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40})", path.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert len(pins) >= 8
    assert {action: commits for action, commits in pins.items() if len(commits) > 1} == {}


@pytest.mark.parametrize(
    ("words", "image", "others"),
    [
        (["kubernetes"], "kubernetes:latest", []),
        (["kube-prom", "--full"], "kube-prom:latest", ["--full"]),
        (["kubernetes:1.36", "--workers", "2"], "kubernetes:1.36", ["--workers", "2"]),
        ([f"sha256:{'a' * 64}"], f"sha256:{'a' * 64}", []),
        ([], "", []),
    ],
)
def test_conformance_words_give_image_with_tag_and_options(words: list[str], image: str, others: list[str]) -> None:
    assert noxfile.conformance_words(words) == (image, others)


LISTS = noxfile.SUITE_FOLDER / "1.37"
BROAD, SMOKE = (["--specs", f"kubefiles/conformance/1.37/{name}.txt"] for name in ("broad", "smoke"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], [*BROAD, "--workers", "2"]),
        (["--workers=3", "--keep"], [*BROAD, "--workers=3", "--keep"]),
        (["--smoke", "--processes", "2"], [*SMOKE, "--processes", "2"]),
        (["--focus=DNS"], ["--focus=DNS"]),
        (["--full", "--workers", "2"], ["--full", "--workers", "2"]),
    ],
)
def test_spec_words_choose_broad_list_unless_choice_is_given(words: list[str], expected: list[str]) -> None:
    assert noxfile.spec_words(words, LISTS) == expected
