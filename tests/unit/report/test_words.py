"""Names in readable words."""

from __future__ import annotations

import pytest

from harness.report import words
from harness.report.words import CaseName


@pytest.mark.parametrize(
    ("node_id", "name"),
    [
        (
            "kubefiles/web/test_web.py::test_web_page_answers[worker-1]",
            CaseName("kubefiles/web/test_web.py", "Web page answers", "worker-1"),
        ),
        ("a/test_b.py::TestPage::test_answers", CaseName("a/test_b.py, Page", "Answers", "")),
        ("a/test_b.py::Testing::test__two__words", CaseName("a/test_b.py, Testing", "Two words", "")),
        ("a/test_b.py::test_x[a::b[c]]", CaseName("a/test_b.py", "X", "a::b[c]")),
        ("a/test_b.py::test_", CaseName("a/test_b.py", "Test_", "")),
        ("a/test_b.py", CaseName("a/test_b.py", "A/test b.py", "")),
        ("collection", CaseName("collection", "Collection", "")),
    ],
)
def test_case_name_has_group_words_and_place(node_id: str, name: CaseName) -> None:
    assert words.case_name(node_id) == name


def test_short_names_drop_group_of_test_machines() -> None:
    names = ["test-7-1-abc-control-plane-1", "test-7-1-abc-worker-1"]
    assert words.short_names(names) == {names[0]: "control-plane-1", names[1]: "worker-1"}


@pytest.mark.parametrize("names", [["node-1", "node-2"], ["a-worker-1", "b-worker-1"], ["a-worker-1", "db"], []])
def test_short_names_keep_names_that_would_not_differ_or_have_no_role(names: list[str]) -> None:
    assert words.short_names(names) == {name: name for name in names}
