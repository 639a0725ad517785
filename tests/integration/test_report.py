"""The page of a report in a real browser, as a person reads it and as axe does; and runs of pytest that write one."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
from testinfra.backend import get_backend
from testinfra.host import Host

from harness import process
from harness.report import page
from harness.report.model import CaseOutcome, CheckedCase, ReportDocument, ShownCommand, TextBlock
from harness.testkit.evidence import EvidenceRecorder
from tests.integration.browser import Browser
from tests.unit.report.examples import CASES, CLUSTER, FAILED, MACHINES, NAMES, audit, document
from tests.unit.website.examples import Page
from tests.waiting import HANG

SIZES = ((1280, 900), (390, 844))
LONG = "averylongword" * 40
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def crowded() -> ReportDocument:
    """A report with more and longer texts than any screen has room for."""
    machines = tuple(dataclasses.replace(MACHINES[min(number, 2)], name=f"{LONG}-{number}", address=LONG) for number in range(30))
    commands = tuple(ShownCommand(f"{LONG}-{number}", LONG, f"{EVIL}\n{LONG}\n" * 20, number) for number in range(9))
    case = CheckedCase(LONG, LONG, CaseOutcome.FAILED, LONG, LONG, LONG, 12.0, 80.0, commands, 3, (), LONG, (TextBlock(LONG, LONG),))
    steps = tuple(dataclasses.replace(step, title=LONG, where=machines[4].name) for step in CLUSTER.steps)
    logs = tuple(TextBlock(LONG, f"{LONG}\n" * 300, 12) for _ in range(4))
    cluster = dataclasses.replace(CLUSTER, machines=machines, steps=(*steps, *CLUSTER.steps), logs=logs, missing=(LONG, EVIL))
    return document(title=LONG, cases=(case, *CASES), clusters=(cluster, CLUSTER))


def many() -> ReportDocument:
    """A report of a run with more checks than are shown unfolded."""
    cases = (CheckedCase(f"a/test_b.py::test_{number}", f"Number {number}", CaseOutcome.PASSED, "a/test_b.py") for number in range(80))
    return document(cases=(*cases, FAILED), clusters=())


REPORTS = {"passed": document(), "failed": document(cases=(*CASES, FAILED)), "audit": audit(), "crowded": crowded(), "many": many()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    for name, report in REPORTS.items():
        page.write(report, folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in REPORTS}


def opened(chromium: Browser, path: Path, width: int, height: int, *, dark: bool = False) -> None:
    chromium.resize(width, height, dark=dark)
    chromium.open(path.as_uri())
    chromium.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")


@pytest.mark.parametrize("name", REPORTS)
def test_report_fits_each_width_and_loads_nothing_else(name: str, pages: dict[str, Path], chromium: Browser) -> None:
    for width, height in SIZES:
        opened(chromium, pages[name], width, height)
        assert chromium.evaluate("document.documentElement.scrollWidth") <= width, width
        assert chromium.evaluate("performance.getEntriesByType('resource').map(one => one.name)") == []
        assert "owned" not in chromium.evaluate("document.title")
    assert chromium.messages == []


@pytest.mark.parametrize("name", REPORTS)
def test_report_has_no_axe_violations_at_each_width_and_colour_scheme(name: str, pages: dict[str, Path], chromium: Browser) -> None:
    for width, height in SIZES:
        for dark in (False, True):
            opened(chromium, pages[name], width, height, dark=dark)
            assert chromium.violations() == [], (width, dark)
    chromium.messages.clear()


def test_report_shows_drawing_for_its_width(pages: dict[str, Path], chromium: Browser) -> None:
    shown = (
        "Array.from(document.querySelectorAll('.topology')).filter(one => one.getBoundingClientRect().height).map(one => one.classList[1])"
    )
    texts = "Array.from(document.querySelectorAll('.topology text')).map(one => one.getBoundingClientRect().height).filter(Boolean)"
    for (width, height), kind in zip(SIZES, ("broad", "narrow"), strict=True):
        opened(chromium, pages["passed"], width, height)
        assert chromium.evaluate(shown) == [kind]
        assert min(chromium.evaluate(texts)) >= 12


def test_report_anchors_lead_to_sections(pages: dict[str, Path], chromium: Browser) -> None:
    chromium.open(pages["failed"].as_uri())
    links = chromium.evaluate("Array.from(document.links, link => link.hash)")
    assert links == ["#content", "#machines", "#boot", "#checks", "#images", "#logs", "#check-4"]
    assert chromium.evaluate("Array.from(document.links).every(link => document.querySelector(link.hash) !== null)")


def test_report_without_script_folds_and_unfolds_evidence(pages: dict[str, Path], chromium: Browser) -> None:
    chromium.script(enabled=False)
    try:
        chromium.open(pages["failed"].as_uri())
        seen = "Array.from(document.querySelectorAll('#checks details')).map(one => one.open)"
        assert chromium.evaluate(seen) == [False, False, True]
        chromium.evaluate("document.querySelector('#checks summary').click()")
        assert chromium.evaluate(seen) == [True, False, True]
    finally:
        chromium.script(enabled=True)


def test_report_content_security_policy_blocks_injected_script(pages: dict[str, Path], chromium: Browser, tmp_path: Path) -> None:
    text = pages["passed"].read_text().replace("</main>", "<script>document.title = 'owned'</script><img src='https://192.0.2.1/x'></main>")
    (tmp_path / "page.html").write_text(text)
    chromium.open((tmp_path / "page.html").as_uri())
    assert "owned" not in chromium.evaluate("document.title")
    assert len([message for message in chromium.messages if "Content Security Policy" in message]) == 2
    chromium.messages.clear()


# ---- evidence -----------------------------------------------------------------------------------------------------------


def test_evidence_of_testinfra_host_holds_commands_of_its_modules_too(tmp_path: Path) -> None:
    backend = get_backend("local://")
    recorder = EvidenceRecorder()
    recorder.watch(backend, "here")
    host = Host(backend)
    (tmp_path / "a b").write_text("content\n")
    assert host.check_output("cat %s", str(tmp_path / "a b")) == "content"
    assert not host.file(str(tmp_path / "none")).exists
    assert host.run("echo failed >&2; exit 3").rc == 3
    commands, more = recorder.take()
    shown = {command.command: command for command in commands}
    assert (shown[f"cat '{tmp_path}/a b'"].output, shown[f"cat '{tmp_path}/a b'"].code) == ("content", 0)
    assert shown[f"test -e {tmp_path}/none"].code == 1
    assert (shown["echo failed >&2; exit 3"].output, shown["echo failed >&2; exit 3"].code) == ("failed", 3)
    assert ({command.where for command in commands}, more) == ({"here"}, 0)


# ---- runs of pytest -----------------------------------------------------------------------------------------------------

CONFTEST = """
import pytest
from tests.unit.report.examples import CLUSTER

