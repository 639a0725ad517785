"""What a build says about what it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import build
from harness.build import image_choice, releases
from harness.build.options import BuildOptions
from harness.build.platform_build import PlatformBuilder
from harness.errors import BuildError, InputError, StoreError
from harness.oci.store import Store
from tests.unit.build.kubefiles import BOTH, SEVERAL


def test_build_and_check_resolve_source_and_version_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL)
    monkeypatch.setattr(image_choice, "site_answers", lambda _: True)
    monkeypatch.setattr(releases, "_published", lambda *_: "v1.36.3")
    seen: list[BuildOptions] = []

    def stop(options: BuildOptions, **_: object) -> None:
        seen.append(options)
        raise BuildError("far enough")

    monkeypatch.setattr(build, "read_all", stop)
    with pytest.raises(BuildError, match="far enough"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))
    with pytest.raises(BuildError, match="far enough"):
        build.check(BuildOptions(tmp_path, "x", platforms=BOTH))
    assert [dict(options.build_args) for options in seen] == [
        {"SOURCE": "release", "VERSION": "v1.36.3"},
        {"SOURCE": "modules", "VERSION": "v1.36.3"},
    ]


def test_build_faulty_kubefile_raises_input_error_before_site_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(f"{SEVERAL}COYP a b\n")
    monkeypatch.setattr(image_choice, "site_answers", lambda _: pytest.fail("it is asked"))
    with pytest.raises(InputError, match="unknown instruction COYP"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))


def test_build_unknown_on_image_raises_store_error_before_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PlatformBuilder, "build", lambda *_: pytest.fail("something is built"))
    (tmp_path / "Kubefile").write_text("FROM scratch\nCMD kubectl get nodes\n")
    with pytest.raises(StoreError, match="--on nothere: "):
        build.build(BuildOptions(tmp_path, "x", on="nothere"), Store(tmp_path / "store"))
