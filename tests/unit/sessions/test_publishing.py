"""Publication: the commands that it is made of, and the images that it refuses."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import nox
import nox.command
import pytest

from harness import catalog, sessions
from harness.host import paths
from harness.sessions.publishing import Publishing, built_here, proves, unfit
from harness.sessions.repository import Repository
from tests.unit.sessions.sessions import GREEN, JUNIT, write_report

ROOT = Path(__file__).parents[3]
RECORD = "reports/web.test-result.json"


def entry(name: str) -> catalog.CatalogEntry:
    return catalog.find(ROOT / "kubefiles")[name]


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    return tmp_path


DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
REGISTRY = ("--registry", "registry.example/team/")
KEY = ("--key", "release.key")


def publishing(*words: str) -> Publishing:
    return Publishing.read([*REGISTRY, *words])


@pytest.fixture(autouse=True)
def amd64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "amd64")


def test_publishing_target_tag_ends_with_architecture() -> None:
    wanted = publishing("--tag", "v1", *KEY, "web")
    assert (wanted.images.names, wanted.build_options(entry("web"))) == (("web",), [])
    assert wanted.target(entry("web")) == "registry.example/team/web:v1-amd64"


def test_unfit_image_with_built_images_is_refused_unless_allowed() -> None:
    made = {"name": "registry.k8s.io/pause:3.10.2", "built": {"from": ["gcc 12.2"], "by": "images/pause"}}
    platform = {"platform": "linux/amd64", "images": [made, {"name": "quay.io/team/app:1"}]}
    image = {"digest": DIGEST, "platforms": [platform, platform]}
    assert built_here(image) == ["registry.k8s.io/pause:3.10.2"]
    assert "1 of its images were built here" in unfit(image, publishing(*KEY))
    assert unfit(image, publishing("--allow-built", *KEY)) == ""


def test_unfit_image_with_untested_platform_is_refused_unless_allowed() -> None:
    platforms = [{"platform": f"linux/{name}", "images": []} for name in ("amd64", "amd64/v2", "arm64")]
    image = {"digest": DIGEST, "platforms": platforms}
    assert "this machine tests linux/amd64, not linux/arm64: " in unfit(image, publishing(*KEY))
    assert unfit(image, publishing("--allow-untested", *KEY)) == ""
    assert unfit({**image, "platforms": platforms[:2]}, publishing(*KEY)) == ""


def test_publishing_commands_with_conformance_attest_both_results() -> None:
    words = publishing(*KEY).commands(entry("web"), DIGEST, RECORD, "reports/web.conformance.json")
    attested = [one[one.index("--predicate") + 1] for one in words if one[0] == "attest"]
    assert attested == [RECORD, "reports/web.conformance.json"]


def test_proves_statement_about_other_digest_or_failure_is_no_proof() -> None:
    passed = {"subject": [{"digest": {"sha256": DIGEST.removeprefix("sha256:")}}], "predicate": {"result": "PASSED"}}
    assert proves(passed, DIGEST)
    assert not proves(passed, "sha256:" + "9" * 64)
    assert not proves({**passed, "predicate": {"result": "FAILED"}}, DIGEST)
    assert not proves({}, DIGEST)


def test_publishing_commands_name_digest_and_push_after_attestation_and_signature() -> None:
    wanted = publishing("--platform", "linux/amd64", "--tag", "v1", "--plain-http", *KEY, "web")
    there = "registry.example/team/web:v1"
    assert wanted.build_options(entry("web")) == ["--platform", "linux/amd64"]
    assert wanted.question(entry("web"), DIGEST) == ["push", "--plan", "--no-replace", "--plain-http", DIGEST, there]
    assert wanted.commands(entry("web"), DIGEST, RECORD) == [
        ["tag", DIGEST, there],
        ["attest", "--type", "test-result", "--predicate", RECORD, *KEY, there],
        ["sbom", "--attach", *KEY, there],
        ["provenance", "--attach", *KEY, there],
        ["sign", *KEY, there],
        ["push", "--no-replace", "--plain-http", DIGEST, there],
    ]


def test_publishing_replace_option_omits_no_replace() -> None:
    wanted = publishing("--replace", *KEY)
    assert "--no-replace" not in [*wanted.question(entry("web"), DIGEST), *wanted.commands(entry("web"), DIGEST, RECORD)[-1]]


def test_publishing_unsigned_attaches_documents_without_key() -> None:
    words = publishing("--unsigned").commands(entry("web"), DIGEST, RECORD)
    assert [one[0] for one in words] == ["tag", "attest", "sbom", "provenance", "push"]
    assert not [one for one in words if "--key" in one]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([*KEY, "--join", "amd64", "--scan", "grype"], "leave out -e and --scan"),
        ([*KEY, "--scan", "grype 'sbom:"], "No closing quotation"),
        ([*KEY, "--scan", " "], "a command is needed"),
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


def test_scan_command_has_bill_in_place_of_braces_or_last() -> None:
    assert publishing(*KEY, "--scan", "grype 'sbom:{}' --fail-on high").scan_command("a.json") == [
        "grype",
        "sbom:a.json",
        "--fail-on",
        "high",
    ]
    assert publishing(*KEY, "--scan", "osv-scanner --sbom").scan_command("a.json") == ["osv-scanner", "--sbom", "a.json"]


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
        self.full_for = ""
        """The verb of slipway at which the disk is full for web."""
        self.commands: list[tuple[str, ...]] = []

    def run(self, *words: str, **_: object) -> str | None:
        self.commands.append(words)
        if self.full_for in words and any("web" in word for word in words):
            raise OSError(errno.ENOSPC, "No space left on device")
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
def publish(reports: Path) -> Callable[[Publisher], str]:
    """Run the session; what it ends with, empty for success."""

    def run(session: Publisher) -> str:
        try:
            sessions.publish(cast("nox.Session", session), Repository(ROOT, reports))
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


@pytest.mark.parametrize("verb", ["build", "attest", "pytest"])
def test_publish_full_disk_refuses_image_and_goes_on_with_others(
    verb: str, publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "web", "chart")
    session.full_for = verb
    assert publish(session) == "not published: web"
    assert session.of("push") == [CHART]
    assert "No space left on device" in capsys.readouterr().out


def conformance_of(reports: Path, digest: str, result: str) -> None:
    subject = [{"digest": {"sha256": digest.removeprefix("sha256:")}}]
    (reports / "web.conformance.json").write_text(json.dumps({"subject": subject, "predicate": {"result": result}}))


def test_publish_image_that_failed_tests_of_kubernetes_is_refused_before_its_tests(
    publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conformance_of(reports, DIGEST, "FAILED")
    session = Publisher(reports, "web")
    assert publish(session) == "not published: web"
    assert session.of("push") == []
    assert not [words for words in session.commands if "pytest" in words]
    assert f"the tests of Kubernetes itself say FAILED: {reports}/web.conformance.json" in capsys.readouterr().out


@pytest.mark.parametrize(("digest", "result", "attested"), [(DIGEST, "PASSED", 2), (OTHER, "FAILED", 1), (OTHER, "PASSED", 1)])
def test_publish_conformance_of_published_digest_alone_is_attested(
    digest: str, result: str, attested: int, publish: Callable[[Publisher], str], reports: Path
) -> None:
    conformance_of(reports, digest, result)
    session = Publisher(reports, "web")
    assert publish(session) == ""
    assert len(session.of("attest")) == attested
    assert session.of("push") == [WEB]


@pytest.mark.parametrize("refuses", [False, True])
def test_publish_scan_judges_bill_of_digest_before_tests(
    refuses: bool, publish: Callable[[Publisher], str], reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    session = Publisher(reports, "--scan", "sh -c 'judge {}'", "web", "chart")
    session.failing = {("sh", "judge")} if refuses else set()
    ended = publish(session)
    bill = str(reports / "web.cdx.json")
    made = session.commands.index(("slipway", "sbom", DIGEST, "--to", bill))
    assert session.commands[made + 1] == ("sh", "-c", f"judge {bill}")
    assert ended == ("not published: web, chart" if refuses else "")
    assert session.of("push") == ([] if refuses else [WEB, CHART])
    assert bool([words for words in session.commands if "pytest" in words]) is not refuses
    assert (f"its scan failed: sh -c 'judge {bill}' (Returned code 4)" in capsys.readouterr().out) is refuses


def test_publish_missing_scanner_is_refused_before_build(publish: Callable[[Publisher], str], reports: Path) -> None:
    session = Publisher(reports, "--scan", "no-such-scanner {}", "web")
    assert publish(session) == "--scan no-such-scanner: no such program"
    assert session.commands == []


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


def test_publishing_without_registry_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Publishing.read(["web"])
    assert "--registry" in capsys.readouterr().err


def test_publish_values_reach_build_and_tests_of_named_image_only(publish: Callable[[Publisher], str], reports: Path) -> None:
    session = Publisher(reports, "-e", "Port=80", "web", "--env", "Site=a b")
    assert publish(session) == ""
    given = ("--env", "Port=80", "--env", "Site=a b")
    base, web = (words for words in session.commands if words[:2] == ("slipway", "build"))
    assert (base[2], web[2], web[-4:]) == ("kubefiles/kubernetes", "kubefiles/web", given)
    assert "--env" not in base
    (tested,) = (words for words in session.commands if "pytest" in words)
    begin = tested.index("--value")
    assert tested[begin : begin + 4] == ("--value", "Port=80", "--value", "Site=a b")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-e", "sesame"], "1 of 1 values are not NAME=VALUE"),
        (["-e", "DbPassword=sesame"], "-e DbPassword: looks like a secret"),
        (["--join", "amd64", "-e", "Port=80"], "--join builds and tests nothing: leave out -e and --scan"),
    ],
)
def test_publishing_unfit_value_is_refused_without_its_text(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        publishing(*KEY, *words, "web")
    printed = capsys.readouterr().err
    assert (ended.value.code, reason in printed, "sesame" in printed) == (2, True, False)
