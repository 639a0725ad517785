"""The benchmark of reading, without the programs that it may use: its recall is a promise, not a figure."""

from __future__ import annotations

import pytest

from harness.host import tools
from tests.bench import find, run


@pytest.fixture(autouse=True)
def without_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "present_helm", lambda: None)
    monkeypatch.setattr(tools, "present_kubectl", lambda: None)


def test_find_benchmark_recall_is_high_and_false_findings_are_zero() -> None:
    missed, false = run.result("find", find.measure(**find.SMOKE)), find.measure(**find.SMOKE)[1]
    assert missed["recall"] >= 95
    assert missed["peer"] > 20
    assert missed["missed"] == ["operator: slipway.dev/redis:7.0"]
    assert false["ours"] == 0


def test_find_benchmark_chart_inputs_are_added_on_request() -> None:
    plain, every = ({name for name, *_ in find.inputs(charts=charts)} for charts in (False, True))
    assert {"chart", "chart-values-of-launch", "chart-kube-version", "chart-newer-template"} == every - plain


def test_find_benchmark_reads_every_kubefile_whose_images_are_not_in_a_list() -> None:
    listed = {"conformance", "kubernetes"}
    unproven = {"prometheus"}  # no cluster has pulled its images yet
    assert set(find.KUBEFILES) == {path.parent.name for path in (find.PROJECT / "kubefiles").glob("*/Kubefile")} - listed - unproven
