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


def test_counts_read_report_sums_outcomes(reports: Path) -> None:
    (reports / "unit.xml").write_text(JUNIT)
    assert str(noxfile.Counts.read("unit")) == "4 passed, 3 failed, 3 skipped in 1 min 40 s"


def test_counts_read_missing_report_counts_nothing(reports: Path) -> None:
    assert noxfile.Counts.read("unit").passed == 0


def write_report(reports: Path, name: str, text: str = JUNIT) -> bool:
    """Leave the report of a run, as pytest does."""
    (reports / f"{name}.xml").write_text(text)
    return "failures" not in text


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
        (noxfile.RingError("pytest ended with exit code -9: killed by SIGKILL"), "pytest ended with exit code -9: killed by SIGKILL"),
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
        raise noxfile.RingError("pytest ended with exit code 2: interrupted")

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


def test_pytest_failed_tests_return_false(reports: Path) -> None:
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
def test_pytest_aborted_run_raises_ring_error_with_reason(code: int, reason: str, reports: Path) -> None:
    write_report(reports, "unit")  # of an earlier run
    with pytest.raises(noxfile.RingError, match=reason):
        noxfile.pytest(cast("nox.Session", Session(reports, code)), "unit", "tests/unit")


def test_measure_runs_rings_under_coverage_and_shows_report(reports: Path) -> None:
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


def test_counts_read_truncated_report_counts_nothing(reports: Path) -> None:
    (reports / "unit.xml").write_text(JUNIT[:80])
    assert noxfile.Counts.read("unit").passed == 0


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


def entry(name: str) -> catalog.CatalogEntry:
    return catalog.find(noxfile.ROOT / "kubefiles")[name]


def test_image_request_env_reaches_build_and_tests_but_not_bases(reports: Path) -> None:
    wanted = noxfile.ImageRequest.read("test-image", ["web", "-e", "Port=80", "--env", "Site=a b", "redis"])
    assert wanted.names == ("web", "redis")
    assert wanted.build_options(entry("web")) == ["--env", "Port=80", "--env", "Site=a b"]
    assert wanted.build_options(entry("kubernetes")) == []
    session = Session(reports, 0, GREEN)
    web = dataclasses.replace(entry("web"), folder=noxfile.ROOT / "kubefiles/web", tests=(Path("test_web.py"),))
    assert noxfile.test(cast("nox.Session", session), [web], *wanted.test_options) == []
    (words,) = session.commands
    begin = words.index("--value")
    assert words[begin : begin + 4] == ("--value", "Port=80", "--value", "Site=a b")


def test_image_request_env_without_names_applies_to_all_images() -> None:
    assert noxfile.ImageRequest.read("build-image", ["-e", "Port=80"]).build_options(entry("kubernetes")) == ["--env", "Port=80"]


def test_image_request_invalid_env_is_refused_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        noxfile.ImageRequest.read("build-image", ["web", "-e", "sesame", "-e", "Port=80"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "1 of 2 values are not NAME=VALUE" in said
    assert "sesame" not in said


DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
REGISTRY = ("--registry", "registry.example/team/")
KEY = ("--key", "release.key")


def publishing(*words: str) -> noxfile.Publishing:
    return noxfile.Publishing.read([*REGISTRY, *words])


@pytest.fixture(autouse=True)
def amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "amd64")


def test_publishing_target_tag_ends_with_architecture() -> None:
    wanted = publishing("--tag", "v1", *KEY, "web")
    assert (wanted.names, wanted.build_options) == (["web"], [])
    assert wanted.target(entry("web")) == "registry.example/team/web:v1-amd64"


def test_unfit_image_with_built_images_is_refused_unless_allowed() -> None:
    made = {"name": "registry.k8s.io/pause:3.10.2", "built": {"from": ["gcc 12.2"], "by": "images/pause"}}
    platform = {"platform": "linux/amd64", "images": [made, {"name": "quay.io/team/app:1"}]}
    image = {"digest": DIGEST, "platforms": [platform, platform]}
    assert noxfile.built_here(image) == ["registry.k8s.io/pause:3.10.2"]
    assert "1 of its images were built here" in noxfile.unfit(image, publishing(*KEY))
    assert noxfile.unfit(image, publishing("--allow-built", *KEY)) == ""


def test_unfit_image_with_untested_platform_is_refused_unless_allowed() -> None:
    platforms = [{"platform": f"linux/{name}", "images": []} for name in ("amd64", "amd64/v2", "arm64")]
    image = {"digest": DIGEST, "platforms": platforms}
    assert "this machine tests linux/amd64, not linux/arm64: " in noxfile.unfit(image, publishing(*KEY))
    assert noxfile.unfit(image, publishing("--allow-untested", *KEY)) == ""
    assert noxfile.unfit({**image, "platforms": platforms[:2]}, publishing(*KEY)) == ""


def test_publishing_commands_name_digest_and_push_after_attestation_and_signature() -> None:
    wanted = publishing("--platform", "linux/amd64", "--tag", "v1", "--plain-http", *KEY, "web")
    there = "registry.example/team/web:v1"
    assert wanted.build_options == ["--platform", "linux/amd64"]
    assert wanted.question(entry("web"), DIGEST) == ["push", "--plan", "--no-replace", "--plain-http", DIGEST, there]
    assert wanted.commands(entry("web"), DIGEST) == [
        ["tag", DIGEST, there],
        ["attest", "--type", "test-result", "--predicate", "reports/web.test-result.json", *KEY, there],
        ["sbom", "--attach", *KEY, there],
        ["provenance", "--attach", *KEY, there],
        ["sign", *KEY, there],
        ["push", "--no-replace", "--plain-http", DIGEST, there],
    ]


def test_publishing_replace_option_omits_no_replace() -> None:
    wanted = publishing("--replace", *KEY)
    assert "--no-replace" not in [*wanted.question(entry("web"), DIGEST), *wanted.commands(entry("web"), DIGEST)[-1]]


def test_publishing_unsigned_attaches_documents_without_key() -> None:
    words = publishing("--unsigned").commands(entry("web"), DIGEST)
    assert [one[0] for one in words] == ["tag", "attest", "sbom", "provenance", "push"]
    assert not [one for one in words if "--key" in one]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["web"], "sign with --key FILE, or say --unsigned"),
        ([*KEY, "--unsigned"], "sign with --key FILE, or say --unsigned"),
        ([*KEY, "--join", "amd64", "--built"], "leave out --platform and --built"),
        ([*KEY, "--join", "amd64", "--platform", "linux/amd64"], "leave out --platform and --built"),
    ],
)
def test_publishing_contradictory_options_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        publishing(*words)
    assert (ended.value.code, said in capsys.readouterr().err) == (2, True)


