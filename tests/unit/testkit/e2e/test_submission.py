"""Files for the conformance programme: valid YAML, Markdown that no text of a report breaks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import yaml

from harness.testkit.e2e import submission
from harness.testkit.e2e.junit import SpecOutcome
from harness.testkit.e2e.verdict import judged
from tests.unit.testkit.e2e.test_verdict import EVERY, TESTED, A, B, C, report

COMMAND = "./nox -s conformance -- kubernetes"


def test_product_is_yaml_with_known_fields_and_empty_ones_to_fill_in() -> None:
    tested = dataclasses.replace(TESTED, name='a"b: #c:1')
    value = yaml.safe_load(submission.product(tested, 'a"b: #c'))
    assert (value["name"], value["version"], value["type"]) == ('a"b: #c', "v1.36.3", "distribution")
    assert {name for name, text in value.items() if not text} == set(submission._UNKNOWN)


def test_readme_says_command_counts_built_images_and_reasons() -> None:
    verdict = judged(report((A, SpecOutcome.PASSED), (B, SpecOutcome.FAILED), (C, SpecOutcome.SKIPPED)), EVERY, {})
    text = submission.readme(TESTED, verdict, COMMAND)
    assert f"```\n{COMMAND}\n```" in text
    assert "does not prove conformance: 2 run: 1 passed, 1 failed; 1 skipped." in text
    assert "- `agnhost:2 (module)`" in text
    assert f"- `{B}`: `timed out`" in text
    assert f"- `{C}`: `Requires 2 nodes`" in text


def test_readme_whole_run_is_called_so() -> None:
    text = submission.readme(TESTED, judged(report((A, SpecOutcome.PASSED)), EVERY, {}), COMMAND)
    assert "All conformance tests were run: 1 run: 1 passed, 0 failed; 0 skipped." in text


def test_readme_backticks_of_report_do_not_end_code() -> None:
    text = submission.readme(TESTED, judged(report(("a`<b>`c", SpecOutcome.FAILED)), EVERY, {}), COMMAND)
    assert "- `a'<b>'c`: `timed out`" in text


def test_write_leaves_both_files(tmp_path: Path) -> None:
    submission.write(tmp_path, TESTED, judged(report((A, SpecOutcome.PASSED)), EVERY, {}), repository="kubernetes", command=COMMAND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PRODUCT.yaml", "README.md"]
