"""What hydrophone is asked for, and which images the tests come from. Real runs are nightly: kubefiles/conformance."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest

from harness import log, process
from harness.errors import CheckError, CommandError, UsageError
from harness.testkit.e2e import choice, suite
from harness.testkit.e2e.choice import SpecChoice

AGNHOST, OUTPUT = "registry.k8s.io/e2e-test-images/agnhost:2.63.0", "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
RUNNER = "registry.k8s.io/conformance:v1.36.3"
IMAGES = suite.SuiteImages(frozenset({AGNHOST, OUTPUT, RUNNER}), (), "sha256:0")
STEP = log.ProgressStep("run", 0, 0.0)


def request(folder: Path, **changes: Any) -> suite.SuiteRequest:
    made = suite.SuiteRequest(
        "kubernetes:1", "conformance:1", SpecChoice.full(), folder, folder / "record.json", folder / "unavailable.yaml"
    )
    return dataclasses.replace(made, **changes)


def test_suite_images_name_runner_of_version_and_output_image() -> None:
    assert (IMAGES.runner("v1.36.3"), IMAGES.output()) == (RUNNER, OUTPUT)


@pytest.mark.parametrize("version", ["v1.36.4", "v1.37.2"])
def test_suite_images_of_other_version_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=rf"has no registry.k8s.io/conformance:{version}; it has {RUNNER}") as caught:
        IMAGES.runner(version)
    assert (caught.value.hint or "").endswith(f"--build-arg VERSION={version} --build-arg MINOR={version[1:5]}")


def test_words_give_focus_and_skip_what_is_hindered(tmp_path: Path) -> None:
    words = suite._words(request(tmp_path, processes=4), tmp_path / "kubeconfig", RUNNER, OUTPUT, {"a [x]": "no image"})
    options = dict(itertools.pairwise(words))
    assert options["--focus"] == SpecChoice.full().focus
    assert options["--skip"] == choice.exactly(("a [x]",))
    assert (options["--conformance-image"], options["--busybox-image"], options["--parallel"]) == (RUNNER, OUTPUT, "4")
    assert "--skip" not in suite._words(request(tmp_path), tmp_path / "kubeconfig", RUNNER, OUTPUT, {})


def test_start_failed_tests_with_report_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(argv: list[str | Path], take: process.Take) -> int:
        for line in ("Will run 2 of 9 specs", "\u2022\u2022", "Tests failed (code 1)."):
            take("stdout", line)
        (tmp_path / suite.JUNIT).write_text("<testsuites/>")
        return 1

    monkeypatch.setattr(process, "stream", stream)
    step = dataclasses.replace(STEP)
    suite._start(["hydrophone"], tmp_path, step)
    assert step.note == "2 done"


@pytest.mark.parametrize("text", [None, ""])
def test_start_without_report_is_error_with_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    def stream(argv: list[str | Path], take: process.Take) -> int:
        take("stderr", "failed to deploy tests: no node")
        if text is not None:
            (tmp_path / suite.JUNIT).write_text(text)
        return 1

    monkeypatch.setattr(process, "stream", stream)
    with pytest.raises(CommandError, match="exit code 1, and no report") as caught:
        suite._start(["hydrophone"], tmp_path, STEP)
    assert caught.value.details == "failed to deploy tests: no node"


def test_read_report_missing_or_larger_than_limit_is_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="No such file"):
        suite.read_report(tmp_path / suite.JUNIT)
    (tmp_path / suite.JUNIT).write_text("<testsuites>")
    with pytest.raises(CheckError, match="not usable XML"):
        suite.read_report(tmp_path / suite.JUNIT)
