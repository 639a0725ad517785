"""Settings of a build that the Kubefile or the user leaves open, resolved once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import image_choice, releases
from harness.build.options import BuildOptions, read_all, settled
from harness.kubefile import instructions
from tests.unit.build.kubefiles import BOTH, SEVERAL


def copied(options: BuildOptions) -> list[str | None]:
    """The image that the Kubefile copies from, for each platform."""
    return [copy.from_image for parsed in read_all(options).values() for copy in parsed.of(instructions.Copy)]


def test_settled_resolves_source_and_version_once_for_all_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL)
    answers, versions = iter((True, False)), iter(("v1.36.3", "v1.36.4"))
    monkeypatch.setattr(image_choice, "site_answers", lambda _: next(answers))
    monkeypatch.setattr(releases, "_published", lambda *_: next(versions))
    monkeypatch.setattr(image_choice, "site_lacks", lambda _: False)
    options = settled(BuildOptions(tmp_path, "x", platforms=BOTH))
    assert copied(options) == ["example.test/kubernetes-release:v1.36.3"] * 2
    # As the rootfs that only finds images is read, later.
    assert copied(settled(options)) == ["example.test/kubernetes-release:v1.36.3"] * 2
    assert (next(answers), next(versions)) == (False, "v1.36.4")