def test_join_commands_make_one_tag_with_results_of_all_parts() -> None:
    wanted = publishing("--plain-http", "--join", "amd64,arm64", *KEY)
    there = "registry.example/team/web:latest"
    parts = (f"{there}-amd64", f"{there}-arm64")
    assert wanted.join_commands(entry("web")) == [
        ["manifest", "create", "--pull", "--plain-http", there, *parts],
        ["attest", "--type", "test-result", "--part", parts[0], "--part", parts[1], *KEY, there],
        ["sbom", "--attach", *KEY, there],
        ["provenance", "--attach", *KEY, there],
        ["sign", *KEY, there],
        ["push", "--no-replace", "--plain-http", there],
    ]


class Publisher:
    """Stands in for nox's session while images are published: which commands end with an error, and which digest the tests have seen."""

    def __init__(self, reports: Path, *words: str) -> None:
        self.reports = reports
        self.key = reports / "release.key"
        self.key.touch()
        self.posargs = [*REGISTRY, "--key", str(self.key), *words]
        self.env: dict[str, str] = {}
        self.failing: set[tuple[str, str]] = set()
        """(program, a word of its command line)."""
        self.tested = {"web": DIGEST, "chart": DIGEST, "kubernetes": DIGEST}
        self.results: dict[str, str] = {}
        self.commands: list[tuple[str, ...]] = []

    def run(self, *words: str, **_: object) -> str | None:
        self.commands.append(words)
        if words[:2] == ("slipway", "inspect"):
            return json.dumps({"digest": DIGEST, "platforms": [{"platform": "linux/amd64", "images": []}]})
        if "pytest" in words:
            self._test(words)
        if any(verb in words and any(name in word for word in words) for verb, name in self.failing):
            raise nox.command.CommandFailed("Returned code 4")
        return None

    def _test(self, words: tuple[str, ...]) -> None:
        name = words[words.index("--image") + 1].partition(":")[0]
        failed = ("pytest", name) in self.failing
        write_report(self.reports, name, JUNIT if failed else GREEN)
        if name in self.tested:
            subject = [{"digest": {"sha256": self.tested[name].removeprefix("sha256:")}}]
            record = {"subject": subject, "predicate": {"result": self.results.get(name, "FAILED" if failed else "PASSED")}}
            Path(words[words.index("--test-result") + 1]).write_text(json.dumps(record))

    def of(self, verb: str) -> list[str]:
        """Targets of the commands with this verb, without those that only ask."""
        return [words[-1] for words in self.commands if words[:2] == ("slipway", verb) and "--plan" not in words]

    def warn(self, text: str) -> None:
        """Say nothing."""

    def error(self, text: str) -> None:
        raise AssertionError(text)


@pytest.fixture
def publish(reports: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Publisher], str]:
    """Run the session; what it ends with, empty for success."""
    monkeypatch.setattr(noxfile, "install", lambda _: None)

    def run(session: Publisher) -> str:
        try:
            cast("Any", noxfile.publish).func(session)
        except AssertionError as ended:
            return str(ended)
        return ""

    return run