@pytest.fixture(autouse=True, scope="session")
def machines(request):
    reporter = request.config.pluginmanager.get_plugin("slipway-reporter")
    reporter.clusters.append(CLUSTER)
    yield

@pytest.fixture
def note(request):
    return request.config.pluginmanager.get_plugin("slipway-reporter").evidence.note
"""
TESTS = """
def test_page_answers(note):
    note({name!r}, "curl -s http://web/", "Hello", 0, 0.2)

def test_number_adds_up():
    print("counted")
    assert 1 + 1 == 3
"""


@pytest.mark.parametrize("processes", [(), ("-n", "2")])
def test_report_of_run_in_one_process_and_in_several_has_all_tests_and_clusters(processes: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_web.py").write_text(TESTS.format(name=NAMES[1]))
    words = ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path), "--test-report", str(tmp_path / "out/web.html")]
    ran = process.run([sys.executable, "-m", "pytest", *words, *processes], check=False, timeout=HANG)
    assert ran.returncode == 1, ran.output
    assert "slipway: report: " in ran.stdout
    text = Page((tmp_path / "out/web.html").read_text()).text
    assert "web:latest 1 of 2 checks failed" in text
    assert "curl -s http://web/ on worker-1, exit code 0, 0.2 s Hello" in text
    assert "counted" in text
    clusters = len(processes) or 1
    assert text.count("Kubernetes v1.36.3 on 1 control-plane node and 2 workers") == clusters