WEB = "registry.example/team/web:latest-amd64"
CHART = "registry.example/team/chart:latest-amd64"


def test_publish_builds_tests_and_pushes(publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Publisher(reports, "web")
    assert publish(session) == ""
    verbs = [words[1] if words[0] == "slipway" else "pytest" for words in session.commands]
    assert verbs == ["build", "build", "inspect", "push", "pytest", "tag", "attest", "sbom", "provenance", "sign", "push"]
    assert session.of("push") == [WEB]
    assert f"published {WEB}" in capsys.readouterr().out


def test_publish_missing_key_is_refused_before_build(publish: Callable[[Publisher], str], reports: Path) -> None:
    session = Publisher(reports, "web")
    session.key.unlink()
    assert publish(session) == f"--key {session.key}: no such file; slipway keys create makes a pair"
    assert session.commands == []


def test_publish_built_option_skips_build(publish: Callable[[Publisher], str], reports: Path) -> None:
    session = Publisher(reports, "--built", "web")
    assert publish(session) == ""
    assert session.of("build") == []
    assert session.of("push") == [WEB]


@pytest.mark.parametrize("verb", ["build", "pytest", "--plan", "tag", "attest", "sbom", "provenance", "sign"])
def test_publish_failed_image_is_not_pushed_and_others_are(
    verb: str, publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "web", "chart")
    session.failing = {(verb, "web")}
    assert publish(session) == "not published: web"
    assert session.of("push") == [CHART]
    said = capsys.readouterr().out
    assert f"published {CHART}" in said
    assert "not published: web: " in said


def test_publish_image_without_built_base_is_not_pushed(
    publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "web")
    session.failing = {("build", "kubefiles/kubernetes")}
    assert publish(session) == "not published: web"
    assert session.of("push") == []
    assert "not published: web: its base kubernetes was not built" in capsys.readouterr().out


def test_publish_image_changed_during_tests_is_not_pushed(
    publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "web")
    session.tested["web"] = OTHER
    assert publish(session) == "not published: web"
    assert session.of("push") == session.of("attest") == []
    assert f"{OTHER} was tested, and web:latest was {DIGEST}: it changed during the tests" in capsys.readouterr().out


def test_publish_test_record_of_earlier_run_is_ignored(
    publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (reports / "web.test-result.json").write_text("{}")
    session = Publisher(reports, "web")
    del session.tested["web"]
    assert publish(session) == "not published: web"
    assert "no test has booted it" in capsys.readouterr().out


def test_publish_test_record_not_passed_is_refused(
    publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "web")
    session.results["web"] = "FAILED"
    assert publish(session) == "not published: web"
    assert "the record of its tests says FAILED" in capsys.readouterr().out


def test_publish_join_pushes_joined_tag_without_build_or_test(publish: Callable[[Publisher], str], reports: Path) -> None:
    session = Publisher(reports, "--join", "amd64,arm64", "web", "chart")
    session.failing = {("attest", "web")}
    assert publish(session) == "not published: web"
    assert session.of("push") == ["registry.example/team/chart:latest"]
    verbs = [words[1] if words[0] == "slipway" else words for words in session.commands]
    assert verbs == ["manifest", "attest", "manifest", "attest", "sbom", "provenance", "sign", "push"]


WORKFLOWS = sorted((noxfile.ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_pins_actions_by_commit_and_states_permissions(path: Path) -> None:
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


def workflow(name: str) -> dict[str, Any]:
    """A workflow by its name. What YAML 1.1 reads as a boolean, the key ``on``, goes by its name."""
    read = yaml.safe_load((noxfile.ROOT / f".github/workflows/{name}.yml").read_text())
    return {"on" if key is True else key: value for key, value in read.items()}


def steps(name: str, job: str, action: str) -> list[dict[str, Any]]:
    """The steps of a job that use an action, in order."""
    return [step for step in workflow(name)["jobs"][job]["steps"] if step.get("uses", "").startswith(f"{action}@")]


def test_workflows_are_ci_codeql_dependency_review_nightly_release_and_scan() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "codeql", "dependency-review", "nightly", "release", "scan"]


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
    published = workflow("release")["env"]["IMAGES"].split()
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


def test_publishing_without_registry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        noxfile.Publishing.read(["web"])
    assert "--registry" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "text"), [(244_000_000, "244 MB"), (1_234_000_000, "1.23 GB")])
def test_size_is_shown_in_decimal_units(count: int, text: str) -> None:
    assert noxfile.size(count) == text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["--to", "build/catalog", "--readmes", "kubefiles"]),
        (("web", "--to=x"), ["web", "--to=x", "--readmes", "kubefiles"]),
        (("--site", "x", "--readmes", "y"), ["--to", "x", "--readmes", "y"]),
    ],
)
def test_site_words_default_to_build_catalog_and_kubefiles(words: tuple[str, ...], expected: list[str]) -> None:
    assert noxfile.site_words(words) == expected
